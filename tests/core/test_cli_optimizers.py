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
