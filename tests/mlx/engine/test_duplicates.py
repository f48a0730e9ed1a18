"""Equal requests at temperature 0 share one row, each with its own cancellation, deadline, stream and usage."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from dspy.lm15 import Config, Message, Request

from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.engine.options import EngineOptions

MODEL = "mlx/tiny"


def ask(text, **config):
    return Request(model=MODEL, messages=(Message.user(text),), config=Config(**config))


@pytest.fixture
def engine(tiny):
    with MLXEngine(tiny.load("llama"), name=MODEL, options=EngineOptions(check=True)) as engine:
        engine.start()
        yield engine


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        time.sleep(0.001)
    assert condition()


def test_equal_requests_share_one_row_and_its_result(engine):
    request = ask("Who is it?", max_tokens=25, logprobs=2)
    alone = engine.complete(request)
    previous = engine.stats()
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(engine.complete, [request] * 16))
    after = engine.stats()
    assert {response.message.parts[0].text for response in responses} == {alone.message.parts[0].text}
    assert all(response.logprobs == alone.logprobs for response in responses)
    assert len({response.id for response in responses}) == 16
    assert {response.usage.output_tokens for response in responses} == {alone.usage.output_tokens}
    assert after["finished"] - previous["finished"] == 16
    joined = after["duplicates_joined"] - previous["duplicates_joined"]
    assert joined >= 8  # threads that come after the answer start a row of their own
    assert after["rows_stepped"] - previous["rows_stepped"] == (16 - joined) * previous["rows_stepped"]
    assert after["prefill_shared"] + after["prefill_computed"] == after["prefill_requested"]


def test_requests_that_differ_or_are_sampled_have_their_own_rows(engine):
    schema = {"type": "json_schema", "schema": {"type": "object", "properties": {}}}
    different = [
        ask("Same", max_tokens=9),
        ask("Same", max_tokens=10),
        ask("Same", max_tokens=9, stop=("e",)),
        ask("Same", max_tokens=9, logprobs=1),
        ask("Same", max_tokens=9, response_format=schema),
        ask("Same", max_tokens=9, extensions={"logit_bias": {"77": 5}}),
        ask("Same", max_tokens=9, extensions={"metadata": {"repetition_penalty": 1.5}}),
        ask("Same", max_tokens=9, temperature=1.0, seed=1),
        ask("Same", max_tokens=9, temperature=1.0, seed=1),
        ask("Other", max_tokens=9),
    ]
    for ticket in [engine.submit(request) for request in different]:
        ticket.future.result()
    assert engine.stats()["duplicates_joined"] == 0
    # A seed does not matter at temperature 0, nor does a deadline that is not reached.
    equal = [ask("Equal", max_tokens=60), ask("Equal", max_tokens=60, seed=4)]
    equal.append(ask("Equal", max_tokens=60, extensions={"metadata": {"timeout": 60}}))
    for ticket in [engine.submit(request) for request in equal]:
        ticket.future.result()
    assert engine.stats()["duplicates_joined"] == 2


def test_cancelling_one_and_the_deadline_of_another_leave_the_rest(engine):
    request = ask("Long", max_tokens=300)
    want = engine.submit(request).future.result()
    first = engine.submit(request)
    late = engine.submit(ask("Long", max_tokens=300, extensions={"metadata": {"timeout": 0.03}}))
    others = [engine.submit(request) for _ in range(3)]
    wait_for(lambda: engine.stats()["duplicates_joined"] == 4)
    first.cancel()
    others[0].cancel()
    assert isinstance(late.future.exception(), TimeoutError)
    for ticket in others[1:]:
        assert ticket.future.result().tokens == want.tokens
    assert first.future.cancelled()
    assert others[0].future.cancelled()
    stats = engine.stats()
    assert (stats["finished"], stats["cancelled"], stats["failed"]) == (3, 2, 1)
    assert stats["tokens_sampled"] == 2 * want.sampled


def test_the_row_ends_when_all_subscribers_have_cancelled(engine):
    request = ask("Abandoned", max_tokens=1500)
    tickets = [engine.submit(request) for _ in range(3)]
    wait_for(lambda: engine.stats()["steps"] > 3)
    for ticket in tickets:
        ticket.cancel()
    wait_for(lambda: all(ticket.future.cancelled() for ticket in tickets))
    steps = engine.stats()["steps"]
    assert steps < 1500
    engine.complete(ask("Another", max_tokens=1))
    assert engine.stats()["steps"] == steps + 1


def test_a_late_stream_begins_with_the_text_so_far(engine):
    request = ask("Stream", max_tokens=200)
    whole = engine.complete(request).message.parts[0].text
    early = engine.stream(request)
    received = [next(early), next(early), next(early)]
    late = engine.stream(request)
    assert next(late).type == "start"
    wait_for(lambda: engine.stats()["duplicates_joined"] == 1)
    texts = ["".join(e.delta.text for e in [*received, *early] if e.type == "delta")]
    texts.append("".join(e.delta.text for e in late if e.type == "delta"))
    assert texts == [whole, whole]


def test_closing_a_stream_does_not_touch_its_duplicate(engine):
    request = ask("Closed", max_tokens=120)
    whole = engine.complete(request).message.parts[0].text
    leader = engine.stream(request)
    next(leader)
    follower = engine.submit(request)
    wait_for(lambda: engine.stats()["duplicates_joined"] == 1)
    leader.close()
    assert follower.future.result().text == whole


def test_guided_duplicates_all_get_the_whole_record(engine):
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
    request = ask("Record", max_tokens=40, response_format={"type": "json_schema", "schema": schema})
    tickets = [engine.submit(request) for _ in range(5)]
    texts = {ticket.future.result().text for ticket in tickets}
    assert len(texts) == 1
    assert json.loads(texts.pop())["a"] in ("x", "y")
    stats = engine.stats()
    assert stats["guided"] == 5
    assert stats["guided_unfinished"] == 0
    assert stats["duplicates_joined"] >= 3


def test_a_failed_step_requeues_shared_rows_for_all_subscribers(tiny, tokenizer):
    (bad,) = tokenizer.encode("\u00dc", add_special_tokens=False)[:1]

    def load():
        model, tokenizer = tiny.load("llama")()
        kind = type(model)

        def call(self, inputs, cache=None, **kwargs):
            if cache is not None and bad in inputs.reshape(-1).tolist():
                raise RuntimeError("[matmul] bad")
            return kind.__call__(self, inputs, cache=cache, **kwargs)

        model.__class__ = type("Poisoned", (kind,), {"__call__": call})
        return model, tokenizer

    with MLXEngine(load, name=MODEL, options=EngineOptions(check=True)) as engine:
        request = ask("fine", max_tokens=150)
        want = engine.complete(request).message.parts[0].text
        pieces = []
        tickets = [engine.submit(request, emit=pieces.append), engine.submit(request)]
        guilty = [engine.submit(ask("\u00dc", max_tokens=5)) for _ in range(2)]
        assert [ticket.future.result().text for ticket in tickets] == [want, want]
        assert "".join(piece.text for piece in pieces) == want
        assert all("bad" in str(ticket.future.exception()) for ticket in guilty)
