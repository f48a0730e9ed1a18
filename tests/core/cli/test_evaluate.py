"""`evaluate` and `compare` as a user types them, in processes of their own, with the example plugin."""

import json
import signal
import time

import pytest

TASK, MODEL = "weather/forecast", ("--model", "scripted/barometer")
SHORT = "pressure: int, falling: bool -> forecast: Literal['rain', 'dry']"

# Says what does not parse at 1000 hPa, and says `DRAWN` at 1020, which is another answer for another rollout.
MOODY = """
import os, random, re
from dspy_toolkit.testing import ScriptedLM

def connect(model, **options):
    return ScriptedLM(answer, model=model, **options)

def answer(request):
    pressure = int(re.search(r"pressure ## ]]\\n(\\d+)", request.messages[-1].text)[1])
    if pressure == 1000:
        return "The barometer is <b>broken</b>. \\x1b[31m"
    if pressure >= 1020:
        return {"forecast": random.SystemRandom().choice(["rain", "dry"])}
    return {"forecast": "dry"}
"""


@pytest.fixture
def rows(command_line):
    """A file of 60 rows in the working folder."""
    made = [
        {"pressure": pressure, "falling": falling, "forecast": "rain" if pressure < 1010 and falling else "dry"}
        for pressure in range(995, 1025)
        for falling in (True, False)
    ]
    (command_line.folder / "days.jsonl").write_text("\n".join(map(json.dumps, made)))
    return made


def test_a_task_is_measured_before_and_after(command_line):
    done = command_line("evaluate", TASK, *MODEL, "--metric", "rain", "--metric", "macro_f1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["program"], found["model"]) == ("weather/forecast (not optimized)", "scripted/barometer")
    assert found["rows"] == {"used": 42, "available": 42, "of": "the test set of weather/forecast"}
    assert list(found["metrics"]) == ["weather/rain", "core/macro-f1"]
    rain = found["metrics"]["weather/rain"]
    assert rain["low"] < rain["score"] < rain["high"]
    assert found["usage"]["lm_calls"] == command_line.calls == 42
    (table,) = found["confusions"]
    assert table["labels"] == ["rain", "dry"]
    assert sum(map(sum, table["matrix"])) == 42
    assert table["matrix"][0][0] / 42 * 100 == pytest.approx(rain["score"])
    assert len(found["lowest"]) == 5
    assert found["lowest"][0]["labels"] == {"forecast": "dry"}
    assert found["lowest"][0]["feedback"] == "It was dry; the forecast said rain."

    optimized = json.loads(command_line("optimize", TASK, *MODEL, "--seed", "1", "--json").stdout)
    again = json.loads(command_line("evaluate", TASK, *MODEL, "--seed", "1", "--json").stdout)
    assert again["program"] == f"{TASK}@{optimized['version']}"
    assert again["metrics"]["weather/rain"]["score"] == optimized["optimized"]["score"]
    plain = json.loads(command_line("evaluate", TASK, *MODEL, "--plain", "--rows", "10", "--json").stdout)
    assert (plain["program"], plain["rows"]["used"]) == ("weather/forecast (not optimized)", 10)


def test_what_people_see_fits_a_terminal(command_line, rows):
    (command_line.folder / "site" / "dspy_toolkit_scripted" / "lm.py").write_text(MOODY)
    done = command_line(
        "evaluate", SHORT, "--data", "days.jsonl", "--metric", "exact-match", "--metric", "macro-f1", *MODEL,
        "--repeats", "3", COLUMNS="100",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert max(map(len, shown.splitlines())) <= 100
    wanted = (
        "60 rows of days.jsonl", "95 % interval", "mean of rows", "LM calls", "AdapterParseError", "the model said:",
        "The barometer is <b>broken</b>.", "Lowest scores", "precision", "(none)", "by sampling alone",
    )  # fmt: skip
    for text in wanted:
        assert text in " ".join(shown.split()), shown
    assert "\x1b" not in shown, "what a model says does not steer the terminal"
    assert "Evaluate: score" in done.stderr


def test_rows_are_saved_and_reported(command_line, rows):
    (command_line.folder / "site" / "dspy_toolkit_scripted" / "lm.py").write_text(MOODY)
    asked = ("--data", "days.jsonl", "--metric", "exact-match", *MODEL, "--json")
    done = command_line("evaluate", SHORT, *asked, "--save", "e.jsonl", "--html", "e.html", "--repeats", "2")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    saved = [json.loads(line) for line in (command_line.folder / "e.jsonl").read_text().splitlines()]
    assert [(each["row"], each["repeat"]) for each in saved] == [(n, r) for r in (1, 2) for n in range(1, 61)]
    mean = sum(each["scores"]["core/exact-match"] for each in saved) / 120
    assert mean == pytest.approx(found["metrics"]["core/exact-match"]["score"])
    assert found["deterministic"] is False
    assert {each["completion"] for each in saved} == {None, "The barometer is <b>broken</b>. \x1b[31m"}
    html = (command_line.folder / "e.html").read_text()
    assert "&lt;b&gt;broken" in html
    assert "<b>broken" not in html
    both = command_line("compare", SHORT, f"{SHORT}@plain", *asked, "--save", "c.jsonl", "--html", "c.html")
    assert both.returncode == 0, both.stderr
    assert len((command_line.folder / "c.jsonl").read_text().splitlines()) == 120
    assert "Two programs on the same rows" in (command_line.folder / "c.html").read_text()
    nowhere = command_line("evaluate", SHORT, *asked, "--save", "no/folder/e.jsonl")
    assert nowhere.returncode == 1
    assert "no/folder/e.jsonl cannot be written" in nowhere.stderr


def test_a_report_without_plotly_names_the_remedy_before_any_work(command_line):
    package = command_line.folder / "site" / "plotly"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('not here')\n")
    for verb in (("evaluate", TASK), ("compare", TASK, TASK)):
        done = command_line(*verb, *MODEL, "--html", "e.html")
        assert done.returncode == 1
        assert "pip install 'dspy-toolkit[report]'" in done.stderr
    assert command_line.calls == 0


def test_from_a_file_and_a_signature_to_a_stored_program(command_line, rows):
    asked = ("--data", "days.jsonl", "--metric", "exact_match", *MODEL)
    made = command_line("optimize", SHORT, *asked, "--json")
    assert made.returncode == 0, made.stderr
    result = json.loads(made.stdout)
    assert (result["task"], result["metric"], result["promoted"]) == (SHORT, "core/exact-match", True)
    ran = command_line("run", SHORT, *MODEL, "-i", "pressure=1001", "-i", "falling=true", "--json")
    assert json.loads(ran.stdout)["prediction"] == {"forecast": "rain"}
    by_folder = command_line("run", result["bundle"], *MODEL, "-i", "pressure=1030", "-i", "falling=true", "--json")
    assert json.loads(by_folder.stdout)["prediction"] == {"forecast": "dry"}
    leak = command_line("evaluate", SHORT, *asked)
    assert leak.returncode == 1
    assert "--set test" in leak.stderr
    held_out = json.loads(command_line("evaluate", SHORT, *asked, "--set", "test", "--json").stdout)
    assert held_out["metrics"]["core/exact-match"]["score"] == result["optimized"]["score"]
    compared = command_line("compare", f"{SHORT}@plain", SHORT, *asked, "--set", "test", "--gate", "--json")
    assert compared.returncode == 0, compared.stderr
    found = json.loads(compared.stdout)
    assert found["clears"] is True
    assert found["changes"][0]["b"]["prediction"] == {"forecast": "dry"}
    closed = command_line("compare", SHORT, f"{SHORT}@plain", *asked, "--set", "test", "--gate")
    assert closed.returncode == 1
    assert "gate: closed" in closed.stderr
    assert "B is worse" in closed.stdout
    needs = command_line("run", SHORT, *MODEL)
    assert "needs the input 'pressure'" in needs.stderr


def test_code_of_ones_own_in_the_working_folder(command_line, rows):
    (command_line.folder / "mine.py").write_text(
        "import dspy\n\n"
        "def forecaster():\n    return dspy.Predict('pressure: int, falling: bool -> forecast')\n\n"
        "def dry(gold, pred):\n    return pred.forecast == 'dry'\n"
    )
    done = command_line("evaluate", "mine:forecaster", "--data", "days.jsonl", "--metric", "mine:dry", *MODEL, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["mine:dry"]["score"] == 0
    made = command_line(
        "optimize", "mine:forecaster", "--data", "days.jsonl", "--metric", "exact-match", *MODEL, "--json"
    )
    assert made.returncode == 0, made.stderr
    ran = command_line("run", "mine:forecaster", *MODEL, "-i", "pressure=1020", "-i", "falling=true", "--json")
    assert json.loads(ran.stdout)["version"] == "v1"


def test_ctrl_c_shows_what_was_finished(command_line):
    process = command_line.start("evaluate", TASK, *MODEL, "--threads", "2", "--json", SCRIPTED_STALLS="12")
    while command_line.calls < 12:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in err
    found = json.loads(out)
    done = found["rows"]["used"]
    assert 5 < done < 42
    assert found["partial"] == f"{done} of 42 rows"
    assert found["error"]["type"] == "OptimizationInterrupted"
    assert found["metrics"]["weather/rain"]["n"] == done
    assert f"Stopped after {done} of 42 rows" in err


def test_ctrl_c_during_b_compares_the_rows_both_finished(command_line):
    process = command_line.start(
        "compare", TASK, TASK, *MODEL, "--model-b", "scripted/b", "--threads", "2", SCRIPTED_STALLS="60"
    )
    while command_line.calls < 60:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "Partial: of B" in out
    assert "No difference shown" in out


def test_too_many_errors_and_wrong_usage(command_line, rows):
    (command_line.folder / "site" / "dspy_toolkit_scripted" / "lm.py").write_text(MOODY)
    asked = ("--data", "days.jsonl", "--metric", "exact-match", *MODEL)
    done = command_line("evaluate", SHORT, *asked, "--max-errors", "1", "--json")
    assert done.returncode == 1
    assert "at most 1 may" in json.loads(done.stdout)["error"]["message"]
    assert json.loads(done.stdout)["partial"].endswith("of 60 rows")
    assert command_line("evaluate", SHORT, *asked, "--max-errors", "2").returncode == 0
    assert command_line("evaluate").returncode == 2
    assert command_line("compare", TASK).returncode == 2
    assert command_line("evaluate", TASK, "--set", "tests").returncode == 2
    assert command_line("evaluate", TASK, "--repeats", "0").returncode == 2
    for lacking, wanted in ((("evaluate", SHORT), "--data"), (("evaluate", SHORT, "--data", "days.jsonl"), "--metric")):
        said = command_line(*lacking)
        assert said.returncode == 1
        assert wanted in said.stderr
