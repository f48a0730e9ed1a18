"""Every verb, typed as a user types it, in a process of its own."""

import json
import re
import signal
import time

from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.runs.records import EndRecord, RunStarted, write_record

OPTIMIZE = ("optimize", "weather/forecast", "--model", "scripted/barometer", "--seed", "1")


def one_line_error(done):
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return errors[0]


def test_plugins_lists_what_is_there(command_line):
    listed = json.loads(command_line("plugins", "--json").stdout)["plugins"]
    by_name = {plugin["name"]: plugin for plugin in listed}
    assert by_name["weather"] == {
        "name": "weather",
        "distribution": "dspy-toolkit-weather",
        "version": "1.0",
        "hooks": ["toolkit_metrics", "toolkit_signatures", "toolkit_tasks"],
        "error": None,
        "blocked": False,
    }
    assert "dspy-toolkit-weather" in command_line("plugins").stdout


def test_tasks_signatures_and_validate_show_the_plugin(command_line):
    assert "weather/forecast" in command_line("tasks").stdout
    shown = json.loads(command_line("tasks", "weather/forecast", "--json").stdout)
    assert shown["inputs"] == "pressure, falling"
    assert shown["rows"] == {"train": 30, "validation": 30, "test": 42}
    assert "weather/ForecastSignature" in command_line("signatures", "--project", "weather").stdout
    fields = json.loads(command_line("signatures", "weather/ForecastSignature", "--json").stdout)["fields"]
    assert [(field["name"], field["role"], field["type"]) for field in fields] == [
        ("pressure", "input", "int"),
        ("falling", "input", "bool"),
        ("forecast", "output", "Literal['rain', 'dry']"),
    ]
    done = command_line("validate", "weather/forecast", "weather/ForecastSignature", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] is True


def test_validate_finds_what_is_wrong_with_a_signature_of_ones_own(command_line):
    (command_line.folder / "mine.py").write_text(
        "import dspy\n\nclass Mine(dspy.Signature):\n"
        "    question = dspy.InputField()\n    answer: complex = dspy.OutputField()\n"
    )
    done = command_line("validate", "mine:Mine", "--json")
    assert done.returncode == 1
    findings = json.loads(done.stdout)["validated"][0]["findings"]
    assert ("error", "answer") in {(finding["severity"], finding["field"]) for finding in findings}
    assert ("warning", "question") in {(finding["severity"], finding["field"]) for finding in findings}


def test_optimize_stores_a_better_program_and_run_uses_it(command_line):
    done = command_line(*OPTIMIZE, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    wanted = {"task", "model", "optimizer", "seed", "baseline", "optimized", "version", "bundle", "lm_calls", "seconds"}
    assert wanted <= set(result)
    assert (result["task"], result["model"], result["seed"]) == ("weather/forecast", "scripted/barometer", 1)
    for score in (result["baseline"], result["optimized"]):
        assert 0 <= score["low"] <= score["score"] <= score["high"] <= 100
        assert score["n"] == 42
    assert result["baseline"]["score"] < 50 < result["optimized"]["score"] == 100
    assert result["promoted"] is True
    assert result["lm_calls"] == command_line.calls

    ran = command_line(
        "run", "weather/forecast", "--model", "scripted/b", "-i", "pressure=1030", "-i", "falling=true", "--json"
    )
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert document["version"] == result["version"]
    assert document["prediction"] == {"forecast": "dry"}
    plain = command_line(
        "run", "weather/forecast", "--plain", "--model", "scripted/b", "-i", "pressure=1030", "-i", "falling=true"
    )
    assert "rain" in plain.stdout
    by_folder = command_line("run", result["bundle"], "--model", "scripted/b", "--json")
    assert by_folder.returncode == 0, by_folder.stderr


def test_the_same_command_again_makes_no_call_again(command_line):
    first = json.loads(command_line(*OPTIMIZE, "--json").stdout)
    calls = command_line.calls
    second = json.loads(command_line(*OPTIMIZE, "--json").stdout)
    assert command_line.calls == calls
    assert second["lm_calls"] == 0
    assert second["version"] != first["version"]
    assert second["optimized"] == first["optimized"]


def test_ctrl_c_stops_soon_keeps_what_was_found_and_the_rest_is_done_later(command_line):
    whole = 42 + 42  # calls of the two evaluations alone
    process = command_line.start(*OPTIMIZE, "--threads", "2", SCRIPTED_STALLS="20")
    while command_line.calls < 20:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    done = command_line.calls
    assert process.returncode == 1
    assert 20 <= done < whole
    assert "Traceback" not in err
    command = re.search(r"Resume with: dspy-toolkit (.*)", err)[1].split()
    again = command_line(*command, "--json")
    assert again.returncode == 0, again.stderr
    # A call that went on when Ctrl-C came is made again, and the run counts what it had finished.
    assert command_line.calls - 2 <= json.loads(again.stdout)["lm_calls"] <= command_line.calls
    fresh = json.loads(again.stdout)["baseline"]["n"]
    assert fresh == 42


def test_unknown_names_say_what_exists_closest_first(command_line):
    assert "Did you mean 'weather/forecast'" in one_line_error(command_line("optimize", "weather/forcast"))
    assert "Did you mean 'scripted'" in one_line_error(
        command_line("optimize", "weather/forecast", "--model", "scriptd/x")
    )
    error = one_line_error(command_line(*OPTIMIZE, "--optimizer", "bootstrp"))
    assert "'bootstrp'" in error
    assert "bootstrap" in error
    error = one_line_error(command_line(*OPTIMIZE, "--param", "max_bootstraped_demos=1"))
    assert "max_bootstrapped_demos" in error
    assert "'pressur'" in one_line_error(command_line("run", "weather/forecast", "-i", "pressur=3"))
    assert "No installed plugin is called 'origami'" in one_line_error(
        command_line("optimize", "origami/cranes", DSPY_TOOLKIT_PLUGINS="")
    )


def test_a_model_that_does_not_answer_is_an_error_not_a_score(command_line):
    done = command_line("optimize", "weather/forecast", "--model", "scripted/broken", "--json")
    assert done.returncode == 1
    assert "barometer fell" in json.loads(done.stdout)["error"]["message"]
    assert not (command_line.folder / "programs").exists()


def test_wrong_usage_is_exit_code_two(command_line):
    assert command_line("optimize").returncode == 2
    assert command_line("optimise").returncode == 2
    assert command_line(*OPTIMIZE, "--rows", "test").returncode == 2


def test_config_and_doctor(command_line):
    shown = json.loads(command_line("config", "show", "--json", DSPY_TOOLKIT_SEED="4").stdout)
    assert shown["settings"]["seed"] == {"value": 4, "source": "DSPY_TOOLKIT_SEED"}
    checked = command_line("doctor", "--json")
    document = json.loads(checked.stdout)
    assert checked.returncode == (0 if document["ok"] else 1)
    assert {"python", "settings", "plugin weather"} <= {check["name"] for check in document["checks"]}
    (command_line.folder / "dspy-toolkit.toml").write_text("sed = 1\n")
    assert "dspy-toolkit.toml:1: unknown setting 'sed'" in one_line_error(command_line("config", "show"))


def test_a_broken_plugin_is_listed_and_the_rest_works(command_line):
    hooks = command_line.folder / "site" / "dspy_toolkit_scripted" / "hooks.py"
    hooks.write_text("import nothing_of_that_name\n")
    listed = json.loads(command_line("plugins", "--json").stdout)["plugins"]
    errors = {plugin["name"]: plugin["error"] for plugin in listed}
    assert "nothing_of_that_name" in errors["scripted"]
    assert errors["weather"] is None
    assert command_line("tasks", "weather/forecast").returncode == 0
    assert "nothing_of_that_name" in one_line_error(
        command_line("optimize", "weather/forecast", "--model", "scripted/x")
    )


def test_validate_and_doctor_check_the_names_in_the_settings(command_line):
    (command_line.folder / "dspy-toolkit.toml").write_text(
        """
[models.fast]
model = "nobody/fast"
[projects.wether]
optimizer = "bootstrap"
[projects.weather]
optimizer = "bootstrp"
model = "slow"
"""
    )
    done = command_line("validate", "--json")
    assert done.returncode == 1
    wrong = {row["name"]: row["findings"][0] for row in json.loads(done.stdout)["validated"] if not row["ok"]}
    names = {name.removeprefix("settings ") for name in wrong}
    assert {"models.fast", "projects.wether", "projects.weather.model", "projects.weather.optimizer"} <= names
    assert "bootstrap" in wrong["settings projects.weather.optimizer"]["message"]
    checks = {check["name"]: check["ok"] for check in json.loads(command_line("doctor", "--json").stdout)["checks"]}
    assert not any(checks[name] for name in names)


def test_runs_are_filtered_and_a_damaged_one_is_named(command_line):
    folder = command_line.folder / "runs" / "20260101-000000-dead"
    folder.mkdir(parents=True)
    (folder / "journal.db").write_bytes(b"no database " * 100)
    done = command_line("runs", DSPY_TOOLKIT_RUNS=str(folder.parent))
    assert "No run is recorded yet" not in done.stdout
    assert "20260101-000000-dead cannot be shown" in done.stderr
    with Journal(folder.parent / "20260102-000000-beef") as journal:
        write_record(journal, RunStarted(identity={"task": "weather/forecast"}))
        write_record(journal, EndRecord(status="finished"))
    for options, expected in (
        ([], 1), (["--task", "weather"], 1), (["--task", "weather/forecast"], 1), (["--task", "lora"], 0),
        (["--status", "failed"], 0), (["--status", "finished", "--limit", "1"], 1),
    ):  # fmt: skip
        document = json.loads(command_line("runs", *options, "--json", DSPY_TOOLKIT_RUNS=str(folder.parent)).stdout)
        assert len(document["runs"]) == expected, options
        assert [damaged["run"] for damaged in document["damaged"]] == [folder.name]
    shown = command_line("runs", "show", "latest", "--json", DSPY_TOOLKIT_RUNS=str(folder.parent))
    assert json.loads(shown.stdout)["run"] == "20260102-000000-beef"
