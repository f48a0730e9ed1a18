"""DSPy asks for n completions one by one; MLXLM makes them one burst, and every rollout its own sample."""

import asyncio

import dspy
import pytest

from dspy_toolkit_mlx.engine.asynchronous import AsyncMLXEngine
from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.engine.options import EngineOptions
from dspy_toolkit_mlx.lm import MLXLM


@pytest.fixture(scope="module")
def engine(tiny):
    with MLXEngine(tiny.load("llama"), name="mlx/tiny", options=EngineOptions(check=True)) as engine:
        yield engine


@pytest.fixture
def lm(engine):
    return MLXLM(
        "mlx/tiny", engine=engine, async_engine=AsyncMLXEngine(engine), cache=False, max_tokens=12, temperature=1.0
    )


def test_n_completions_are_one_burst_with_one_prefill(lm, engine):
    earlier = engine.stats()
    texts = lm("Eight of these, please, with one prefill", n=8, seed=5)
    after = engine.stats()
    assert len(texts) == 8
    assert len(set(texts)) > 4
    prompt = (after["prefill_requested"] - earlier["prefill_requested"]) // 8
    assert after["prefill_computed"] - earlier["prefill_computed"] <= prompt + 8
    assert after["steps"] - earlier["steps"] <= 12
    assert after["width_peak"] >= 8


def test_completions_repeat_by_seed_and_begin_with_that_of_n_1(lm):
    assert lm("Again", n=4, seed=5) == lm("Again", n=4, seed=5)
    assert lm("Again", n=4, seed=5)[:1] == lm("Again", seed=5)
    assert lm("Again", n=4, seed=5) != lm("Again", n=4, seed=6)


def test_every_rollout_is_another_repeatable_sample(lm):
    once = [lm("Roll", rollout_id=i) for i in range(5)]
    again = [lm.copy(rollout_id=i)("Roll") for i in range(5)]
    assert once == again
    assert len({texts[0] for texts in once}) > 3
    seeded = [lm("Roll", rollout_id=i, seed=1) for i in range(5)]
    assert seeded != once


def test_asynchronous_calls_are_bursts_and_equal_the_synchronous(lm, engine):
    want = lm("Async", n=3, seed=2)
    earlier = engine.stats()["steps"]
    assert asyncio.run(lm.acall("Async", n=3, seed=2)) == want
    assert engine.stats()["steps"] - earlier <= 12


def test_a_failed_call_leaves_no_burst(lm, engine):
    with pytest.raises(dspy.LMInvalidRequestError):
        lm("No", n=3, metadata={"nonsense": 1})
    assert engine.stats()["submitted"] == sum(engine.stats()[k] for k in ("finished", "failed", "cancelled"))


def test_predict_gets_n_completions(lm):
    class Echo(dspy.Signature):
        question: str = dspy.InputField()
        answer: str = dspy.OutputField()

    grammar = {"lark": 'start: "[[ ## answer ## ]]\\n" /[a-z]{1,5}/ "\\n\\n[[ ## completed ## ]]"'}
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        prediction = dspy.Predict(Echo)(question="?", config={"n": 5, "metadata": {"grammar": grammar}})
    assert len(prediction.completions.answer) == 5
    assert all(answer.isalpha() for answer in prediction.completions.answer)
