"""The least work that a workload leaves to any engine: prompt tokens to compute, and decode steps to take."""

import heapq
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from job import Job

__all__ = ["least_steps", "prompt_bounds"]


def prompt_bounds(job: "Job") -> dict[str, int]:
    """Token counts of the prompts: all together, what they have in common, and the least that must be computed."""
    from mlx_lm.utils import load_tokenizer

    workload = job.workload
    tokenizer = load_tokenizer(job.model.checkpoint.path)
    adapter, program = workload.adapter(), workload.program(job.demonstrations)
    prompts = []
    for example in workload.inputs(job.calls):
        messages = adapter.format(program.signature, program.demos, dict(example.inputs()))
        prompts.append(tokenizer.apply_chat_template(messages, add_generation_prompt=True))
    common = next((i for i, tokens in enumerate(zip(*prompts, strict=False)) if len(set(tokens)) > 1), len(prompts[0]))
    return {
        "prompt_tokens": workload.samples * sum(len(prompt) for prompt in prompts),
        "longest_prompt": max(map(len, prompts)),
        "common_prefix": common,
        "prefix_and_suffixes": common + sum(len(prompt) - common for prompt in prompts),
        "distinct_prefixes": _distinct(prompts),
    }


def _distinct(prompts: Iterable[Sequence[int]]) -> int:
    """The number of nodes of the prompts' trie: sorted, each adds what its longest common prefix with the one before
    does not cover."""
    total, previous = 0, ()
    for prompt in sorted(map(tuple, prompts)):
        shared = next((i for i, (a, b) in enumerate(zip(previous, prompt, strict=False)) if a != b), None)
        total += len(prompt) - (min(len(previous), len(prompt)) if shared is None else shared)
        previous = prompt
    return total


def least_steps(calls: Sequence[Sequence[int]], callers: int, rows: int) -> int:
    """The fewest forward passes over running rows: `calls` has, in order, the sampled tokens of each call's samples.

    A sampled token needs the one before it, so a call takes as many steps as its longest sample; forced tokens add
    none. Callers who wait for an answer before they make the next call start calls one after another, each when the
    first of them is free: no engine can be done before they would be if it did nothing but step. Nor before all
    sampled tokens have gone through its `rows`.
    """
    free = [0] * min(callers, max(1, len(calls)))
    for call in calls:
        heapq.heapreplace(free, free[0] + max(call, default=0))
    return max(*free, -(-sum(map(sum, calls)) // rows))
