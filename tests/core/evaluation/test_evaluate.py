"""Evaluation: every row once, failures counted and shown, a dead LM is no score, Ctrl-C keeps what is finished."""

import signal
import threading

import dspy
import pytest

from dspy_toolkit.data.splits import to_examples
from dspy_toolkit.errors import OptimizationError, OptimizationInterrupted
from dspy_toolkit.evaluation.evaluate import EvaluationControls, evaluate
from dspy_toolkit.lm.meter import DEAD_AFTER
from dspy_toolkit.metrics import ExactMatch
from dspy_toolkit.testing import ScriptedLM

PROGRAM = dspy.Predict("question -> answer")


def rows(count):
    return to_examples([{"question": f"q{n}", "answer": f"a{n}"} for n in range(count)], PROGRAM)


def asked(request):
    """The question of a ChatAdapter prompt."""
    return request.messages[-1].text.partition("[[ ## question ## ]]\n")[2].partition("\n")[0]


def answering(right, **options):
    return ScriptedLM(
        lambda request: {"answer": asked(request).replace("q", "a") if right(asked(request)) else "?"}, **options
    )


@pytest.mark.parametrize("threads", [1, 4])
def test_every_row_once_in_order(threads):
    together = threading.Barrier(threads)  # 20 rows are a multiple of both

    def right(question):
        together.wait(60)
        return int(question[1:]) % 2 == 0

    lm = answering(right)
    found = evaluate(PROGRAM, rows(20), ExactMatch(), lm=lm, controls=EvaluationControls(num_threads=threads))
    assert [result.row for result in found.results] == list(range(1, 21))
    assert found.scores == [100.0, 0.0] * 10
    assert found.score.score == 50
    assert found.score.n == 20
    assert found.errors == ()
    assert "expected 'a1'" in found.results[1].feedback
    assert lm.engine.calls == found.usage.lm_calls == 20
    assert lm.engine.most_at_once == threads
    assert found.usage.input_tokens > found.usage.output_tokens > 0


def test_failing_rows_count_as_zero_and_are_shown():
    def script(request):
        question = asked(request)
        if question == "q3":
            return ValueError("the third is odd")
        return "no markers at all" if question in ("q5", "q6") else {"answer": question.replace("q", "a")}

    found = evaluate(PROGRAM, rows(10), ExactMatch(), lm=ScriptedLM(script))
    assert found.score.score == 70
    assert {(group.type, group.count) for group in found.errors} == {("AdapterParseError", 2), ("LMUnexpectedError", 1)}
    lm_error = next(group for group in found.errors if group.count == 1)
    assert lm_error.row == 4
    assert "the third is odd" in lm_error.example
    assert "the third is odd" in found.results[3].error
    assert found.results[3].prediction is None
    assert found.usage.failures == 1


def test_a_metric_that_fails_on_a_row_is_in_the_table_with_the_row():
    def picky(gold, pred):
        return float("nan") if gold.question == "q2" else 1.0

    found = evaluate(PROGRAM, rows(4), picky, lm=answering(lambda question: True))
    assert found.score.score == 75
    (group,) = found.errors
    assert group.type == "MetricError"
    assert "Row 3" in group.example
    assert "'picky' returned nan" in group.example


def test_a_dead_lm_is_no_score():
    lm = ScriptedLM(lambda request: RuntimeError("the engine is gone"))
    with pytest.raises(OptimizationError, match=r"All 3 rows failed.*the engine is gone"):
        evaluate(PROGRAM, rows(3), ExactMatch(), lm=lm)
    with pytest.raises(OptimizationError, match=r"'scripted/test' stopped answering after .* the engine is gone"):
        evaluate(PROGRAM, rows(500), ExactMatch(), lm=lm)
    assert lm.engine.calls <= 3 + DEAD_AFTER


def test_a_metric_that_always_fails_is_no_score():
    with pytest.raises(OptimizationError, match=r"All 3 rows failed.*MetricError: Row 1: .*returned 'good'"):
        evaluate(PROGRAM, rows(3), lambda gold, pred: "good", lm=answering(lambda question: True))


def test_a_rerun_is_answered_from_the_cache(lm_cache):
    lm = answering(lambda question: True, cache=True)
    first = evaluate(PROGRAM, rows(6), ExactMatch(), lm=lm)
    second = evaluate(PROGRAM, rows(6), ExactMatch(), lm=lm)
    assert (first.usage.lm_calls, first.usage.cache_hits) == (6, 0)
    assert (second.usage.lm_calls, second.usage.cache_hits) == (0, 6)
    assert lm.engine.calls == 6
    assert first.score == second.score


def test_the_lm_and_adapter_reach_every_thread_and_nothing_is_configured_globally():
    lm = answering(lambda question: True, model="scripted/threads")
    json_lm = ScriptedLM(lambda request: {"answer": "json" if "JSON object" in request.messages[-1].text else "chat"})
    before = dspy.settings.lm
    found = evaluate(
        PROGRAM,
        rows(8),
        lambda g, p: p.answer == "json",
        lm=json_lm,
        adapter=dspy.JSONAdapter(),
        controls=EvaluationControls(num_threads=4),
    )
    assert found.score.score == 100
    assert dspy.settings.lm is before
    assert lm.engine.calls == 0


def test_events_tell_the_whole_story():
    events = []
    lm = answering(lambda question: True)
    evaluate(PROGRAM, rows(5), ExactMatch(), lm=lm, controls=EvaluationControls(on_event=events.append))
    assert [event.kind for event in events] == ["stage_started", *["progress"] * 5, "stage_finished"]
    assert [event.done for event in events] == [0, 1, 2, 3, 4, 5, 5]
    assert {event.total for event in events} == {5}
    assert {event.stage for event in events} == {"evaluate"}
    assert [event.seconds for event in events] == sorted(event.seconds for event in events)
    assert events[-1].score == 100
    assert events[-1].lm_calls == 5


def test_a_sink_that_raises_ends_the_run():
    def sink(event):
        if event.done == 2:
            raise LookupError("the bar is broken")

    lm = answering(lambda question: True, seconds=0.02)
    with pytest.raises(LookupError, match="the bar is broken"):
        evaluate(PROGRAM, rows(50), ExactMatch(), lm=lm, controls=EvaluationControls(on_event=sink))
    assert lm.engine.calls < 10


def test_the_stop_event_keeps_what_is_finished():
    """Also what was finished but not yet told: the sink is slow, the LM is not."""
    stop = threading.Event()
    seen = []

    def eighth_stops(question):
        seen.append(question)
        if len(seen) == 8:
            stop.set()
        return True

    def slow(event):
        if event.done:
            stop.wait(30)

    with pytest.raises(OptimizationInterrupted, match=r"Stopped after [78] of 100 rows") as caught:
        evaluate(
            PROGRAM,
            rows(100),
            ExactMatch(),
            lm=answering(eighth_stops),
            controls=EvaluationControls(on_event=slow, stop=stop),
        )
    assert [result.row for result in caught.value.partial.results][:7] == [1, 2, 3, 4, 5, 6, 7]
    assert caught.value.partial.score.score == 100


def test_ctrl_c_does_not_wait_for_a_slow_call(stall):
    together, answered = threading.Barrier(2), []

    def right(question):
        if together.wait(60) == 0:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        answered.append(stall())
        return True

    with pytest.raises(OptimizationInterrupted) as caught:
        evaluate(PROGRAM, rows(3), ExactMatch(), lm=answering(right), controls=EvaluationControls(num_threads=2))
    assert answered == [], "neither of the two calls of a minute was waited for"
    assert caught.value.partial is None


def test_no_rows_and_no_threads_are_said():
    with pytest.raises(OptimizationError, match="no rows"):
        evaluate(PROGRAM, (), ExactMatch(), lm=answering(bool))
    with pytest.raises(OptimizationError, match="num_threads is 0"):
        evaluate(PROGRAM, rows(1), ExactMatch(), lm=answering(bool), controls=EvaluationControls(num_threads=0))


def test_the_evaluation_is_json():
    import json

    found = evaluate(PROGRAM, rows(2), ExactMatch(), lm=answering(lambda question: question == "q0"))
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["score"] == 50
    assert document["rows"][0]["prediction"] == {"answer": "a0"}
    assert document["rows"][1]["inputs"] == {"question": "q1"}
