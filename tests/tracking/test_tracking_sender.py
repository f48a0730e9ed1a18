"""Journals sent to MLflow on SQLite, read back with MLflow's own client."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from dspy_toolkit.errors import TrackingError
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.tracking.process import start_tracking
from dspy_toolkit.tracking.sender import Sender, is_behind, unsent
from dspy_toolkit.tracking.state import TrackingState, read_state, write_state
from dspy_toolkit.tracking.target import Target


def send(run, target):
    assert Sender(run.folder, target).send()
    return run


def bundle(tmp_path):
    folder = tmp_path / "programs" / "quiz" / "v3"
    folder.mkdir(parents=True)
    (folder / "program.json").write_text('{"predict": {}}\n')
    (folder / "prompt.md").write_text("# The prompt\n\nYour input fields are: `question`.\n")
    return folder


def test_an_optimization_is_a_run_with_all_that_belongs_to_it(written, target, found, tmp_path):
    run = send(written().optimization(bundle=bundle(tmp_path)), target)
    there = found(target.uri, run.folder.name)
    assert there.status == "FINISHED"
    assert there.params | {"optimizer": "bootstrap", "seed": "3", "rows.test": "4"} == there.params
    expected = {"run": run.folder.name, "project": "quiz", "status": "finished", "version": "v3", "promoted": "false"}
    assert {f"dspy-toolkit.{key}": value for key, value in expected.items()}.items() <= there.tags.items()
    assert there.tags["mlflow.source.git.commit"] == "c0ffee" * 6
    assert (there.metrics["baseline/score"], there.metrics["optimized/score"]) == (25.0, 75.0)
    assert there.metrics["best_score"] == 80.0
    assert there.history("progress/search") == [(5, 40.0), (6, 80.0), (7, 60.0)]
    assert there.artifacts() == ["about.json", "baseline.json", "bundle", "optimized.json", "result.json"]
    assert there.artifacts("bundle") == ["bundle/program.json", "bundle/prompt.md"]
    assert there.text("bundle/prompt.md").startswith("# The prompt")
    assert "# The prompt" in there.tags["mlflow.note.content"]
    assert json.loads(there.text("result.json"))["baseline"]["score"] == 25.0
    data = there.run.inputs.dataset_inputs[0].dataset
    assert (data.name, data.digest, json.loads(data.profile)["rows"]["train"]) == ("quiz/capitals", "d" * 36, 6)


def test_the_rows_are_tables_that_mlflow_loads(written, target, found):
    there = found(target.uri, send(written().optimization(), target).folder.name)
    table = there.table("optimized.json")
    assert list(table["score"]) == [100.0, 0.0, 100.0, 100.0]
    assert table["input.question"][0] == "Capital number 1?"
    assert table["input.hints"][0] == '["a", "b"]'
    assert list(table["output.answer"]) == ["City 1", "City 2", "City 3", "City 4"]


def test_each_candidate_is_a_child_run_with_its_program(written, target, found):
    there = found(target.uri, send(written().optimization(), target).folder.name)
    children = {child.data.tags["dspy-toolkit.candidate"]: child for child in there.children}
    assert {key: child.data.metrics["score"] for key, child in children.items()} == {
        "search/1": 40.0,
        "search/2": 80.0,
        "search/3": 60.0,
    }
    second = children["search/2"].info
    assert (second.status, second.run_name) == ("FINISHED", "candidate 2")
    assert len(json.loads(there.text("program.json", second.run_id))["predict"]["demos"]) == 2


def test_calls_are_traces_with_their_own_times(written, target, found):
    run = written().begin()
    run.call("baseline")
    run.call("baseline", error="TimeoutError: no answer within 30 s", question="Capital of Zembla?")
    run.call("search", cached=True)
    run.end()
    there = found(target.uri, send(run, target).folder.name)
    first, second, third = there.traces
    span = first.data.spans[0]
    assert [message["role"] for message in span.inputs["messages"]] == ["system", "user"]
    assert span.outputs["choices"][0]["message"]["content"] == "Paris"
    assert (span.model_name, span.llm_cost) == ("scripted/quiz", {"total_cost": 0.001})
    assert (first.info.execution_duration, first.info.state.value) == (500, "OK")
    assert first.info.token_usage == {"input_tokens": 100, "output_tokens": 5, "total_tokens": 105}
    assert (second.info.state.value, second.data.spans[0].status.description) == (
        "ERROR",
        "TimeoutError: no answer within 30 s",
    )
    assert third.info.tags["dspy-toolkit.cached"] == "true"
    assert abs(first.info.request_time / 1000 - time.time()) < 60


@pytest.mark.parametrize(
    ("status", "theirs"),
    [("finished", "FINISHED"), ("budget", "FINISHED"), ("interrupted", "KILLED"), ("failed", "FAILED")],
)
def test_the_end_of_the_run_is_the_end_there(written, target, found, status, theirs):
    run = written().begin()
    run.end(status)
    there = found(target.uri, send(run, target).folder.name)
    assert (there.status, there.tags["dspy-toolkit.status"]) == (theirs, status)


def test_an_evaluation_is_a_run_too(written, target, found, evaluation):
    done = evaluation((100.0, None, 0.0))
    run = written().begin(kind="evaluate", optimizer=None)
    run.end(result=done.to_dict())
    there = found(target.uri, send(run, target).folder.name)
    assert (there.tags["dspy-toolkit.kind"], there.metrics["score"]) == ("evaluate", pytest.approx(100 / 3))
    assert list(there.table("errors.json")["type"]) == ["ValueError"]
    assert list(there.table("evaluate.json")["error"]) == ["", "ValueError: the map is torn", ""]


def test_sending_twice_changes_nothing(written, target, found, tmp_path):
    run = send(written().optimization(bundle=bundle(tmp_path)), target)
    before = found(target.uri, run.folder.name).everything()
    send(run, target)
    assert found(target.uri, run.folder.name).everything() == before
    (run.folder / "tracking.json").unlink()  # nobody knows any more that it was sent
    send(run, target)
    assert found(target.uri, run.folder.name).everything() == before


def test_a_sender_that_died_between_writing_and_remembering_is_made_good(written, target, found):
    """Whatever was written, the state is that of the beginning; every cut of the journal is one such death."""
    whole = send(written("whole").optimization(), target)
    run = written("cut")
    run.optimization()
    last = read_state(whole.folder).seq
    for seq in range(0, last, 7):
        state = read_state(run.folder)
        sender = Sender(run.folder, target)
        assert sender.send()
        if state is not None:
            assert sender.state.mlflow_run == state.mlflow_run
        write_state(run.folder, TrackingState(target=target.public, seq=seq, mlflow_run=sender.state.mlflow_run))
    send(run, target)
    ours, theirs = found(target.uri, "cut").everything(), found(target.uri, "whole").everything()
    assert ours["histories"] == theirs["histories"]
    assert ours["artifacts"] == theirs["artifacts"]
    assert len(ours["traces"]) == len(theirs["traces"])
    assert [(key, metrics) for key, _, metrics in ours["children"]] == [
        (key, metrics) for key, _, metrics in theirs["children"]
    ]


def test_a_killed_run_is_closed_and_a_resumed_one_goes_on_in_the_same_run(written, target, found):
    run = written().begin()
    run.evaluated("baseline", (0.0, 100.0))
    run.journal.close()  # without an end, as kill -9 leaves it
    first = found(target.uri, send(run, target).folder.name)
    assert (first.status, first.tags["dspy-toolkit.status"]) == ("KILLED", "killed")
    assert list(first.table("baseline.json")["score"]) == [0.0, 100.0]
    assert unsent(run.folder.parent) == []

    run.journal = Journal(run.folder)
    run.journal.append("run", {"task": "quiz/capitals"})
    run.candidate(1, 70.0)
    run.end(result={"baseline": {"score": 50.0, "low": 0.0, "high": 100.0, "n": 2}})
    assert unsent(run.folder.parent) == [run.folder]
    second = found(target.uri, send(run, target).folder.name)
    assert (second.id, second.status, len(second.children)) == (first.id, "FINISHED", 1)
    assert unsent(run.folder.parent) == []


def test_a_run_deleted_in_mlflow_is_sent_whole_again(written, target, found):
    run = written().begin()
    run.candidate(1, 70.0)
    run.end("interrupted")
    first = found(target.uri, send(run, target).folder.name)
    first.client.delete_run(first.id)
    run.journal = Journal(run.folder)
    run.end("finished")
    second = found(target.uri, send(run, target).folder.name)
    assert second.id != first.id
    assert (second.status, len(second.traces), second.params["seed"]) == ("FINISHED", 1, "3")


def test_another_target_gets_everything_too(written, target, found, tmp_path, database):
    run = send(written().optimization(), target)
    (tmp_path / "other").mkdir()
    shutil.copy(database, tmp_path / "other" / "mlflow.db")
    other = Target(uri=f"sqlite:///{tmp_path}/other/mlflow.db", artifacts=(tmp_path / "other" / "files").as_uri())
    assert is_behind(run.folder, other)
    assert unsent(run.folder.parent) == []  # it is complete; nobody asked for a copy elsewhere
    send(run, other)
    assert len(found(other.uri, run.folder.name).traces) == len(found(target.uri, run.folder.name).traces) == 11


def test_an_experiment_of_the_settings_wins(written, config, target, found):
    named = Target.of(config(experiment="team/rain & sun"))
    run = send(written().optimization(candidates=()), named)
    there = found(named.uri, run.folder.name, "team/rain & sun")
    assert (there.status, there.text("about.json") != "") == ("FINISHED", True)


def test_values_that_are_too_long_are_cut_not_refused(written, target, found):
    run = written().begin(parameters={"instructions": "x" * 9_000, "n" * 300: 1})
    run.end(result={"reason": "y" * 9_000})
    there = found(target.uri, send(run, target).folder.name)
    assert there.params["optimizer.instructions"].endswith("x...")
    assert there.tags["dspy-toolkit.reason"].endswith("y...")


def test_text_that_databases_refuse_does_not_hold_back_a_run(written, target, found):
    run = written().begin()
    odd = "null \0 and half a pair: \\ud800"
    run.journal.append("call", {"prompt": [{"role": "user", "text": "\0"}], "outputs": [odd, {"text": "\0", "x": 1}]})
    text = '{"stage": "search", "outputs": ["' + odd.replace("\0", "\\u0000") + '"], "prompt": [], "error": "\\udfff"}'
    run.journal.close()
    with sqlite3.connect(run.folder / "journal.db") as journal:
        journal.execute("INSERT INTO entries (time, kind, key, data) VALUES (?, 'call', '', ?)", (time.time(), text))
    there = found(target.uri, send(run, target).folder.name)
    answers = [choice["message"]["content"] for choice in there.traces[0].data.spans[0].outputs["choices"]]
    assert answers == ["null \ufffd and half a pair: \\ud800", "\ufffd"]
    assert there.traces[1].data.spans[0].outputs["choices"][0]["message"]["content"].endswith("\ufffd")


def test_a_store_that_cannot_be_written_is_one_line_and_is_sent_later(written, target, found, tmp_path):
    run = written().optimization(candidates=())
    holder = sqlite3.connect(tmp_path / "mlflow.db")
    holder.execute("BEGIN EXCLUSIVE")
    notes = []
    sender = Sender(run.folder, target, note=notes.append)
    assert not sender.send()
    holder.close()
    assert len(notes) == 1
    assert "\n" not in notes[0]
    assert "mlflow.db cannot be written: " in notes[0]
    assert "locked" in notes[0]
    assert read_state(run.folder).problem == notes[0]
    assert unsent(run.folder.parent) == [run.folder]
    send(run, target)
    assert read_state(run.folder).problem == ""
    assert found(target.uri, run.folder.name).status == "FINISHED"


def test_a_folder_that_cannot_hold_the_database_is_one_line(written, config, tmp_path):
    (tmp_path / "file").write_text("")
    run = written().begin()
    run.end()
    notes = []
    assert not Sender(run.folder, Target(uri=f"sqlite:///{tmp_path}/file/mlflow.db"), note=notes.append).send()
    assert len(notes) == 1
    assert "cannot be written" in notes[0]
    assert "\n" not in notes[0]


def test_one_sender_at_a_time(written, target):
    run = written().optimization()
    with FileLock(run.folder / "tracking.lock"), pytest.raises(TrackingError, match="by another process"):
        Sender(run.folder, target).send()


def test_a_damaged_record_is_one_line_and_does_not_hold_back_others(written, target):
    damaged, other = written("damaged").begin(), written("other").begin()
    for run in (damaged, other):
        run.end()
        write_state(run.folder, TrackingState(target=target.public, seq=1, closed=True))
    for file in damaged.folder.glob("journal.db*"):
        file.write_bytes(b"no database" * 1000)
    assert unsent(damaged.folder.parent) == [other.folder]
    with pytest.raises(TrackingError, match=r"journal\.db"):
        Sender(damaged.folder, target).send()


def test_a_run_that_wrote_nothing_is_no_run(written, target):
    run = written()
    run.journal.close()
    assert Sender(run.folder, target).send()
    with pytest.raises(TrackingError, match="no record of a run"):
        Sender(run.folder.with_name("nothing"), target).send()


# --- the process


WRITER = """
import sys, time
from pathlib import Path
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.settings import DSPyConfig
from dspy_toolkit.tracking.process import start_tracking
root = Path(sys.argv[1])
journal = Journal(root / "runs" / sys.argv[2])
journal.append("run", {"task": "quiz/capitals", "optimizer": "bootstrap"})
journal.flush()
start_tracking(journal.folder, DSPyConfig(runs=root / "runs", store=root / "programs"))
print("mlflow" in sys.modules, "sqlalchemy" in sys.modules, flush=True)
number = 0
while True:
    number += 1
    journal.append("call", {"stage": "search", "model": "m", "seconds": 0.1, "prompt": [], "outputs": [str(number)]})
    time.sleep(0.05)
"""


def started(root, name):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root), name], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert writer.stdout.readline() == "False False\n"  # importing MLflow is not for the run to pay
    return writer, root / "runs" / name


def test_the_process_outlives_runs_that_are_killed_and_closes_them(target, found, tmp_path, waited):
    runs = {number: started(tmp_path, f"killed-{number}") for number in (signal.SIGKILL, signal.SIGINT)}
    for number, (writer, folder) in runs.items():
        assert waited(lambda folder=folder: read_state(folder).seq > 0)
        os.killpg(writer.pid, number)  # as a terminal does: the whole group
        writer.communicate()
    for _, folder in runs.values():
        assert waited(lambda folder=folder: read_state(folder).closed)
        there = found(target.uri, folder.name)
        assert there.status == "KILLED"
        entries = len(list(sqlite3.connect(folder / "journal.db").execute("SELECT seq FROM entries")))
        assert len(there.traces) == min(entries - 1, 133)  # two thirds of the room are for baseline and search
        with FileLock(folder / "tracking.lock", timeout=60):
            pass  # it has let go


def test_the_next_run_sends_what_an_earlier_one_could_not(written, config, target, found, waited):
    earlier = written("earlier").begin()
    earlier.end("finished")
    write_state(earlier.folder, TrackingState(target=target.public))
    never = written("never").begin()  # tracking was off then
    never.end("finished")
    run = written("later").begin()
    run.end()
    start_tracking(run.folder, config())
    assert waited(lambda: read_state(earlier.folder).closed)
    assert found(target.uri, "earlier").status == "FINISHED"
    assert read_state(never.folder) is None


def test_tracking_can_be_off(written, config):
    run = written().begin()
    assert start_tracking(run.folder, config(enabled=False)) is None
    assert not (run.folder / "tracking.json").exists()
