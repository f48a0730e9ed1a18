"""The store: versions, aliases, what is loaded by default, several processes at once."""

import json
import subprocess
import sys
from pathlib import Path

import dspy
import pytest

from dspy_toolkit.errors import BundleError, UnknownNameError
from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.optimize.result import OptimizationResult
from dspy_toolkit.stats.intervals import compare
from dspy_toolkit.store.bundle import load_program
from dspy_toolkit.store.store import Store

PROGRAM = "question -> answer"


def result(task="core/questions", *, better=True, answer="yes"):
    program = dspy.Predict(PROGRAM)
    program.demos = [dspy.Example(question="q", answer=answer)]
    return OptimizationResult(
        program=program,
        task=task,
        model="scripted/test",
        optimizer="bootstrap",
        parameters={},
        metric="core/accuracy",
        seed=0,
        data_digest="0" * 64,
        rows={"train": 1, "validation": 1, "test": 8},
        baseline_evaluation=None,
        optimized_evaluation=None,
        comparison=compare([0.0] * 8, [100.0 if better else 0.0] * 8),
        usage=Usage(),
        errors=(),
        seconds=0.0,
    )


def save(store, *args, **kwargs):
    return store.save(result(*args, **kwargs), example_inputs={"question": "q"})


def test_versions_count_up_and_come_back(tmp_path):
    store = Store(tmp_path / "programs")
    assert store.tasks() == ()
    for number in range(1, 12):
        assert save(store, answer=f"a{number}").name == f"v{number}"
    save(store, "lora/hyperparameters")
    assert store.tasks() == ("core/questions", "lora/hyperparameters")
    assert [version.name for version in store.versions("core/questions")] == [f"v{n}" for n in range(1, 12)]
    program = load_program(store.get("core/questions", "v10").bundle, lambda: dspy.Predict(PROGRAM))
    assert program.demos[0].answer == "a10"
    assert Store(tmp_path / "programs").get("core/questions", "latest").name == "v11"


def test_the_default_is_production_then_the_newest_that_was_better(tmp_path):
    store = Store(tmp_path)
    assert store.default("core/questions") is None
    save(store, better=False)
    assert store.default("core/questions") is None, "nothing was better, so nothing replaces the plain program"
    with pytest.raises(BundleError, match="core/questions@v1"):
        store.get("core/questions")
    save(store, better=True)
    save(store, better=False)
    assert store.get("core/questions").name == "v2", "the newest promoted one"
    assert store.get("core/questions", "latest").name == "v3"
    assert not store.get("core/questions", "v3").bundle.manifest.promoted
    store.promote("core/questions", "v1")
    assert store.get("core/questions").name == "v1", "an alias is a decision of its own"
    store.promote("core/questions", "latest", "staging")
    assert store.aliases("core/questions") == {"production": "v1", "staging": "v3"}
    assert store.get("core/questions", "staging").name == "v3"
    assert store.get("core/questions", "v3").aliases == ("staging",)
    store.promote("core/questions", "staging")
    assert store.aliases("core/questions") == {"production": "v3", "staging": "v3"}


def test_unknown_names_list_what_exists_closest_first(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(
        UnknownNameError, match=r"No stored program named 'core/questions'.*none.*dspy-toolkit optimize"
    ):
        store.get("core/questions")
    save(store)
    store.promote("core/questions", "v1")
    with pytest.raises(UnknownNameError, match=r"Did you mean 'core/questions'\?"):
        store.get("core/question")
    with pytest.raises(UnknownNameError, match=r"No version of core/questions named 'v2'. Did you mean 'v1'\?"):
        store.get("core/questions", "v2")
    with pytest.raises(UnknownNameError, match=r"Did you mean 'production'\?"):
        store.get("core/questions", "prodution")


@pytest.mark.parametrize("task", ["../outside", "a/b/c", "", "/etc", "core/..", "core/aliases", "core/ questions"])
def test_names_cannot_leave_the_store(tmp_path, task):
    store = Store(tmp_path / "programs")
    with pytest.raises(BundleError, match="cannot be the name"):
        save(store, task)
    with pytest.raises(BundleError, match="cannot be the name"):
        store.get(task)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("alias", ["latest", "v2", "../x", "", ".hidden"])
def test_aliases_have_names_that_mean_nothing_else(tmp_path, alias):
    store = Store(tmp_path)
    save(store)
    with pytest.raises(BundleError, match="cannot be an alias"):
        store.promote("core/questions", "v1", alias)


def test_an_alias_that_points_nowhere_is_named(tmp_path):
    store = Store(tmp_path)
    save(store)
    store.promote("core/questions", "v1")
    (tmp_path / "core/questions/aliases/production").write_text("v7\n")
    with pytest.raises(UnknownNameError, match="'production'"):
        store.get("core/questions")


def test_what_is_half_written_is_not_seen(tmp_path):
    store = Store(tmp_path)
    save(store)
    (tmp_path / "core/questions/.v2-0123.tmp").mkdir()
    (tmp_path / "core/questions/v02").mkdir()
    assert [version.name for version in store.versions("core/questions")] == ["v1"]
    assert save(store).name == "v2"


def test_a_damaged_version_does_not_hide_the_others(tmp_path):
    store = Store(tmp_path)
    save(store)
    broken = save(store)
    (broken.bundle.path / "program.json").write_text("{}")
    assert store.get("core/questions", "v1").name == "v1"
    with pytest.raises(BundleError, match=r"v2.program\.json"):
        store.get("core/questions", "v2")
    assert save(store).name == "v3"


def test_a_read_only_store_says_so(tmp_path):
    root = tmp_path / "programs"
    root.write_text("a file where the store should be")
    with pytest.raises(BundleError, match="cannot be written"):
        save(Store(root))


def test_two_processes_never_take_the_same_version(tmp_path):
    """Each process stores its own answers; afterwards every one of them is in a version of its own."""
    folder = 8
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path), name, str(folder)], stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "two", "three")
    ]
    taken = []
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        taken += json.loads(output)
    assert sorted(taken) == sorted(f"v{number}" for number in range(1, 3 * folder + 1))
    versions = Store(tmp_path).versions("core/questions")
    answers = {load(version).demos[0].answer for version in versions}
    assert answers == {f"{name}{number}" for name in ("one", "two", "three") for number in range(folder)}


def load(version):
    from dspy_toolkit.store.bundle import load_program

    return load_program(version.bundle, lambda: dspy.Predict(PROGRAM))


if __name__ == "__main__":
    root, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    print(json.dumps([save(Store(root), answer=f"{name}{number}").name for number in range(count)]))
