"""`dspy-toolkit compare`: whether one program is better than another, on the same rows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.measuring import (
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
    answer,
    confusions,
    cost,
    errors,
    failure,
    fields,
    noise_lines,
    one_line,
    partial_kept,
    save_jsonl,
    save_text,
    table,
)
from dspy_toolkit.cli.output import Output, styled
from dspy_toolkit.cli.values import own_code

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
            if html is not None:
                from dspy_toolkit.report import check_plots

                check_plots()  # before the work is done, not after
            own_code(a, b, *(metric or ()))
            from dspy_toolkit.cli.progress import RunProgress
            from dspy_toolkit.framework.framework import DSPyFramework
            from dspy_toolkit.settings import DSPyConfig

            framework = DSPyFramework(DSPyConfig(num_threads=threads) if threads else DSPyConfig())

            def show(found: Any, error: Exception | None = None) -> None:
                _show(output, found, changes, error)
                _write(output, found, save, html)

            with partial_kept(show):
                with RunProgress(output) as progress:
                    found = framework.compare(
                        a, b, data, metric, set=set_, rows=rows, model=model, second_model=model_b, repeats=repeats,
                        seed=seed, max_errors=max_errors, on_event=progress,
                    )  # fmt: skip
                show(found)
            if gate and not found.clears:
                output.note(f"gate: closed; the interval of {one_line(found.metric)} does not lie above 0.")
                raise typer.Exit(1)


def _write(
    output: Output, found: "ProgramComparison | ProgramEvaluation", save: Path | None, html: Path | None
) -> None:
    from dspy_toolkit.evaluation.comparison import ProgramComparison

    save_jsonl(output, save, found.records())
    if html is not None:
        from dspy_toolkit.report import comparison_html, evaluation_html

        whole = isinstance(found, ProgramComparison)
        save_text(output, html, comparison_html(found) if whole else evaluation_html(found))


def _show(
    output: Output, found: "ProgramComparison | ProgramEvaluation", changes: int, error: Exception | None
) -> None:
    from dspy_toolkit.evaluation.comparison import ProgramComparison

    if not isinstance(found, ProgramComparison):  # stopped before B began
        from dspy_toolkit.cli.verbs.evaluate import show_evaluation

        show_evaluation(output, found, changes, error)
        return
    shown = [_change(each) for each in found.changes[:changes]]
    output.document({**found.to_dict(), "changes": shown, **failure(error)})
    for note in found.first.rows.notes:
        output.note(note)
    _head(output, found)
    _differences(output, found)
    _costs(output, found)
    for side, each in (("A, ", found.first), ("B, ", found.second)):
        errors(output, each, title=f"{side}errors")
        confusions(output, each.confusions, title=side)
    _changed_rows(output, found, changes)


def _head(output: Output, found: "ProgramComparison") -> None:
    from rich.text import Text

    for side, each in (("A", found.first), ("B", found.second)):
        output.print(Text.assemble((f"{side}  {each.name}", "bold"), f" with {each.model}"))
    used, rows = len(found.first.evaluation.results), found.first.rows
    output.print(Text(f"{used} of {rows.available} rows: {rows.shown}"))
    if found.partial:
        output.print(Text(f"Partial: of B, {found.partial} were finished.", style="bold yellow"))


def _differences(output: Output, found: "ProgramComparison") -> None:
    from rich.text import Text

    numbers = ("A", "B", "B - A", "wins", "losses", "ties", "sign test p")
    shown = table("metric", "A", "B", "B - A", "95 % interval", *numbers[3:], numbers=numbers)
    for name, each in found.comparisons.items():
        style = "bold green" if each.clears else "bold red" if each.high < 0 else "yellow"
        shown.add_row(
            one_line(name, 40), f"{found.first.metrics[name].score.score:.1f}",
            f"{found.second.metrics[name].score.score:.1f}", Text(f"{each.difference:+.1f}", style=style),
            f"{each.low:+.1f} to {each.high:+.1f}", str(each.wins), str(each.losses), str(each.ties),
            f"{each.p_value:.3g}",
        )  # fmt: skip
    output.print("", shown, verdict(found))
    for side, each in (("A", found.first), ("B", found.second)):
        for line in noise_lines(each):
            output.print(f"{side}: {line}")
    for name, floor in found.noise_floors.items():
        if floor:
            output.print(f"{one_line(name)}: equally good programs would differ by up to {floor:.1f} here.")


def verdict(found: "ProgramComparison") -> "Text":
    """What the interval of the deciding metric says, in a sentence."""
    each, name = found.comparison, one_line(found.metric)
    if each.clears:
        return styled("[green]B is better[/] by {}: its interval lies above 0.", name)
    if each.high < 0:
        return styled("[red]B is worse[/] by {}: its interval lies below 0.", name)
    return styled("[yellow]No difference shown[/] by {}: the interval holds 0. More rows would narrow it.", name)


def _costs(output: Output, found: "ProgramComparison") -> None:
    output.print(f"\nA  {cost(found.first.usage, found.first.seconds)}")
    output.print(f"B  {cost(found.second.usage, found.second.seconds)}")
    if (difference := found.cost_difference) is None:
        return
    output.print(
        f"B - A  {difference['lm_calls']:+,} LM calls, {difference['input_tokens']:+,} tokens read, "
        f"{difference['output_tokens']:+,} written, {difference['seconds']:+.1f} s"
        + (f", {difference['cost']:+.4f} $" if difference["cost"] else "")
    )
    if found.first.usage.cache_hits or found.second.usage.cache_hits:
        output.print("Answers from the cache cost nothing here, so this is not what the programs cost side by side.")


def _changed_rows(output: Output, found: "ProgramComparison", count: int) -> None:
    from rich.text import Text

    changes = found.changes
    total = len(found.first.evaluation.results)
    output.print(styled("\n[bold]{} of {} rows changed[/]", len(changes), total))
    if not changes[:count]:
        return
    shown = table("row", "B - A", "inputs", "A answers", "B answers", "expected", numbers=("row", "B - A"))
    for each in changes[:count]:
        wanted = fields(each.labels) if each.labels else ""
        cells = (fields(each.first.inputs), answer(each.first, each.labels), answer(each.second, each.labels), wanted)
        shown.add_row(str(each.row), f"{each.difference:+.1f}", *(Text(cell) for cell in cells))
    output.print(shown)


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
