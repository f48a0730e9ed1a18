"""mlx-lm's own batch caches, behind copies of prefixes."""

import copy
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import ArraysCache, BatchKVCache, KVCache, make_prompt_cache

from dspy_toolkit_mlx.runners.base import Runner, collect
from dspy_toolkit_mlx.runners.lm_head import Head

__all__ = ["PaddedRunner"]


class PaddedRunner(Runner):
    """mlx-lm's batch caches. A state is a list of mlx-lm caches of one sequence; rows get copies of it."""

    name = "padded"
    sliceable = False

    def __init__(self, model: Any):
        self._model = model
        self._head = Head(model)
        self._caches: list[Any] = []
        self._old = 0
        self._new: list[Any] = []

    @property
    def rows(self) -> int:
        return self._old + len(self._new)

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in self._caches)

    def begin(self, state: Any, room: int) -> list[Any]:
        caches = make_prompt_cache(self._model) if state is None else copy.deepcopy(state)
        for cache in caches:
            if type(cache) is KVCache:
                cache.step = max(1, room)  # what it grows by: once, to its whole length
        return caches

    def grow(self, caches: list[Any], tokens: Rows[int]) -> None:
        self._head.fill(mx.array([list(tokens)]), caches)

    def end(self, caches: list[Any]) -> Any:
        return caches

    def cut(self, state: Any, length: int, copy: bool = False) -> Any:
        raise TypeError("a state of this model cannot be cut")

    def size(self, state: Any) -> int:
        return sum(cache.nbytes for cache in state)

    def footprint(self) -> tuple[int, int]:
        caches = self.extend(None, [0])
        parts = [part for cache in caches for part in getattr(cache, "caches", [cache])]
        keyed = [part for part in parts if getattr(part, "keys", None) is not None]
        per_token = sum((part.keys.nbytes + part.values.nbytes) // part.keys.shape[2] for part in keyed)
        ahead = per_token * (BatchKVCache.step - 1)  # mlx-lm's batch caches grow by so many tokens at once
        return per_token, ahead + sum(part.nbytes for part in parts if part not in keyed)

    def pack(self, state: Any) -> dict[str, mx.array]:
        packed: dict[str, Any] = {}
        for layer, cache in enumerate(state):
            if type(cache) is KVCache:
                keys, values = cache.keys_and_values()
                packed |= {f"{layer}.keys": keys, f"{layer}.values": values}
            elif type(cache) is ArraysCache:
                parts: list[Any] = cache.cache
                for index, part in enumerate(parts):
                    if part is not None:
                        packed[f"{layer}.{index}"] = part
            else:
                raise TypeError(f"{type(cache).__name__} cannot be written down")
        return packed

    def unpack(self, arrays: Mapping[str, mx.array]) -> Any:
        caches = make_prompt_cache(self._model)
        for layer, cache in enumerate(caches):
            if type(cache) is KVCache:
                cache.keys, cache.values = arrays[f"{layer}.keys"], arrays[f"{layer}.values"]
                cache.offset = cache.keys.shape[2]
            else:
                cache.cache = [arrays.get(f"{layer}.{index}") for index in range(len(cache.cache))]
        return caches

    def join(self, states: Rows[tuple[Any, int]]) -> None:
        for state, _ in states:
            self._new.append(make_prompt_cache(self._model) if state is None else copy.deepcopy(state))

    def step(self, pending: Rows[Rows[int]]) -> mx.array:
        parts = []
        if self._old:
            parts.append(self._forward(pending[: self._old], self._caches))
        if self._new:
            columns = list(zip(*self._new, strict=True))
            fresh = [type(column[0]).merge(list(column)) for column in columns]
            parts.append(self._forward(pending[self._old :], fresh))
            if self._old:
                for cache, more in zip(self._caches, fresh, strict=True):
                    cache.extend(more)
            else:
                self._caches = fresh
            self._old, self._new = self.rows, []
        return parts[0] if len(parts) == 1 else mx.concatenate(parts)

    def _forward(self, pending: Rows[Rows[int]], caches: list[Any]) -> mx.array:
        lengths = [len(tokens) for tokens in pending]
        width = max(lengths)
        padded = np.zeros((len(pending), width), dtype=np.int64)
        for row, tokens in enumerate(pending):
            padded[row, : lengths[row]] = tokens
        ragged = min(lengths) < width
        if ragged:
            for cache in caches:
                cache.prepare(lengths=lengths, right_padding=[width - length for length in lengths])
        pick = mx.array(np.arange(len(pending)) * width + np.array(lengths) - 1)
        logits = self._head(mx.array(padded), caches, pick)
        if ragged:
            for cache in caches:
                cache.finalize()
        return logits

    def leave(self, rows: Rows[int]) -> list[int]:
        gone = set(rows)
        order = [row for row in range(self.rows) if row not in gone]
        old = [row for row in order if row < self._old]
        self._new = [self._new[row - self._old] for row in order if row >= self._old]
        if not old:
            self._caches = []
        elif len(old) < self._old:
            for cache in self._caches:
                cache.filter(mx.array(old))
        self._old = len(old)
        return order

    def wipe(self, rows: Rows[int]) -> None:
        """Nothing to do: rows that leave are removed from the arrays, and nothing is computed across rows."""

    def arrays(self) -> list[mx.array]:
        arrays: list[mx.array] = []
        collect([getattr(cache, "state", None) for cache in self._caches], arrays)
        return arrays
