"""`dspy-toolkit optimize`: make a task's program better, measured on rows it has not seen."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.measuring import Data, Metrics
from dspy_toolkit.cli.output import Output, styled
from dspy_toolkit.cli.resume import (
    EventsFile,
    MaxCalls,
    MaxCost,
    MaxErrors,
    MaxMinutes,
    MaxTokens,
    Resumable,
    Resume,
    limits_of,
    resumed,
)

if TYPE_CHECKING:
    from rich.text import Text

    from dspy_toolkit.framework.framework import DSPyFramework
    from dspy_toolkit.optimize.planning.plan import Plan
    from dspy_toolkit.optimize.result import OptimizationResult
    from dspy_toolkit.store.store import Version

__all__ = ["add_to", "result_document", "run_optimization", "score_lines", "show_plan"]


def add_to(app: typer.Typer) -> None:
    @app.command(cls=Resumable)
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
        resume: Resume = None,
        max_calls: MaxCalls = None,
        max_tokens: MaxTokens = None,
        max_minutes: MaxMinutes = None,
        max_cost: MaxCost = None,
        max_errors: MaxErrors = None,
        events: EventsFile = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the run would take.")] = False,
        plan: Annotated[bool, typer.Option("--plan", help="Say what the run will take, then run.")] = False,
        measure: Annotated[
            bool, typer.Option(help="For a plan, run some training rows for about ten seconds, or no LM call at all.")
        ] = True,
        as_json: Json = False,
    ) -> None:
        """Optimize a task, or a signature on your rows, and store the result as its next version.

        Every run is recorded (see `dspy-toolkit runs`). Ctrl-C keeps what was found, and --resume goes on from there:
        finished calls are not made again. A budget ends the search early enough to measure what it found.
        """
        with edge(as_json) as output:
            from dspy_toolkit.cli.values import own_code, pairs

            drawn = {name: int(number) for name, number in pairs("--rows", rows, numbers=True).items()}
            parameters = pairs("--param", param)
            own_code(task, *(metric or ()))
            from dspy_toolkit.framework.framework import DSPyFramework
            from dspy_toolkit.settings import DSPyConfig

            framework = DSPyFramework(DSPyConfig())
            asked = {
                "dataset": data, "metrics": metric, "model": model, "optimizer": optimizer, "seed": seed, "rows": drawn,
                "parameters": parameters, "num_threads": threads, "resume": resumed(resume),
                "limits": limits_of(max_calls, max_tokens, max_minutes, max_cost),
            }  # fmt: skip
            planned = show_plan(output, framework, task, measure, dry_run, **asked) if dry_run or plan else None
            if dry_run:
                return
            result, version = run_optimization(
                output,
                framework,
                task,
                events=events,
                **asked,
                planned=planned,
                max_errors=max_errors,
            )
            told = {"plan": planned.to_dict()} if planned else {}
            output.document({**result_document(framework, model, result, version), **told})
            output.print(*score_lines(result), *budget_lines(framework, result))
            if planned and not planned.unknown:
                output.print(f"planned: {planned.total().calls.expected:.0f} LM calls")
            at = f"{version.task}@{version.name}"
            output.print(styled("[bold]{}[/] is in {}", at, version.bundle.path))


def run_optimization(
    output: Output, framework: "DSPyFramework", task: str, *, events: Path | None = None, **options: Any
) -> "tuple[OptimizationResult, Version]":
    """Run with progress on stderr, or with `events` there. An interrupted run raises with a message that says what is
    kept and how to go on.
    """
    from dspy_toolkit.cli.events import EventLines
    from dspy_toolkit.cli.progress import RunProgress

    if events is not None and str(events) == "-":
        return framework.optimize_task(task, on_event=EventLines(output, events, None), **options)
    with RunProgress(output) as progress:
        if events is None:
            return framework.optimize_task(task, on_event=progress, **options)
        with EventLines(output, events, progress) as lines:
            return framework.optimize_task(task, on_event=lines, **options)


def show_plan(
    output: Output, framework: "DSPyFramework", task: str, measure: bool, alone: bool, **options: Any
) -> "Plan":
    """Say what the run will take: on stderr, or, if that is all that was asked for (`alone`), as the result."""
    from dspy_toolkit.cli.plan import plan_lines

    planned = framework.plan_task(task, measure=measure, **options)
    if alone:
        output.document(planned.to_dict())
        output.print(*plan_lines(planned, output.stdout.width))
    else:
        output.aside(*plan_lines(planned, output.stderr.width))
    return planned


def result_document(
    framework: "DSPyFramework", model: str | None, result: "OptimizationResult", version: "Version"
) -> dict[str, Any]:
    """The JSON of a run: `model` as it was asked for, `resolved_model` as it was found, content and precision named."""
    asked = framework.config.profile(framework.runs.get(result.run).options.model).model
    return {
        **result.to_dict(),
        "model": asked,
        "resolved_model": result.model,
        "version": version.name,
        "bundle": str(version.bundle.path),
    }


def budget_lines(framework: "DSPyFramework", result: "OptimizationResult") -> "list[str | Text]":
    """What a budget that ended the run means, and how to resume."""
    if result.status != "budget":
        return []
    from dspy_toolkit.framework.resume import limit_flag, limit_value

    run = framework.runs.get(result.run)
    limits = run.options.limits
    larger = " ".join(f"{limit_flag(name)} {2 * limit_value(name, value):g}" for name, value in limits.items())
    return [
        styled("[yellow]The search ended early: {}.[/] Resume with a larger one:", result.note),
        styled("  {} {}", run.resume_command, larger, whole=True),
    ]


def score_lines(result: "OptimizationResult") -> "list[str | Text]":
    """Baseline, optimized and the honest reading of the difference."""
    lines: list[str | Text] = []
    for name, score in (("baseline", result.baseline), ("optimized", result.optimized)):
        if score is not None:
            interval = f"95 % interval {score.low:.1f} to {score.high:.1f}, {score.n} rows"
            lines.append(styled("{} [bold]{}[/]  {}", f"{name:<10}", f"{score.score:5.1f}", interval))
    if (difference := result.comparison) is not None:
        text = f"{difference.difference:+.1f} (95 % interval {difference.low:+.1f} to {difference.high:+.1f})"
        if result.promoted:
            told = "difference [bold green]{}[/]: better on held-out rows; promoted."
        elif difference.difference > 0:
            told = "difference [yellow]{}[/]: may be luck, so it is stored as a candidate, not promoted."
        else:
            told = "difference [red]{}[/]: optimization did not help here; stored as a candidate, not promoted."
        lines.append(styled(told, text))
    lines.append(f"{result.lm_calls} LM calls, {result.seconds:.0f} s")
    return lines
