"""What `evaluate` and `compare` print of a program that was measured."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dspy_toolkit.cli.output import Output, styled
from dspy_toolkit.cli.tables import fields_text, one_line, table

if TYPE_CHECKING:
    from dspy_toolkit.evaluation.confusion import Confusion
    from dspy_toolkit.evaluation.program_evaluation import ProgramEvaluation
    from dspy_toolkit.evaluation.results import Evaluation, RowResult
    from dspy_toolkit.lm.usage import Usage

__all__ = [
    "answer_text",
    "error_document",
    "noise_lines",
    "print_confusions",
    "print_errors",
    "print_headline",
    "print_lowest",
    "print_scores",
    "usage_line",
]


def error_document(error: Exception | None) -> dict[str, Any]:
    """What the JSON of a stopped run says of it beside its results."""
    return {} if error is None else {"error": {"type": type(error).__name__, "message": str(error)}}


def answer_text(result: "RowResult", labels: Mapping[str, Any], width: int = 60) -> str:
    """The answer in the labelled fields, or in all fields where none is labelled; the error where the row failed."""
    if result.prediction is None:
        return one_line(result.error or "", width)
    values = dict(result.prediction.items())
    labelled = {name: values[name] for name in labels if name in values}
    return fields_text(labelled or values, width)


def print_headline(output: Output, measured: "ProgramEvaluation") -> None:
    from rich.text import Text

    used, rows = len(measured.evaluation.results), measured.rows
    count = f"{used} rows" if used == rows.available else f"{used} of {rows.available} rows"
    output.print(Text.assemble((measured.name, "bold"), f" with {measured.model} on {count} of {rows.shown}"))
    if measured.partial:
        output.print(Text(f"Partial: {measured.partial} were finished.", style="bold yellow"))


def print_scores(output: Output, measured: "ProgramEvaluation") -> None:
    """One line for each metric, and what the repeats show."""
    has_row_mean = any(evaluation.row_score is not None for evaluation in measured.metrics.values())
    scores = table(
        "metric", "score", "95 % interval", "rows", "failed", *(["mean of rows"] if has_row_mean else []),
        numbers=("score", "rows", "failed", "mean of rows"),
    )  # fmt: skip
    for name, evaluation in measured.metrics.items():
        mean = [f"{evaluation.row_score.score:.1f}" if evaluation.row_score else ""] if has_row_mean else []
        failed = sum(group.count for group in evaluation.errors)
        score = evaluation.score
        scores.add_row(one_line(name), f"{score.score:.1f}", _interval(evaluation), str(score.n), str(failed), *mean)
    output.print("", scores)
    for line in noise_lines(measured):
        output.print(line)


def _interval(evaluation: "Evaluation") -> str:
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
        scores = ", ".join(f"{score:.1f}" for score in noise.scores)
        lines.append(
            f"{one_line(name)}: repeats {scores} (spread {max(noise.scores) - min(noise.scores):.1f}); two runs of "
            f"this program differ by up to {noise.floor:.1f} by sampling alone."
        )
    return lines


def usage_line(usage: "Usage", seconds: float) -> str:
    """Calls, tokens and time on one line."""
    money = f", ${usage.cost:.4f}" if usage.cost else ""
    cached = f" and {usage.cache_hits:,} from the cache" if usage.cache_hits else ""
    return (
        f"{usage.lm_calls:,} LM calls{cached}, {usage.input_tokens:,} tokens read, {usage.output_tokens:,} written, "
        f"{seconds:.1f} s{money}"
    )


def print_errors(output: Output, measured: "ProgramEvaluation", title: str = "Errors") -> None:
    """What failed, by type, with one example of each and the model's answer to it."""
    from rich.text import Text

    rows: dict[tuple[Any, ...], dict[str, Any]] = {}  # a program that failed is an error of every metric
    for metric in measured.to_dict()["metrics"].values():
        rows |= {(group["type"], group["row"], group["example"]): group for group in metric["errors"]}
    if not rows:
        return
    errors = table("error", "count", "row", "example", numbers=("count", "row"))
    for group in rows.values():
        example, completion = group["example"], group["completion"]
        if completion is not None:  # DSPy's message has it too, and then the fields it expected
            example = example.partition(" LM Response:")[0]
        errors.add_row(Text(group["type"]), str(group["count"]), str(group["row"]), Text(one_line(example, 200)))
        if completion is not None:
            errors.add_row("", "", "", Text(f"the model said: {one_line(completion, 200)!r}", style="dim"))
    output.print(styled("\n[bold red]{}[/] (a row that failed scores 0)", title), errors)


def print_confusions(output: Output, confusions: Iterable["Confusion"], title: str = "") -> None:
    """A table for each field: labels down, answers across, and each label's precision, recall and F1."""
    from rich.text import Text

    for confusion in confusions:
        measures = ("precision", "recall", "F1", "rows")
        answers = [one_line(name, 16) for name in confusion.answers]
        matrix = table(confusion.field, *answers, *measures, numbers=[*answers, *measures])
        for label, counts in zip(confusion.labels, confusion.matrix, strict=True):
            cells = [
                Text(str(count) if count else ".", style="green" if label == name else "red" if count else "dim")
                for name, count in zip(confusion.answers, counts, strict=True)
            ]
            by_label = confusion.by_label[label]
            measured = (f"{by_label.precision:.2f}", f"{by_label.recall:.2f}", f"{by_label.f1:.2f}")
            matrix.add_row(Text(one_line(label, 24)), *cells, *measured, str(by_label.labelled))
        accuracy = f"accuracy {100 * confusion.accuracy:.1f}, macro F1 {100 * confusion.macro_f1:.1f}"
        headline = f"\n{title}{confusion.field}: labels down, answers across ({accuracy})"
        output.print(Text(headline, style="bold"), matrix)


def print_lowest(output: Output, measured: "ProgramEvaluation", count: int) -> None:
    """The rows that scored lowest, with the metric's feedback."""
    from rich.text import Text

    results = measured.lowest(count)
    if not results:
        return
    rows = table("row", "score", "inputs", "answer", "expected", "feedback", numbers=("row", "score"))
    for result in results:
        labels = measured.labels(result.row)
        expected = fields_text(labels) if labels else ""
        feedback = one_line(result.error or result.feedback, 120)
        cells = (fields_text(result.inputs), answer_text(result, labels), expected, feedback)
        rows.add_row(str(result.row), f"{result.score:.1f}", *(Text(cell) for cell in cells))
    output.print(styled("\n[bold]Lowest scores[/] ({})", one_line(measured.metric)), rows)
