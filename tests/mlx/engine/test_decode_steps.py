"""How many decode steps a cold burst takes, against the fewest possible.

A row takes one sampled token a step and each needs the one before, so a burst that fits among the rows takes at least
as many steps as its longest answer has sampled tokens; forced tokens add none. Where the burst is wider than the
rows, all its sampled tokens have to go through them. `test_grammar.py` has the other half: nothing is sampled that
the grammar forces.
"""

import importlib.util
import string
from pathlib import Path

import pytest
from dspy.lm15 import Config, Message, Request

from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.engine.options import EngineOptions

_spec = importlib.util.spec_from_file_location("bounds", Path(__file__).parents[3] / "benchmarks" / "bounds.py")
bounds = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bounds)

FACTOR = 1.1
SYSTEM = "Your input fields are question and context. Your output field is answer. Be brief and correct. " * 9
LARK = """start: "[[ ## why ## ]]\\n" why "label ## ]]\\n" label "\\n\\n[[ ## completed ## ]]"
label: "positive" | "negative" | "neutral"
why[suffix="\\n\\n[[ ## "]: /[^\\s\\[](.|\\n)*/
"""
GRAMMARS = {"free": None, "guided": {"metadata": {"grammar": {"lark": LARK, "markers": ["\n\n[[ ## "]}}}}


def burst(engine, grammar, count):
    """So many different calls behind one prefix, handed in before the first is begun; their sequences at the end."""
    requests = [
        Request(
            model="m",
            messages=(Message.user(f"{string.ascii_letters[number % 52]} {number}?"),),
            system=SYSTEM,
            config=Config(max_tokens=60 + number % 17, temperature=1.0, seed=number, extensions=grammar),
        )
        for number in range(count)
    ]
    tickets = [engine.submit(request) for request in requests]
    return [ticket.future.result() for ticket in tickets]


@pytest.mark.parametrize("grammar", GRAMMARS)
@pytest.mark.parametrize("kind", ["llama", "lfm2"])
@pytest.mark.parametrize(("count", "rows"), [(24, 32), (64, 8)])
def test_a_cold_burst_takes_about_the_fewest_steps(tiny, kind, grammar, count, rows):
    # The window is long so that it is the scheduler which is measured, not how fast this test hands requests in.
    with MLXEngine(tiny.load(kind), name="m", options=EngineOptions(max_rows=rows, burst_window=0.3)) as engine:
        engine.start()
        answers = burst(engine, GRAMMARS[grammar], count)
        stats = engine.stats()
    sampled = [answer.sampled for answer in answers]
    least = bounds.least_steps([[tokens] for tokens in sampled], callers=count, rows=rows)
    assert least == max(max(sampled), -(-sum(sampled) // rows))
    assert stats["tokens_sampled"] == sum(sampled)
    assert (stats["tokens_forced"] > 0) is (grammar == "guided")
    assert least <= stats["steps"] <= FACTOR * least, sorted(sampled)


def test_waiting_callers_start_calls_one_after_another():
    calls = [[11], [23], [10], [10], [11], [10], [10], [11]]
    assert bounds.least_steps(calls, callers=8, rows=64) == 23
    assert bounds.least_steps(calls, callers=4, rows=64) == 31  # 10 + 10 + 11 behind one another
    assert bounds.least_steps(calls, callers=1, rows=64) == 96
    assert bounds.least_steps([[5, 7], [3, 1]], callers=2, rows=64) == 7  # samples of one call run side by side
    assert bounds.least_steps([[5, 7], [3, 1]], callers=2, rows=2) == 8
