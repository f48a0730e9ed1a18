"""The one place that writes to MLflow. Writing anything twice leaves the same as writing it once.

our run        an MLflow run, found by the tag `dspy-toolkit.run`
a candidate    a child run, found by its tag `dspy-toolkit.candidate`
a metric       MLflow keeps one value per step and time
a call         a trace whose id is made of ours
a table, file  written over
"""

import getpass
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock

from dspy_toolkit.runs.records import CandidateRecord, Recorded
from dspy_toolkit.tracking.story.traces import send_traces
from dspy_toolkit.tracking.story.update import Update
from dspy_toolkit.tracking.target import Target, sqlite_file

__all__ = ["Mirror"]

_RUN = "dspy-toolkit.run"
_CANDIDATE = "dspy-toolkit.candidate"
_LIMITS = {"param": 6_000, "tag": 8_000}  # characters of a value; MLflow refuses longer ones


class Mirror:
    """The MLflow run of our run `run`. Making one imports MLflow and connects; what MLflow raises is raised.

    `experiment` is a name. `mlflow_run` is the id from an earlier session; without it the run is searched by its tag.
    """

    def __init__(self, target: Target, *, run: str, experiment: str, mlflow_run: str = ""):
        from mlflow import MlflowClient, set_tracking_uri

        self._run = run
        # Some of MLflow's own code asks for the global address when it fetches artifacts.
        set_tracking_uri(target.uri)
        with _alone(target):
            self._client = MlflowClient(tracking_uri=target.uri)
            self.experiment_id = self._experiment(experiment, target.artifacts)
        self.mlflow_run = mlflow_run if mlflow_run and self._exists(mlflow_run) else self._find()
        self._children: dict[str, str] | None = None

    def write(self, update: Update) -> None:
        """Bring MLflow up to date; may be repeated after an error. What MLflow raises is raised."""
        self._ensure(update)
        self._batch(self.mlflow_run, update)
        if update.data is not None:
            self._log_data(update)
        if update.calls:
            send_traces(self._client, self.experiment_id, self.mlflow_run, self._run, update.calls)
        for candidate in update.candidates:
            self._child(candidate)
        for path, table in update.tables.items():
            self._table(path, table)
        for path, text in update.files.items():
            self._client.log_text(self.mlflow_run, text, path)
        for path, folder in update.folders.items():
            if folder.is_dir():
                self._client.log_artifacts(self.mlflow_run, str(folder), path)
        if update.status == "RUNNING":
            self._client.update_run(self.mlflow_run, status="RUNNING")
        elif update.status is not None:
            ended = None if update.ended is None else _milliseconds(update.ended)
            self._client.set_terminated(self.mlflow_run, update.status, end_time=ended)

    def _experiment(self, name: str, artifacts: str | None) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        place = artifacts and f"{artifacts}/{quote(name, safe='')}"
        if experiment is None:
            try:
                return self._client.create_experiment(name, artifact_location=place)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self._client.get_experiment_by_name(name)  # another process created it meanwhile
        assert experiment is not None
        return experiment.experiment_id

    def _exists(self, mlflow_run: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_run(mlflow_run).info.lifecycle_stage == "active"
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return False
            raise

    def _find(self) -> str:
        runs = self._client.search_runs([self.experiment_id], f"tags.`{_RUN}` = '{self._run}'", max_results=1)
        return runs[0].info.run_id if runs else ""

    def _ensure(self, update: Update) -> None:
        if self.mlflow_run:
            return
        tags = {_RUN: self._run, "mlflow.user": _user(), "mlflow.source.name": "dspy-toolkit"}
        created = self._client.create_run(
            self.experiment_id,
            start_time=_milliseconds(update.started) if update.started else None,
            tags=tags,
            run_name=update.name or self._run,
        )
        self.mlflow_run = created.info.run_id

    def _batch(self, mlflow_run: str, update: Update) -> None:
        from mlflow.entities import Metric, Param, RunTag

        for params in _chunks([Param(key, _cut(value, "param")) for key, value in update.params.items()], 100):
            self._client.log_batch(mlflow_run, params=params)
        for tags in _chunks([RunTag(key, _cut(value, "tag")) for key, value in update.tags.items()], 100):
            self._client.log_batch(mlflow_run, tags=tags)
        metrics = [Metric(point.key, point.value, _milliseconds(point.time), point.step) for point in update.metrics]
        for points in _chunks(metrics, 1000):
            self._client.log_batch(mlflow_run, metrics=points)

    def _log_data(self, update: Update) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = update.data
        assert data is not None
        rows = {name: count for name, count in data.rows.items() if isinstance(count, int)}
        dataset = Dataset(
            name=data.name[:500],
            digest=data.digest[:36],  # MLflow cuts it there; the tag has the whole
            source_type="dspy-toolkit",
            source=json.dumps({"task": data.name}),
            profile=json.dumps({"rows": rows, "num_rows": sum(rows.values())}),
        )
        context = [InputTag("mlflow.data.context", ", ".join(rows) or "rows")]
        self._client.log_inputs(self.mlflow_run, [DatasetInput(dataset, context)])

    def _child(self, entry: Recorded[CandidateRecord]) -> None:
        candidate, time = entry.record, entry.time
        key = f"{candidate.stage}/{candidate.number}"  # the same when the run is resumed
        if self._children is None:
            self._children = self._find_children()
        if key not in self._children:
            tags = {"mlflow.parentRunId": self.mlflow_run, _CANDIDATE: key, "mlflow.source.name": "dspy-toolkit"}
            created = self._client.create_run(
                self.experiment_id,
                start_time=_milliseconds(time),
                tags=tags,
                run_name=f"candidate {candidate.number}",
            )
            self._children[key] = created.info.run_id
        child = self._children[key]
        update = Update(tags={"mlflow.note.content": candidate.message} if candidate.message else {})
        update.add({"score": candidate.score}, time=time, step=candidate.number)
        self._batch(child, update)
        if candidate.state is not None:
            text = json.dumps(candidate.state, ensure_ascii=False, indent=2) + "\n"
            self._client.log_text(child, text, "program.json")
        self._client.set_terminated(child, "FINISHED", end_time=_milliseconds(time))

    def _find_children(self) -> dict[str, str]:
        children, token = {}, None
        while True:
            page = self._client.search_runs(
                [self.experiment_id], f"tags.`mlflow.parentRunId` = '{self.mlflow_run}'", page_token=token
            )
            children |= {run.data.tags[_CANDIDATE]: run.info.run_id for run in page if _CANDIDATE in run.data.tags}
            token = page.token
            if not token:
                return children

    def _table(self, path: str, table: dict[str, list[Any]]) -> None:
        """As MLflow's `log_table`, which would append to the lines of an earlier call."""
        lines = [list(line) for line in zip(*table.values(), strict=True)]
        self._client.log_dict(self.mlflow_run, {"columns": list(table), "data": lines}, path)
        logged = json.loads(self._client.get_run(self.mlflow_run).data.tags.get("mlflow.loggedArtifacts", "[]"))
        if (entry := {"path": path, "type": "table"}) not in logged:
            self._client.set_tag(self.mlflow_run, "mlflow.loggedArtifacts", json.dumps([*logged, entry]))


@contextmanager
def _alone(target: Target) -> Iterator[None]:
    """One process at a time makes the tables of a new SQLite file."""
    file = sqlite_file(target.uri)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    with nullcontext() if file is None else FileLock(Path(f"{file}.lock"), timeout=120):
        yield


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "unknown"


def _chunks(items: list[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _cut(text: str, kind: str) -> str:
    limit = _LIMITS[kind]
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
