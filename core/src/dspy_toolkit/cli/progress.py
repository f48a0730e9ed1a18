"""A run's events as progress bars on stderr: what is going on, how long it takes, the best score so far."""

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
    from dspy_toolkit.optimize import Event

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
        shown = "" if score is None else f"{'best' if event.stage == 'search' else 'score'} {score:.1f}"
        if self._live:
            if event.stage not in self._bars:
                title = _TITLES.get(event.stage, event.stage)
                self._bars[event.stage] = self._progress.add_task(title, total=event.total, score="")
            done = event.total if event.kind == "stage_finished" and event.total else event.done
            self._progress.update(self._bars[event.stage], completed=done, total=event.total, score=shown)
        elif event.kind == "stage_finished":
            calls = f"{event.lm_calls} LM calls so far"
            self._output.note(
                f"{_TITLES.get(event.stage, event.stage)}: {shown or 'done'} ({calls}, {event.seconds:.0f} s)"
            )
