"""Counting LM calls: the same by both ways, in threads, with completions, failures and the cache; and limits."""

import asyncio
import contextlib
import threading

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit.compat.callbacks import BaseCallback
from dspy_toolkit.data.splits import to_examples
from dspy_toolkit.errors import OptimizationError
from dspy_toolkit.evaluation.evaluate import EvaluationControls, RunStage, evaluate
from dspy_toolkit.lm.limits import BudgetSpent, Limits
from dspy_toolkit.lm.meter import Meter
from dspy_toolkit.lm.metered import metered, other_lms
from dspy_toolkit.lm.usage import Call
from dspy_toolkit.metrics import ExactMatch
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.runs.recorder import Recorder
from dspy_toolkit.testing import ScriptedLM

PROGRAM = dspy.Predict("question -> answer")


class Twice(dspy.Module):
    """Two calls, one of them an LM that it brings along."""

    def __init__(self, lm=None):
        super().__init__()
        self.first = dspy.Predict("question -> hint")
        self.parts = {"second": [dspy.Predict("question, hint -> answer")]}
        self.lm = lm

    def forward(self, question):
        hint = self.first(question=question).hint
        if self.lm is not None:
            self.lm("and you?")
        return self.parts["second"][0](question=question, hint=hint)


def script(request):
    text = request.messages[-1].text
    if "broken" in text:
        return ValueError("broken")
    return {"hint": "h", "answer": "a"} if "hint" in text else {"answer": "a", "hint": "h"}


def spend(meter, way, lm, questions, program=PROGRAM):
    seen = []
    meter.on_call = seen.append
    context = meter.watching(lm, program) if way == "copy" else meter.counting()
    with dspy.context(lm=lm, disable_history=True), context:
        for question in questions:
            with contextlib.suppress(dspy.LMError):
                program(question=question)
    return meter.usage, [(call.model, call.cached, call.output_tokens, (call.error or "")[:20]) for call in seen]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(["one", "two", "three", "broken"]), max_size=8))
def test_both_ways_count_alike(questions):
    def fresh():
        dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
        return ScriptedLM(script, cache=True, num_retries=0)

    assert spend(Meter(), "copy", fresh(), questions) == spend(Meter(), "callback", fresh(), questions)


def test_completions_and_callbacks_of_others():
    heard = []

    class Listener(BaseCallback):
        def on_lm_end(self, call_id, outputs, exception=None):
            heard.append(outputs)

    lm = ScriptedLM(script, cache=False)
    meter = Meter()
    with dspy.context(callbacks=[Listener()]), meter.watching(lm, PROGRAM):
        PROGRAM(question="one", config={"n": 3, "temperature": 1.0})
    assert meter.usage.lm_calls == lm.engine.calls == 3
    assert len(heard) == 1


def test_a_program_with_an_lm_of_its_own_is_counted_all_the_same():
    own = ScriptedLM(lambda request: "fine", model="scripted/own", cache=False)
    program = Twice(own)
    assert other_lms(program)
    assert not other_lms(Twice())
    lm = ScriptedLM(script, cache=False)
    found = evaluate(program, to_examples([{"question": "x", "answer": "a"}], program), ExactMatch(), lm=lm)
    assert found.usage.lm_calls == lm.engine.calls + own.engine.calls == 3


def test_the_copy_is_the_lm_but_for_the_counting():
    lm = ScriptedLM(script, cache=False, temperature=0.5)
    copy = metered(lm, Meter())
    assert isinstance(copy, type(lm))
    assert type(copy).__qualname__ == type(lm).__qualname__
    assert (copy.model, copy.kwargs, copy.engine) == (lm.model, lm.kwargs, lm.engine)
    assert type(copy.copy(temperature=1.0)) is type(copy)
    plain = dspy.LM("openai/none", temperature=0.5)
    assert metered(plain, Meter()).dump_state() == plain.dump_state()
    assert metered(object(), Meter()) is None


def test_async_calls_count():
    lm, meter = ScriptedLM(script, cache=False), Meter()

    async def work():
        with meter.watching(lm, PROGRAM):
            await asyncio.gather(*(PROGRAM.acall(question=f"{n}") for n in range(5)))

    asyncio.run(work())
    assert meter.usage.lm_calls == 5


@pytest.mark.parametrize("way", ["copy", "callback"])
@pytest.mark.parametrize("threads", [1, 8])
def test_never_more_calls_than_the_limit(way, threads):
    lm = ScriptedLM(script, cache=False, seconds=0.005)
    meter = Meter(limits=Limits(calls=13))
    ended = []

    def work():
        with dspy.context(lm=lm), meter.watching(lm, PROGRAM) if way == "copy" else meter.counting():
            try:
                while True:
                    PROGRAM(question="one", config={"n": 2, "temperature": 1.0} if threads == 8 else {})
            except BudgetSpent as spent:
                ended.append(spent.name)

    pool = [threading.Thread(target=work) for _ in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert ended == ["calls"] * threads
    assert lm.engine.calls == meter.usage.lm_calls == (13 if threads == 1 else 12)


def test_tokens_money_and_time_end_it_too(monkeypatch):
    litellm = pytest.importorskip("litellm")
    monkeypatch.setitem(
        litellm.model_cost, "scripted/dear", {"input_cost_per_token": 0.001, "output_cost_per_token": 0.002}
    )
    lm = ScriptedLM(script, model="scripted/dear", cache=False)
    calls: list[Call] = []
    for limits, name in [(Limits(tokens=1), "tokens"), (Limits(cost=1e-9), "cost"), (Limits(seconds=0.0), "seconds")]:
        meter = Meter(limits=limits, on_call=calls.append)
        with meter.watching(lm, PROGRAM), pytest.raises(BudgetSpent) as spent:  # noqa: PT012
            for _ in range(2):
                PROGRAM(question="one")
        assert spent.value.name == name
    read, written = calls[0].input_tokens, calls[0].output_tokens
    assert calls[0].cost == pytest.approx(0.001 * read + 0.002 * written)


def test_an_evaluation_is_in_the_journal_with_its_calls(tmp_path):
    rows = to_examples([{"question": name, "answer": "a"} for name in ("one", "broken", "two")], PROGRAM)
    with Journal(tmp_path) as journal:
        controls = EvaluationControls(stage=RunStage.recorded(Recorder(journal)))
        found = evaluate(PROGRAM, rows, ExactMatch(), lm=ScriptedLM(script, num_retries=0), controls=controls)
        entries = list(journal.entries())
    kinds = {kind: [entry.data for entry in entries if entry.kind == kind] for kind in ("row", "call")}
    texts = {entry.key: entry.data["text"] for entry in entries if entry.kind == "text"}
    assert [row["score"] for row in kinds["row"]] == found.scores == [100.0, 0.0, 100.0]
    assert kinds["row"][0]["prediction"] == {"answer": "a"}
    assert "broken" in kinds["row"][1]["error"]
    assert len(texts) == 1
    for call in kinds["call"]:
        system, user = call["prompt"]
        assert "question" in texts[system["sha"]]
        assert "question" in user["text"]
    assert [bool(call["error"]) for call in kinds["call"]] == [False, True, False]
    assert sum(call["output_tokens"] for call in kinds["call"]) == found.usage.output_tokens


def test_a_dead_lm_ends_an_evaluation_by_the_cheaper_way_too():
    rows = to_examples([{"question": f"broken {n}", "answer": "a"} for n in range(40)], PROGRAM)
    lm = ScriptedLM(script, num_retries=0)
    with pytest.raises(OptimizationError, match="stopped answering"):
        evaluate(PROGRAM, rows, ExactMatch(), lm=lm)
    assert lm.engine.calls < 40
