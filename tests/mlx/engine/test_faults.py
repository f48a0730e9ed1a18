"""What happens when something breaks: a step, the thread, memory, a model that batches wrongly."""

import logging
import time

import mlx.core as mx
import pytest
from dspy.lm15 import Config, InvalidRequestError, Message, Request, ServerError

from dspy_toolkit.errors import ModelError
from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.engine.options import EngineOptions

MODEL = "mlx/tiny"


def ask(text, **config):
    return Request(model=MODEL, messages=(Message.user(text),), config=Config(**config))


class Poison(BaseException):
    """Not an Exception: kills a thread that does not expect it."""


def poisoned(tiny, tokenizer, error):
    """A loader of a model that raises `error` whenever it sees a token of the word 'Übergrößen'."""
    (bad,) = tokenizer.encode("Ü", add_special_tokens=False)[:1]

    def load():
        model, tokenizer = tiny.load("llama")()

        def call(self, inputs, cache=None, **kwargs):
            if cache is not None and bad in inputs.reshape(-1).tolist():
                raise error
            return kind.__call__(self, inputs, cache=cache, **kwargs)

        kind = type(model)
        model.__class__ = type("Poisoned", (kind,), {"__call__": call})
        return model, tokenizer

    return load


def test_a_failing_step_fails_only_the_request_that_causes_it(tiny, tokenizer):
    fine = [ask(f"question {i}", max_tokens=12) for i in range(6)]
    with MLXEngine(tiny.load("llama"), name=MODEL) as engine:
        want = [engine.complete(request).message for request in fine]
    load = poisoned(tiny, tokenizer, RuntimeError("[matmul] bad"))
    with MLXEngine(load, name=MODEL, options=EngineOptions(check=True)) as engine:
        engine.start()
        tickets = [engine.submit(request) for request in fine[:3]]
        # Short enough to join with its whole prompt, so that it breaks a step over all rows.
        guilty = engine.submit(ask("Ü", max_tokens=12))
        tickets += [engine.submit(request) for request in fine[3:]]
        assert [ticket.future.result().text for ticket in tickets] == [message.parts[0].text for message in want]
        with pytest.raises(ServerError, match="bad"):
            guilty.future.result()
        assert engine.complete(fine[0]).message == want[0]
        assert engine.stats()["failed"] == 1


def test_a_failed_engine_thread_fails_its_callers_and_restarts_once(tiny, tokenizer):
    engine = MLXEngine(poisoned(tiny, tokenizer, Poison("the device is gone")), name=MODEL)
    want = engine.complete(ask("fine", max_tokens=5)).message
    waiting = engine.submit(ask("wait", max_tokens=1000))
    with pytest.raises(ServerError, match="device is gone"):
        engine.complete(ask("Übergrößen"))
    with pytest.raises(ServerError, match="stopped"):
        waiting.future.result()
    assert engine.complete(ask("fine", max_tokens=5)).message == want
    assert engine.health() == {"alive": True, "loaded": True, "closed": False, "restarts": 1, "error": None}
    with pytest.raises(ServerError, match="device is gone"):
        engine.complete(ask("Übergrößen"))
    with pytest.raises(ServerError, match="device is gone"):
        engine.complete(ask("fine"))
    assert not engine.health()["alive"]
    assert "device is gone" in engine.health()["error"]
    engine.close()


def test_an_idle_engine_unloads_and_loads_again(tiny):
    loads = []

    def load():
        loaded = tiny.load("llama")()
        loads.append(mx.get_active_memory())  # in the engine's own thread: nothing is unloaded yet
        return loaded

    def given_back():
        return not engine.health()["loaded"] and mx.get_active_memory() < loads[0]

    with MLXEngine(load, name=MODEL, options=EngineOptions(idle_seconds=0.1)) as engine:
        want = engine.complete(ask("once", max_tokens=5)).message
        until = time.monotonic() + 60
        while not given_back() and time.monotonic() < until:
            time.sleep(0.02)
        assert given_back()
        assert engine.complete(ask("once", max_tokens=5)).message == want
    assert len(loads) == 2


def test_a_request_that_can_never_fit_is_refused_and_the_others_take_turns(tiny):
    per_token = 3 * 2 * 2 * 16 * 4
    with MLXEngine(
        tiny.load("llama"), name=MODEL, options=EngineOptions(max_kv_bytes=200 * per_token, check=True)
    ) as engine:
        with pytest.raises(InvalidRequestError, match="do not fit"):
            engine.complete(ask("too much", max_tokens=400))
        tickets = [engine.submit(ask(f"request {i}", max_tokens=60)) for i in range(8)]
        assert all(ticket.future.result().finished for ticket in tickets)
        assert 1 < engine.stats()["width_peak"] < 4


def test_a_model_without_a_chat_template_says_what_to_do(tiny):
    def load():
        model, tokenizer = tiny.load("llama")()
        tokenizer.has_chat_template = False
        return model, tokenizer

    with MLXEngine(load, name=MODEL) as engine, pytest.raises(ModelError, match=r"mlx/tiny .*chat template"):
        engine.start()


def off_by_row(model):
    """Make a model that is right for one row and wrong for the second of several, as broken batch kernels are."""
    kind = type(model.model)

    def call(self, inputs, *args, **kwargs):
        out = kind.__call__(self, inputs, *args, **kwargs)
        return out if out.shape[0] == 1 else mx.concatenate([out[:1], out[1:] * 0.5 + 1])

    model.model.__class__ = type("Broken", (kind,), {"__call__": call})
    return model


def test_a_model_that_fails_the_parity_check_runs_one_row_at_a_time_with_a_warning(tiny, caplog):
    def load():
        model, tokenizer = tiny.load("llama")()
        return off_by_row(model), tokenizer

    requests = [ask(f"question {i}", max_tokens=6) for i in range(4)]
    with MLXEngine(tiny.load("llama"), name=MODEL) as engine:
        want = [engine.complete(request).message.parts[0].text for request in requests]
    with caplog.at_level(logging.WARNING), MLXEngine(load, name=MODEL) as engine:
        tickets = [engine.submit(request) for request in requests]
        assert [ticket.future.result().text for ticket in tickets] == want
        assert engine.stats()["width_limit"] == 1
        assert engine.stats()["width_peak"] == 1
    assert "one request at a time" in caplog.text


def test_the_deterministic_mode_runs_one_row_at_a_time(tiny):
    with MLXEngine(tiny.load("llama"), name=MODEL, options=EngineOptions(deterministic=True)) as engine:
        tickets = [engine.submit(ask(f"question {i}", max_tokens=6)) for i in range(4)]
        for ticket in tickets:
            ticket.future.result()
        assert engine.stats()["width_peak"] == 1


@pytest.mark.parametrize("kind", ["llama", "gemma3", "lfm2"])
@pytest.mark.parametrize("together", [True, False])
def test_nan_fails_its_own_request_and_no_other(tiny, tokenizer, kind, together):
    """The embedding of one token is NaN; the next request in that row's slot gets the same answer as without it."""
    (bad,) = tokenizer.encode("Ü", add_special_tokens=False)[:1]

    def load():
        model, tokenizer = tiny.load(kind)()
        embedding = model.model.embed_tokens
        plain = type(embedding)

        def call(self, inputs):
            return mx.where((inputs == bad)[..., None], float("nan"), plain.__call__(self, inputs))

        embedding.__class__ = type("Poisoned", (plain,), {"__call__": call})
        return model, tokenizer

    def ask_once(text):
        bias = {"metadata": {"logit_bias": {str(bad): -100}}}
        return ask(text, max_tokens=8, extensions=None if text == "Ü" else bias)

    texts = [f"question {i} " + "word " * (40 * (i % 2)) for i in range(4)]
    with MLXEngine(load, name=MODEL, options=EngineOptions(check=True)) as engine:
        expected = [engine.complete(ask_once(text)).message.parts[0].text for text in texts]
        running = [engine.submit(ask_once(text)) for text in texts] if together else []
        for _ in range(3):
            with pytest.raises(ServerError, match="NaN"):
                engine.complete(ask_once("Ü"))
            assert [engine.complete(ask_once(text)).message.parts[0].text for text in texts] == expected
        assert [ticket.future.result().text for ticket in running] == expected[: len(running)]
