"""Measuring a target on rows, as often as asked, keeping what was finished when it is stopped."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.evaluation.comparison import ProgramComparison
from dspy_toolkit.evaluation.evaluate import EvaluationControls, RunStage, evaluate
from dspy_toolkit.evaluation.program_evaluation import ProgramEvaluation
from dspy_toolkit.evaluation.repeats import rollout
from dspy_toolkit.evaluation.results import Evaluation
from dspy_toolkit.evaluation.rows import EvaluationRows
from dspy_toolkit.framework.evaluation_record import Measurement, Open, digest, recording
from dspy_toolkit.lm.info import LMInfo
from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.programs.target import Target
from dspy_toolkit.runs.events import Event, EventSink
from dspy_toolkit.signatures.fingerprints import fingerprint

__all__ = ["Measuring"]


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How programs are measured: the same for both that are compared."""

    metrics: Sequence[Metric]
    adapter: dspy.Adapter
    repeats: int
    seed: int
    num_threads: int
    max_errors: int | None
    on_event: EventSink | None
    stop: threading.Event | None
    open_journal: Open | None = None

    def evaluate(self, target: Target, rows: EvaluationRows, lm: Any) -> ProgramEvaluation:
        """Recorded, where there is an `open_journal`.

        Raises as `evaluate` does, with a ProgramEvaluation of what was finished as `partial`, or None.
        """
        if self.repeats < 1:
            raise OptimizationError(f"The number of repeats is {self.repeats}; expected at least 1.")
        with recording(self.open_journal, self.on_event) as record:
            record.begin(self._identity(target, rows, LMInfo.of(lm)))
            measured = self._evaluated(target, rows, lm, record)
            record.end("finished", measured)
        return measured

    def _identity(self, target: Target, rows: EvaluationRows, lm: LMInfo) -> dict[str, Any]:
        return {
            "kind": "evaluate",
            "task": target.name,
            "program": target.shown,
            "metric": ", ".join(metric.name for metric in self.metrics),
            "model": lm.model,
            "model_options": dict(lm.options),
            "adapter": type(self.adapter).__name__,
            "seed": self.seed,
            "repeats": self.repeats,
            "data": rows.shown,
            "data_digest": digest(rows),
            "rows": {"evaluate": len(rows.examples)},
            "fingerprint": fingerprint(target.plain()),
        }

    def _evaluated(self, target: Target, rows: EvaluationRows, lm: Any, record: Measurement) -> ProgramEvaluation:
        repeats: list[Evaluation] = []
        stage = RunStage.recorded(record.record, record.tell, self.stop)
        controls = EvaluationControls(num_threads=self.num_threads, max_errors=self.max_errors, stage=stage)

        def measured(partial: str = "") -> ProgramEvaluation:
            return ProgramEvaluation.of(
                target,
                model=LMInfo.of(lm).model,
                rows=rows,
                seed=self.seed,
                repeats=repeats,
                partial=partial,
            )

        while len(repeats) < self.repeats:
            try:
                evaluation = evaluate(
                    target.module, rows.examples, self.metrics,
                    lm=rollout(lm, len(repeats)), adapter=self.adapter, seed=self.seed, controls=controls,
                )  # fmt: skip
                repeats.append(evaluation)
            except OptimizationError as error:
                what = f"{len(repeats)} of {self.repeats} repeats"
                if not repeats and isinstance(error.partial, Evaluation):
                    repeats.append(error.partial)
                    what = f"{len(error.partial.results)} of {len(rows.examples)} rows"
                error.partial = measured(what) if repeats else None
                raise
        return measured()

    def compare(
        self,
        targets: tuple[Target, Target],
        rows: tuple[EvaluationRows, EvaluationRows],
        connect: tuple[Callable[[], Any], Callable[[], Any]],
    ) -> ProgramComparison:
        """Both, one after the other. Raises as `evaluate` does; `partial` is a ProgramComparison of the rows both
        finished if there are any, else the first's ProgramEvaluation.
        """
        first: ProgramEvaluation | None = None
        try:
            first = self._announced("A", targets[0], rows[0], connect[0]())
            second = self._announced("B", targets[1], rows[1], connect[1]())
        except OptimizationError as error:
            if first is not None:
                partial = error.partial
                error.partial = (
                    ProgramComparison.of(first, partial, targets, partial=partial.partial) if partial else first
                )
            raise
        return ProgramComparison.of(first, second, targets)

    def _announced(self, side: str, target: Target, rows: EvaluationRows, lm: Any) -> ProgramEvaluation:
        if self.on_event is not None:
            model = LMInfo.of(lm).model
            self.on_event(Event(kind="note", stage="evaluate", message=f"{side}: {target.shown} with {model}"))
        return self.evaluate(target, rows, lm)
