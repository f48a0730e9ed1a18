"""The ways to run a DSPy program on a local model that the engine benchmark compares."""

import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import dspy
from bounds import least_steps
from dspy.lm15 import Message, Request, Response, TextPart, Usage
from workloads import Workload

from dspy_toolkit.blas import blas_in_use
from dspy_toolkit_mlx.models import ALIASES, ResolvedModel, load
from dspy_toolkit_mlx.sequence import Sequence

__all__ = ["CONTENDERS", "Job", "Outcome"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One workload on one model, with the sizes of this run. `directory` holds the weights in float32."""

    workload: Workload
    model: ResolvedModel
    directory: Path
    calls: int
    threads: int
    demonstrations: int
    max_tokens: int


@dataclass
class Outcome:
    """What came out. Tokens are None where a contender does not tell.

    `sampled` has each call's sampled tokens, sample by sample, in the order of the calls; `least_steps` is what they
    leave to an engine with as many rows.
    """

    seconds: float = 0.0
    calls: int = 0
    parsed: int = 0
    right: int = 0
    prompt_tokens: int | None = None
    prefill_computed: int | None = None
    output_tokens: int | None = None
    steps: int | None = None
    least_steps: int | None = None
    sampled: list[list[int]] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)

    def take(self, example: dspy.Example, answer: Any) -> None:
        """Count one answer: a Prediction, or whatever a failed call gave instead."""
        self.calls += 1
        if isinstance(answer, dspy.Prediction):
            self.parsed += 1
            self.right += answer.label == example.label


def run_program(job: Job, lm: dspy.LM, adapter: dspy.Adapter, *, n_at_once: bool, outcome: Outcome) -> None:
    """The program on all examples from a pool of threads, as dspy.Evaluate does. Fills in `outcome`.

    Where `n_at_once`, an example's samples are one call with `n`; elsewhere they are calls with seeds of their own,
    since a repeated seed would only repeat the sample.
    """
    program = job.workload.program(job.demonstrations)
    samples, temperature = job.workload.samples, job.workload.temperature
    options: dict[str, Any] = {"max_tokens": job.max_tokens, "temperature": temperature}
    work: list[tuple[dspy.Example, dict[str, Any]]] = []
    for example in job.workload.inputs(job.calls):
        if samples == 1:
            work.append((example, options))
        elif n_at_once:
            work.append((example, {**options, "n": samples, "seed": 1}))
        else:
            work += [(example, {**options, "seed": seed}) for seed in range(1, samples + 1)]

    def call(item: tuple[dspy.Example, dict[str, Any]]) -> Any:
        with dspy.context(lm=lm, adapter=adapter):
            try:
                return program(**item[0].inputs(), config=item[1])
            except Exception as error:  # noqa: BLE001 - a contender's failure, of whatever kind, is a result
                return error

    started = time.perf_counter()
    with ThreadPoolExecutor(job.threads) as pool:
        answers = list(pool.map(call, work))
    outcome.seconds = time.perf_counter() - started
    for (example, config), answer in zip(work, answers, strict=True):
        if not isinstance(answer, dspy.Prediction):
            for _ in range(config.get("n", 1)):
                outcome.take(example, answer)
            continue
        completions = answer.completions
        for index in range(len(completions)):
            outcome.take(example, completions[index])


# Ours


def ours(job: Job) -> Outcome:
    """The engine of dspy-toolkit-mlx, cold: nothing of the workload has been seen before."""
    from dspy_toolkit_mlx.engine import AsyncMLXEngine, MLXEngine
    from dspy_toolkit_mlx.lm import MLXLM
    from dspy_toolkit_mlx.ticket import Ticket

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
        before = engine.stats()
        run_program(job, lm, job.workload.guided(), n_at_once=True, outcome=outcome)
        after = engine.stats()
    counted = {
        name: value - before[name] for name, value in after.items() if type(value) is int and type(before[name]) is int
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


# (b) and (d): servers


@contextmanager
def server(command: Callable[[int], list[str]], path: str, environment: dict[str, str]) -> Iterator[str]:
    """Start a server on a free port, wait until it answers, stop it at the end. Yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command(port), stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            deadline = time.monotonic() + 180
            while not _answers(address + path):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"{command(port)[0]} did not start:\n{log.read()[-2000:]}")
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _over_http(job: Job, address: str, name: str) -> Outcome:
    outcome = Outcome()
    lm = dspy.LM(f"openai/{name}", api_base=f"{address}/v1", api_key="local", cache=False, timeout=3600, num_retries=0)
    run_program(job, lm, job.workload.adapter(), n_at_once=False, outcome=outcome)
    used = [entry["usage"] or {} for entry in lm.history]
    outcome.prompt_tokens = sum(usage.get("prompt_tokens", 0) for usage in used)
    cached = sum((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0 for usage in used)
    outcome.prefill_computed = outcome.prompt_tokens - cached
    outcome.output_tokens = sum(usage.get("completion_tokens", 0) for usage in used)
    return outcome


def mlx_server(job: Job) -> Outcome:
    """mlx_lm.server over HTTP, on the same float32 weights and the same BLAS."""
    import os

    def command(port: int) -> list[str]:
        address = ["--host", "127.0.0.1", "--port", str(port)]
        return [sys.executable, "-m", "mlx_lm.server", "--model", str(job.directory), *address]

    environment = dict(os.environ)
    if blas := blas_in_use():
        environment["LD_PRELOAD"] = blas
    with server(command, "/health", environment) as address:
        return _over_http(job, address, str(job.directory))


def llama_server(job: Job) -> Outcome | None:
    """llama.cpp's server with its defaults, on the GGUF file as it is. None where it is not installed."""
    import os

    program, file = shutil.which("llama-server"), ALIASES["smollm2-135m"].packaged()
    if program is None or file is None or "smollm2-135m" not in job.model.name:
        return None
    with server(lambda port: [program, "-m", str(file), "--port", str(port)], "/health", dict(os.environ)) as address:
        return _over_http(job, address, "local")


# (c) BatchGenerator


def batch_generator(job: Job) -> Outcome:
    """mlx_lm.BatchGenerator with every prompt inserted at once: no threads, no waiting, no seeds per row."""
    outcome = Outcome()
    found: list[BaseException] = []

    def work() -> None:
        try:
            _batch(job, outcome)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if found:
        raise found[0]
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
    "llama.cpp": llama_server,
}
