"""One workload on one model, how a contender runs it, and what comes out."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy
from workloads import Workload

from dspy_toolkit_mlx.models.resolve import ResolvedModel

__all__ = ["Job", "Outcome", "run_program"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One workload on one model, with the sizes of this run. `directory` holds the weights in float32.

    `llama_...` say which server of llama.cpp to start, on which GGUF file, with how many slots; None leaves it to the
    contender.
    """

    workload: Workload
    model: ResolvedModel
    directory: Path
    calls: int
    threads: int
    demonstrations: int
    max_tokens: int
    llama_server: str | None = None
    llama_model: Path | None = None
    llama_slots: int | None = None


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
