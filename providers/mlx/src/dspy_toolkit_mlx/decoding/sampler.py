"""From logits to tokens, all rows of a step at once, each row by its own options and its own noise.

Randomness is Gumbel noise keyed by (seed, index of the token in the answer): the same request draws the same noise
whatever else is in the batch, and argmax(logits / T + noise) is an exact sample of softmax(logits / T).
"""

from collections.abc import Sequence as Rows
from operator import is_
from typing import Any, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from dspy_toolkit_mlx.scheduling.sequence import Sampling, Sequence, TokenChoice

__all__ = ["Sampler", "noise_keys"]


def noise_keys(seeds: NDArray[np.uint64], indices: NDArray[np.uint64]) -> mx.array:
    """Keys (uint32, two on a last axis) for pairs of seed and token index: `derive` of all pairs at once."""
    mixed = seeds
    for number in (np.zeros_like(indices), indices):
        mixed = mixed + (number + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)  # modulo 2 ** 64, as is all of this
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return mx.array(mixed.view(np.uint32).reshape(*mixed.shape, 2))


AHEAD = 32
"""Steps whose noise keys are made at once."""


class _StepOptions:
    """The options of a step's rows as arrays, built once and reused until rows join or leave."""

    def __init__(self, options: list[Sampling]):
        self.options = options
        self.random = any(o.temperature > 0 for o in options)
        self.truncated = any(o.top_p < 1.0 or o.min_p > 0 or o.top_k > 0 for o in options)
        self.adjusted = [index for index, o in enumerate(options) if o.logit_bias or o.penalized]
        self.logprobs = None
        if any(o.logprobs is not None for o in options):
            self.logprobs = max(o.logprobs or 0 for o in options)
        if self.random:
            hot = [o.temperature > 0 for o in options]
            self.hot = None if all(hot) else mx.array(hot)[:, None]
            self.scale = mx.array([[o.temperature if o.temperature > 0 else 1.0] for o in options])
        self._seeds = np.array([o.seed % 2**64 for o in options], dtype=np.uint64)
        self._next: list[int] = []
        self._keys: list[mx.array] = []

    def matches(self, options: list[Sampling]) -> bool:
        return len(options) == len(self.options) and all(map(is_, options, self.options))

    def keys(self, indices: list[int]) -> mx.array:
        """The rows' noise keys at these places in their answers, which mostly advance by one from step to step."""
        if indices != self._next or not self._keys:
            first = np.array(indices, dtype=np.uint64)[None]
            places = first + np.arange(AHEAD, dtype=np.uint64)[:, None]
            self._keys = list(noise_keys(np.broadcast_to(self._seeds, places.shape), places))[::-1]
        self._next = [index + 1 for index in indices]
        return self._keys.pop()


class Sampler:
    """Chooses the tokens of one model's steps. Belongs to the engine thread."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size
        self.mask_words = (vocab_size + 31) // 32
        bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        self._table = mx.array(np.where(bits == 1, 0.0, -np.inf).astype(np.float32))
        self._step_options = _StepOptions([])
        self._noise = mx.vmap(lambda key: mx.random.gumbel((vocab_size,), key=key))

    def mask(self, logits: mx.array, bitmask: NDArray[np.int32]) -> mx.array:
        """Set forbidden tokens (cleared bits of the mask) to minus infinity; works on any backend."""
        added = self._table[mx.array(bitmask.view(np.uint8))].reshape(bitmask.shape[0], -1)
        width = added.shape[1]
        if width < self.vocab_size:
            added = mx.pad(added, [(0, 0), (0, self.vocab_size - width)], constant_values=-float("inf"))
        return logits + (added[:, : self.vocab_size] if width > self.vocab_size else added)

    def choose(
        self, logits: mx.array, rows: Rows[Sequence], bitmask: NDArray[np.int32] | None = None
    ) -> list[TokenChoice]:
        """Choose a token per row of `logits` (rows, vocabulary); `bitmask` (rows, words). Waits for the device."""
        return self.read(self.pick(logits, rows, bitmask), rows)

    def pick(
        self, logits: mx.array, rows: Rows[Sequence], bitmask: NDArray[np.int32] | None = None
    ) -> tuple[mx.array, ...]:
        """As `choose`, but without waiting: what `read` takes, the tokens and log-probabilities if a row requests them.

        The token is -1 for a row whose logits are NaN.
        """
        options = [row.sampling for row in rows]
        if not self._step_options.matches(options):
            self._step_options = _StepOptions(options)
        step_options = self._step_options
        logits = logits.astype(mx.float32)
        raw = logits
        if step_options.adjusted:
            logits = logits[:]  # another array: items are set in place
        for index in step_options.adjusted:
            self._adjust(logits, index, rows[index])
        if bitmask is not None:
            logits = self.mask(logits, bitmask)
        if step_options.random:
            shaped = logits / step_options.scale
            if step_options.truncated:
                shaped = _truncate(shaped, options)
            noise = self._noise(step_options.keys([row.sampled for row in rows]))
            shaped = shaped + noise
            logits = shaped if step_options.hot is None else mx.where(step_options.hot, shaped, logits)
        tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
        tokens = mx.where(mx.isnan(mx.take_along_axis(raw, tokens[:, None], axis=-1)[:, 0]), -1, tokens)
        return (tokens,) if step_options.logprobs is None else (tokens, *_measure(raw, tokens, step_options.logprobs))

    @staticmethod
    def read(picked: tuple[mx.array, ...], rows: Rows[Sequence]) -> list[TokenChoice]:
        """Wait for the result of `pick` and convert it."""
        mx.eval(picked)
        tokens, *measured = (_list(array) for array in picked)
        if not measured:
            return [TokenChoice(token, 0.0) for token in tokens]
        chosen, best, values = measured
        return [
            TokenChoice(token, logprob, tuple(zip(top, score, strict=True))[: row.sampling.logprobs or 0])
            for token, logprob, top, score, row in zip(tokens, chosen, best, values, rows, strict=True)
        ]

    def _adjust(self, logits: mx.array, index: int, row: Sequence) -> None:
        sampling, line = row.sampling, logits[index]
        if sampling.penalized:
            line = self._penalize(line, row)
        if sampling.logit_bias:
            where = mx.array(list(sampling.logit_bias))
            line[where] = line[where] + mx.array(list(sampling.logit_bias.values()))
        logits[index] = line

    @staticmethod
    def _penalize(line: mx.array, row: Sequence) -> mx.array:
        sampling = row.sampling
        if sampling.repetition_penalty != 1.0:
            context = sampling.repetition_context
            recent = [*row.prompt[-context:], *row.tokens][-context:]
            where = mx.array(sorted(set(recent)))
            seen = line[where]
            penalty = sampling.repetition_penalty
            line[where] = mx.where(seen < 0, seen * penalty, seen / penalty)
        if row.tokens and (sampling.presence_penalty or sampling.frequency_penalty):
            unique, counts = np.unique(np.array(row.tokens), return_counts=True)
            where = mx.array(unique)
            line[where] = line[where] - (
                sampling.presence_penalty + sampling.frequency_penalty * mx.array(counts.astype(np.float32))
            )
        return line


def _measure(raw: mx.array, tokens: mx.array, width: int) -> tuple[mx.array, mx.array, mx.array]:
    """Log-probabilities of the tokens, the `width` likeliest others, and theirs."""
    logprobs = raw - mx.logsumexp(raw, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]
    best = mx.argsort(-logprobs, axis=-1)[:, :width]
    return chosen, best, mx.take_along_axis(logprobs, best, axis=-1)


def _list(values: mx.array) -> list[Any]:
    """`tolist` of an array that is not a scalar."""
    return cast("list[Any]", values.tolist())


def _truncate(scaled: mx.array, options: Rows[Sampling]) -> mx.array:
    """Apply top_k, top_p and min_p per row, in mlx-lm's order (top_p, min_p, top_k), to temperature-scaled logits."""
    vocab = scaled.shape[-1]
    if any(o.top_p < 1.0 for o in options):
        order = mx.argsort(-scaled, axis=-1)
        probs = mx.softmax(mx.take_along_axis(scaled, order, axis=-1), axis=-1, precise=True)
        cumulative = mx.cumsum(probs, axis=-1) - probs
        keep = cumulative < mx.array([[o.top_p if 0 < o.top_p < 1.0 else 2.0] for o in options])
        keep[:, 0] = True
        back = mx.put_along_axis(mx.zeros(keep.shape, mx.bool_), order, keep, axis=-1)
        scaled = mx.where(back, scaled, -mx.inf)
    if any(o.min_p > 0 for o in options):
        floor = mx.max(scaled, axis=-1, keepdims=True) + mx.log(mx.array([[max(o.min_p, 1e-30)] for o in options]))
        used = mx.array([[o.min_p > 0] for o in options])
        scaled = mx.where(used & (scaled < floor), -mx.inf, scaled)
    if any(o.top_k > 0 for o in options):
        ranked = mx.sort(scaled, axis=-1)
        at = mx.array([[vocab - min(o.top_k, vocab) if o.top_k > 0 else 0] for o in options])
        scaled = mx.where(scaled < mx.take_along_axis(ranked, at, axis=-1), -mx.inf, scaled)
    return scaled
