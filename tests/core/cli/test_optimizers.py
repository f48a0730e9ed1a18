"""Optimizers on the command line, in processes of their own, with the example plugin."""

import json

import pytest

TASK, MODEL = "weather/forecast", "scripted/barometer"


def test_auto_chooses_says_why_and_stores_what_it_ran(command_line):
    done = command_line("optimize", TASK, "--model", MODEL, "--optimizer", "auto", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["optimizer"] in ("bootstrap", "random-search")
    assert document["reason"].endswith(".")
    assert f"{document['optimizer']}: {document['reason']}" in " ".join(done.stderr.split())


@pytest.mark.parametrize("name", ["KNNFewShot", "Ensemble", "BootstrapFewShotWithRandomSearch"])
def test_any_optimizer_by_dspys_name_and_its_program_runs(command_line, name):
    done = command_line("optimize", TASK, "--model", MODEL, "--optimizer", name, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["optimized"]["score"] >= document["baseline"]["score"]
    calls = command_line.calls
    used = command_line("run", f"{TASK}@{document['version']}", "--model", MODEL, "--json")
    assert used.returncode == 0, used.stderr
    assert json.loads(used.stdout)["prediction"]["forecast"] in ("rain", "dry")
    assert command_line.calls - calls <= 3


def test_a_parameter_that_does_not_exist_is_named(command_line):
    bad = ("--optimizer", "MIPROv2", "--param", "num_candidate=4")
    done = command_line("optimize", TASK, "--model", "nobody/knows", *bad)
    assert done.returncode == 1
    assert "Did you mean 'num_candidates'?" in " ".join(done.stderr.split())
    assert command_line.calls == 0


def test_a_dry_run_says_what_a_run_then_takes_and_stores_nothing(command_line):
    asked = ("optimize", TASK, "--model", MODEL, "--optimizer", "bootstrap")
    dry = command_line(*asked, "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    plan = json.loads(dry.stdout)
    assert plan["measured"]["lm_calls"] == command_line.calls > 0
    assert plan["total"]["seconds"]["expected"] > 0
    assert not (command_line.folder / "programs").exists()
    done = command_line(*asked, "--json")
    calls = plan["total"]["calls"]
    assert calls["low"] <= json.loads(done.stdout)["lm_calls"] <= calls["high"]


def test_a_dry_run_without_measuring_asks_no_model(command_line):
    done = command_line("optimize", TASK, "--model", MODEL, "--optimizer", "random-search", "--dry-run", "--no-measure")
    assert done.returncode == 0, done.stderr
    assert command_line.calls == 0
    assert "search: candidates" in done.stdout
    assert "total" in done.stdout
    assert "Nothing was measured" in done.stdout
    assert "validation rows each" in done.stdout, "a wide terminal has room for the reasons"
    narrow = command_line(
        "optimize", TASK, "--model", MODEL, "--optimizer", "random-search", "--dry-run", "--no-measure", COLUMNS="90"
    )
    assert "validation rows each" not in narrow.stdout
    assert max(map(len, narrow.stdout.splitlines())) <= 90


def test_a_dry_run_of_a_model_that_does_not_answer_says_so(command_line):
    done = command_line("optimize", TASK, "--model", "scripted/broken", "--optimizer", "bootstrap", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "the barometer fell off the wall" in " ".join(done.stdout.split())


def test_a_plan_comes_before_the_run_and_is_in_its_document(command_line):
    done = command_line("optimize", TASK, "--model", MODEL, "--optimizer", "bootstrap", "--plan", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["version"] == "v1"
    assert {line["stage"] for line in document["plan"]["lines"]} == {"baseline", "search", "optimized"}
    assert done.stderr.index("final evaluation") < done.stderr.index("Baseline on held-out rows")
    assert "LM calls so far" in done.stderr
    assert " of about " in done.stderr
