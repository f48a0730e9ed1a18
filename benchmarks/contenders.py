"""The ways to run a DSPy program on a local model that the engine benchmark compares."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import dspy
from bounds import least_steps
from dspy.lm15 import Message, Request, Response, TextPart, Usage
from job import Job, Outcome, run_program
from servers import llama_server, mlx_server

from dspy_toolkit_mlx.models.resolve import ResolvedModel, load
from dspy_toolkit_mlx.scheduling.sequence import Sequence

__all__ = ["CONTENDERS"]


# Ours


def ours(job: Job) -> Outcome:
    """The engine of dspy-toolkit-mlx, cold: nothing of the workload has been seen before."""
    from dspy_toolkit_mlx.engine.asynchronous import AsyncMLXEngine
    from dspy_toolkit_mlx.engine.engine import MLXEngine
    from dspy_toolkit_mlx.engine.ticket import Ticket
    from dspy_toolkit_mlx.lm import MLXLM

    calls: list[list[Ticket]] = []

    class Watched(MLXEngine):
        """Keeps the tickets: their sequences know what was sampled for each."""

        def submit_all(self, *arguments: Any, **options: Any) -> list[Ticket]:
            tickets = super().submit_all(*arguments, **options)
            calls.append([*tickets])  # the burst takes its own list apart
            return tickets

    outcome = Outcome()
    with Watched(partial(load, job.model), name=job.model.name) as engine:
        lm = MLXLM(job.model.name, engine=engine, async_engine=AsyncMLXEngine(engine), cache=False)
        # Compiles nothing of the workload: one word, then what was counted so far is taken off.
        lm("Hi", max_tokens=1)
        calls.clear()
        start = engine.stats()
        run_program(job, lm, job.workload.guided(), n_at_once=True, outcome=outcome)
        after = engine.stats()
    counted = {
        name: value - start[name] for name, value in after.items() if type(value) is int and type(start[name]) is int
    }
    outcome.stats = after
    outcome.prompt_tokens = counted["prefill_requested"]
    outcome.prefill_computed = counted["prefill_computed"]
    outcome.output_tokens = counted["tokens_sampled"] + counted["tokens_forced"]
    outcome.steps = counted["steps"]
    outcome.sampled = [[_sampled(ticket.sequence) for ticket in call] for call in calls]
    outcome.least_steps = least_steps(outcome.sampled, job.threads, after["width_limit"])
    outcome.stats |= {"tokens_sampled": counted["tokens_sampled"], "forced_computed": counted["forced_computed"]}
    return outcome


def _sampled(sequence: Sequence) -> int:
    """The steps that a request needed: none if it rode on an equal one's row, which its whole prompt came from."""
    return 0 if sequence.cached_tokens == len(sequence.prompt) else sequence.sampled


# (a) a lock


class SerialEngine:
    """`mlx_lm.generate`, one request at a time; on one thread instead of behind a lock, to which MLX streams belong."""

    supported_params = ("temperature", "max_tokens", "seed")

    def __init__(self, resolved: ResolvedModel):
        self._thread = ThreadPoolExecutor(1)
        self._model, self._tokenizer = self._thread.submit(load, resolved).result()
        self.read = self.written = 0

    def complete(self, request: Request) -> Response:
        return self._thread.submit(self._generate, request).result()

    def _generate(self, request: Request) -> Response:
        import mlx.core as mx
        from mlx_lm import stream_generate
        from mlx_lm.sample_utils import make_sampler

        if request.config.seed is not None:
            mx.random.seed(request.config.seed)
        prompt = self._tokenizer.apply_chat_template(_messages(request), add_generation_prompt=True)
        sampler = make_sampler(temp=request.config.temperature or 0.0)
        limit = request.config.max_tokens or 256
        steps = list(stream_generate(self._model, self._tokenizer, prompt, max_tokens=limit, sampler=sampler))
        self.read += len(prompt)
        self.written += len(steps)
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([TextPart("".join(step.text for step in steps))]),
            finish_reason="stop" if steps[-1].finish_reason == "stop" else "length",
            usage=Usage(input_tokens=len(prompt), output_tokens=len(steps)),
        )

    def close(self) -> None:
        self._thread.shutdown()


def _messages(request: Request) -> list[dict[str, str]]:
    texts = [(message.role, "".join(part.text for part in message.parts)) for message in request.messages]
    system = request.system if isinstance(request.system, str) else "".join(part.text for part in request.system or ())
    return [{"role": role, "content": text} for role, text in [("system", system), *texts] if text]


def lock(job: Job) -> Outcome:
    """A lock around mlx_lm.generate."""
    outcome = Outcome()
    engine = SerialEngine(job.model)
    lm = dspy.LM(job.model.name, engine=engine, cache=False)
    run_program(job, lm, job.workload.adapter(), n_at_once=False, outcome=outcome)
    engine.close()
    outcome.prompt_tokens = outcome.prefill_computed = engine.read
    outcome.output_tokens = outcome.steps = engine.written
    return outcome


# (c) BatchGenerator


def batch_generator(job: Job) -> Outcome:
    """mlx_lm.BatchGenerator with every prompt inserted at once: no threads, no waiting, no seeds per row."""
    outcome = Outcome()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            _batch(job, outcome)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return outcome


def _batch(job: Job, outcome: Outcome) -> None:
    from mlx_lm.generate import BatchGenerator
    from mlx_lm.sample_utils import make_sampler

    model, tokenizer = load(job.model)
    adapter, program = job.workload.adapter(), job.workload.program(job.demonstrations)
    started = time.perf_counter()
    work, prompts = [], []
    for example in job.workload.inputs(job.calls):
        messages = adapter.format(program.signature, program.demos, dict(example.inputs()))
        work += [example] * job.workload.samples
        prompts += [tokenizer.apply_chat_template(messages, add_generation_prompt=True)] * job.workload.samples
    generator = BatchGenerator(
        model,
        stop_tokens=[[token] for token in tokenizer.eos_token_ids],
        sampler=make_sampler(temp=job.workload.temperature),
        max_tokens=job.max_tokens,
        completion_batch_size=job.threads,
    )
    written: dict[int, list[int]] = {uid: [] for uid in generator.insert(prompts)}
    outcome.steps = outcome.output_tokens = 0
    while replies := generator.next_generated():
        outcome.steps += 1
        for reply in replies:
            outcome.output_tokens += 1
            if reply.finish_reason != "stop":
                written[reply.uid].append(reply.token)
    generator.close()
    for example, tokens in zip(work, written.values(), strict=True):
        try:
            answer: Any = dspy.Prediction(**adapter.parse(program.signature, tokenizer.decode(tokens)))
        except Exception as error:  # noqa: BLE001 - an answer that does not parse, of whatever kind, is a result
            answer = error
        outcome.take(example, answer)
    outcome.seconds = time.perf_counter() - started
    outcome.prompt_tokens = outcome.prefill_computed = sum(len(prompt) for prompt in prompts)


CONTENDERS: dict[str, Callable[[Job], Outcome | None]] = {
    "ours": ours,
    "lock": lock,
    "server": mlx_server,
    "batch": batch_generator,
    "llama": llama_server,
}
