"""What is held for many rows behind one prefix: the prefix once, each row's own tokens, and little more."""

import string

import mlx.core as mx
import pytest
from dspy.lm15 import Config, Message, Request

from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.engine.options import EngineOptions

SYSTEM = "Your input fields are question and context. Your output field is answer. Be brief and correct. " * 27
WRITTEN = 50


def ask(letter):
    text = f"[[ ## question ## ]]\n{letter} is what?\n\nRespond with the corresponding output fields."
    config = Config(max_tokens=WRITTEN, temperature=1.0, seed=3)
    return Request(model="m", messages=(Message.user(text),), system=SYSTEM, config=config)


@pytest.mark.parametrize("start", [0, 1])
def test_32_rows_hold_a_prefix_of_1500_tokens_once(tiny, start):
    """Also after a first request alone, whose whole prompt was cached: it is cut, and evicted when memory is needed."""
    requests = [ask(letter) for letter in string.ascii_letters[: 32 + start]]
    with MLXEngine(tiny.load("llama"), name="m", options=EngineOptions(check=True)) as engine:
        engine.start()
        for request in requests[:start]:
            engine.submit(request).future.result()
        tickets = [engine.submit(request) for request in requests[start:]]
        prompts = [ticket.future.result().prompt for ticket in tickets]
        stats = engine.stats()
        per_token, _ = engine._ready()._runner.footprint()
    common = next(i for i, tokens in enumerate(zip(*prompts, strict=False)) if len(set(tokens)) > 1)
    assert common >= 1500
    own = sum(len(prompt) - common for prompt in prompts) + 32 * WRITTEN
    copied = start * (len(prompts[0]) * per_token)
    assert stats["width_peak"] == 32
    assert stats["kv_peak_bytes"] - copied <= 1.1 * (common + own) * per_token
    assert stats["kv_peak_bytes"] > (common + own // 2) * per_token


def test_a_cut_prefix_shares_the_memory_of_its_donor(tiny):
    from dspy_toolkit_mlx.runners.flat import FlatRunner

    runner = FlatRunner(tiny("llama"))
    state = runner.extend(None, [i % 400 for i in range(2000)])
    mx.eval(state)
    start = mx.get_active_memory()
    cut = runner.cut(state, 1900)
    mx.eval(cut)
    assert mx.get_active_memory() - start < 0.1 * runner.size(state)


def test_a_copied_part_of_a_prefix_does_not_keep_the_whole_alive(tiny):
    from dspy_toolkit_mlx.runners.flat import FlatRunner

    runner = FlatRunner(tiny("llama"))
    start = mx.get_active_memory()
    state = runner.extend(None, [i % 400 for i in range(2000)])
    mx.eval(state)
    size = runner.size(state)
    short = runner.cut(state, 200, True)
    del state
    mx.clear_cache()
    assert mx.get_active_memory() - start < 0.15 * size
    assert runner.size(short) == size // 10


def test_a_prefix_that_is_built_in_chunks_is_held_once_while_it_is_built(tiny):
    from dspy_toolkit_mlx.runners.base import state_arrays
    from dspy_toolkit_mlx.runners.flat import FlatRunner

    runner = FlatRunner(tiny("llama"))
    caches = runner.begin(None, 4000)
    runner.grow(caches, [7] * 10)
    mx.eval(state_arrays(caches))
    mx.clear_cache()
    held = mx.get_active_memory()
    for _ in range(3990 // 10):
        runner.grow(caches, [7] * 10)
        mx.eval(state_arrays(caches))
        assert mx.get_active_memory() - held < 0.1 * runner.size(runner.end(caches)) + 200_000
    state = runner.end(caches)
    assert all(keys.shape[2] == 4000 for keys, _ in state)
    mx.reset_peak_memory()
    whole = runner.extend(None, [7] * 4000)
    for (keys, values), (other_keys, other_values) in zip(state, whole, strict=True):
        assert mx.allclose(keys, other_keys, atol=1e-4)
        assert mx.allclose(values, other_values, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "lfm2"])
def test_rows_and_prefixes_stay_within_the_limit(tiny, kind):
    """Prompts of two programs, more rows than fit, answers of several lengths."""
    limit = 1_500_000
    with MLXEngine(
        tiny.load(kind), name="m", options=EngineOptions(check=True, max_rows=8, max_kv_bytes=limit)
    ) as engine:
        engine.start()
        tickets = []
        for index in range(40):
            system = SYSTEM[: 600 + 300 * (index % 2)]
            config = Config(max_tokens=10 + 20 * (index % 5), temperature=1.0, seed=index)
            message = Message.user(f"{string.ascii_letters[index]} is what?")
            tickets.append(engine.submit(Request(model="m", messages=(message,), system=system, config=config)))
        for ticket in tickets:
            ticket.future.result()
        stats = engine.stats()
    assert stats["finished"] == 40
    assert stats["width_peak"] > 1
    assert stats["kv_peak_bytes"] <= limit
