"""Recorded runs on the command line: listed, shown, gone on with, ended by a budget, deleted."""

import json
import re
import shlex
import signal
import time

import pytest

TASK, MODEL = "weather/forecast", "scripted/barometer"
OPTIMIZE = ("optimize", TASK, "--model", MODEL, "--seed", "1")


def document(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def error_of(done):
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return line


def killed(command_line, *options, calls=20):
    """A run that is killed in the middle of a call, when those before are on disk."""
    before = command_line.calls
    process = command_line.start(*OPTIMIZE, *options, SCRIPTED_STALLS=str(before + calls))
    while command_line.calls < before + calls:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(1)  # the record is written every 50 ms
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_killed_run_is_listed_shown_and_gone_on_with_by_one_word(command_line):
    assert "No run is recorded yet" in command_line("runs").stdout
    killed(command_line, "--threads", "2", "--rows", "test=30")
    (run,) = document(command_line("runs", "--json"))["runs"]
    assert (run["task"], run["status"], run["optimized"]) == (TASK, "killed", None)
    assert run["resume"] == f"dspy-toolkit optimize {TASK} --resume {run['run']}"
    shown = command_line("runs", "show", run["run"])
    assert shown.returncode == 0, shown.stderr
    assert run["resume"] in shown.stdout
    assert re.search(r"baseline +\d+ of 30.*not finished", shown.stdout)

    assert "seed = 1, not 2" in error_of(command_line("optimize", TASK, "--resume", "--seed", "2"))
    assert "rows test = 30, not 9" in error_of(command_line("optimize", TASK, "--resume", "--rows", "test=9"))
    result = document(command_line("optimize", TASK, "--resume", "--seed", "1", "--json"))
    assert result["run"] == run["run"]
    assert (result["status"], result["seed"], result["rows"]["test"]) == ("finished", 1, 30)
    assert command_line.calls - 2 <= result["lm_calls"] <= command_line.calls

    (run,) = document(command_line("runs", "--json"))["runs"]
    assert run["status"] == "finished"
    assert run["version"] == f"{TASK}@{result['version']}"
    assert run["optimized"] == result["optimized"]["score"]
    details = document(command_line("runs", "show", run["run"], "--json"))
    assert details["sessions"] == 2
    assert details["about"]["options"]["rows"]["test"] == 30
    assert [stage["finished"] for stage in details["stages"]] == [True, True, True]
    assert details["candidates"]
    assert details["resume"] is None


def test_a_run_on_rows_in_a_file_needs_only_its_name_to_go_on(command_line):
    rows = [
        {"pressure": 980 + 2 * n, "falling": n % 2 == 0, "forecast": "rain" if n % 2 == 0 and n < 15 else "dry"}
        for n in range(40)
    ]
    (command_line.folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    signature = "pressure: int, falling: bool -> forecast"
    asked = ("--data", "rows.jsonl", "--metric", "exact_match", "--model", MODEL, "--seed", "1", "--threads", "1")
    process = command_line.start("optimize", signature, *asked, SCRIPTED_STALLS="5")
    while command_line.calls < 5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    typed = shlex.split(re.search(r"Resume with: dspy-toolkit (.*)", err)[1])
    assert typed[:3] == ["optimize", signature, "--resume"]
    asked_again = ("--dry-run", "--no-measure", "--max-calls", "500", "--json")
    planned = document(command_line(*typed, *asked_again))
    assert (planned["task"], planned["num_threads"]) == (signature, 1)
    result = document(command_line(*typed, "--json"))
    assert (result["run"], result["status"], result["seed"]) == (typed[3], "finished", 1)
    assert planned["rows"] == result["rows"]


def test_a_mended_metric_of_the_users_own_is_found_again_and_scores_anew(command_line):
    rows = [{"pressure": 980 + 2 * n, "falling": n % 2 == 0, "forecast": "rain"} for n in range(40)]
    (command_line.folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    metric = command_line.folder / "mine.py"
    metric.write_text("def strict(gold, pred, trace=None): return gold.forcast == pred.forecast\n")
    signature = "pressure: int, falling: bool -> forecast"
    options = ("--data", "rows.jsonl", "--metric", "mine:strict", "--model", MODEL, "--seed", "1")
    error = error_of(command_line("optimize", signature, *options))
    typed = shlex.split(re.search(r"resume with: dspy-toolkit (.*)", error)[1])
    metric.write_text("def strict(gold, pred, trace=None): return gold.forecast == pred.forecast\n")
    result = document(command_line(*typed, "--json"))
    assert (result["run"], result["status"]) == (typed[-1], "finished")
    assert result["baseline"]["score"] > 0


def test_resuming_what_cannot_be_says_what_there_is(command_line):
    assert "No run of weather/forecast can be resumed. It has no runs yet" in error_of(
        command_line("optimize", TASK, "--resume")
    )
    done = document(command_line(*OPTIMIZE, "--rows", "test=5", "--json"))
    for words in (["--resume"], ["--resume", done["run"]]):
        error = error_of(command_line("optimize", TASK, *words))
        assert done["run"] in error
        assert "finished" in error
    assert f"Available: {done['run']}" in error_of(command_line("optimize", TASK, "--resume", "nothing"))
    assert command_line("runs", "delete", done["run"]).returncode == 0
    assert document(command_line("runs", "--json"))["runs"] == []
    assert "No run named" in error_of(command_line("runs", "show", done["run"]))
    assert command_line("run", f"{TASK}@{done['version']}", "--model", MODEL).returncode == 0, "the program stays"


def test_a_budget_ends_the_search_and_a_larger_one_goes_on(command_line):
    search = ("--optimizer", "random-search", "--param", "stop_at_score=null", "--rows", "test=10")
    assert "does not cover the two evaluations" in error_of(command_line(*OPTIMIZE, *search, "--max-calls", "19"))
    assert command_line.calls == 0
    done = command_line(*OPTIMIZE, *search, "--max-calls", "40", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert command_line.calls <= 40
    assert "The search ended early: its share of the budget is spent, 30 of 40 calls." in done.stdout
    (run,) = document(command_line("runs", "--json"))["runs"]
    assert run["status"] == "budget"
    assert run["optimized"] is not None
    assert f"--resume {run['run']} --max-calls 80" in done.stdout
    assert "resume it with a larger one, for example --max-calls 80" in error_of(
        command_line("optimize", TASK, "--resume")
    )
    result = document(command_line("optimize", TASK, "--resume", "--max-calls", "5000", "--json"))
    assert result["status"] == "finished"
    assert result["lm_calls"] == command_line.calls


def test_failing_rows_end_a_run_with_their_table(command_line):
    broken = ("optimize", TASK, "--model", "scripted/babbler", "--seed", "1", "--max-errors", "2", "--json")
    done = command_line(*broken, SCRIPTED_BABBLES="1")
    assert done.returncode == 1
    run = json.loads(done.stdout)["run"]
    assert "3 rows failed and 2 may" in json.loads(done.stdout)["error"]["message"]
    shown = command_line("runs", "show", run)
    assert re.search(r"AdapterParseError +3", shown.stdout)
    assert "The answer was: blah blah" in shown.stdout
    assert f"--resume {run}" in shown.stdout


def test_events_as_lines_of_json(command_line):
    document(command_line(*OPTIMIZE, "--rows", "test=5", "--events", "events.jsonl", "--json"))
    events = [json.loads(line) for line in (command_line.folder / "events.jsonl").read_text().splitlines()]
    stages = [event["stage"] for event in events if event["kind"] == "stage_finished"]
    assert stages == ["baseline", "search", "optimized"]
    (run,) = document(command_line("runs", "--json"))["runs"]
    assert {event["run"] for event in events} == {run["run"]}
    on_stderr = command_line(*OPTIMIZE, "--rows", "test=5", "--events", "-", "--json")
    lines = [json.loads(line) for line in on_stderr.stderr.splitlines()]
    assert [line["kind"] for line in lines] == [event["kind"] for event in events]
    assert "cannot be written" in error_of(command_line(*OPTIMIZE, "--events", "no/such/folder/events"))


@pytest.mark.parametrize("what", ["a file", "read-only"])
def test_a_folder_that_cannot_be_used_is_an_error_before_any_call(command_line, what):
    runs = command_line.folder / "runs"
    if what == "a file":
        runs.write_text("")
        folder = str(runs / "inside")
    else:
        folder = "/proc/nowhere"  # root may write everywhere else
    assert "DSPY_TOOLKIT_RUNS" in error_of(command_line(*OPTIMIZE, DSPY_TOOLKIT_RUNS=folder))
    assert command_line.calls == 0
