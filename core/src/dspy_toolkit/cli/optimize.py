"""`dspy-toolkit optimize`: make a task's program better, measured on rows it has not seen."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.measuring import Data, Metrics
from dspy_toolkit.cli.output import Output

if TYPE_CHECKING:
    from dspy_toolkit.framework import DSPyFramework
    from dspy_toolkit.optimize import OptimizationResult
    from dspy_toolkit.store import Version

__all__ = ["add_to", "result_document", "run_optimization", "score_lines"]


def add_to(app: typer.Typer) -> None:
    @app.command()
    def optimize(
        task: Annotated[
            str,
            typer.Argument(
                help="Task, for example lora/hyperparameters; or, with --data and --metric, a signature's name, "
                "'question -> answer', or package.module:attribute."
            ),
        ],
        data: Data = None,
        metric: Metrics = None,
        model: Annotated[str | None, typer.Option(help="Model string or profile name.")] = None,
        optimizer: Annotated[str | None, typer.Option(help="Optimizer, or auto; the task's own by default.")] = None,
        seed: Annotated[int | None, typer.Option(min=0, help="Seed of every draw.")] = None,
        rows: Annotated[
            list[str] | None,
            typer.Option(metavar="SET=N", help="Rows drawn from train, validation or test; repeatable."),
        ] = None,
        param: Annotated[
            list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the optimizer; repeatable.")
        ] = None,
        threads: Annotated[int | None, typer.Option(min=1, help="Examples at the same time.")] = None,
        as_json: Json = False,
    ) -> None:
        """Optimize a task, or a signature on your rows, and store the result as its next version.

        Ctrl-C keeps what was found; the same command goes on from there, because finished calls are not made again.
        """
        with edge(as_json) as output:
            from dspy_toolkit.cli.values import own_code, pairs

            drawn = {name: int(number) for name, number in pairs("--rows", rows, numbers=True).items()}
            parameters = pairs("--param", param)
            own_code(task, *(metric or ()))
            from dspy_toolkit.framework import DSPyFramework
            from dspy_toolkit.settings import DSPyConfig

            framework = DSPyFramework(DSPyConfig(num_threads=threads) if threads else DSPyConfig())
            result, version = run_optimization(
                output,
                framework,
                task,
                dataset=data,
                metrics=metric,
                model=model,
                optimizer=optimizer,
                seed=seed,
                rows=drawn,
                parameters=parameters,
            )
            output.document(result_document(framework, model, result, version))
            output.print(*score_lines(result))
            output.print(f"[bold]{version.task}@{version.name}[/] is in {version.bundle.path}")


def run_optimization(
    output: Output, framework: "DSPyFramework", task: str, **options: Any
) -> "tuple[OptimizationResult, Version]":
    """Run with progress on stderr. An interrupted run raises with a message that says what is kept and how to go on."""
    from dspy_toolkit.cli.progress import RunProgress

    with RunProgress(output) as progress:
        return framework.optimize_task(task, on_event=progress, **options)


def result_document(
    framework: "DSPyFramework", model: str | None, result: "OptimizationResult", version: "Version"
) -> dict[str, Any]:
    """The JSON of a run: `model` as it was asked for, `resolved_model` as it was found, content and precision named."""
    asked = framework.config.profile(model or framework.config.project(version.task.partition("/")[0]).model).model
    return {
        **result.to_dict(),
        "model": asked,
        "resolved_model": result.model,
        "version": version.name,
        "bundle": str(version.bundle.path),
    }


def score_lines(result: "OptimizationResult") -> list[str]:
    """Baseline, optimized and the honest reading of the difference."""
    lines = []
    for name, score in (("baseline", result.baseline), ("optimized", result.optimized)):
        if score is not None:
            interval = f"95 % interval {score.low:.1f} to {score.high:.1f}, {score.n} rows"
            lines.append(f"{name:<10} [bold]{score.score:5.1f}[/]  {interval}")
    if (difference := result.comparison) is not None:
        text = f"{difference.difference:+.1f} (95 % interval {difference.low:+.1f} to {difference.high:+.1f})"
        if result.promoted:
            lines.append(f"difference [bold green]{text}[/]: better on held-out rows; promoted.")
        elif difference.difference > 0:
            lines.append(f"difference [yellow]{text}[/]: may be luck, so it is stored as a candidate, not promoted.")
        else:
            lines.append(
                f"difference [red]{text}[/]: optimization did not help here; stored as a candidate, not promoted."
            )
    lines.append(f"{result.lm_calls} LM calls, {result.seconds:.0f} s")
    return lines
