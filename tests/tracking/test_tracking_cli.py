"""The verbs `track`, on the command line."""

import json
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from dspy_toolkit.cli import main
from dspy_toolkit.tracking.state import TrackingState, write_state


@pytest.fixture
def cli(tmp_path, config, monkeypatch, capfd):
    """The command line, in this process: importing MLflow once is enough."""
    monkeypatch.setenv("DSPY_TOOLKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("DSPY_TOOLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DSPY_TOOLKIT_PLUGINS", "none")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, **settings):
        with monkeypatch.context() as more:
            more.setattr(sys, "argv", ["dspy-toolkit", *arguments])
            for name, value in settings.items():
                more.setenv(f"DSPY_TOOLKIT_TRACKING__{name.upper()}", value)
            with pytest.raises(SystemExit) as left:
                main()
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, left.value.code or 0, out, err)

    return run


def test_send_and_status_tell_what_mlflow_has(written, cli, target, found):
    uri = target.uri
    first, second, third = written("20261121-1"), written("20261121-2"), written("20261121-3")
    for run in (first, second):
        run.begin().end()
    third.begin().journal.flush()  # being written
    write_state(first.folder, TrackingState(target=uri, problem="The server was away."))

    before = json.loads(cli("track", "status", "--json").stdout)
    assert before["target"] == uri
    assert [(row["run"], row["status"], row["sent"]) for row in before["runs"]] == [
        ("20261121-3", "running", "no"),
        ("20261121-2", "finished", "no"),
        ("20261121-1", "finished", "not yet"),
    ]
    sent = cli("track", "send")
    assert (sent.returncode, sent.stderr) == (0, "")
    assert re.fullmatch(r"20261121-1 is run [0-9a-f]{32} of quiz\n", sent.stdout)
    assert cli("track", "send").stdout == "Nothing is missing.\n"
    everything = json.loads(cli("track", "send", "--all", "--json").stdout)
    assert [run["run"] for run in everything["runs"]] == ["20261121-2"]
    assert found(uri, "20261121-2").id == everything["runs"][0]["mlflow_run"]
    there = found(uri, "20261121-2")
    there.client.delete_run(there.id)
    assert cli("track", "send", "20261121-2").returncode == 0
    assert found(uri, "20261121-2").id != there.id
    shown = cli("track", "status").stdout
    assert [line.split()[-1] for line in shown.splitlines()[2:]] == ["no", "yes", "yes"]


def test_an_unknown_run_and_a_server_that_is_away_are_one_line(written, cli, server):
    run = written("20261121-1")
    run.begin().end()
    unknown = cli("track", "send", "20261121-9")
    assert (unknown.returncode, "No run named '20261121-9'" in unknown.stderr) == (1, True)
    away = cli("track", "send", "20261121-1", uri=f"http://ada:s3cret@127.0.0.1:{server.port}")
    assert away.returncode == 1
    assert away.stderr.splitlines() == [
        f"20261121-1: The MLflow server http://***@127.0.0.1:{server.port} cannot be reached (Connection refused)."
    ]
    kept = b"".join(file.read_bytes() for file in run.folder.iterdir())
    assert b"s3cret" not in kept


def test_doctor_and_config_show_say_where_runs_go(cli, server, tmp_path):
    def checked(**settings):
        checks = json.loads(cli("doctor", "--json", **settings).stdout)["checks"]
        return next(check for check in checks if check["name"] == "tracking")

    assert checked()["detail"].endswith(f", sqlite:///{tmp_path}/mlflow.db")
    assert checked(enabled="false")["detail"] == "off (tracking.enabled)"
    away = checked(uri=f"http://ada:s3cret@127.0.0.1:{server.port}")
    assert (away["ok"], "s3cret" in str(away)) == (False, False)
    shown = json.loads(cli("config", "show", "--json", uri="postgresql://ada:s3cret@db/x").stdout)["settings"]
    assert shown["tracking.uri"] == {"value": "postgresql://***@db/x", "source": "DSPY_TOOLKIT_TRACKING__URI"}


@pytest.mark.slow
def test_ui_shows_what_was_sent_until_ctrl_c(written, cli, target, server):
    written("20261121-1").optimization()
    assert cli("track", "send", "--all").returncode == 0
    program = "from dspy_toolkit.cli import main; main()"
    ui = subprocess.Popen(
        [sys.executable, "-c", program, "track", "ui", "--port", str(server.port), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
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


def test_ui_of_a_server_is_its_own_address(cli):
    done = cli("track", "ui", uri="https://ada:s3cret@mlflow.example")
    assert (done.returncode, done.stdout) == (0, "https://***@mlflow.example\n")
