"""Runs sent to a real `mlflow server` that is down, comes up, dies and comes back."""

import json
import threading
import urllib.request

import pytest

from dspy_toolkit.errors import TrackingError
from dspy_toolkit.tracking.process import start_tracking, tracked
from dspy_toolkit.tracking.sender import Sender
from dspy_toolkit.tracking.server import Server
from dspy_toolkit.tracking.state import read_state
from dspy_toolkit.tracking.target import Target


def page(url, data=None):
    request = urllib.request.Request(url, json.dumps(data).encode() if data else None)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
        return answer.read()


@pytest.mark.slow
def test_a_server_that_is_down_comes_up_dies_and_comes_back(written, config, server, found, waited):
    run = written().begin()
    run.journal.flush()
    tracking = start_tracking(run.folder, config(uri=server.uri))
    run.evaluated("baseline", (0.0, 100.0))
    assert waited(lambda: tracking.note)
    assert f"{server.uri} cannot be reached" in tracking.note
    assert "dspy-toolkit track send" in tracking.note

    server.start()
    run.candidate(1, 70.0)
    assert waited(lambda: read_state(run.folder).seq and not tracking.note)
    assert found(server.uri, run.folder.name).status == "RUNNING"

    before = read_state(run.folder).seq
    server.kill()
    run.candidate(2, 80.0)
    run.evaluated("optimized", (100.0, 100.0))
    assert waited(lambda: tracking.note)
    assert read_state(run.folder).seq >= before
    server.start()
    run.end()
    assert waited(lambda: read_state(run.folder).closed)
    there = found(server.uri, run.folder.name)
    assert (there.status, len(there.children), len(there.traces)) == ("FINISHED", 2, 6)
    assert list(there.table("optimized.json")["score"]) == [100.0, 100.0]
    assert {message["role"] for message in there.traces[0].data.spans[0].inputs["messages"]} == {"system", "user"}
    assert there.traces[0].info.tags["dspy-toolkit.stage"] == "baseline"
    assert there.text("about.json")

    before = there.everything()
    (run.folder / "tracking.json").unlink()
    assert Sender(run.folder, Target.of(config(uri=server.uri))).send()
    assert found(server.uri, run.folder.name).everything() == before

    # What a browser asks for.
    assert b"<title>MLflow</title>" in page(f"{server.uri}/")
    search = {"experiment_ids": [there.experiment], "filter": "tags.`dspy-toolkit.project` = 'quiz'"}
    runs = json.loads(page(f"{server.uri}/api/2.0/mlflow/runs/search", search))["runs"]
    assert [each["info"]["run_id"] for each in runs] == [there.id]
    artifact = f"{server.uri}/get-artifact?path=optimized.json&run_uuid={there.id}"
    assert json.loads(page(artifact))["columns"][0] == "row"


def test_a_run_does_not_wait_for_a_server_that_is_not_there(written, config, server, waited):
    notes = []
    run = written()
    started = threading.active_count()
    with tracked(run.folder, config(uri=server.uri), notes.append):
        run.begin().end()
        assert waited(lambda: read_state(run.folder).problem)
    assert len(notes) == 1
    assert notes[0].kind == "note"
    assert notes[0].message.endswith("`dspy-toolkit track send`.")
    assert threading.active_count() <= started + 1


def test_without_a_sink_the_note_is_a_warning(written, config, server, waited, caplog):
    run = written()
    with tracked(run.folder, config(uri=server.uri)):
        run.begin().end()
        assert waited(lambda: read_state(run.folder).problem)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_the_pages_are_not_started_on_a_port_that_is_taken(tmp_path, server):
    import socket

    with socket.socket() as taken, (tmp_path / "log").open("wb") as log:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TrackingError, match=f"Port {port} .*--port"):
            Server(Target(uri=f"sqlite:///{tmp_path}/x.db"), port=port, log=log).__enter__()


def test_a_server_that_cannot_start_says_why(tmp_path, server):
    with (tmp_path / "log").open("wb") as log, pytest.raises(TrackingError, match="ended at once") as caught:
        Server(Target(uri="nonsense://ada:s3cret@x/y"), port=server.port, log=log).__enter__()
    assert "s3cret" not in str(caught.value)
