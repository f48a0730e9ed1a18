"""What the journal of a run says, in MLflow's terms; no MLflow here."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.runs.records import CallRecord, Recorded, RowRecord, read_records
from dspy_toolkit.tracking.story.calls import Calls
from dspy_toolkit.tracking.story.story import Story
from dspy_toolkit.tracking.story.tables import row_tables
from dspy_toolkit.tracking.story.update import Update


def story_of(folder, *, traces=200):
    story, update = Story(folder, traces=traces), Update()
    for entry in read_records(folder):
        story.read(entry, update)
    return story, update


def points(update, key):
    return [(point.step, point.value) for point in update.metrics if point.key == key]


def test_a_run_is_its_identity(written):
    story, update = story_of(written().optimization().folder)
    assert story.project == "quiz"
    assert story.ended
    assert update.params["optimizer"] == "bootstrap"
    assert (update.params["optimizer.max_demos"], update.params["rows.test"], update.params["seed"]) == ("2", "4", "3")
    assert update.tags["dspy-toolkit.fingerprint"] == "f" * 64
    assert (update.data.name, update.data.digest) == ("quiz/capitals", "d" * 64)
    assert (update.status, update.tags["dspy-toolkit.version"]) == ("FINISHED", "v3")


def test_metrics_go_by_units_of_work(written):
    _, update = story_of(written().optimization().folder)
    assert points(update, "progress/baseline") == [(1, 0.0), (2, 0.0), (3, 100 / 3), (4, 25.0)]
    assert points(update, "progress/search") == [(5, 40.0), (6, 80.0), (7, 60.0)]
    assert points(update, "best_score") == [(4, 25.0), (5, 40.0), (6, 80.0)]
    assert points(update, "candidate/score") == [(1, 40.0), (2, 80.0), (3, 60.0)]
    assert points(update, "usage/input_tokens")[:2] == [(1, 100.0), (2, 200.0)]
    assert points(update, "usage/cost")[-1] == (11, pytest.approx(0.011))
    assert points(update, "optimized/score") == [(11, 75.0)]
    assert points(update, "difference") == [(11, 50.0)]
    assert {"baseline/low", "baseline/high", "difference/low", "difference/p_value"} <= {p.key for p in update.metrics}


def test_cached_calls_cost_nothing_and_are_counted(written):
    run = written().begin()
    run.call("baseline", cached=True)
    run.call("baseline")
    run.call("baseline", error="TimeoutError: no answer")
    run.progress("baseline", 1, 1, 0.0)
    run.end(result={"usage": {"cache_hits": 1, "lm_calls": 99}})
    _, update = story_of(run.folder)
    assert points(update, "usage/lm_calls") == [(1, 2.0), (1, 2.0)]
    assert points(update, "usage/input_tokens") == [(1, 100.0), (1, 100.0)]
    assert points(update, "usage/cache_hits") == [(1, 1.0)]
    assert [call.record.error for call in update.calls] == [None, None, "TimeoutError: no answer"]


def test_without_calls_in_the_record_the_events_and_the_result_say_what_was_used(written):
    run = written().begin()
    run.calls = 5
    run.progress("baseline", 1, 1, 0.0)
    run.end(result={"usage": {"lm_calls": 9, "input_tokens": 70}})
    _, update = story_of(run.folder)
    assert points(update, "usage/lm_calls") == [(1, 5.0), (1, 9.0)]
    assert points(update, "usage/input_tokens") == [(1, 70.0)]


def test_the_parts_of_a_prompt_that_were_written_once_are_put_together(written):
    run = written().begin()
    run.call(question="Capital of Spain?")
    run.journal.append("call", {"stage": "search", "prompt": [{"role": "system", "sha": "gone"}], "outputs": None})
    run.end()
    _, update = story_of(run.folder)
    assert update.calls[0].messages == [
        {"role": "system", "content": "Your input fields are: 1. `question` (str)."},
        {"role": "user", "content": "Capital of Spain? (1)"},
    ]
    assert update.calls[1].messages == [{"role": "system", "content": "(this text is not in the record)"}]


def test_each_stage_has_its_share_of_traces_and_failures_are_always_there(written):
    run = written().begin()
    for stage, number in (("baseline", 10), ("search", 1), ("optimized", 10)):
        for _ in range(number):
            run.call(stage)
    run.call("optimized", error="ValueError: x")
    run.end()
    _, update = story_of(run.folder, traces=9)
    stages = [call.record.stage for call in update.calls if not call.record.error]
    assert {stage: stages.count(stage) for stage in set(stages)} == {"baseline": 3, "search": 1, "optimized": 5}
    assert len(update.calls) == 10
    assert (update.tags["dspy-toolkit.calls"], update.tags["dspy-toolkit.calls_without_trace"]) == ("22", "12")
    _, none = story_of(run.folder, traces=0)
    assert not none.calls
    assert none.tags["dspy-toolkit.calls_without_trace"] == "22"


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 30),
    st.lists(st.tuples(st.sampled_from(["baseline", "search", "optimized", "evaluate", ""]), st.booleans())),
)
def test_no_call_is_lost_between_traced_and_counted(room, calls):
    counted = Calls(room=room)
    records = [CallRecord(stage=stage, error="E: x" if failed else None) for stage, failed in calls]
    traced = [
        call
        for seq, record in enumerate(records, start=1)
        if (call := counted.read(Recorded(seq=seq, time=0.0, record=record)))
    ]
    failed = sum(failed for _, failed in calls)
    assert counted.total == len(calls)
    assert counted.traced == len(traced)
    assert len(traced) == 0 if room == 0 else len(traced) <= room + failed
    assert room == 0 or sum(bool(call.record.error) for call in traced) == failed


def test_a_run_that_was_killed_is_closed_with_what_there_is(written):
    run = written().begin()
    run.evaluated("baseline", (0.0, None))
    run.journal.close()
    story, update = story_of(run.folder)
    assert (update.status, story.ended) == ("RUNNING", False)
    story.close(update)
    assert (update.status, update.tags["dspy-toolkit.status"]) == ("KILLED", "killed")
    assert update.tables["baseline.json"]["error"] == ["", "ValueError: the map is torn"]


def test_a_resumed_run_is_running_again_and_keeps_its_beginning(written):
    run = written().begin()
    run.end("interrupted")
    again = Journal(run.folder)
    again.append("run", {"task": "quiz/capitals", "optimizer": "another"})
    again.close()
    story, update = story_of(run.folder)
    assert (update.status, update.ended, story.ended) == ("RUNNING", None, False)
    assert update.params["optimizer"] == "bootstrap"
    assert update.tags["dspy-toolkit.status"] == "running"


def test_how_a_run_ended(written):
    expected = {
        "finished": "FINISHED",
        "budget": "FINISHED",
        "interrupted": "KILLED",
        "failed": "FAILED",
        "?": "FAILED",
    }
    for status, theirs in expected.items():
        run = written(f"run-{theirs}-{ord(status[0])}").begin()
        run.end(status)
        _, update = story_of(run.folder)
        assert (update.status, update.tags["dspy-toolkit.status"]) == (theirs, status)


def test_kinds_and_fields_of_another_version_do_no_harm(written):
    run = written()
    run.journal.append("run", {})
    run.journal.append("dream", {"of": "sheep"})
    for kind in ("event", "call", "row", "candidate", "about", "score", "plan"):
        run.journal.append(kind, {})
    run.journal.append("candidate", {"number": "three", "score": "NaN"})
    run.journal.append("call", {"stage": 7, "prompt": [{}], "outputs": []})
    run.journal.append("end", {})
    run.journal.close()
    story, update = story_of(run.folder)
    assert (story.project, update.status) == ("dspy-toolkit", "FAILED")
    assert len(update.calls) == 2


def test_rows_become_columns_and_a_row_scored_twice_counts_once():
    table = row_tables(
        [
            RowRecord(stage="baseline", row=2, inputs={"q": "b"}, error="E: x"),
            RowRecord(stage="baseline", row=1, inputs={"q": "a"}, prediction={"a": ["x"]}, score=5.0),
            RowRecord(stage="baseline", row=1, inputs={"q": "a"}, prediction={"a": ["y"]}, score=6.0),
        ]
    )["baseline"]
    assert list(table) == ["row", "input.q", "output.a", "score", "feedback", "error", "seconds"]
    assert table["row"] == [1, 2]
    assert table["output.a"] == ['["y"]', None]
    assert table["error"] == ["", "E: x"]


def test_an_evaluation_has_one_score(written, evaluation):
    done = evaluation((100.0, 0.0, None))
    run = written().begin(kind="evaluate", optimizer=None, parameters=None)
    run.end(result=done.to_dict())
    _, update = story_of(run.folder)
    assert points(update, "score") == [(0, 100 / 3)]
    assert {"low", "high", "n"} <= {point.key for point in update.metrics}
    assert update.name == f"evaluate {run.folder.name}"
    assert update.tables["evaluate.json"]["score"] == [100.0, 0.0, 0.0]
    errors = {"row": [3], "type": ["ValueError"], "count": [1], "example": ["the map is torn"]}
    assert update.tables["errors.json"].items() >= errors.items()
    assert "rows" not in json.loads(update.files["result.json"])
