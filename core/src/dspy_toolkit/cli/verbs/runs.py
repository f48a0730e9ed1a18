"""`dspy-toolkit runs`: what was run, how it went, and how to resume it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.output import Output, styled

if TYPE_CHECKING:
    from dspy_toolkit.runs.events import Event
    from dspy_toolkit.runs.runs import Run

__all__ = ["add_to"]

Id = Annotated[str, typer.Argument(metavar="RUN", help="The id of a run or its beginning, or `latest`.")]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(invoke_without_command=True, help="Recorded optimizations and evaluations: list, show, delete.")
    app.add_typer(group, name="runs")

    @group.callback()
    def runs(
        context: typer.Context,
        task: Annotated[str | None, typer.Option(help="Only runs of this task, or of a project: lora.")] = None,
        status: Annotated[
            Literal["running", "finished", "budget", "interrupted", "failed", "killed"] | None,
            typer.Option(help="Only runs that ended so, or still run."),
        ] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="Only so many, the newest.")] = None,
        as_json: Json = False,
    ) -> None:
        if context.invoked_subcommand is None:
            with edge(as_json) as output:
                _list(output, task, status, limit)

    @group.command()
    def show(run: Id, as_json: Json = False) -> None:
        """Show what a run was asked to do, how it went, its candidates and errors, and how to resume it."""
        with edge(as_json) as output:
            _show(output, run)

    @group.command()
    def delete(run: Id, as_json: Json = False) -> None:
        """Delete the record of a run. A program it stored stays."""
        with edge(as_json) as output:
            deleted = _runs().delete(run)
            output.document({"deleted": deleted})
            output.print(f"{deleted} is deleted.")


def _runs() -> Any:
    from dspy_toolkit.runs.runs import Runs
    from dspy_toolkit.settings import DSPyConfig

    return Runs(DSPyConfig().runs)


def _list(output: Output, task: str | None, status: str | None, limit: int | None) -> None:
    runs = _runs()
    recorded, damaged = runs.scan()
    rows = [
        _line(run)
        for run in recorded
        if task in (None, run.task, run.task.partition("/")[0]) and status in (None, run.status)
    ][:limit]
    problems = [{"run": id, "problem": problem} for id, problem in sorted(damaged.items())]
    output.document({"folder": str(runs.root), "runs": rows, "damaged": problems})
    for problem in problems:
        output.note(f"{problem['run']} cannot be shown: {problem['problem']}")
    if output.as_json:
        return
    if not rows:
        if recorded:
            output.print(f"None of the {len(recorded)} runs is one of these.")
        elif not damaged:
            output.print("No run is recorded yet. Make one with: dspy-toolkit optimize PROJECT/TASK")
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("run", "task", "optimizer", "status", "before", "after", "calls", "begun (UTC)"):
        right = column in ("before", "after", "calls")
        # A narrow terminal folds what is no name to copy and no number.
        table.add_column(column, overflow="fold", justify="right" if right else "left", no_wrap=column != "task")
    for row in rows:
        before, after = _number(row["baseline"]), _number(row["optimized"] if row["score"] is None else row["score"])
        calls = "" if row["lm_calls"] is None else str(row["lm_calls"])
        begun = row["started"][:16].replace("T", " ")
        table.add_row(
            row["run"], row["task"], row["optimizer"] or f"({row['kind']})", row["status"], before, after, calls, begun
        )
    output.print(table)


def _line(run: "Run") -> dict[str, Any]:
    result = run.result
    return {
        "run": run.id,
        "task": run.task,
        "kind": run.kind,
        "optimizer": run.request.optimizer,
        "model": run.request.model,
        "status": run.status,
        "baseline": result and result.baseline and result.baseline.score,
        "optimized": result and result.optimized and result.optimized.score,
        "score": result and result.score and result.score.score,
        "promoted": result and result.promoted,
        "lm_calls": result and result.lm_calls,
        "version": run.version,
        "started": run.started.isoformat(timespec="seconds"),
        "resume": run.resume_command if run.resumable else None,
    }


def _show(output: Output, id: str) -> None:
    from dspy_toolkit.runs.events import Event
    from dspy_toolkit.runs.records import CandidateRecord, RunStarted, read_records

    run = _runs().get(id)
    events = [entry.record for entry in read_records(run.folder, Event)]
    candidates = {entry.record.number: entry.record for entry in read_records(run.folder, CandidateRecord)}
    document = {
        **_line(run),
        "asked": dict(run.identity),
        "about": dict(run.about.to_wire()),
        "sessions": sum(1 for _ in read_records(run.folder, RunStarted)),
        "stages": _stages(events),
        "notes": list(dict.fromkeys(event.message for event in events if event.kind == "note")),
        "candidates": [
            {"number": number, "score": candidates[number].score, "message": candidates[number].message}
            for number in sorted(candidates)
        ],
        "errors": [vars(error) for error in run.result.errors] if run.result else [],
        "result": None if run.end is None else run.end.result,
    }
    output.document(document)
    if not output.as_json:
        output.print(*_report(document))


def _stages(events: "list[Event]") -> list[dict[str, Any]]:
    """Each stage as it went the last time: how far it came, its score, how long it took."""
    stages: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.kind == "stage_started":
            stages[event.stage] = {"stage": event.stage, "begun": event.seconds, "finished": False}
        stage = stages.get(event.stage)
        if stage is None or event.kind == "note":
            continue
        score = event.best if event.stage == "search" else event.score
        stage |= {"done": event.done, "total": event.total, "score": score, "lm_calls": event.lm_calls}
        stage |= {"seconds": round(event.seconds - stage["begun"], 3)}
        stage["finished"] |= event.kind == "stage_finished"
    return [{name: value for name, value in stage.items() if name != "begun"} for stage in stages.values()]


def _report(document: Mapping[str, Any]) -> list[Any]:
    identity, begun = document["asked"], document["started"][:16].replace("T", " ")
    sessions = "" if document["sessions"] == 1 else f", in {document['sessions']} sessions"
    rows = ", ".join(f"{count} {name}" for name, count in (identity.get("rows") or {}).items())
    parameters = ", ".join(f"{name}={value}" for name, value in (identity.get("parameters") or {}).items())
    lines: list[Any] = [
        styled("[bold]{}[/]  {}, begun {} UTC{}", document["run"], document["status"], begun, sessions),
        f"task       {document['task']}, metric {identity.get('metric')}, seed {identity.get('seed')}, rows {rows}",
        f"optimizer  {document['optimizer']} {parameters}"
        if document["kind"] == "optimize"
        else f"measured   {identity.get('program')} on {identity.get('data')}",
        f"model      {document['model']}",
    ]
    for stage in document["stages"]:
        of = "" if stage.get("total") is None else f" of {stage['total']}"
        score = "" if stage.get("score") is None else f", score {stage['score']:.1f}"
        state = "" if stage["finished"] else ", not finished"
        lines.append(f"{stage['stage']:<10} {stage.get('done', 0)}{of}{score}, {stage.get('seconds', 0):.1f} s{state}")
    lines += [f"note       {note}" for note in document["notes"]]
    if document["candidates"]:
        lines += ["", _candidates(document["candidates"])]
    if document["errors"]:
        lines += ["", _errors(document["errors"])]
    if document["version"]:
        lines += ["", styled("The program is stored as [bold]{}[/].", document["version"])]
    if document["resume"]:
        lines += ["", styled("Resume with: [bold]{}[/]", document["resume"], whole=True)]
    return lines


def _candidates(candidates: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("candidate", justify="right")
    table.add_column("score", justify="right")
    table.add_column("what")
    for candidate in candidates:
        table.add_row(str(candidate["number"]), _number(candidate["score"]), candidate["message"])
    return table


def _errors(errors: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("errors in", "type", "count", "row", "first of them"):
        table.add_column(column, overflow="fold", justify="right" if column == "count" else "left")
    for error in errors:
        row = "" if error["row"] is None else str(error["row"])
        first = error["example"] + (f"\nThe answer was: {error['completion']}" if error.get("completion") else "")
        table.add_row(error["stage"], error["type"], str(error["count"]), row, Text(first))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
