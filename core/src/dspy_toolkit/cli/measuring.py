"""What `evaluate` and `compare` share: their options, and what they print of a program that was measured."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dspy_toolkit.cli.output import Output, styled

if TYPE_CHECKING:
    from rich.table import Table

    from dspy_toolkit.evaluation.confusion import Confusion
    from dspy_toolkit.evaluation.program_evaluation import ProgramEvaluation
    from dspy_toolkit.evaluation.results import Evaluation, RowResult
    from dspy_toolkit.lm.usage import Usage

__all__ = [
    "Data",
    "Html",
    "MaxErrors",
    "Metrics",
    "Model",
    "Repeats",
    "Rows",
    "Save",
    "Seed",
    "SetOption",
    "Threads",
    "answer",
    "confusions",
    "cost",
    "errors",
    "failure",
    "fields",
    "headline",
    "interval",
    "lowest",
    "noise_lines",
    "one_line",
    "partial_kept",
    "row_error",
    "save_jsonl",
    "save_text",
    "scores",
    "table",
]

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
Model = Annotated[str | None, typer.Option(help="Model string or profile name.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Rows at the same time.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of the draw of rows and of the intervals.")]
Repeats = Annotated[int, typer.Option(min=1, help="Measure so many times, each another rollout: shows the noise.")]
MaxErrors = Annotated[int | None, typer.Option(min=0, help="Stop when more rows than this have failed.")]
Html = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write a report that works offline; needs dspy-toolkit[report].")
]
Save = Annotated[Path | None, typer.Option(metavar="FILE.jsonl", help="Write every row with its answer and scores.")]


def failure(error: Exception | None) -> dict[str, Any]:
    """What the JSON of a run that was stopped says of it beside its results."""
    return {} if error is None else {"error": {"type": type(error).__name__, "message": str(error)}}


@contextmanager
def partial_kept(show: Any) -> Iterator[None]:
    """A run that is stopped or fails shows what it finished, then ends with its error and exit code 1."""
    from dspy_toolkit.errors import OptimizationError

    try:
        yield
    except OptimizationError as error:
        if error.partial is not None:
            show(error.partial, error)
        raise


def save_jsonl(output: Output, path: Path | None, records: Iterable[Mapping[str, Any]]) -> None:
    """One line of JSON for each record."""
    import json

    if path is not None:
        save_text(output, path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def save_text(output: Output, path: Path, text: str) -> None:
    """Raises DataError naming the file, if the disk refuses."""
    from dspy_toolkit.errors import DataError

    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from error
    output.note(f"wrote {path}")


def one_line(value: Any, width: int = 60) -> str:
    """A value on one line, without control characters, cut to `width`."""
    text = value if isinstance(value, str) else _plain(value)
    text = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return text if len(text) <= width else f"{text[: width - 3]}..."


def fields(values: Mapping[str, Any], width: int = 60) -> str:
    """`name=value` pairs on one line; a single field's value alone."""
    if len(values) == 1:
        return one_line(next(iter(values.values())), width)
    return one_line(", ".join(f"{name}={one_line(value, width)}" for name, value in values.items()), width)


def answer(result: "RowResult", wanted: Mapping[str, Any], width: int = 60) -> str:
    """What was answered in the fields that are labelled, or all of them where none is; the error where it failed."""
    if result.prediction is None:
        return one_line(result.error or "", width)
    values = dict(result.prediction.items())
    asked = {name: values[name] for name in wanted if name in values}
    return fields(asked or values, width)


def table(*columns: str, numbers: Iterable[str] = ()) -> "Table":
    """A table without lines; columns named in `numbers` are aligned to the right."""
    from rich.table import Table

    made = Table(box=None, header_style="bold", pad_edge=False)
    right = set(numbers)
    for column in columns:
        if column in right:
            made.add_column(column, justify="right", no_wrap=True)
        else:
            made.add_column(column, overflow="fold")
    return made


def headline(output: Output, measured: "ProgramEvaluation") -> None:
    from rich.text import Text

    used, rows = len(measured.evaluation.results), measured.rows
    count = f"{used} rows" if used == rows.available else f"{used} of {rows.available} rows"
    output.print(Text.assemble((measured.name, "bold"), f" with {measured.model} on {count} of {rows.shown}"))
    if measured.partial:
        output.print(Text(f"Partial: {measured.partial} were finished.", style="bold yellow"))


def scores(output: Output, measured: "ProgramEvaluation") -> None:
    """One line for each metric, and what the repeats show."""
    several = any(each.row_score is not None for each in measured.metrics.values())
    shown = table(
        "metric", "score", "95 % interval", "rows", "failed", *(["mean of rows"] if several else []),
        numbers=("score", "rows", "failed", "mean of rows"),
    )  # fmt: skip
    for name, each in measured.metrics.items():
        mean = [f"{each.row_score.score:.1f}" if each.row_score else ""] if several else []
        failed = sum(group.count for group in each.errors)
        shown.add_row(one_line(name), f"{each.score.score:.1f}", interval(each), str(each.score.n), str(failed), *mean)
    output.print("", shown)
    for line in noise_lines(measured):
        output.print(line)


def interval(evaluation: "Evaluation") -> str:
    return f"{evaluation.score.low:.1f} to {evaluation.score.high:.1f}"


def noise_lines(measured: "ProgramEvaluation") -> list[str]:
    """What the repeats say, a line for each metric, or one where the model is deterministic."""
    if measured.deterministic:
        count = len(measured.repeats)
        return [
            f"{count} repeats gave the same answers: this model is deterministic here, so there is no noise to measure."
        ]
    lines = []
    for name, noise in measured.noise.items():
        each = ", ".join(f"{score:.1f}" for score in noise.scores)
        lines.append(
            f"{one_line(name)}: repeats {each} (spread {max(noise.scores) - min(noise.scores):.1f}); two runs of this "
            f"program differ by up to {noise.floor:.1f} by sampling alone."
        )
    return lines


def cost(usage: "Usage", seconds: float) -> str:
    """Calls, tokens and time on one line."""
    money = f", ${usage.cost:.4f}" if usage.cost else ""
    cached = f" and {usage.cache_hits:,} from the cache" if usage.cache_hits else ""
    return (
        f"{usage.lm_calls:,} LM calls{cached}, {usage.input_tokens:,} tokens read, {usage.output_tokens:,} written, "
        f"{seconds:.1f} s{money}"
    )


def errors(output: Output, measured: "ProgramEvaluation", title: str = "Errors") -> None:
    """What failed, by type, with one example each and what the model had said."""
    from rich.text import Text

    seen = set()
    shown = table("error", "count", "row", "example", numbers=("count", "row"))
    for each in measured.to_dict()["metrics"].values():
        for group in each["errors"]:
            key = (group["type"], group["row"], group["example"])
            if key in seen:
                continue  # the program failed, which every metric tells
            seen.add(key)
            example = group["example"]
            if group["completion"] is not None:  # DSPy's message has it too, and then the fields it expected
                example = example.partition(" LM Response:")[0]
            shown.add_row(Text(group["type"]), str(group["count"]), str(group["row"]), Text(one_line(example, 200)))
            if group["completion"] is not None:
                shown.add_row("", "", "", Text(f"the model said: {one_line(group['completion'], 200)!r}", style="dim"))
    if seen:
        output.print(f"\n[bold red]{title}[/] (a row that failed scores 0)", shown)


def row_error(result: "RowResult") -> str:
    return one_line(result.error or result.feedback, 120)


def confusions(output: Output, found: Iterable["Confusion"], title: str = "") -> None:
    """A table for each field: labels down, answers across, and each label's precision, recall and F1."""
    from rich.text import Text

    for confusion in found:
        measures = ("precision", "recall", "F1", "rows")
        answers = [one_line(name, 16) for name in confusion.answers]
        shown = table(confusion.field, *answers, *measures, numbers=[*answers, *measures])
        for label, counts in zip(confusion.labels, confusion.matrix, strict=True):
            cells = [
                Text(str(count) if count else ".", style="green" if label == name else "red" if count else "dim")
                for name, count in zip(confusion.answers, counts, strict=True)
            ]
            each = confusion.by_label[label]
            shown.add_row(
                Text(one_line(label, 24)), *cells, f"{each.precision:.2f}", f"{each.recall:.2f}", f"{each.f1:.2f}",
                str(each.labelled),
            )  # fmt: skip
        output.print(
            Text(f"\n{title}{confusion.field}: labels down, answers across "
                 f"(accuracy {100 * confusion.accuracy:.1f}, macro F1 {100 * confusion.macro_f1:.1f})", style="bold"),
            shown,
        )  # fmt: skip


def lowest(output: Output, measured: "ProgramEvaluation", count: int) -> None:
    """The rows that scored lowest, with what was said of them."""
    from rich.text import Text

    rows = measured.lowest(count)
    if not rows:
        return
    shown = table("row", "score", "inputs", "answer", "expected", "feedback", numbers=("row", "score"))
    for result in rows:
        wanted = measured.labels(result.row)
        cells = (
            fields(result.inputs), answer(result, wanted), fields(wanted) if wanted else "",
            row_error(result),
        )  # fmt: skip
        shown.add_row(str(result.row), f"{result.score:.1f}", *(Text(cell) for cell in cells))
    output.print(styled("\n[bold]Lowest scores[/] ({})", one_line(measured.metric)), shown)


def _plain(value: Any) -> str:
    from pydantic_core import to_jsonable_python

    plain = to_jsonable_python(value, inf_nan_mode="strings", fallback=repr)
    return plain if isinstance(plain, str) else repr(plain)
