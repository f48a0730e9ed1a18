"""How many decode steps a cold burst takes, against the fewest possible.

A row takes one sampled token a step and each needs the one before, so a burst that fits among the rows takes at least
as many steps as its longest answer has sampled tokens; forced tokens add none. Where the burst is wider than the
rows, all its sampled tokens have to go through them.
"""

import string

import numpy as np
import pytest
from dspy.lm15 import Config, Message, Request

from dspy_toolkit_mlx.engine import MLXEngine

FACTOR = 1.1
SYSTEM = "Your input fields are question and context. Your output field is answer. Be brief and correct. " * 9
GRAMMARS = {
    "free": None,
    "chat": 'start: "[[ ## why ## ]]\\n" why "label ## ]]\\n" label "\\n\\n[[ ## completed ## ]]"\n'
    'label: "positive" | "negative" | "neutral"\nwhy[suffix="\\n\\n[[ ## "]: /[^\\s\\[](.|\\n)*/',
}


def burst(engine, guide, count):
    """So many different calls behind one prefix, handed in before the first is begun; their sequences at the end."""
    grammar = {"metadata": {"grammar": {"lark": GRAMMARS[guide]}}} if GRAMMARS[guide] else None
    requests = [
        Request(
            model="m",
            messages=(Message.user(f"{string.ascii_letters[number % 52]} {number}?"),),
            system=SYSTEM,
            config=Config(max_tokens=30 + number % 7, temperature=1.0, seed=number, extensions=grammar),
        )
        for number in range(count)
    ]
    tickets = [engine.submit(request) for request in requests]
    return [ticket.future.result() for ticket in tickets]


@pytest.mark.parametrize("guide", GRAMMARS)
@pytest.mark.parametrize("kind", ["llama", "gemma3", "lfm2"])
@pytest.mark.parametrize(("count", "rows"), [(24, 32), (60, 6)])
def test_a_cold_burst_takes_about_the_fewest_steps(tiny, kind, guide, count, rows):
    # The window is long so that it is the scheduler which is measured, not how fast this test hands requests in.
    with MLXEngine(tiny.load(kind), name="m", check=True, max_rows=rows, burst_window=0.3) as engine:
        engine.start()
        answers = burst(engine, guide, count)
        stats = engine.stats()
    sampled = [answer.sampled for answer in answers]
    least = max(max(sampled), -(-sum(sampled) // rows))
    print(kind, guide, count, rows, stats["steps"], least, sorted(sampled), stats["tokens_forced"])
    assert stats["tokens_sampled"] == sum(sampled)
    assert least <= stats["steps"] <= FACTOR * least
