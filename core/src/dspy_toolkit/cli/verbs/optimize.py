"""`dspy-toolkit optimize`: make a task's program better, measured on rows it has not seen."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.files import allow_own_code
from dspy_toolkit.cli.optimization import (
    budget_lines,
    next_lines,
    print_plan,
    result_document,
    run_optimization,
    score_lines,
)
from dspy_toolkit.cli.options import (
    Data,
    EventsFile,
    MaxCalls,
    MaxCost,
    MaxErrors,
    MaxMinutes,
    MaxTokens,
    Metrics,
    Model,
    Resumable,
    Resume,
    Seed,
    Threads,
    limits_of,
    pairs,
    run_to_resume,
)
from dspy_toolkit.cli.output import Output, styled

if TYPE_CHECKING:
    from dspy_toolkit.framework.framework import DSPyFramework
    from dspy_toolkit.optimize.planning.plan import Plan

__all__ = ["add_to"]


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
        model: Model = None,
        optimizer: Annotated[str | None, typer.Option(help="Optimizer, or auto; the task's own by default.")] = None,
        seed: Seed = None,
        rows: Annotated[
            list[str] | None,
            typer.Option(metavar="SET=N", help="Rows drawn from train, validation or test; repeatable."),
        ] = None,
        param: Annotated[
            list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the optimizer; repeatable.")
        ] = None,
        threads: Threads = None,
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

        Every run is recorded (see `dspy-toolkit runs`). Ctrl-C keeps the best program so far, and --resume continues
        there: finished calls are not made again. A budget ends the search early enough to measure its result.
        """
        with edge(as_json) as output:
            drawn = {name: int(number) for name, number in pairs("--rows", rows, numbers=True).items()}
            parameters = pairs("--param", param)
            recorded = () if resume is None else ("recorded:metric",)  # a resumed run's metric may be the user's own
            allow_own_code(task, *(metric or ()), *recorded)
            from dspy_toolkit.framework.framework import DSPyFramework

            framework = DSPyFramework()
            request = {
                "dataset": data, "metrics": metric, "model": model, "optimizer": optimizer, "seed": seed, "rows": drawn,
                "parameters": parameters, "num_threads": threads, "resume": run_to_resume(resume),
                "limits": limits_of(max_calls, max_tokens, max_minutes, max_cost),
            }  # fmt: skip
            planned = None
            if dry_run or plan:
                planned = framework.plan_task(task, measure=measure, **request)
                print_plan(output, planned, alone=dry_run)
            if not dry_run:
                _run(output, framework, task, events=events, planned=planned, max_errors=max_errors, **request)


def _run(output: Output, framework: "DSPyFramework", task: str, *, planned: "Plan | None", **options: Any) -> None:
    result, version = run_optimization(output, framework, task, planned=planned, **options)
    plan_document = {"plan": planned.to_dict()} if planned else {}
    output.document({**result_document(framework, result, version), **plan_document})
    output.print(*score_lines(result), *budget_lines(framework, result))
    if planned and not planned.unknown:
        output.print(f"planned: {planned.total().calls.expected:.0f} LM calls")
    output.print(styled("[bold]{}[/] is in {}", f"{version.task}@{version.name}", version.bundle.path))
    output.print(*next_lines(version, options["dataset"], options["metrics"]))
