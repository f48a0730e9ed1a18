"""`dspy-toolkit track`: runs in MLflow: look at them, send what is missing, see what was sent."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.edge import Json, edge
from dspy_toolkit.cli.output import styled

if TYPE_CHECKING:
    from dspy_toolkit.cli.output import Output
    from dspy_toolkit.settings import DSPyConfig
    from dspy_toolkit.tracking.target import Target

__all__ = ["add_to"]

_OTHER_SENDER = 30.0  # seconds; a process that still waits for the server after its run ends before that


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Runs in MLflow: look at them, send what is missing.")
    app.add_typer(group, name="track")
    _add_ui(group)
    _add_send(group)
    _add_status(group)


def _add_ui(group: typer.Typer) -> None:
    @group.command()
    def ui(
        port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
        as_json: Json = False,
    ) -> None:
        """Show the runs in MLflow's own pages, on this machine only, until Ctrl-C.

        Where the settings name a server, print its address.
        """
        with edge(as_json) as output:
            from dspy_toolkit.tracking.server import Server
            from dspy_toolkit.tracking.target import is_server

            config, target = _configured()
            if is_server(target.uri):
                output.document({"url": target.public, "started": False})
                output.print(target.public)
                return
            log = config.cache / "mlflow-server.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            output.note("Starting MLflow (ten seconds or more) ...")
            _end_on_signals()
            with log.open("wb") as said, Server(target, port=port, log=said) as server:
                output.document({"url": server.url, "started": True})
                output.print(styled("[bold]{}[/] shows {}; Ctrl-C ends it.", server.url, target.public))
                _wait(server)


def _end_on_signals() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does: with the server it started."""
    import signal

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), interrupt)


def _wait(server: Any) -> None:
    from dspy_toolkit.errors import TrackingError

    try:
        status = server.wait()
    except KeyboardInterrupt:
        return  # that is how it is ended
    raise TrackingError(f"`mlflow server` ended by itself, with status {status}.")


def _add_send(group: typer.Typer) -> None:
    @group.command()
    def send(
        run: Annotated[list[str] | None, typer.Argument(help="Ids of runs, as `track status` lists them.")] = None,
        everything: Annotated[
            bool, typer.Option("--all", help="Every run MLflow has not, also from when runs were not tracked.")
        ] = False,
        as_json: Json = False,
    ) -> None:
        """Send runs to MLflow: those named, from their beginning, or those that should be there and are not.

        Sending twice does no harm.
        """
        with edge(as_json) as output:
            from dspy_toolkit.tracking.sender import prepare_mlflow

            config, target = _configured()
            prepare_mlflow()
            folders = _wanted(config, run or [], everything, target)
            sent = [_send(output, folder, target, anew=bool(run)) for folder in folders]
            output.document({"target": target.public, "runs": sent})
            if not sent:
                output.print("Nothing is missing.")
            if any(each["problem"] for each in sent):
                raise typer.Exit(1)


def _send(output: "Output", folder: Path, target: "Target", *, anew: bool) -> dict[str, Any]:
    from dspy_toolkit.errors import TrackingError
    from dspy_toolkit.tracking.sender import Sender

    sender, problem = Sender(folder, target, anew=anew), ""
    try:
        if not sender.send(wait=_OTHER_SENDER):
            problem = sender.state.problem
    except TrackingError as error:
        problem = str(error)
    if problem:
        output.note(f"{folder.name}: {problem}")
    else:
        output.print(f"{folder.name} is run {sender.state.mlflow_run} of {sender.state.experiment}")
    return {"run": folder.name, "mlflow_run": sender.state.mlflow_run, "problem": problem}


def _wanted(config: "DSPyConfig", ids: list[str], everything: bool, target: "Target") -> list[Path]:
    from dspy_toolkit.runs.runs import Runs
    from dspy_toolkit.tracking.sender import is_behind, unsent

    runs = Runs(config.runs)
    if ids:
        return [runs.get(id).folder for id in ids]
    if not everything:
        return unsent(config.runs)
    ended = [run.folder for run in reversed(runs.all()) if run.status != "running"]
    return [folder for folder in ended if is_behind(folder, target)]


def _add_status(group: typer.Typer) -> None:
    @group.command()
    def status(as_json: Json = False) -> None:
        """List the runs and what MLflow has of them."""
        with edge(as_json) as output:
            from dspy_toolkit.runs.runs import Runs
            from dspy_toolkit.settings import DSPyConfig
            from dspy_toolkit.tracking.target import Target, installed

            config = DSPyConfig()
            target = Target.of(config)
            rows = [_row(run, target) for run in Runs(config.runs).all()]
            output.document({"installed": installed(), "target": target.public, "runs": rows})
            output.print(f"MLflow: {target.public}{'' if installed() else ' (MLflow is not installed)'}")
            if as_json:
                return
            from rich.table import Table

            table = Table(box=None, header_style="bold", pad_edge=False)
            for column in ("run", "task", "state", "in MLflow", "problem"):
                table.add_column(column, overflow="fold", no_wrap=column == "run")
            for row in rows:
                table.add_row(row["run"], row["task"], row["status"], row["sent"], row["problem"])
            output.print(table)


def _row(run: Any, target: "Target") -> dict[str, Any]:
    from dspy_toolkit.tracking.sender import is_behind
    from dspy_toolkit.tracking.state import read_state

    state = read_state(run.folder)
    if state is None or state.target != target.public:
        state, sent = None, "no"
    elif is_behind(run.folder, target):
        sent = "in part" if state.seq else "not yet"
    else:
        sent = "yes"
    return {
        "run": run.id,
        "task": run.task,
        "status": run.status,
        "sent": sent,
        "mlflow_run": state.mlflow_run if state else "",
        "problem": state.problem if state else "",
    }


def _configured() -> "tuple[DSPyConfig, Target]":
    """The settings and their target. Raises TrackingError where MLflow is not installed."""
    from dspy_toolkit.errors import TrackingError
    from dspy_toolkit.settings import DSPyConfig
    from dspy_toolkit.tracking.target import INSTALL, Target, installed

    if not installed():
        raise TrackingError(f"MLflow is not installed: {INSTALL}.")
    config = DSPyConfig()
    return config, Target.of(config)
