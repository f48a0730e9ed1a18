"""Random arrivals, lengths, cancellations, deadlines, seeds and grammars; integrity is checked after every step.

`DSPY_TOOLKIT_SOAK=5000` makes it as long as a release wants.
"""

import json
import os
import random
import time

import mlx.core as mx
import pytest
from dspy.lm15 import Config, Message, Request, TimeoutError

from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.engine.options import EngineOptions

COUNT = int(os.environ.get("DSPY_TOOLKIT_SOAK", "120"))
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"enum": ["x", "y"]}}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
LARK = 'start: "[[ ## r ## ]]\\n" r "done ## ]]"\nr[suffix="\\n\\n[[ ## "]: /[^\\s\\[](.|\\n)*/'


def make(rng, number):
    config = {"max_tokens": rng.randint(1, 30), "temperature": rng.choice([0.0, 1.0]), "seed": rng.randint(0, 9)}
    shape = rng.choice(["free", "json", "chat", "stop"])
    metadata = {}
    if shape == "json":
        config["response_format"] = {"type": "json_schema", "schema": SCHEMA}
    elif shape == "chat":
        metadata["grammar"] = {"lark": LARK, "markers": ["\n\n[[ ## "]}
    elif shape == "stop":
        config["stop"] = ("e", "an")
    if rng.random() < 0.1:
        metadata["timeout"] = rng.random() * 0.05 + 1e-4
    system = f"You are program {rng.randint(0, 3)}. " * rng.choice([0, 3, 12])
    text = f"{'word ' * rng.randint(0, 25)} {rng.choice([number, 'same'])}"
    config["extensions"] = {"metadata": metadata} if metadata else None
    request = Request(model="m", messages=(Message.user(text),), system=system or None, config=Config(**config))
    return shape, request


def check(shape, sequence):
    if shape == "json":
        assert set(json.loads(sequence.text)) == {"a", "b"}
    elif shape == "chat":
        assert sequence.text.startswith("[[ ## r ## ]]\n")
        assert sequence.text.endswith("\n\n[[ ## done ## ]]")
    elif shape == "stop":
        assert "e" not in sequence.text
        assert "an" not in sequence.text


@pytest.mark.parametrize("kind", ["llama", "lfm2"])
def test_nothing_is_lost_doubled_or_leaked(tiny, kind):
    rng = random.Random(COUNT)
    bytes_per_token = 3 * 2 * 2 * 16 * 4
    with MLXEngine(
        tiny.load(kind),
        name="m",
        options=EngineOptions(check=True, max_rows=6, max_kv_bytes=1500 * bytes_per_token, prefill_chunk=40),
    ) as engine:
        engine.start()
        tickets, held = [], []
        for number in range(COUNT):
            # Every sixth asks again for what is likely to run still.
            again = tickets and rng.random() < 0.17
            shape, request = rng.choice(tickets[-4:])[:2] if again else make(rng, number)
            tickets.append((shape, request, engine.submit(request)))
            if rng.random() < 0.15:
                rng.choice(tickets)[2].cancel()
            if rng.random() < 0.3:
                time.sleep(rng.random() * 0.02)
            if number + 1 in (COUNT // 5, COUNT * 3 // 5, COUNT):
                while not all(ticket.future.done() for _, _, ticket in tickets):
                    time.sleep(0.001)
                held.append(mx.get_active_memory())
                print(kind, number + 1, f"requests, {held[-1]:,} bytes active, {mx.get_peak_memory():,} at most")
        outcomes = {"done": 0, "cancelled": 0, "late": 0}
        texts = {}
        for shape, request, ticket in tickets:
            if ticket.future.cancelled():
                outcomes["cancelled"] += 1
            elif (error := ticket.future.exception()) is not None:
                assert isinstance(error, TimeoutError), error
                outcomes["late"] += 1
            else:
                outcomes["done"] += 1
                check(shape, ticket.sequence)
                key = repr((request.messages, request.system, request.config))
                assert texts.setdefault(key, ticket.sequence.text) == ticket.sequence.text
        stats = engine.stats()
        print(kind, outcomes, stats)
        assert engine.health()["restarts"] == 0
    assert stats["submitted"] == COUNT == sum(outcomes.values())
    assert stats["finished"] == outcomes["done"]
    assert stats["guided_unfinished"] == 0
    assert outcomes["done"] > COUNT // 2
    assert stats["duplicates_joined"] > 0
    assert held[-1] <= held[0] + 2000 * bytes_per_token
