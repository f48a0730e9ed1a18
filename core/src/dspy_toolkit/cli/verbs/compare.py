"""`dspy-toolkit compare`: whether one program is better than another, on the same rows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.edge import Json, edge, showing_partial
from dspy_toolkit.cli.evaluation import (
    answer_text,
    error_document,
    noise_lines,
    print_confusions,
    print_errors,
    usage_line,
)
from dspy_toolkit.cli.files import allow_own_code, check_reports, save_jsonl, save_text
from dspy_toolkit.cli.options import (
    Data,
    Html,
    MaxErrors,
    Metrics,
    Model,
    Repeats,
    Rows,
    Save,
    Seed,
    SetOption,
    Threads,
)
from dspy_toolkit.cli.output import Output, styled
from dspy_toolkit.cli.tables import fields_text, number, one_line, table

if TYPE_CHECKING:
    from rich.text import Text

    from dspy_toolkit.evaluation.comparison import ProgramComparison
    from dspy_toolkit.evaluation.program_evaluation import ProgramEvaluation

__all__ = ["add_to"]

_NAME = "As for evaluate; NAME@plain is the program before optimization."


def add_to(app: typer.Typer) -> None:
    @app.command()
    def compare(
        a: Annotated[str, typer.Argument(metavar="A", help=_NAME)],
        b: Annotated[str, typer.Argument(metavar="B", help=_NAME)],
        data: Data = None,
        set_: SetOption = None,
        rows: Rows = None,
        metric: Metrics = None,
        model: Model = None,
        model_b: Annotated[str | None, typer.Option(help="Model of B; --model's by default.")] = None,
        repeats: Repeats = 1,
        threads: Threads = None,
        seed: Seed = None,
        max_errors: MaxErrors = None,
        changes: Annotated[int, typer.Option(min=0, metavar="N", help="Show so many of the rows that changed.")] = 5,
        gate: Annotated[bool, typer.Option("--gate", help="Exit code 1 unless B's interval clears A.")] = False,
        html: Html = None,
        save: Save = None,
        as_json: Json = False,
    ) -> None:
        """Compare two programs, or two models, on the same rows: B minus A, with interval.

        Rows and metric are A's if they are not given. Ctrl-C compares what both finished, with exit code 1.
        """
        with edge(as_json) as output:
            check_reports(html, save)
            allow_own_code(a, b, *(metric or ()))
            from dspy_toolkit.cli.progress import RunProgress
            from dspy_toolkit.framework.framework import DSPyFramework
            from dspy_toolkit.settings import DSPyConfig

            framework = DSPyFramework(DSPyConfig(num_threads=threads) if threads else DSPyConfig())

            def show(comparison: Any, error: Exception | None = None) -> None:
                _show(output, comparison, changes, error)
                _write(output, comparison, save, html)

            with showing_partial(show):
                with RunProgress(output) as progress:
                    comparison = framework.compare(
                        a, b, data, metric, set=set_, rows=rows, model=model, second_model=model_b, repeats=repeats,
                        seed=seed, max_errors=max_errors, on_event=progress,
                    )  # fmt: skip
                show(comparison)
            if gate and not comparison.clears:
                output.note(f"gate: closed; the interval of {one_line(comparison.metric)} does not lie above 0.")
                raise typer.Exit(1)


def _write(
    output: Output, comparison: "ProgramComparison | ProgramEvaluation", save: Path | None, html: Path | None
) -> None:
    from dspy_toolkit.evaluation.comparison import ProgramComparison

    save_jsonl(output, save, comparison.records())
    if html is not None:
        from dspy_toolkit.report import comparison_html, evaluation_html

        whole = isinstance(comparison, ProgramComparison)
        save_text(output, html, comparison_html(comparison) if whole else evaluation_html(comparison))


def _show(
    output: Output, comparison: "ProgramComparison | ProgramEvaluation", changes: int, error: Exception | None
) -> None:
    from dspy_toolkit.evaluation.comparison import ProgramComparison

    if not isinstance(comparison, ProgramComparison):  # stopped before B began
        from dspy_toolkit.cli.verbs.evaluate import show_evaluation

        show_evaluation(output, comparison, changes, error)
        return
    changed = [_change(change) for change in comparison.changes[:changes]]
    output.document({**comparison.to_dict(), "changes": changed, **error_document(error)})
    for note in comparison.first.rows.notes:
        output.note(note)
    _head(output, comparison)
    _differences(output, comparison)
    _costs(output, comparison)
    for side, measured in (("A, ", comparison.first), ("B, ", comparison.second)):
        print_errors(output, measured, title=f"{side}errors")
        print_confusions(output, measured.confusions, title=side)
    _changed_rows(output, comparison, changes)


def _head(output: Output, comparison: "ProgramComparison") -> None:
    from rich.text import Text

    for side, measured in (("A", comparison.first), ("B", comparison.second)):
        output.print(Text.assemble((f"{side}  {measured.name}", "bold"), f" with {measured.model}"))
    used, rows = len(comparison.first.evaluation.results), comparison.first.rows
    output.print(Text(f"{used} of {rows.available} rows: {rows.shown}"))
    if comparison.partial:
        output.print(Text(f"Partial: of B, {comparison.partial} were finished.", style="bold yellow"))


def _differences(output: Output, comparison: "ProgramComparison") -> None:
    from rich.text import Text

    numbers = ("A", "B", "B - A", "wins", "losses", "ties", "sign test p")
    scores = table("metric", "A", "B", "B - A", "95 % interval", *numbers[3:], numbers=numbers)
    for name, difference in comparison.comparisons.items():
        style = "bold green" if difference.clears else "bold red" if difference.high < 0 else "yellow"
        scores.add_row(
            one_line(name, 40),
            number(comparison.first.metrics[name].score.score),
            number(comparison.second.metrics[name].score.score),
            Text(f"{difference.difference:+.1f}", style=style),
            f"{difference.low:+.1f} to {difference.high:+.1f}",
            *(str(count) for count in (difference.wins, difference.losses, difference.ties)),
            f"{difference.p_value:.3g}",
        )
    output.print("", scores, verdict(comparison))
    for side, measured in (("A", comparison.first), ("B", comparison.second)):
        for line in noise_lines(measured):
            output.print(f"{side}: {line}")
    for name, floor in comparison.noise_floors.items():
        if floor:
            output.print(f"{one_line(name)}: equally good programs would differ by up to {floor:.1f} here.")


def verdict(comparison: "ProgramComparison") -> "Text":
    """What the interval of the deciding metric says, in a sentence."""
    difference, name = comparison.comparison, one_line(comparison.metric)
    if difference.clears:
        return styled("[green]B is better[/] by {}: its interval lies above 0.", name)
    if difference.high < 0:
        return styled("[red]B is worse[/] by {}: its interval lies below 0.", name)
    return styled("[yellow]No difference shown[/] by {}: the interval holds 0. More rows would narrow it.", name)


def _costs(output: Output, comparison: "ProgramComparison") -> None:
    output.print(f"\nA  {usage_line(comparison.first.usage, comparison.first.seconds)}")
    output.print(f"B  {usage_line(comparison.second.usage, comparison.second.seconds)}")
    if (difference := comparison.cost_difference) is None:
        return
    output.print(
        f"B - A  {difference['lm_calls']:+,} LM calls, {difference['input_tokens']:+,} tokens read, "
        f"{difference['output_tokens']:+,} written, {difference['seconds']:+.1f} s"
        + (f", {difference['cost']:+.4f} $" if difference["cost"] else "")
    )
    if comparison.first.usage.cache_hits or comparison.second.usage.cache_hits:
        output.print("Answers from the cache cost nothing here, so this is not what the programs cost side by side.")


def _changed_rows(output: Output, comparison: "ProgramComparison", count: int) -> None:
    from rich.text import Text

    changes = comparison.changes
    total = len(comparison.first.evaluation.results)
    output.print(styled("\n[bold]{} of {} rows changed[/]", len(changes), total))
    if not changes[:count]:
        return
    listed = table("row", "B - A", "inputs", "A answers", "B answers", "expected", numbers=("row", "B - A"))
    for change in changes[:count]:
        expected = fields_text(change.labels) if change.labels else ""
        answers = (answer_text(result, change.labels) for result in (change.first, change.second))
        cells = (fields_text(change.first.inputs), *answers, expected)
        listed.add_row(str(change.row), f"{change.difference:+.1f}", *(Text(cell) for cell in cells))
    output.print(listed)


def _change(change: Any) -> dict[str, Any]:
    from pydantic_core import to_jsonable_python

    first, second = change.first.to_dict(), change.second.to_dict()
    return {
        "row": change.row,
        "difference": change.difference,
        "inputs": first["inputs"],
        "labels": to_jsonable_python(dict(change.labels), inf_nan_mode="strings", fallback=repr),
        "a": {key: first[key] for key in ("prediction", "score", "feedback", "error")},
        "b": {key: second[key] for key in ("prediction", "score", "feedback", "error")},
    }
