"""The options of the command line: those that several verbs share, and what the words typed for them become."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from dspy_toolkit.lm.limits import Limits

__all__ = [
    "Data",
    "EventsFile",
    "Html",
    "MaxCalls",
    "MaxCost",
    "MaxErrors",
    "MaxMinutes",
    "MaxTokens",
    "Metrics",
    "Model",
    "Plain",
    "Repeats",
    "Resumable",
    "Resume",
    "Rows",
    "Save",
    "Seed",
    "SetOption",
    "Threads",
    "limits_of",
    "pairs",
    "run_to_resume",
]

Model = Annotated[str | None, typer.Option(help="Model string or profile name.")]
Plain = Annotated[bool, typer.Option("--plain", help="The program as it was before optimization.")]

# --- rows, and how they are measured

Data = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Rows: JSON Lines, JSON, CSV, Parquet; a task has its own.")
]
SetOption = Annotated[
    Literal["test", "validation", "train"] | None,
    typer.Option("--set", help="Which set; test for a task's rows. A file is split as optimize splits it."),
]
Rows = Annotated[int | None, typer.Option(min=1, help="Draw so many rows, by the seed.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", metavar="NAME", help="A metric's name, or package.module:attribute; repeatable."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Rows at the same time.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of every random draw: rows, search, intervals.")]
Repeats = Annotated[int, typer.Option(min=1, help="Measure so many times, each another rollout: shows the noise.")]
MaxErrors = Annotated[
    int | None, typer.Option(min=0, help="Failing rows a run may have; one more ends it. Any number by default.")
]
Html = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write a report that works offline; needs dspy-toolkit[report].")
]
Save = Annotated[Path | None, typer.Option(metavar="FILE.jsonl", help="Write every row with its answer and scores.")]

# --- a run that can be resumed

NEWEST = "newest"

Resume = Annotated[
    str | None,
    typer.Option(
        metavar="[RUN]",
        help="Resume the newest unfinished run of the task, or this run, with the options it was started with.",
    ),
]
MaxCalls = Annotated[int | None, typer.Option(min=1, help="Most LM calls of the whole run.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Most tokens, read and written, of the whole run.")]
MaxMinutes = Annotated[float | None, typer.Option(min=0, help="Most minutes of the whole run.")]
MaxCost = Annotated[float | None, typer.Option(min=0, help="Most US dollars, for models that have a list price.")]
EventsFile = Annotated[
    Path | None,
    typer.Option("--events", metavar="FILE", help="Add every event to this file as a line of JSON; - is stderr."),
]


class Resumable(TyperCommand):
    """A command whose `--resume` may stand alone: typer has no options with an optional value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        filled = []
        for word, following in pairwise([*args, "-"]):
            filled.append(word)
            # What follows is a run unless it is another option, or a task or signature, which has more than letters.
            if word == "--resume" and (following.startswith("-") or set(following) & set("/ :>")):
                filled.append(NEWEST)
        return super().parse_args(ctx, filled)


def limits_of(calls: int | None, tokens: int | None, minutes: float | None, cost: float | None) -> "Limits | None":
    """The budget that these options make."""
    from dspy_toolkit.lm.limits import Limits

    seconds = None if minutes is None else 60 * minutes
    limits = Limits(calls=calls, tokens=tokens, seconds=seconds, cost=cost)
    return None if limits == Limits() else limits


def run_to_resume(resume: str | None) -> str | bool:
    """`--resume` as the framework has it."""
    return False if resume is None else True if resume == NEWEST else resume


def pairs(option: str, words: Iterable[str] | None, *, numbers: bool = False) -> dict[str, str]:
    """`NAME=VALUE` words as a dictionary. A malformed word is wrong usage (exit code 2)."""
    values = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals or not name or (numbers and not value.isdigit()):
            raise typer.BadParameter(f"{word!r} is not NAME={'NUMBER' if numbers else 'VALUE'}", param_hint=option)
        values[name] = value
    return values
