"""How many prompt tokens are computed, against the fewest possible: every distinct prefix of the prompts once.

Where states can be cut (attention), the engine stays within two hundredths of that. Snapshots of other models must be
taken before it is known where prompts will part, so they are taken where messages begin: what lies between there and
the fork is computed again for the first prompt.
"""

import string

import pytest
from dspy.lm15 import Config, Message, Request

from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.engine.options import EngineOptions
from dspy_toolkit_mlx.scheduling.prefix_tree import common

SYSTEM = "Your input fields are question and context. Your output field is answer. Be brief and correct. " * 9
FACTORS = {"llama": 1.02, "gemma3": 1.02, "mamba2": 1.03, "lfm2": 1.03}


def question(letter, demonstrations=""):
    """A call as DSPy makes it: its own words stand between a header and a closing sentence that never change."""
    turns = []
    for number, mark in enumerate(demonstrations):
        turns.append(Message.user(f"[[ ## question ## ]]\n{mark} is demonstration {number} of {demonstrations}?"))
        turns.append(Message.assistant(f"[[ ## answer ## ]]\n{mark}, of course.\n\n[[ ## completed ## ]]"))
    text = f"[[ ## question ## ]]\n{letter} is what, please?\n\nRespond with the corresponding output fields."
    return Request(
        model="m", messages=(*turns, Message.user(text)), system=SYSTEM, config=Config(max_tokens=4, temperature=1.0)
    )


def least(prompts):
    """Nodes of the prompts' trie: sorted, each adds what the one before does not begin with."""
    total, previous = 0, ()
    for prompt in sorted(prompts):
        total += len(prompt) - common(previous, prompt)
        previous = prompt
    return total


def run(engine, requests):
    tickets = [engine.submit(request) for request in requests]
    return [ticket.future.result().prompt for ticket in tickets]


def together(engine):
    return run(engine, [question(letter) for letter in string.ascii_letters])


def one_comes_first(engine):
    letters = string.ascii_letters
    return run(engine, [question(letters[0])]) + run(engine, [question(letter) for letter in letters[1:]])


def one_by_one(engine):
    return [prompt for letter in string.ascii_letters for prompt in run(engine, [question(letter)])]


def candidates_of_an_optimizer(engine):
    """Four sets of demonstrations, each tried on the same questions; the first question of each comes alone."""
    prompts = []
    for demonstrations in ("PQRS", "TUVW", "KLMN", "FGHI"):
        requests = [question(letter, demonstrations) for letter in string.ascii_lowercase]
        prompts += run(engine, requests[:1]) + run(engine, requests[1:])
    return prompts


@pytest.mark.parametrize("arrive", [together, one_comes_first, one_by_one, candidates_of_an_optimizer])
@pytest.mark.parametrize("kind", FACTORS)
def test_shared_prefixes_are_computed_about_once(tiny, kind, arrive):
    with MLXEngine(tiny.load(kind), name="m", options=EngineOptions(check=True)) as engine:
        engine.start()
        prompts = arrive(engine)
        stats = engine.stats()
    bound = least(prompts)
    assert stats["prefill_requested"] == sum(map(len, prompts)) > 4 * bound
    assert bound <= stats["prefill_computed"] <= FACTORS[kind] * bound
