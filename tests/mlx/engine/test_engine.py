"""The engine as DSPy sees it, on tiny random models; mlx_lm is the oracle for what comes out."""

import asyncio
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dspy
import mlx.core as mx
import pytest
from dspy.lm15 import Config, ContextLengthError, InvalidRequestError, Message, Request, ServerError
from mlx_lm.generate import generate_step

from dspy_toolkit.errors import ModelError
from dspy_toolkit_mlx.engine.asynchronous import AsyncMLXEngine
from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.engine.options import EngineOptions

MODEL = "mlx/tiny"


def ask(text, *, system=None, **config):
    return Request(model=MODEL, messages=(Message.user(text),), system=system, config=Config(**config))


def expected(model, tokenizer, request, count):
    messages = [{"role": "system", "content": request.system}] if request.system else []
    messages += [{"role": m.role, "content": m.parts[0].text} for m in request.messages]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    out = []
    for token, _ in generate_step(mx.array(prompt), model, max_tokens=count):
        if token in tokenizer.eos_token_ids:
            break
        out.append(token)
    return prompt, out


@pytest.fixture(scope="module")
def engine(tiny):
    with MLXEngine(tiny.load("llama"), name=MODEL, options=EngineOptions(check=True)) as engine:
        yield engine


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "qwen3_moe", "gemma3", "mamba2", "lfm2"])
def test_greedy_tokens_equal_mlx_lm_alone_and_in_bursts(tiny, tokenizer, kind):
    system = "You answer questions about capitals. " * 8
    requests = [ask(f"{'Long ' * (i % 3 * 9)}question {i}?", system=system, max_tokens=6 + i) for i in range(10)]
    model = tiny(kind)
    oracle = [expected(model, tokenizer, r, r.config.max_tokens) for r in requests]
    with MLXEngine(
        tiny.load(kind), name=MODEL, options=EngineOptions(check=True, max_rows=4, prefill_chunk=48)
    ) as engine:
        alone = engine.submit(requests[0]).future.result()
        tickets = [engine.submit(request) for request in requests]
        together = [ticket.future.result() for ticket in tickets]
        stats = engine.stats()
    assert [list(s.prompt) for s in together] == [prompt for prompt, _ in oracle]
    assert [s.tokens for s in together] == [tokens for _, tokens in oracle]
    assert alone.tokens == oracle[0][1]
    assert stats["width_peak"] == 4
    assert stats["prefill_shared"] > 0.4 * stats["prefill_requested"]
    assert stats["prefill_shared"] + stats["prefill_computed"] == stats["prefill_requested"]


def test_usage_finish_reason_and_text(engine, tiny, tokenizer):
    request = ask("What is the capital of Peru?", max_tokens=12)
    response = engine.complete(request)
    prompt, tokens = expected(tiny("llama"), tokenizer, request, 12)
    assert response.usage.input_tokens == len(prompt)
    assert response.usage.output_tokens == len(tokens)
    assert response.finish_reason == ("length" if len(tokens) == 12 else "stop")
    assert response.message.parts[0].text == tokenizer.decode(tokens, skip_special_tokens=True)


def test_a_stop_string_ends_the_answer_and_is_not_in_it(engine):
    whole = engine.complete(ask("Tell me more", max_tokens=40)).message.parts[0].text
    stop = whole[10:14]
    request = ask("Tell me more", max_tokens=40, stop=(stop,))
    response = engine.complete(request)
    assert response.message.parts[0].text == whole[: whole.index(stop)]
    assert response.finish_reason == "stop"
    streamed = "".join(e.delta.text for e in engine.stream(request) if e.type == "delta")
    assert streamed == whole[: whole.index(stop)]


def test_a_stream_has_one_start_one_end_and_the_same_text(engine):
    request = ask("Stream this", max_tokens=30)
    events = list(engine.stream(request))
    assert [e.type for e in events if e.type != "delta"] == ["start", "end"]
    assert events[0].type == "start"
    assert events[-1].type == "end"
    whole = engine.complete(request)
    assert "".join(e.delta.text for e in events[1:-1]) == whole.message.parts[0].text
    assert events[-1].usage.output_tokens == whole.usage.output_tokens
    assert events[-1].finish_reason == whole.finish_reason


def test_seeds_repeat_alone_and_among_others(engine):
    def text(seed):
        request = ask("Sample this", max_tokens=24, temperature=1.0, seed=seed)
        return engine.complete(request).message.parts[0].text

    alone = [text(seed) for seed in range(8)]
    assert len(set(alone)) > 4
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(text, range(8))) == alone


@pytest.mark.parametrize(
    "config",
    [
        {"top_k": 1, "temperature": 1.0},
        {"top_p": 1e-6, "temperature": 1.0},
        {"metadata": {"min_p": "1.0"}, "temperature": 1.0},
    ],
)
def test_truncations_to_one_token_are_greedy(engine, config):
    metadata = config.pop("metadata", None)
    extensions = {"metadata": metadata} if metadata else None
    greedy = engine.complete(ask("Truncate", max_tokens=15))
    cut = engine.complete(ask("Truncate", max_tokens=15, extensions=extensions, **config))
    assert cut.message == greedy.message


def test_repetition_penalty_equals_mlx_lm(engine, tiny, tokenizer):
    from mlx_lm.sample_utils import make_logits_processors

    request = ask("Again and again", max_tokens=20, extensions={"metadata": {"repetition_penalty": 1.5}})
    sequence = engine.submit(request).future.result()
    processors = make_logits_processors(repetition_penalty=1.5, repetition_context_size=20)
    steps = generate_step(mx.array(sequence.prompt), tiny("llama"), max_tokens=20, logits_processors=processors)
    tokens = [token for token, _ in steps]
    assert sequence.tokens == tokens[: len(sequence.tokens)]
    assert len(sequence.tokens) == 20 or tokens[len(sequence.tokens)] in tokenizer.eos_token_ids


def test_logit_bias_forces_and_forbids(engine):
    free = engine.submit(ask("Bias", max_tokens=5)).future.result().tokens
    banned = engine.submit(ask("Bias", max_tokens=5, extensions={"logit_bias": {str(free[0]): -100}}))
    assert banned.future.result().tokens[0] != free[0]
    forced = engine.submit(ask("Bias", max_tokens=5, extensions={"logit_bias": {"77": 100}}))
    assert forced.future.result().tokens == [77] * 5


def test_logprobs_are_those_of_the_model(engine, tiny):
    ticket = engine.submit(ask("Logprobs", max_tokens=4, logprobs=3))
    sequence = ticket.future.result()
    logits = tiny("llama")(mx.array([[*sequence.prompt, *sequence.tokens[:-1]]]))[0, len(sequence.prompt) - 1 :]
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    for position, choice in enumerate(sequence.choices):
        assert choice.logprob == pytest.approx(logprobs[position, choice.token].item(), abs=1e-3)
        best = mx.argsort(-logprobs[position])[:3].tolist()
        assert [token for token, _ in choice.top] == best
    response = engine.complete(ask("Logprobs", max_tokens=4, logprobs=3))
    assert len(response.logprobs) == len(sequence.tokens)
    assert [len(entry.top) for entry in response.logprobs] == [3] * len(sequence.tokens)


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["a", "b"]},
        "count": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "kind", "count", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budget", [8, 40, 200])
def test_json_schema_holds_for_random_weights_and_any_budget(engine, seed, budget):
    request = ask(
        "Make one",
        max_tokens=budget,
        temperature=1.0,
        seed=seed,
        response_format={"type": "json_schema", "schema": SCHEMA, "name": "thing"},
    )
    answer = json.loads(engine.complete(request).message.parts[0].text)
    assert set(answer) == {"name", "kind", "count", "tags"}
    assert answer["kind"] in ("a", "b")
    assert isinstance(answer["count"], int)
    assert all(isinstance(tag, str) for tag in answer["tags"])


def test_json_object(engine):
    request = ask("Any object", max_tokens=60, temperature=1.0, seed=3, response_format={"type": "json_object"})
    assert isinstance(json.loads(engine.complete(request).message.parts[0].text), dict)


LARK = r"""
start: "[[ ## reasoning ## ]]\n" reasoning " ## label ## ]]\n" label "\n\n[[ ## completed ## ]]"
reasoning[capture, suffix="\n\n[["]: /[^\s\[](.|\n)*/
label[capture]: "positive" | "negative"
"""
MINIMAL = "[[ ## reasoning ## ]]\nx\n\n[[ ## label ## ]]\npositive\n\n[[ ## completed ## ]]"


@pytest.mark.parametrize("budget", [10, 90, 160])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_lark_grammar_holds_for_random_weights_and_any_budget(engine, budget, temperature):
    grammar = {"lark": LARK, "minimal": MINIMAL, "markers": ["\n\n[["]}
    tickets = [
        engine.submit(
            ask(f"Judge {i}", max_tokens=budget, temperature=temperature, seed=i,
                extensions={"metadata": {"grammar": grammar}})
        )
        for i in range(6)
    ]  # fmt: skip
    for ticket in tickets:
        sequence = ticket.future.result()
        text = sequence.text
        assert text.startswith("[[ ## reasoning ## ]]\n")
        assert text.endswith("\n\n[[ ## completed ## ]]")
        assert text.split("[[ ## label ## ]]\n")[1].split("\n")[0] in ("positive", "negative")
        assert sequence.forced > 10
    assert engine.stats()["guided_unfinished"] == 0


def test_forced_tokens_at_the_end_are_never_computed(engine):
    earlier = engine.stats()
    grammar = {"lark": 'start: "abc" ("x" | "y") " and then a long forced ending that nobody samples"'}
    sequence = engine.submit(ask("End", extensions={"metadata": {"grammar": grammar}})).future.result()
    after = engine.stats()
    assert sequence.text in [f"abc{c} and then a long forced ending that nobody samples" for c in "xy"]
    assert sequence.sampled == 1
    assert after["steps"] - earlier["steps"] == 1
    assert after["forced_computed"] - earlier["forced_computed"] <= 3


def test_entirely_forced_answers_run_among_others(engine):
    def kind(i):
        forced = {"metadata": {"grammar": {"lark": 'start: "no choice at all"'}}}
        return ask(f"Number {i}", max_tokens=12, temperature=1.0, seed=i, extensions=forced if i % 3 else None)

    alone = [engine.submit(kind(i)).future.result().text for i in range(40)]
    tickets = [engine.submit(kind(i)) for i in range(40)]
    assert [ticket.future.result().text for ticket in tickets] == alone
    assert alone[1] == "no choice at all"


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"extensions": {"metadata": {"min_q": 1}}}, "'min_q'.*'min_p'"),
        ({"extensions": {"metadata": {"min_p": 7}}}, "'min_p' is 7"),
        ({"extensions": {"verbosity": "low"}}, "'verbosity'"),
        ({"extensions": {"metadata": {"grammar": {"lark": "start: undefined"}}}}, "does not compile"),
        ({"extensions": {"logit_bias": {"99999": 1}}}, "99999"),
    ],
)
def test_bad_options_are_named_before_any_token(engine, config, match):
    earlier = engine.stats()["steps"]
    with pytest.raises(InvalidRequestError, match=match):
        engine.complete(ask("No", **config))
    assert engine.stats()["steps"] == earlier


def test_an_overlong_prompt_is_refused_with_the_size_of_each_part(tiny):
    with MLXEngine(tiny.load("llama"), name=MODEL, options=EngineOptions(max_context=100)) as engine:
        messages = (Message.user("demo " * 30), Message.assistant("yes"), Message.user("input " * 20))
        with pytest.raises(ContextLengthError, match=r"has \d+ tokens.* has 100 .*System message: \d+.*input: \d+"):
            engine.complete(Request(model=MODEL, messages=messages, system="system " * 20))


def test_a_loader_that_fails_is_reported_to_every_caller():
    def load():
        raise FileNotFoundError("model.safetensors is missing")

    engine = MLXEngine(load, name=MODEL)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"mlx/tiny cannot be loaded: model.safetensors is missing"):
            engine.start()
    engine.close()


def test_after_close_requests_are_refused_and_memory_is_back(tiny):
    mx.clear_cache()
    earlier = mx.get_active_memory()
    engine = MLXEngine(tiny.load("llama"), name=MODEL)
    engine.complete(ask("Once", max_tokens=3))
    engine.close()
    assert mx.get_active_memory() <= earlier + 64  # a random key of MLX's own
    with pytest.raises(ServerError, match="closed"):
        engine.complete(ask("Twice"))
    assert engine.health()["closed"]


def test_close_fails_open_requests(tiny):
    engine = MLXEngine(tiny.load("llama"), name=MODEL, options=EngineOptions(max_rows=1))
    tickets = [engine.submit(ask(f"wait {i}", max_tokens=400)) for i in range(5)]
    engine.close()
    outcomes = [ticket.future.exception() for ticket in tickets]
    assert all(error is None or isinstance(error, ServerError) for error in outcomes)
    assert any(isinstance(error, ServerError) for error in outcomes)


def test_cancelled_requests_end_within_a_step_and_do_not_touch_others(engine):
    one, two = ask("one", max_tokens=2000), ask("two", max_tokens=60)
    alone = engine.complete(two).message
    doomed, other = engine.submit(one), engine.submit(two)
    doomed.cancel()
    assert other.future.result().text == alone.parts[0].text
    assert doomed.future.cancelled()
    assert len(doomed.sequence.tokens) < 2000


def test_a_deadline_ends_a_request(engine):
    late = engine.submit(ask("late", max_tokens=2000, extensions={"metadata": {"timeout": 0.02}}))
    assert isinstance(late.future.exception(), TimeoutError)


def test_the_asynchronous_engine(engine):
    asynchronous = AsyncMLXEngine(engine)
    requests = [ask(f"async {i}", max_tokens=10) for i in range(5)]
    alone = [engine.complete(request).message for request in requests]

    async def gather():
        responses = await asyncio.gather(*(asynchronous.complete(request) for request in requests))
        events = [event async for event in asynchronous.stream(requests[0])]
        task = asyncio.create_task(asynchronous.complete(ask("cancel me", max_tokens=2000)))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return responses, events

    responses, events = asyncio.run(gather())
    assert [response.message for response in responses] == alone
    assert "".join(e.delta.text for e in events if e.type == "delta") == alone[0].parts[0].text
    assert [e.type for e in events if e.type != "delta"] == ["start", "end"]


def test_dspy_uses_the_engine(engine):
    lm = dspy.LM(MODEL, engine=engine, async_engine=AsyncMLXEngine(engine), cache=False, max_tokens=10)
    assert len(lm("Hello")) == 1
    with pytest.raises(dspy.LMInvalidRequestError, match="min_q"):
        lm("Hello", metadata={"min_q": "1"})


def test_engine_threads_end(tiny):
    def names():
        return [thread.name for thread in threading.enumerate()]

    with MLXEngine(tiny.load("llama"), name="mlx/one-thread") as engine:
        engine.start()
        assert "mlx-engine-mlx/one-thread" in names()
    assert "mlx-engine-mlx/one-thread" not in names()


@pytest.mark.parametrize("ending", ["engine.close()", "pass"])
def test_an_interpreter_ends_cleanly_with_or_without_close(ending):
    code = (
        "import sys, importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('tiny', {str(Path(__file__).parents[1] / 'conftest.py')!r})\n"
        "tiny = importlib.util.module_from_spec(spec); spec.loader.exec_module(tiny)\n"
        "from dspy.lm15 import Config, Message, Request\n"
        "from dspy_toolkit_mlx.engine.engine import MLXEngine\n"
        "engine = MLXEngine(lambda: (tiny.make_model('llama'), tiny.make_tokenizer()), name='m')\n"
        "request = Request(model='m', messages=(Message.user('hi'),), config=Config(max_tokens=3))\n"
        "print(engine.complete(request).usage.output_tokens)\n"
        f"{ending}\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-500:]
    assert int(ended.stdout) == 3


def test_tokens_are_counted_as_they_are_sent(engine):
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "?"}]}]
    sent = engine.complete(ask("?", system="be brief", max_tokens=3))
    assert engine.count_tokens(messages) == sent.usage.input_tokens
    assert engine.context_length > sent.usage.total_tokens
