"""Rows end to end, prefixes shared by attention."""

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from typing import Any

import mlx.core as mx
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from dspy_toolkit_mlx.runners.attention import FlatLayer, hook
from dspy_toolkit_mlx.runners.base import Runner
from dspy_toolkit_mlx.runners.lm_head import Head
from dspy_toolkit_mlx.runners.step_layout import Plan

__all__ = ["FlatRunner"]


class _WindowKVCache(KVCache):
    """A cache that keeps everything and masks what a sliding window does not see, so that it can be cut anywhere."""

    def __init__(self, window: int):
        super().__init__()
        self.window = window

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:  # noqa: N803
        window = min(window_size or self.window, self.window)
        if self.offset + N <= window and not return_array:
            return "causal" if N > 1 else None
        return create_causal_mask(N, self.offset, window_size=window)


class FlatRunner(Runner):
    """Rows end to end, prefixes shared. A state is a list of (keys, values) per layer, (1, heads, tokens, size)."""

    name = "flat"
    sliceable = True

    def __init__(self, model: Any):
        self._head = Head(model)
        kinds = make_prompt_cache(model)
        self._windows = [_window(cache) for cache in kinds]
        if not hook(model):
            raise TypeError("the model does not use mlx-lm's attention function")
        self._layers = [FlatLayer(index, window) for index, window in enumerate(self._windows)]
        self._tails: list[int] = []
        self._bases: list[int] = []
        self._prefixes: list[list[Any] | None] = []
        self._plan: Plan | None = None
        """The last step's, unless rows have come or gone since."""

    @property
    def rows(self) -> int:
        return len(self._tails)

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self._layers)

    def begin(self, state: Any, room: int) -> list[KVCache]:
        caches = []
        for index, window in enumerate(self._windows):
            cache = KVCache() if window is None else _WindowKVCache(window)
            cache.step = max(1, room)  # what it grows by: once, to its whole length
            if state is not None:
                cache.keys, cache.values = (side[...] for side in state[index])
                cache.offset = cache.keys.shape[2]
            caches.append(cache)
        return caches

    def grow(self, caches: list[KVCache], tokens: Rows[int]) -> None:
        self._head.fill(mx.array([list(tokens)]), caches)

    def end(self, caches: list[KVCache]) -> Any:
        return [cache.keys_and_values() for cache in caches]

    def cut(self, state: Any, length: int, copy: bool = False) -> Any:
        short = [(keys[..., :length, :], values[..., :length, :]) for keys, values in state]
        if copy:
            short = [(mx.contiguous(keys), mx.contiguous(values)) for keys, values in short]
            mx.eval(short)  # until then they hold on to what they are cut from
        return short

    def size(self, state: Any) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in state)

    def footprint(self) -> tuple[int, int]:
        return self.size(self.extend(None, [0])), 0

    def pack(self, state: Any) -> dict[str, mx.array]:
        return {
            f"{layer}.{name}": array
            for layer, pair in enumerate(state)
            for name, array in zip(("keys", "values"), pair, strict=True)
        }

    def unpack(self, arrays: Mapping[str, mx.array]) -> Any:
        return [(arrays[f"{layer}.keys"], arrays[f"{layer}.values"]) for layer in range(len(self._layers))]

    def join(self, states: Rows[tuple[Any, int]]) -> None:
        self._plan = None
        for state, length in states:
            self._tails.append(0)
            self._bases.append(length)
            self._prefixes.append(state)

    def step(self, pending: Rows[Rows[int]]) -> mx.array:
        lengths = [len(tokens) for tokens in pending]
        if self._plan is not None and self._plan.single and sum(lengths) == len(lengths):
            plan = self._plan.next()
        else:
            plan = Plan(lengths, self._tails, self._bases, self._prefixes)
        self._plan = plan
        for layer in self._layers:
            layer.plan = plan
        tokens = mx.array([token for row in pending for token in row])[:, None]
        logits = self._head(tokens, self._layers, None if plan.single else plan.last)
        self._tails = [tail + length for tail, length in zip(self._tails, lengths, strict=True)]
        return logits

    def leave(self, rows: Rows[int]) -> list[int]:
        self._plan = None
        gone = set(rows)
        left = self.rows - len(gone)
        holes = [row for row in sorted(gone) if row < left]
        movers = [row for row in range(left, self.rows) if row not in gone]
        order = list(range(left))
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        # A row that has not been stepped has nothing to move, nor a slot: MLX would write outside the arrays.
        moves = [(mover, hole) for mover, hole in zip(movers, holes, strict=True) if self._tails[mover]]
        if left == 0:
            for layer in self._layers:
                layer.clear()
        elif moves:
            source, target = (mx.array(side) for side in zip(*moves, strict=True))
            for layer in self._layers:
                layer.move(source, target)
        self._tails = [self._tails[row] for row in order]
        self._bases = [self._bases[row] for row in order]
        self._prefixes = [self._prefixes[row] for row in order]
        return order

    def wipe(self, rows: Rows[int]) -> None:
        for layer in self._layers:
            layer.wipe(mx.array(list(rows)))

    def arrays(self) -> list[mx.array]:
        return []  # attention reads what a step has written, so the logits depend on all of it


def _window(cache: Any) -> int | None:
    if type(cache) is KVCache:
        return None
    if type(cache) is RotatingKVCache and cache.keep == 0:
        return cache.max_size
    raise TypeError(f"{type(cache).__name__} cannot be shared by attention")
