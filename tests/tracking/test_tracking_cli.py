"""The verbs `track`, on the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from dspy_toolkit.tracking.state import TrackingState, write_state


@pytest.fixture
def track(tmp_path, config):
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("DSPY_TOOLKIT_")},
        "DSPY_TOOLKIT_RUNS": str(tmp_path / "runs"),
        "DSPY_TOOLKIT_CACHE": str(tmp_path / "cache"),
        "DSPY_TOOLKIT_PLUGINS": "none",
        "COLUMNS": "200",
    }

    def start(*arguments, **more):
        return subprocess.Popen(
            [sys.executable, "-c", "from dspy_toolkit.cli import main; main()", *arguments],
            env={**environment, **more},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(*arguments, **more):
        process = start("track", *arguments, **more)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    run.start = start
    return run


def test_send_and_status_tell_what_mlflow_has(written, track, target, found):
    uri = target.uri
    first, second, third = written("20261121-1"), written("20261121-2"), written("20261121-3")
    for run in (first, second):
        run.begin().end()
    third.begin().journal.flush()  # being written
    write_state(first.folder, TrackingState(target=uri, problem="The server was away."))

    before = json.loads(track("status", "--json").stdout)
    assert before["target"] == uri
    assert [(row["run"], row["status"], row["sent"]) for row in before["runs"]] == [
        ("20261121-3", "running", "no"),
        ("20261121-2", "finished", "no"),
        ("20261121-1", "finished", "not yet"),
    ]
    sent = track("send")
    assert (sent.returncode, sent.stderr) == (0, "")
    assert re.fullmatch(r"20261121-1 is run [0-9a-f]{32} of quiz\n", sent.stdout)
    assert track("send").stdout == "Nothing is missing.\n"
    everything = json.loads(track("send", "--all", "--json").stdout)
    assert [run["run"] for run in everything["runs"]] == ["20261121-2"]
    assert found(uri, "20261121-2").id == everything["runs"][0]["mlflow_run"]
    shown = track("status").stdout
    assert [line.split()[-1] for line in shown.splitlines()[2:]] == ["no", "yes", "yes"]


def test_an_unknown_run_and_a_server_that_is_away_are_one_line(written, track, server):
    run = written("20261121-1")
    run.begin().end()
    unknown = track("send", "20261121-9")
    assert (unknown.returncode, "No run named '20261121-9'" in unknown.stderr) == (1, True)
    away = track("send", "20261121-1", DSPY_TOOLKIT_TRACKING__URI=f"http://ada:s3cret@127.0.0.1:{server.port}")
    assert away.returncode == 1
    assert away.stderr.splitlines() == [
        f"20261121-1: The MLflow server http://***@127.0.0.1:{server.port} cannot be reached (Connection refused)."
    ]
    kept = b"".join(file.read_bytes() for file in run.folder.iterdir())
    assert b"s3cret" not in kept


def test_doctor_and_config_show_say_where_runs_go(track, server, tmp_path):
    def checked(**more):
        out, _ = track.start("doctor", "--json", **more).communicate(timeout=120)
        return next(check for check in json.loads(out)["checks"] if check["name"] == "tracking")

    assert checked()["detail"].endswith(f", sqlite:///{tmp_path}/mlflow.db")
    assert checked(DSPY_TOOLKIT_TRACKING__ENABLED="false")["detail"] == "off (tracking.enabled)"
    away = checked(DSPY_TOOLKIT_TRACKING__URI=f"http://ada:s3cret@127.0.0.1:{server.port}")
    assert (away["ok"], "s3cret" in str(away)) == (False, False)
    out, _ = track.start(
        "config", "show", "--json", DSPY_TOOLKIT_TRACKING__URI="postgresql://ada:s3cret@db/x"
    ).communicate(timeout=60)
    assert json.loads(out)["settings"]["tracking.uri"] == {
        "value": "postgresql://***@db/x",
        "source": "DSPY_TOOLKIT_TRACKING__URI",
    }


@pytest.mark.slow
def test_ui_shows_what_was_sent_until_ctrl_c(written, track, target, server):
    written("20261121-1").optimization()
    assert track("send", "--all").returncode == 0
    ui = track.start("track", "ui", "--port", str(server.port), "--json")
    try:
        document = ""
        while not document.endswith("}\n"):
            document += ui.stdout.readline()
        url = json.loads(document)["url"]
        assert url == server.uri
        request = urllib.request.Request(
            f"{url}/api/2.0/mlflow/experiments/search", b'{"max_results": 10}', {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert "quiz" in [each["name"] for each in json.load(answer)["experiments"]]
    finally:
        ui.send_signal(signal.SIGINT)
        ui.communicate(timeout=60)
    assert ui.returncode == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{url}/health", timeout=5)


def test_ui_of_a_server_is_its_own_address(track):
    done = track("ui", DSPY_TOOLKIT_TRACKING__URI="https://ada:s3cret@mlflow.example")
    assert (done.returncode, done.stdout) == (0, "https://***@mlflow.example\n")
