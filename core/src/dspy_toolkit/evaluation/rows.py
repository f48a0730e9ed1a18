"""The rows a program is measured on: a task's own, or a file's, checked against what the program was made from."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import dspy

from dspy_toolkit.data.dataset import read_dataset
from dspy_toolkit.data.splits import AnyData, draw, leak_key, prepare, to_examples
from dspy_toolkit.errors import DataError
from dspy_toolkit.programs.inspect import input_fields, signatures_of
from dspy_toolkit.programs.nearest import Nearest
from dspy_toolkit.programs.target import Target
from dspy_toolkit.types import TaskData

__all__ = ["EvaluationRows", "SetName", "check_not_shown", "rows_of"]

SetName = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True)
class EvaluationRows:
    """The rows, what they are called ("the test set of w/f"), how many there were to draw from, and what was
    noticed when they were read (empty if nothing).
    """

    examples: tuple[dspy.Example, ...]
    shown: str
    available: int
    notes: tuple[str, ...] = ()

    def for_program(self, target: Target, other: Target) -> "EvaluationRows":
        """The same rows as examples of `target`, without what is an input of `other` only (a metric would take it for a
        label). Raises DataError where it needs an input they lack, and for a demonstration among them.
        """
        program = target.plain()
        foreign = set(input_fields(other.plain())) - set(input_fields(program))
        rows = [{name: value for name, value in row.items() if name not in foreign} for row in self.examples]
        examples = to_examples(rows, program, name=self.shown)
        check_not_shown(target, examples, self.shown)
        return replace(self, examples=examples)


def rows_of(
    target: Target,
    data: AnyData | None,
    *,
    which: SetName | None,
    count: int | None,
    seed: int,
    keep: Sequence[str] = (),
) -> EvaluationRows:
    """`data` None is the task's own. `which` None is the test set of three sets, and everything of one list or file.

    One list or file is split as `optimize` splits it where `which` is given. Of the set, `count` rows are drawn by
    `seed`, the same that `optimize` draws. Raises DataError, also for a row that the program has as a demonstration.
    """
    program = target.plain()
    shown, notes = "the list", ()
    if data is None:
        data, shown = target.data(), target.name
    elif isinstance(data, str | os.PathLike):
        data = read_dataset(data, program, keep=keep)
        shown, notes = os.path.basename(data.name), (data.summary,)
    if isinstance(data, TaskData) or which is not None:
        which = which or "test"
        examples, shown = getattr(prepare(data, program, seed=seed), which), f"the {which} set of {shown}"
    else:
        examples = to_examples(data, program)
        if not examples:
            raise DataError("There are no rows to evaluate on; give at least one.")
    drawn = draw(examples, count, seed, which or "test")
    if which != "train":
        check_not_shown(target, drawn, shown)
    return EvaluationRows(examples=drawn, shown=shown, available=len(examples), notes=notes)


def check_not_shown(target: Target, examples: Sequence[dspy.Example], shown: str) -> None:
    """Raise DataError for a row that the program shows as a demonstration, which is the answer given away."""
    inputs = list(input_fields(target.plain()))
    module = target.module.pooled() if isinstance(target.module, Nearest) else target.module
    demos = {}
    for name, predictor in module.named_predictors():
        for demo in predictor.demos:
            if all(field in demo for field in inputs):
                demos[leak_key(dspy.Example(**dict(demo.items())).with_inputs(*inputs))] = name
    for number, example in enumerate(examples, start=1):
        if demos and leak_key(example) in demos:
            raise DataError(
                f"Row {number} of {shown} has the same inputs as a demonstration in {target.shown}; scores on rows "
                "that were trained on mean nothing. If this is the data it was optimized on, take the rows that "
                'optimization did not see: --set test (`set="test"` in Python).'
            )


def labelled(program: dspy.Module, examples: Sequence[dspy.Example]) -> dict[str, Any]:
    """The output fields that rows have labels for, with their types' annotations, in the program's order."""
    annotations: dict[str, Any] = {}
    for signature in signatures_of(program).values():
        annotations |= {name: info.annotation for name, info in signature.output_fields.items()}
    return {name: annotation for name, annotation in annotations.items() if any(name in row for row in examples)}


def labels(example: dspy.Example) -> Mapping[str, Any]:
    """What of a row is no input."""
    return dict(example.labels().items())
