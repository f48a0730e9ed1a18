"""A run's events as progress bars on stderr: the stage, how long it takes, the best score so far."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dspy_toolkit.cli.output import Output

if TYPE_CHECKING:
    from dspy_toolkit.runs.events import Event

__all__ = ["RunProgress"]

_TITLES = {
    "baseline": "Baseline on held-out rows",
    "search": "Search on training rows",
    "optimized": "Optimized on the same rows",
    "evaluate": "Evaluate",
}


class RunProgress:
    """An event sink that draws. Without a terminal it prints one line when a stage ends."""

    def __init__(self, output: Output):
        self._output = output
        self._bars: dict[str, TaskID] = {}
        self._calls_before: dict[str, int] = {}
        self._live = output.stderr.is_terminal
        self._progress = Progress(
            TextColumn("{task.description:<27}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[score]}"),
            console=output.stderr,
        )

    def __enter__(self) -> Self:
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._progress.stop()

    def __call__(self, event: "Event") -> None:
        if event.kind == "note":
            self._output.note(event.message)
            return
        score = event.best if event.stage == "search" else event.score
        score_text = "" if score is None else f"{'best' if event.stage == 'search' else 'score'} {score:.1f}"
        if self._live:
            if event.stage not in self._bars:
                title = _TITLES.get(event.stage, event.stage)
                self._bars[event.stage] = self._progress.add_task(title, total=event.total, score="")
                self._calls_before[event.stage] = event.lm_calls
            completed, total = self._steps(event)
            self._progress.update(self._bars[event.stage], completed=completed, total=total, score=score_text)
        elif event.kind == "stage_finished":
            planned = "" if event.planned_calls is None else f" of about {event.planned_calls}"
            calls = f"{event.lm_calls}{planned} LM calls so far"
            self._output.note(
                f"{_TITLES.get(event.stage, event.stage)}: {score_text or 'done'} ({calls}, {event.seconds:.0f} s)"
            )

    def _steps(self, event: "Event") -> tuple[int, int | None]:
        """Steps completed, and their total. Where no steps are known, calls made and calls planned."""
        if event.kind == "stage_finished" and event.total:
            return event.total, event.total
        if event.total is not None or event.stage != "search" or event.planned_calls is None:
            return event.done, event.total
        # What is measured at the end takes about the calls that were made before the search.
        baseline_calls = self._calls_before[event.stage]
        search_calls = event.lm_calls - baseline_calls
        return search_calls, max(search_calls, event.planned_calls - 2 * baseline_calls) or None
