"""The records of a run: their JSON is what it was, and any JSON object of another version can be read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.lm.usage import Call, Usage
from dspy_toolkit.runs.events import Event
from dspy_toolkit.runs.journal import Journal, read_journal
from dspy_toolkit.runs.recorder import Recorder
from dspy_toolkit.runs.records import (
    About,
    CallRecord,
    CandidateRecord,
    EndRecord,
    EstimateRecord,
    PlanRecord,
    ResultRecord,
    RowRecord,
    RunStarted,
    ScoreRecord,
    TextRecord,
    UnknownRecord,
    read_records,
    write_record,
)

RECORDS = {
    "run": (RunStarted(identity={"task": "a/b", "seed": 1}), {"task": "a/b", "seed": 1}),
    "about": (
        About(packages={"dspy": "3.4.1"}, python="3.11.7", machine={"cpus": 2}, options={"name": "a/b"}),
        {
            "packages": {"dspy": "3.4.1"}, "python": "3.11.7", "machine": {"cpus": 2}, "git": None,
            "options": {"name": "a/b"},
        },
    ),
    "plan": (PlanRecord(plan={"lines": []}), {"lines": []}),
    "event": (
        Event(kind="progress", stage="baseline", done=1, total=2, score=50.0, seconds=0.5),
        {
            "kind": "progress", "stage": "baseline", "done": 1, "total": 2, "score": 50.0, "best": None, "lm_calls": 0,
            "planned_calls": None, "seconds": 0.5, "message": "", "run": "",
        },
    ),
    "candidate": (
        CandidateRecord(number=3, score=None, message="m", state={"demos": []}),
        {"stage": "search", "number": 3, "score": None, "message": "m", "state": {"demos": []}},
    ),
    "row": (
        RowRecord(stage="baseline", row=2, inputs={"q": 1}, prediction={"a": "x"}, score=5.0, seconds=0.1),
        {
            "stage": "baseline", "row": 2, "inputs": {"q": 1}, "prediction": {"a": "x"}, "score": 5.0, "feedback": "",
            "error": None, "seconds": 0.1,
        },
    ),
    "text": (TextRecord(text="system", sha="ab"), {"text": "system"}),
    "score": (
        ScoreRecord(question="k", score=0.5, feedback="f", parts={"x": 1.0}, metric="ab"),
        {"score": 0.5, "feedback": "f", "parts": {"x": 1.0}, "metric": "ab"},
    ),
    "end": (
        EndRecord(status="budget", result={"seconds": 1.0}, version="v1"),
        {"status": "budget", "result": {"seconds": 1.0}, "version": "v1", "bundle": None},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RECORDS)
def test_the_json_of_a_record_is_that_of_journals_written_before(tmp_path, kind):
    record, data = RECORDS[kind]
    with Journal(tmp_path) as journal:
        write_record(journal, record)
    (entry,) = read_journal(tmp_path)
    assert (entry.kind, entry.data) == (kind, data)
    assert [recorded.record for recorded in read_records(tmp_path)] == [record]


def test_a_score_that_raised_has_its_error_only(tmp_path):
    record = ScoreRecord(question="k", error="no metric")
    with Journal(tmp_path) as journal:
        write_record(journal, record)
    (entry,) = read_journal(tmp_path)
    assert (entry.key, entry.data) == ("k", {"error": "no metric"})
    assert next(read_records(tmp_path, ScoreRecord)).record == record


def test_a_prompt_refers_to_the_texts_it_shares_with_others(tmp_path):
    messages = [{"role": "system", "content": "shared"}, {"role": "user", "content": "one"}]
    with Journal(tmp_path) as journal:
        for _ in range(2):  # as by two sessions
            recorder = Recorder(journal)
            recorder.begin(RunStarted(identity={"task": "a/b"}), About())
            recorder.call(Call(model="m", seconds=0.1, cached=False, messages=messages, outputs=["yes"]))
        texts = {entry.record.sha: entry.record.text for entry in read_records(journal, TextRecord)}
        calls = [entry.record for entry in read_records(journal, CallRecord)]
    assert list(texts.values()) == ["shared"]
    assert [call.messages(texts) for call in calls] == [messages, messages]
    assert calls[0].messages({})[0] == {"role": "system", "content": "(this text is not in the record)"}


def test_a_kind_of_another_version_keeps_its_place(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append("dream", {"of": "sheep"})
        write_record(journal, EndRecord())
    assert [(entry.seq, entry.record) for entry in read_records(tmp_path)] == [
        (1, UnknownRecord(data={"of": "sheep"})),
        (2, EndRecord()),
    ]
    assert [entry.seq for entry in read_records(tmp_path, EndRecord)] == [2]


def test_an_entry_that_is_no_object_is_damage(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append("end", ["not", "an", "object"])  # type: ignore[arg-type]
    with pytest.raises(OptimizationError, match=r"damaged: entry 1"):
        list(read_records(tmp_path))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
NAMES = sorted({name for record, _ in RECORDS.values() for name in vars(record)} | set(vars(ResultRecord())))


@given(st.sampled_from(sorted(RECORDS)), st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), JSON))
def test_any_object_can_be_read_and_written_again(kind, data):
    data = json.loads(to_json(data, inf_nan_mode="strings"))
    record = type(RECORDS[kind][0]).from_wire(data, "key")
    written = json.loads(to_json(record.to_wire(), inf_nan_mode="strings"))
    assert type(record).from_wire(written, "key") == record
    if isinstance(record, EndRecord):
        assert isinstance(record.outcome, ResultRecord)


def test_results_of_optimizations_and_evaluations():
    optimized = ResultRecord.from_wire(
        {"baseline": {"score": 1.0, "low": 0.0, "high": 2.0, "n": 3}, "usage": {"lm_calls": 4}, "rows": {"test": 3}}
    )
    assert optimized.baseline == EstimateRecord(score=1.0, low=0.0, high=2.0, n=3)
    assert (optimized.score, optimized.usage, optimized.rows) == (None, Usage(lm_calls=4), {"test": 3})
    evaluated = ResultRecord.from_wire({"score": 7, "low": 5.0, "high": 9.0, "n": 2, "errors": [{"type": "E"}, 3]})
    assert evaluated.score == EstimateRecord(score=7, low=5.0, high=9.0, n=2)
    assert [error.type for error in evaluated.errors] == ["E"]
