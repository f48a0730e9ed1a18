"""`dspy-toolkit evaluate`: how good a program is, on which rows it fails, and what it costs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.edge import Json, edge, showing_partial
from dspy_toolkit.cli.evaluation import (
    error_document,
    print_confusions,
    print_errors,
    print_headline,
    print_lowest,
    print_scores,
    usage_line,
)
from dspy_toolkit.cli.files import allow_own_code, check_reports, save_jsonl, save_text
from dspy_toolkit.cli.options import (
    Data,
    Html,
    MaxErrors,
    Metrics,
    Model,
    Plain,
    Repeats,
    Rows,
    Save,
    Seed,
    SetOption,
    Threads,
)
from dspy_toolkit.cli.output import Output

if TYPE_CHECKING:
    from dspy_toolkit.evaluation.program_evaluation import ProgramEvaluation

__all__ = ["add_to", "show_evaluation"]

NAMES = (
    "Task, task@version, a bundle's folder, a signature's name, 'question -> answer', or package.module:attribute. "
    "@plain is the program before optimization."
)


def add_to(app: typer.Typer) -> None:
    @app.command()
    def evaluate(
        name: Annotated[str, typer.Argument(help=NAMES)],
        data: Data = None,
        set_: SetOption = None,
        rows: Rows = None,
        metric: Metrics = None,
        model: Model = None,
        plain: Plain = False,
        repeats: Repeats = 1,
        threads: Threads = None,
        seed: Seed = None,
        max_errors: MaxErrors = None,
        worst: Annotated[int, typer.Option(min=0, metavar="N", help="Show so many of the lowest scores.")] = 5,
        html: Html = None,
        save: Save = None,
        as_json: Json = False,
    ) -> None:
        """Measure a program on rows: score with interval, errors, cost, confusion, the worst rows.

        A task is measured on its test set. Ctrl-C shows what was finished, with exit code 1.
        """
        with edge(as_json) as output:
            check_reports(html, save)
            allow_own_code(name, *(metric or ()))
            from dspy_toolkit.cli.progress import RunProgress
            from dspy_toolkit.framework.framework import DSPyFramework
            from dspy_toolkit.settings import DSPyConfig

            framework = DSPyFramework(DSPyConfig(num_threads=threads) if threads else DSPyConfig())

            def show(measured: "ProgramEvaluation", error: Exception | None = None) -> None:
                show_evaluation(output, measured, worst, error)
                _write(output, measured, save, html)

            with showing_partial(show):
                with RunProgress(output) as progress:
                    measured = framework.evaluate(
                        f"{name}@plain" if plain else name, data, metric, set=set_, rows=rows, model=model,
                        repeats=repeats, seed=seed, max_errors=max_errors, on_event=progress,
                    )  # fmt: skip
                show(measured)


def _write(output: Output, measured: "ProgramEvaluation", save: Path | None, html: Path | None) -> None:
    save_jsonl(output, save, measured.records())
    if html is not None:
        from dspy_toolkit.report import evaluation_html

        save_text(output, html, evaluation_html(measured))


def show_evaluation(output: Output, measured: "ProgramEvaluation", worst: int, error: Exception | None) -> None:
    """Everything an evaluation has to say, as tables or as JSON."""
    output.document(document(measured, worst, error))
    for note in measured.rows.notes:
        output.note(note)
    print_headline(output, measured)
    print_scores(output, measured)
    output.print(usage_line(measured.usage, measured.seconds))
    print_errors(output, measured)
    print_confusions(output, measured.confusions)
    print_lowest(output, measured, worst)


def document(measured: "ProgramEvaluation", worst: int, error: Exception | None) -> dict[str, Any]:
    """The JSON of an evaluation; `error` where it was stopped."""
    rows = [{**result.to_dict(), "labels": _labels(measured, result.row)} for result in measured.lowest(worst)]
    return {**measured.to_dict(), "lowest": rows, **error_document(error)}


def _labels(measured: "ProgramEvaluation", row: int) -> Any:
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(dict(measured.labels(row)), inf_nan_mode="strings", fallback=repr)
