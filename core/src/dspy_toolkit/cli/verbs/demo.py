"""`dspy-toolkit demo`: a small local model gets better at a real job while you watch."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.output import Output, styled

__all__ = ["add_to"]

TASK = "lora/hyperparameters"
MODEL = "mlx/smollm2-135m"


def add_to(app: typer.Typer) -> None:
    @app.command()
    def demo(
        seed: Annotated[int, typer.Option(min=0, help="Another seed draws other rows.")] = 3,
        as_json: Json = False,
    ) -> None:
        """Watch a small local model get better at a real job.

        Optimizes lora/hyperparameters with SmolLM2-135M, from baseline to stored program. Minutes on two cores.
        """
        with edge(as_json) as output:
            from dspy_toolkit.cli.optimization import result_document, run_optimization, score_lines
            from dspy_toolkit.framework.framework import DSPyFramework

            framework = DSPyFramework()
            task = framework.task(TASK)
            _introduce(output, framework, task)
            result, version = run_optimization(output, framework, TASK, model=MODEL, optimizer="bootstrap", seed=seed)
            inputs = dict(task.example_inputs())
            baseline = framework.bind(task.program(), model=MODEL)(**inputs)
            optimized = framework.load(TASK, version.name, model=MODEL)(**inputs)
            proposals = {"before": dict(task.files(inputs, baseline)), "after": dict(task.files(inputs, optimized))}
            output.document({**result_document(framework, result, version), "example": {"inputs": inputs, **proposals}})
            _conclude(output, result, version, inputs, proposals, score_lines(result))


def _introduce(output: Output, framework: Any, task: Any) -> None:
    from dspy_toolkit.types import resolve

    provider = framework.plugins.provider(MODEL)
    output.print(styled("[bold]{}[/]: {}", TASK, task.entry.summary))
    what = "a language model of 135 million parameters, run in this process. No key, no server."
    output.print(styled("[bold]{}[/]: {}", MODEL, what))
    for check in resolve(provider.entry.doctor)() if provider.entry.doctor else ():
        if check.name in ("mlx", "blas", "memory"):
            output.print(styled("  {}: {}  [yellow]{}[/]", check.name, check.detail, check.remedy))
    tells = "metric [bold]{}[/]: trains a small model with each proposal and looks at what it learned.\n"
    output.print(styled(tells, task.metric_name))


def _conclude(output: Output, result: Any, version: Any, inputs: Any, proposals: Any, lines: Sequence[Any]) -> None:
    output.print("", *lines)
    output.print("\nOne proposal before (-) and after (+), as the file you would train with, for:")
    output.print(", ".join(f"{name} {value}" for name, value in inputs.items()))
    output.print(_difference(proposals["before"], proposals["after"]))
    at = f"{version.task}@{version.name}"
    output.print(styled("\nThe optimized program is [bold]{}[/], in", at), str(version.bundle.path))
    output.print("\nNext:")
    for command, what in (
        (f"dspy-toolkit run {TASK} --write my-lora", "a proposal for one situation, as files"),
        (f"dspy-toolkit tasks {TASK}", "the inputs, the data and the metric"),
        (f"dspy-toolkit optimize {TASK} --seed 2", "the same with other rows"),
    ):
        output.print(styled("  [bold]{}[/]\n      {}", command, what))


def _difference(baseline: Mapping[str, str], optimized: Mapping[str, str]) -> Any:
    """The first file whole, as a unified diff."""
    from difflib import unified_diff

    from rich.text import Text

    name = next(iter(baseline))
    old, new = baseline[name].splitlines(), optimized[name].splitlines()
    lines = list(unified_diff(old, new, name, name, lineterm="", n=max(len(old), len(new))))
    if not lines:
        return Text("\n".join([f"{name}: the same before and after", *(f"  {line}" for line in new)]))
    colours = {"-": "red", "+": "green"}
    drawn = [Text(name, style="bold"), *(Text(f" {line}", style=colours.get(line[:1], "")) for line in lines[3:])]
    return Text("\n").join(drawn)
