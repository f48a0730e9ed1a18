"""Journals of runs as the toolkit writes them, and a real MLflow to send them to."""

import hashlib
import os
import shutil
import socket
import time
from dataclasses import asdict
from pathlib import Path

import dspy
import pytest

from dspy_toolkit.evaluation.results import ErrorGroup, Evaluation, MetricResult, RowFailure, RowResult
from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.metrics.score import Score
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.runs.events import Event
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.settings import DSPyConfig
from dspy_toolkit.stats.intervals import compare, estimate
from dspy_toolkit.tracking.sender import prepare_mlflow
from dspy_toolkit.tracking.server import Server
from dspy_toolkit.tracking.target import Target

prepare_mlflow()

import mlflow  # noqa: E402, TID253  # reads the variables set above
from mlflow import MlflowClient  # noqa: E402, TID253


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == Path(__file__).parent:  # MLflow's, about SQLAlchemy 2.1
            item.add_marker(pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"))


SYSTEM = "Your input fields are: 1. `question` (str)."
BASELINE, OPTIMIZED = (0.0, 0.0, 100.0, 0.0), (100.0, 0.0, 100.0, 100.0)
IDENTITY = {
    "kind": "optimize",
    "task": "quiz/capitals",
    "optimizer": "bootstrap",
    "parameters": {"max_demos": 2, "teacher": None},
    "seed": 3,
    "metric": "exact_match",
    "model": "scripted/quiz",
    "adapter": "GuidedChatAdapter",
    "data_digest": "d" * 64,
    "rows": {"train": 6, "validation": 2, "test": 4},
    "fingerprint": "f" * 64,
    "model_options": {"temperature": 0.0},
    "program": "9" * 64,
    "version": "0.1.0",
}


def row_results(scores):
    return tuple(
        RowResult(
            row=number,
            inputs={"question": f"Capital number {number}?", "hints": ["a", "b"]},
            prediction=None if score is None else dspy.Prediction(answer=f"City {number}"),
            scores={"exact": Score(score=(score or 0.0) / 100, feedback="" if score else "It is another city.")},
            failures={"exact": RowFailure(message="ValueError: the map is torn")} if score is None else {},
            seconds=0.25,
        )
        for number, score in enumerate(scores, start=1)
    )


def evaluated(scores):
    results = row_results(scores)
    failed = [number for number, score in enumerate(scores, start=1) if score is None]
    errors = tuple(
        ErrorGroup(type="ValueError", count=len(failed), row=row, example="the map is torn") for row in failed[:1]
    )
    return Evaluation(
        results=results,
        metrics={"exact": MetricResult(score=estimate([result.score for result in results]), errors=errors)},
        usage=Usage(lm_calls=len(scores), input_tokens=10, output_tokens=5),
        seconds=1.0,
    )


def result(baseline=BASELINE, optimized=OPTIMIZED):
    before, after = evaluated(baseline), evaluated(optimized)
    return OptimizationResult(
        program=None,
        task="quiz/capitals",
        model="scripted/quiz",
        optimizer="bootstrap",
        parameters={"max_demos": 2},
        metric="exact_match",
        seed=3,
        data_digest="d" * 64,
        rows={"train": 6, "validation": 2, "test": 4},
        baseline_evaluation=before,
        optimized_evaluation=after,
        comparison=compare(before.scores, after.scores),
        usage=Usage(lm_calls=14, cache_hits=2, failures=1, input_tokens=1400, output_tokens=70),
        errors=(),
        seconds=12.5,
    )


class Written:
    """A run's journal, written the way a run does."""

    def __init__(self, root: Path, name: str = "20261121-093015-4f1c"):
        self.folder = root / name
        self.journal = Journal(self.folder)
        self.calls = self.units = 0

    def begin(self, **identity):
        self.journal.append("run", {**IDENTITY, **identity})
        self.journal.append("about", {"python": "3.11.7", "git": {"commit": "c0ffee" * 6, "dirty": True}})
        digest = hashlib.sha256(SYSTEM.encode()).hexdigest()
        self.journal.append("text", {"text": SYSTEM}, key=digest)
        self.system = {"role": "system", "sha": digest}
        return self

    def call(self, stage="search", *, error=None, cached=False, cost=0.001, question="Capital of France?"):
        self.calls += 1
        self.journal.append(
            "call",
            {
                "stage": stage,
                "model": "scripted/quiz",
                "seconds": 0.5,
                "cached": cached,
                "input_tokens": None if error or cached else 100,
                "output_tokens": None if error or cached else 5,
                "cost": None if error or cached else cost,
                "error": error,
                "prompt": [self.system, {"role": "user", "text": f"{question} ({self.calls})"}],
                "outputs": [] if error else ["Paris"],
            },
        )

    def progress(self, stage, done, total, score):
        self.units += 1
        event = Event(
            kind="progress", stage=stage, done=done, total=total, score=score, lm_calls=self.calls, seconds=self.units
        )
        self.journal.append("event", asdict(event))

    def evaluated(self, stage, scores):
        self.journal.append("event", asdict(Event(kind="stage_started", stage=stage, total=len(scores))))
        for done, each in enumerate(row_results(scores), start=1):
            self.call(stage, error="ValueError: the map is torn" if each.error else None)
            self.journal.append("row", {"stage": stage, **each.to_dict()})
            self.progress(stage, done, len(scores), sum(score or 0 for score in scores[:done]) / done)
        mean = sum(score or 0 for score in scores) / len(scores)
        self.journal.append("event", asdict(Event(kind="stage_finished", stage=stage, score=mean)))

    def candidate(self, number, score):
        self.call()
        self.progress("search", number, None, score)
        state = {"predict": {"demos": [{"question": "q", "answer": "a"}] * number}}
        data = {"stage": "search", "number": number, "score": score, "message": f"{number} demonstrations"}
        self.journal.append("candidate", {**data, "state": state})
        event = Event(kind="candidate", stage="search", done=number, score=score, message=data["message"])
        self.journal.append("event", asdict(event))

    def optimization(self, *, candidates=(40.0, 80.0, 60.0), bundle=None):
        """Everything from the first entry to the end."""
        self.begin()
        self.evaluated("baseline", BASELINE)
        for number, score in enumerate(candidates, start=1):
            self.candidate(number, score)
        self.evaluated("optimized", OPTIMIZED)
        self.end(result=result().to_dict(), version="v3", bundle=str(bundle) if bundle else None)
        return self

    def end(self, status="finished", *, result=None, version=None, bundle=None):
        self.journal.append("end", {"status": status, "result": result, "version": version, "bundle": bundle})
        self.journal.close()


@pytest.fixture
def evaluation():
    """Makes an Evaluation of these scores; None is a row that failed."""
    return evaluated


@pytest.fixture
def written(tmp_path):
    """Makes journals in one folder of runs; closes those that a test left open."""
    made = []

    def make(name="20261121-093015-4f1c"):
        made.append(Written(tmp_path / "runs", name))
        return made[-1]

    yield make
    for each in made:
        each.journal.close()


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DSPY_TOOLKIT_")]:
        monkeypatch.delenv(name)

    def make(**tracking):
        return DSPyConfig(
            runs=tmp_path / "runs", store=tmp_path / "programs", cache=tmp_path / "cache", tracking=tracking
        )

    return make


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """MLflow's empty tables, which take seconds to make."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def target(config, tmp_path, database):
    shutil.copy(database, tmp_path / "mlflow.db")
    return Target.of(config())


@pytest.fixture
def waited():
    """Waits until something is so; False if it never was."""

    def wait(condition, *, seconds=150):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(0.1)
        return False

    return wait


class RealServer:
    """A real `mlflow server`, which can be killed and started again on the same port and files."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._log = (folder / "server.log").open("ab")
        self._target = Target(uri=f"sqlite:///{folder}/mlflow.db", artifacts=(folder / "artifacts").as_uri())
        self._server: Server | None = None

    def start(self):
        self._server = Server(self._target, port=self.port, log=self._log).__enter__()

    def kill(self):
        if self._server is not None:
            self._server.stop(at_once=True)
            self._server = None

    def close(self):
        self.kill()
        self._log.close()


@pytest.fixture
def server(tmp_path):
    """Not started yet."""
    made = RealServer(tmp_path / "server")
    yield made
    made.close()


class Found:
    """What MLflow's own client reads of one run of ours."""

    def __init__(self, uri: str, run: str, experiment: str = "quiz"):
        self.client = MlflowClient(tracking_uri=uri)
        mlflow.set_tracking_uri(uri)
        self.experiment = self.client.get_experiment_by_name(experiment).experiment_id
        self.runs = self.client.search_runs([self.experiment], f"tags.`dspy-toolkit.run` = '{run}'")
        assert len(self.runs) == 1, "one run of ours is one MLflow run"
        self.run = self.runs[0]
        self.id = self.run.info.run_id
        self.status = self.run.info.status
        self.tags, self.params, self.metrics = self.run.data.tags, self.run.data.params, self.run.data.metrics

    @property
    def children(self):
        return self.client.search_runs([self.experiment], f"tags.`mlflow.parentRunId` = '{self.id}'")

    @property
    def traces(self):
        found = self.client.search_traces(locations=[self.experiment], run_id=self.id, max_results=500)
        return sorted(found, key=lambda trace: trace.data.spans[0].start_time_ns)

    def history(self, key):
        return [(point.step, point.value) for point in self.client.get_metric_history(self.id, key)]

    def table(self, path):
        return self.client.load_table(self.experiment, path, run_ids=[self.id])

    def artifacts(self, path=None, run=None):
        return sorted(each.path for each in self.client.list_artifacts(run or self.id, path))

    def text(self, path, run=None):
        return mlflow.artifacts.load_text(f"runs:/{run or self.id}/{path}")

    def everything(self):
        """All there is, to compare before and after."""
        return {
            "run": self.run.to_dictionary(),
            "children": sorted(
                (child.data.tags["dspy-toolkit.candidate"], child.info.run_id, dict(child.data.metrics))
                for child in self.children
            ),
            "histories": {key: self.history(key) for key in self.metrics},
            "traces": sorted(trace.info.trace_id for trace in self.traces),
            "artifacts": self.artifacts(),
        }


@pytest.fixture
def found():
    return Found
