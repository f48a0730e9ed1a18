"""How `optimize` and `demo` run an optimization, and what they print of its result."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspy_toolkit.cli.output import Output, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from dspy_toolkit.framework.framework import DSPyFramework
    from dspy_toolkit.optimize.planning.plan import Plan
    from dspy_toolkit.optimize.result import OptimizationResult
    from dspy_toolkit.store.store import Version

__all__ = ["budget_lines", "next_lines", "print_plan", "result_document", "run_optimization", "score_lines"]


def run_optimization(
    output: Output, framework: "DSPyFramework", task: str, *, events: Path | None = None, **options: Any
) -> "tuple[OptimizationResult, Version]":
    """Run with progress on stderr, or with `events` there. An interrupted run raises with a message that says what is
    kept and how to resume it.
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


def print_plan(output: Output, plan: "Plan", *, alone: bool) -> None:
    """What the run will take: on stderr, or, if the plan is the result (`alone`), on stdout."""
    from dspy_toolkit.cli.plan import plan_lines

    if alone:
        output.document(plan.to_dict())
        output.print(*plan_lines(plan, output.stdout.width))
    else:
        output.aside(*plan_lines(plan, output.stderr.width))


def result_document(framework: "DSPyFramework", result: "OptimizationResult", version: "Version") -> dict[str, Any]:
    """The JSON of a run: `model` as it was requested, `resolved_model` with its content and precision."""
    requested = framework.config.profile(framework.runs.get(result.run).options.model).model
    return {
        **result.to_dict(),
        "model": requested,
        "resolved_model": result.model,
        "version": version.name,
        "bundle": str(version.bundle.path),
    }


def budget_lines(framework: "DSPyFramework", result: "OptimizationResult") -> "list[str | Text]":
    """The command that resumes a run whose budget is spent, with a larger one."""
    if result.status != "budget":
        return []
    from dspy_toolkit.framework.resume import limit_flag, limit_value

    run = framework.runs.get(result.run)
    limits = run.options.limits
    larger = " ".join(f"{limit_flag(name)} {2 * limit_value(name, value):g}" for name, value in limits.items())
    return [
        styled("[yellow]The search ended early: {}.[/] Resume it with a larger budget:", result.note),
        styled("  {} {}", run.resume_command, larger, whole=True),
    ]


def next_lines(version: "Version", data: Path | None, metrics: "Sequence[str] | None") -> "list[Text]":
    """What to type next: the stored program beside the plain one, and the program at work."""
    from dspy_toolkit.runs.runs import quoted

    given = [*(["--data", str(data)] if data else []), *(word for name in metrics or () for word in ("--metric", name))]
    rows = "".join(f" {quoted(word)}" for word in given)
    plain, stored = quoted(f"{version.task}@plain"), quoted(f"{version.task}@{version.name}")
    test = " --set test" if data else ""
    return [
        styled("Next: dspy-toolkit compare {} {}{}{}", plain, stored, rows, test, whole=True),
        styled("      dspy-toolkit run {}", stored, whole=True),
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
            verdict = "difference [bold green]{}[/]: better on held-out rows; promoted."
        elif difference.difference > 0:
            verdict = "difference [yellow]{}[/]: may be luck, so it is stored as a candidate, not promoted."
        else:
            verdict = "difference [red]{}[/]: optimization did not help here; stored as a candidate, not promoted."
        lines.append(styled(verdict, text))
    lines.append(f"{result.lm_calls} LM calls, {result.seconds:.0f} s")
    return lines
