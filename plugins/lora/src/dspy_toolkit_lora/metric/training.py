"""Score a proposed LoRA configuration by training with it."""

from collections.abc import Iterable
from dataclasses import dataclass

import dspy
from pydantic import ValidationError

from dspy_toolkit.trials import run_trial
from dspy_toolkit_lora.config import LoRAConfig
from dspy_toolkit_lora.metric.reference import reference_loss, trained
from dspy_toolkit_lora.scenarios.scenario import GIGABYTE, Scenario
from dspy_toolkit_lora.trial.needs import ready
from dspy_toolkit_lora.trial.training import TrainingResult

__all__ = ["feasibility", "training"]

_HOPELESS = 0.1
"""The highest score of a plan that cannot run at all; the closer it is to running, the more of this it gets."""

_SMALLEST_GAIN = 0.05
"""Nats per character. Gains are measured against at least this, where even the reference run gains less."""


class Training:
    """Valid, then fits the memory, then the share of the reference run's gain that a real training reaches.

        score = min(1, affordable steps / steps) * clip((untrained - loss) / (untrained - reference), 0, 1)

    `untrained` is the better of the base model's loss and that of counting characters, so that forgetting the base
    model's language and learning nothing scores nothing. A run stops when its time is over: further steps are not
    trained, and lower the score by the share they overran. A plan that does not fit scores less than 0.1.
    """

    __name__ = "training"

    def check(self, rows: Iterable[dspy.Example]) -> None:
        """Raise DataError for a row that is no scenario, TrialError where no training can run. Trains nothing."""
        for row in rows:
            Scenario.of(dict(row.items()))
        run_trial(ready, None)

    def __call__(
        self, gold: dspy.Example, pred: dspy.Prediction, trace=None, pred_name=None, pred_trace=None
    ) -> dspy.Prediction:
        checked = _check(gold, pred)
        if isinstance(checked, dspy.Prediction):
            return checked
        config, scenario = checked.config, checked.scenario
        affordable = scenario.affordable_steps(config)
        shortened = config.model_copy(update={"iters": min(config.iters, affordable)})
        result = trained(shortened, scenario)
        reference = reference_loss(scenario)
        possible = max(result.untrained_loss - reference, _SMALLEST_GAIN)
        gained = result.untrained_loss - (float("inf") if result.final_val_loss is None else result.final_val_loss)
        quality = min(1.0, max(0.0, gained / possible))
        score = quality * min(1.0, affordable / config.iters)
        return dspy.Prediction(score=score, feedback=_feedback(checked, shortened, result, reference, quality))


training = Training()


def feasibility(
    gold: dspy.Example, pred: dspy.Prediction, trace=None, pred_name=None, pred_trace=None
) -> dspy.Prediction:
    """Whether it would run: valid, a batch no larger than the data, in memory, in time. Trains nothing."""
    checked = _check(gold, pred)
    if isinstance(checked, dspy.Prediction):
        return checked
    affordable = checked.scenario.affordable_steps(checked.config)
    score = min(1.0, affordable / checked.config.iters)
    return dspy.Prediction(score=score, feedback=f"{_memory(checked)} {_steps(checked)}")


@dataclass(frozen=True)
class _Checked:
    config: LoRAConfig
    scenario: Scenario
    need: int


def _check(gold: dspy.Example, pred: dspy.Prediction) -> _Checked | dspy.Prediction:
    """The proposal and its scenario, or the score of a proposal that cannot run. Raises DataError for a bad row."""
    scenario = Scenario.of(dict(gold.items()))
    proposal = pred.get("config") if isinstance(pred, dspy.Prediction) else None
    if proposal is None:
        return dspy.Prediction(score=0.0, feedback="There is no config in the answer.")
    try:
        config = LoRAConfig.model_validate(proposal, from_attributes=True)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'config'}: {item['msg']}" for item in error.errors())
        return dspy.Prediction(score=0.0, feedback=f"The config is not valid. {wrong}.")
    if config.batch_size > scenario.rows:
        return dspy.Prediction(
            score=_HOPELESS * scenario.rows / config.batch_size,
            feedback=f"A batch of {config.batch_size} cannot be made from {scenario.rows} rows.",
        )
    checked = _Checked(config, scenario, scenario.peak_bytes(config))
    if checked.need > scenario.memory_bytes:
        return dspy.Prediction(
            score=_HOPELESS * scenario.memory_bytes / checked.need,
            feedback=f"It does not fit, nothing was trained. {_memory(checked)}",
        )
    return checked


def _memory(checked: _Checked) -> str:
    config, scenario, need = checked.config, checked.scenario, checked.need / GIGABYTE
    if checked.need <= scenario.memory_bytes:
        return f"It needs {need:.1f} of {scenario.memory_gb:g} GB."
    over = 100 * (checked.need / scenario.memory_bytes - 1)
    ways = [] if config.batch_size == 1 else [f"a batch smaller than {config.batch_size}"]
    ways += [] if config.grad_checkpoint else ["grad_checkpoint"]
    advice = f" Try {' or '.join(ways)}." if ways else ""
    return f"It needs {need:.1f} GB of {scenario.memory_gb:g} GB, {over:.0f} % too much.{advice}"


def _steps(checked: _Checked) -> str:
    config, affordable = checked.config, checked.scenario.affordable_steps(checked.config)
    because = " with grad_checkpoint" if config.grad_checkpoint else ""
    if config.iters > affordable:
        return f"It asks for {config.iters} steps where there is time for {affordable}{because}."
    return f"It uses {config.iters} of the {affordable} steps there is time for{because}."


def _feedback(
    checked: _Checked, shortened: LoRAConfig, result: TrainingResult, reference: float, quality: float
) -> str:
    config = checked.config
    loss = "no number" if result.final_val_loss is None else f"{result.final_val_loss:.2f}"
    outcome = (
        f"Trained {shortened.iters} steps: validation loss from {result.untrained_loss:.2f} to {loss}, where a good "
        f"run reaches {reference:.2f}: {100 * quality:.0f} % of the possible gain."
    )
    advice = ""
    if quality < 0.9:
        strength = config.learning_rate * config.scale
        if strength > 0.04:
            advice = f" learning_rate x scale is {strength:.3g}, which is too strong: about 0.01 learns steadily."
        elif strength < 0.003:
            advice = f" learning_rate x scale is {strength:.3g}, which is too weak: about 0.01 learns steadily."
        elif checked.scenario.rows < 64 and shortened.iters * config.batch_size > 8 * checked.scenario.rows:
            passes = shortened.iters * config.batch_size / checked.scenario.rows
            advice = f" {passes:.0f} passes over {checked.scenario.rows} noisy rows overfit: fewer steps."
        elif checked.need < 0.5 * checked.scenario.memory_bytes:
            advice = f" There is memory for a larger batch than {config.batch_size}."
    return f"{outcome} {_steps(checked)} {_memory(checked)}{advice}"
