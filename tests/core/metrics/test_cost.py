"""What an answer took is known inside a run, to the token; from the cache it is not."""

import itertools

import dspy
import pytest

from dspy_toolkit.errors import MetricError, OptimizationError
from dspy_toolkit.evaluation.evaluate import EvaluationControls, evaluate
from dspy_toolkit.evaluation.objectives import fewer_tokens, less_time
from dspy_toolkit.lm.meter import Meter
from dspy_toolkit.metrics import Latency, Metric, TokenCost, cost_of
from dspy_toolkit.stats.pareto import pareto_front
from dspy_toolkit.testing import ScriptedLM


class TwoSteps(dspy.Module):
    def __init__(self):
        super().__init__()
        self.first = dspy.Predict("question -> facts")
        self.second = dspy.ChainOfThought("question, facts -> answer")

    def forward(self, question):
        return self.second(question=question, facts=self.first(question=question).facts)


def reply(request):
    asked = request.messages[-1].text.partition("[[ ## question ## ]]\n")[2].partition("\n")[0]
    return {"facts": asked * 3, "reasoning": asked, "answer": asked}


ROWS = [dspy.Example(question="q" * n, answer="q" * n).with_inputs("question") for n in range(1, 9)]


@pytest.mark.parametrize("threads", [1, 4])
def test_each_prediction_knows_its_own_tokens(threads):
    lm = ScriptedLM(reply)
    found = evaluate(TwoSteps(), ROWS, TokenCost(1e6), lm=lm, controls=EvaluationControls(num_threads=threads))
    costs = [cost_of(result.prediction) for result in found.results]
    assert [cost.lm_calls for cost in costs] == [2] * len(ROWS)
    assert sum(cost.input_tokens for cost in costs) == found.usage.input_tokens
    assert sum(cost.output_tokens for cost in costs) == found.usage.output_tokens
    written = [cost.output_tokens for cost in costs]
    assert [after - before for before, after in itertools.pairwise(written)] == [10] * (len(ROWS) - 1)
    for result, cost in zip(found.results, costs, strict=True):
        assert result.score == pytest.approx(100 * (1 - (cost.input_tokens + cost.output_tokens) / 1e6))
        (usage,) = result.prediction.get_lm_usage().values()
        assert usage == {"prompt_tokens": cost.input_tokens, "completion_tokens": cost.output_tokens}


def test_costs_are_known_where_dspy_calls_the_program():
    metric = Metric(TokenCost(1e6, input_price=0, output_price=100))
    meter = Meter()
    with meter.counting(), dspy.context(lm=ScriptedLM(reply)):
        found = dspy.Evaluate(devset=ROWS, metric=metric, num_threads=4)(TwoSteps())
    spent = sum(cost_of(pred).output_tokens for _, pred, _ in found.results)
    assert spent == meter.usage.output_tokens > 0
    assert found.score == pytest.approx(100 * (1 - 100 * spent / 1e6 / len(ROWS)), abs=0.01)


def test_waiting_is_time():
    found = evaluate(TwoSteps(), ROWS[:2], Latency(1000), lm=ScriptedLM(reply, seconds=0.05))
    for result in found.results:
        assert 0.1 <= cost_of(result.prediction).seconds <= result.seconds
        assert result.score == pytest.approx(100 * (1 - cost_of(result.prediction).seconds / 1000))


def test_an_answer_from_the_cache_has_no_cost(lm_cache):
    lm = ScriptedLM(reply, model="scripted/cost", cache=True)
    assert evaluate(TwoSteps(), ROWS[:1], TokenCost(1e6), lm=lm).errors == ()
    with pytest.raises(OptimizationError, match=r"2 of 2 LM calls were answered from the cache.*cache=False"):
        evaluate(TwoSteps(), ROWS[:1], TokenCost(1e6), lm=lm)


def test_outside_a_run_the_cost_is_unknown_and_bad_limits_are_refused():
    with pytest.raises(MetricError, match="has no cost"):
        Metric(Latency(1)).score(ROWS[0], dspy.Prediction(answer="q"))
    for make in (lambda: Latency(0), lambda: TokenCost(-1), lambda: TokenCost(1, input_price=-1)):
        with pytest.raises(MetricError, match="above 0"):
            make()


def test_a_program_that_fails_leaves_the_next_one_its_own_cost():
    def sometimes(request):
        return "no fields" if "## ]]\nqq\n" in request.messages[-1].text else reply(request)

    found = evaluate(TwoSteps(), [ROWS[1], ROWS[0]], TokenCost(1e6), lm=ScriptedLM(sometimes))
    assert found.results[0].error
    assert cost_of(found.results[1].prediction).lm_calls == 2


def test_evaluations_can_be_compared_by_what_they_took():
    long, short = TwoSteps(), dspy.Predict("question -> answer")
    found = {
        "long": evaluate(long, ROWS, TokenCost(1e6), lm=ScriptedLM(reply, seconds=0.01)),
        "short": evaluate(short, ROWS, TokenCost(1e6), lm=ScriptedLM(reply, seconds=0.01)),
    }
    assert list(pareto_front(found, {"tokens": fewer_tokens, "time": less_time})) == ["short"]
