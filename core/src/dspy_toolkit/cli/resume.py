"""Options of `optimize` that are about the run itself: going on with one, what it may spend, where its events go."""

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from dspy_toolkit.lm.limits import Limits

__all__ = [
    "EventsFile",
    "MaxCalls",
    "MaxCost",
    "MaxErrors",
    "MaxMinutes",
    "MaxTokens",
    "Resumable",
    "Resume",
    "limits_of",
    "resumed",
]

NEWEST = "newest"

Resume = Annotated[
    str | None,
    typer.Option(
        metavar="[RUN]",
        help="Go on with the newest unfinished run of the task, or with this one, with the options it was begun with.",
    ),
]
MaxCalls = Annotated[int | None, typer.Option(min=1, help="Most LM calls of the whole run.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Most tokens, read and written, of the whole run.")]
MaxMinutes = Annotated[float | None, typer.Option(min=0, help="Most minutes of the whole run.")]
MaxCost = Annotated[float | None, typer.Option(min=0, help="Most US dollars, for models that have a list price.")]
MaxErrors = Annotated[
    int | None, typer.Option(min=0, help="Failing rows a run may have; one more ends it. Any number by default.")
]
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


def resumed(resume: str | None) -> str | bool:
    """`--resume` as the framework has it."""
    return False if resume is None else True if resume == NEWEST else resume
