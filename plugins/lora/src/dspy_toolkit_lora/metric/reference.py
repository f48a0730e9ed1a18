"""The reference run of a scenario: the loss that proposals are scored against.

The loss comes from a real training on this machine. Which configuration it trains with comes from `search`, a small
search over real trials. For the scenarios of the task `references.json` stores the configurations, without any loss;
`python -m dspy_toolkit_lora.metric.reference` repeats the search and writes the file again. Other scenarios are
searched when they first occur.
"""

import json
from functools import cache
from importlib import resources
from pathlib import Path

from dspy_toolkit_lora.config import LoRAConfig
from dspy_toolkit_lora.scenarios.scenario import Scenario, splits
from dspy_toolkit_lora.trial.training import TrainingResult, train

__all__ = ["reference_config", "reference_loss", "rule_of_thumb", "search", "trained"]

_FILE = "references.json"
_FEWEST = 10
"""The fewest steps a LoRAConfig allows."""


def reference_loss(scenario: Scenario) -> float:
    """The validation loss of the reference run, at most that of the base model. Trains once per machine."""
    result = trained(reference_config(scenario), scenario)
    return min(result.untrained_loss, _loss(result.final_val_loss))


def trained(config: LoRAConfig, scenario: Scenario) -> TrainingResult:
    """`train` without checkpointing, which changes memory and time, both scored elsewhere, and not the loss."""
    return train(config.model_copy(update={"grad_checkpoint": False}), scenario)


def reference_config(scenario: Scenario) -> LoRAConfig:
    """The configuration of the reference run: from the file, or from a search now (some eight trials)."""
    stored = _stored_configs().get(_key(scenario))
    return LoRAConfig.model_validate(stored) if stored else search(scenario)


def rule_of_thumb(scenario: Scenario) -> LoRAConfig:
    """A sensible first configuration, from the scenario alone. Trains nothing.

    The largest power of two as batch that fits, with checkpointing where that allows four times as many rows or less
    than four fit without; all the steps there is time for. On a handful of noisy rows batches of four, and sixteen
    passes at most. Learning rate times scale is 0.01, and 0.02 for runs of less than 24 steps.
    """
    plain, checkpointed = _largest_batch(scenario, False), _largest_batch(scenario, True)
    checkpoint = checkpointed > plain and (plain < 4 or checkpointed >= 4 * plain)
    few = scenario.rows < 64
    batch = max(1, checkpointed if checkpoint else plain)
    first = _config(batch_size=min(4, batch) if few else batch, grad_checkpoint=checkpoint)
    steps = scenario.affordable_steps(first)
    if few:
        steps = min(steps, 16 * scenario.rows // first.batch_size)
    return _changed(first, iters=max(_FEWEST, steps), learning_rate=0.001 if steps >= 24 else 0.002)


def search(scenario: Scenario) -> LoRAConfig:
    """The best of some ten real trials that start at the rule of thumb: one hyperparameter after the other.

    Learning rate, then fewer steps (which only a small or noisy data set can want), then rank at the same strength,
    then smaller batches for few rows, then the choice between a larger batch with checkpointing and a smaller without.
    """
    best = rule_of_thumb(scenario)
    best = _best(scenario, [best] + [_changed(best, learning_rate=rate) for rate in (0.0005, 0.001, 0.002, 0.004)])
    steps = scenario.affordable_steps(best)
    best = _best(
        scenario, [best] + [_changed(best, iters=max(_FEWEST, round(steps * share))) for share in (1, 0.5, 0.25)]
    )
    best = _best(scenario, [best] + [_changed(best, rank=rank, scale=10.0 * 8 / rank) for rank in (4, 16)])
    if scenario.rows < 64:
        best = _best(
            scenario, [best] + [_changed(best, batch_size=size) for size in (2, 8) if size < 2 * best.batch_size]
        )
    other = not best.grad_checkpoint
    batch = min(_largest_batch(scenario, other), 16 if scenario.rows >= 64 else 4)
    if batch:
        swapped = _changed(best, grad_checkpoint=other, batch_size=batch)
        best = _best(
            scenario, [best, _changed(swapped, iters=max(_FEWEST, min(best.iters, scenario.affordable_steps(swapped))))]
        )
    return best


def _best(scenario: Scenario, candidates: list[LoRAConfig]) -> LoRAConfig:
    fitting = [config for config in dict.fromkeys(candidates) if scenario.fits(config)] or candidates[:1]
    return min(fitting, key=lambda config: _loss(trained(config, scenario).final_val_loss))


def _largest_batch(scenario: Scenario, grad_checkpoint: bool) -> int:
    """The largest power of two that fits the memory and the rows; 0 if not even one row fits."""
    for batch in (16, 8, 4, 2, 1):
        config = _config(batch_size=batch, grad_checkpoint=grad_checkpoint)
        if batch <= scenario.rows and scenario.fits(config):
            return batch
    return 0


def _config(*, batch_size: int, grad_checkpoint: bool) -> LoRAConfig:
    return LoRAConfig(
        rank=8, scale=10, learning_rate=0.001, batch_size=batch_size, iters=_FEWEST, grad_checkpoint=grad_checkpoint
    )


def _changed(config: LoRAConfig, **values: object) -> LoRAConfig:
    return LoRAConfig.model_validate({**config.model_dump(), **values})


def _loss(loss: float | None) -> float:
    return float("inf") if loss is None else loss


def _key(scenario: Scenario) -> str:
    return json.dumps(scenario.row, sort_keys=True)


@cache
def _stored_configs() -> dict[str, dict[str, object]]:
    file = resources.files("dspy_toolkit_lora.metric").joinpath(_FILE)
    if not file.is_file():
        return {}
    return {_key(Scenario.of(entry["scenario"])): entry["config"] for entry in json.loads(file.read_text())}


def main() -> None:
    """Search every scenario of the task and write `references.json` beside this file."""
    from rich.progress import track

    scenarios = [scenario for split in splits().values() for scenario in split]
    entries = [
        {"scenario": scenario.row, "config": search(scenario).model_dump()}
        for scenario in track(scenarios, description="Searching references")
    ]
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    Path(__file__).with_name(_FILE).write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
