"""Exponentials by numpy where MLX's CPU backend computes them slowly.

On x86 MLX 0.32 takes about 15 ns for the exponential of one number and numpy's vector code 0.6: more of a prompt's time
then goes into softmax and SiLU than into all matrix products. Here those are computed on the host, in place, in blocks
that fit the cache; the products stay MLX's. Arrays are shared, not copied.

Whether it pays is measured once per process (see `pays`). What is here waits for its inputs, so it must not be called
inside a function that MLX traces (`mx.grad`, `mx.compile`): it is switched on by the engine, for the engine's thread.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx_lm.models import activations
from numpy.typing import NDArray

__all__ = ["active", "attention", "block", "booleans", "enable", "off", "pays", "swiglu", "weights"]

_SMALL = 1 << 14
"""Arrays with fewer numbers are left to MLX: waiting for them costs more than it saves."""
_BLOCK = 1 << 21
"""About so many scores are worked on at once: 8 MiB."""

_thread = threading.local()
_mlx_swiglu = activations.swiglu


def enable() -> bool:
    """Switch on for the calling thread, where it pays. Returns whether it did."""
    _thread.on = mx.default_device() == mx.Device(mx.cpu) and pays()
    return _thread.on


@contextmanager
def off() -> Iterator[None]:
    """Leave everything to MLX, in this thread."""
    previous, _thread.on = getattr(_thread, "on", False), False
    try:
        yield
    finally:
        _thread.on = previous


def active(like: mx.array, numbers: int) -> bool:
    """Whether to compute here: switched on, in float32 like `like`, and enough numbers."""
    return getattr(_thread, "on", False) and like.dtype == mx.float32 and numbers >= _SMALL


@cache
def pays() -> bool:
    """Whether numpy's exponential is at least three times as fast as MLX's here. Takes a few milliseconds."""
    here, there = np.linspace(-8, 0, 1 << 16, dtype=np.float32), mx.linspace(-8, 0, 1 << 16)
    mx.eval(there, mx.exp(there))

    def numpy() -> None:
        np.exp(here)

    def mlx() -> None:
        mx.eval(mx.exp(there))

    return 3 * min(map(_seconds, [numpy] * 5)) < min(map(_seconds, [mlx] * 5))


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _view(array: mx.array) -> NDArray[Any]:
    """The array's own memory. To be written to only if nothing else can refer to the array."""
    mx.eval(array)
    return np.asarray(memoryview(cast(Any, array)))


def booleans(mask: mx.array) -> NDArray[np.bool_]:
    """A mask for `weights`, which only reads it."""
    return _view(mask)


def block(scores_per_row: int) -> int:
    """How many rows of so many scores to work on at once."""
    return max(1, _BLOCK // scores_per_row)


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """SiLU of `gate` times `x`, as mlx-lm's function of this name."""
    if not active(gate, gate.size) or x.shape != gate.shape or x.dtype != gate.dtype:
        return _mlx_swiglu(gate, x)
    mx.eval(gate, x)
    width = gate.shape[-1]
    gates, factors = _view(gate).reshape(-1, width), _view(x).reshape(-1, width)
    out = np.empty_like(gates)
    rows = max(1, _BLOCK // 16 // width)
    with np.errstate(over="ignore"):  # exp(-gate) may be infinite: the quotient is then 0, as it should be
        for at in range(0, len(gates), rows):
            part = out[at : at + rows]
            np.negative(gates[at : at + rows], out=part)
            np.exp(part, out=part)
            part += 1
            np.divide(gates[at : at + rows], part, out=part)
            part *= factors[at : at + rows]
    return mx.array(out).reshape(gate.shape)


def weights(scores: mx.array, mask: NDArray[np.bool_] | None) -> tuple[mx.array, mx.array]:
    """Turn scores (..., columns) into exponentials above their maximum, in place; returns maxima and sums (..., 1).

    `scores` must be the caller's own, fresh from a product. Where `mask` (broadcast to the scores' shape) is False the
    weight is 0; a line of which nothing is seen has maximum -1e30 and sum 0.
    """
    values = _view(scores)
    if mask is not None:
        np.copyto(values, np.float32(-1e30), where=~mask)
    top = values.max(axis=-1, keepdims=True)
    values -= top
    np.exp(values, out=values)
    if mask is not None:
        values *= mask
    return mx.array(top), mx.array(values.sum(axis=-1, keepdims=True))


def attention(queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: Any) -> mx.array:
    """Attention as MLX's for one sequence: queries (1, heads, tokens, size); `mask` None, "causal" or booleans."""
    _, heads, tokens, size = queries.shape
    groups, length = keys.shape[1], keys.shape[2]
    prefix = length - tokens
    causal = isinstance(mask, str)
    seen = None if mask is None or causal else _view(mask).reshape(tokens, length)
    if causal:
        seen = np.arange(length)[None] <= np.arange(tokens)[:, None] + prefix
    queries = queries * scale
    parts = []
    rows = block(heads * length)
    for at in range(0, tokens, rows):
        end = min(at + rows, tokens)
        columns = prefix + end if causal else length
        folded = queries[:, :, at:end].reshape(1, groups, -1, size)
        scores = folded @ keys[:, :, :columns].swapaxes(-1, -2)
        grouped = scores.reshape(1, groups, heads // groups, end - at, columns)
        _, total = weights(grouped, None if seen is None else seen[at:end, :columns])
        out = grouped.reshape(scores.shape) @ values[:, :, :columns] / total.reshape(1, groups, -1, 1)
        parts.append(out.reshape(1, heads, end - at, values.shape[-1]))
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)
