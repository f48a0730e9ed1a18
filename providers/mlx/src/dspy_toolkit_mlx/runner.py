"""Runs the model: prefixes chunk by chunk, running rows step by step, ragged.

Two runners behind one protocol. `FlatRunner` lays the tokens of all rows end to end and shares prefixes by attention
(see attention.py); it needs plain or sliding-window attention through mlx-lm's common function. `PaddedRunner` uses
mlx-lm's own batch caches, copies prefixes, and so runs every other kind: SSM, convolution, hybrids.

A *state* is what a prefix leaves behind. Both runners treat states as immutable. Everything here belongs to the engine
thread; nothing is computed until the arrays that come back are evaluated.
"""

import copy
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache, make_prompt_cache

from dspy_toolkit_mlx.attention import FlatLayer, hook
from dspy_toolkit_mlx.plan import Plan

__all__ = ["FlatRunner", "PaddedRunner", "Runner", "make_runner", "state_arrays"]


class Runner(Protocol):
    """What the engine needs of a model. `rows` counts the running rows; rows are addressed by their index."""

    name: str
    sliceable: bool

    @property
    def rows(self) -> int: ...

    def extend(self, state: Any, tokens: Rows[int]) -> Any:
        """Compute the state of a prefix that is `tokens` longer than that of `state` (None: of nothing)."""
        ...

    def cut(self, state: Any, length: int) -> Any:
        """The state of the first `length` tokens; only if `sliceable`."""
        ...

    def size(self, state: Any) -> int:
        """Bytes that a state holds."""
        ...

    def pack(self, state: Any) -> dict[str, mx.array]:
        """A state as named arrays; those named `*.keys` and `*.values` have the tokens on their third axis.

        Raises TypeError if a state of this model cannot be written down.
        """
        ...

    def unpack(self, arrays: Mapping[str, mx.array]) -> Any:
        """The state that was packed."""
        ...

    def join(self, states: Rows[tuple[Any, int]]) -> None:
        """Add rows at the end, each behind a state (or None) of so many tokens."""
        ...

    def step(self, pending: Rows[Rows[int]]) -> mx.array:
        """Feed every row its next tokens (at least one each); returns the logits after its last, (rows, vocabulary)."""
        ...

    def leave(self, rows: Rows[int]) -> list[int]:
        """Remove rows; returns for each row that is left, in its new order, the index that it had."""
        ...

    def arrays(self) -> list[mx.array]:
        """What a step has written into caches and its logits do not depend on: to be evaluated with them."""
        ...

    def footprint(self) -> tuple[int, int]:
        """Bytes that a token adds to a row, and bytes that a row has whatever its length."""
        ...

    @property
    def nbytes(self) -> int: ...


class _Head:
    """Makes the model compute logits only where they are wanted, by picking positions of the backbone's output."""

    def __init__(self, model: Any):
        self.model = model
        self.backbone = _backbone(model)
        if self.backbone is not None:
            kind = type(self.backbone)
            if not getattr(kind, "_picks", False):
                self.backbone.__class__ = type(kind.__name__, (kind,), {"__call__": _picking_call, "_picks": True})
            self.backbone._pick = None

    def __call__(self, tokens: mx.array, cache: list[Any], pick: mx.array | None) -> mx.array:
        """Logits (rows, vocabulary) of `tokens` (batch, length); `pick` (rows,) indexes the flattened positions.

        None: of tokens (batch, 1), all.
        """
        if self.backbone is None and pick is not None:
            logits = self.model(tokens, cache=cache)
            return logits.reshape(-1, logits.shape[-1])[pick]
        if self.backbone is None or pick is None:
            return self.model(tokens, cache=cache)[:, 0]
        self.backbone._pick = pick
        try:
            return self.model(tokens, cache=cache)[:, 0]
        finally:
            self.backbone._pick = None

    def fill(self, tokens: mx.array, cache: list[Any]) -> None:
        """Put tokens into caches; logits are never computed because nobody evaluates them."""
        self.model(tokens, cache=cache)


def _picking_call(self: Any, *args: Any, **kwargs: Any) -> Any:
    out = type(self).__mro__[1].__call__(self, *args, **kwargs)
    if self._pick is None:
        return out
    return out.reshape(-1, 1, out.shape[-1])[self._pick]


def _backbone(model: Any) -> Any:
    for owner in (model, getattr(model, "language_model", None)):
        for name in ("model", "backbone", "transformer"):
            found = getattr(owner, name, None) if owner is not None else None
            if found is not None and hasattr(found, "layers"):
                return found
    return None


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


class FlatRunner:
    """Rows end to end, prefixes shared. A state is a list of (keys, values) per layer, (1, heads, tokens, size)."""

    name = "flat"
    sliceable = True

    def __init__(self, model: Any):
        self._head = _Head(model)
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

    def extend(self, state: Any, tokens: Rows[int]) -> Any:
        caches = []
        for index, window in enumerate(self._windows):
            cache = KVCache() if window is None else _WindowKVCache(window)
            if state is not None:
                keys, values = state[index]
                cache.keys, cache.values = keys[...], values[...]
                cache.offset = keys.shape[2]
            caches.append(cache)
        self._head.fill(mx.array([list(tokens)]), caches)
        return [(cache.keys[..., : cache.offset, :], cache.values[..., : cache.offset, :]) for cache in caches]

    def cut(self, state: Any, length: int) -> Any:
        return [(keys[..., :length, :], values[..., :length, :]) for keys, values in state]

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

    def arrays(self) -> list[mx.array]:
        return []  # attention reads what a step has written, so the logits depend on all of it


def _window(cache: Any) -> int | None:
    if type(cache) is KVCache:
        return None
    if type(cache) is RotatingKVCache and cache.keep == 0:
        return cache.max_size
    raise TypeError(f"{type(cache).__name__} cannot be shared by attention")


class PaddedRunner:
    """mlx-lm's batch caches. A state is a list of mlx-lm caches of one sequence; rows get copies of it."""

    name = "padded"
    sliceable = False

    def __init__(self, model: Any):
        self._model = model
        self._head = _Head(model)
        self._caches: list[Any] = []
        self._old = 0
        self._new: list[Any] = []

    @property
    def rows(self) -> int:
        return self._old + len(self._new)

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in self._caches)

    def extend(self, state: Any, tokens: Rows[int]) -> Any:
        caches = make_prompt_cache(self._model) if state is None else copy.deepcopy(state)
        self._head.fill(mx.array([list(tokens)]), caches)
        return caches

    def cut(self, state: Any, length: int) -> Any:
        raise TypeError("a state of this model cannot be cut")

    def size(self, state: Any) -> int:
        return sum(cache.nbytes for cache in state)

    def footprint(self) -> tuple[int, int]:
        caches = self.extend(None, [0])
        parts = [part for cache in caches for part in getattr(cache, "caches", [cache])]
        keyed = [part for part in parts if getattr(part, "keys", None) is not None]
        per_token = sum((part.keys.nbytes + part.values.nbytes) // part.keys.shape[2] for part in keyed)
        return per_token, sum(part.nbytes for part in parts if part not in keyed)

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

    def arrays(self) -> list[mx.array]:
        found: list[mx.array] = []
        _collect([getattr(cache, "state", None) for cache in self._caches], found)
        return found


def _collect(value: Any, found: list[mx.array]) -> None:
    if isinstance(value, mx.array):
        found.append(value)
    elif isinstance(value, list | tuple):
        for item in value:
            _collect(item, found)


def state_arrays(state: Any) -> list[mx.array]:
    """The arrays of a state, to be evaluated."""
    found: list[mx.array] = []
    _collect([getattr(part, "state", part) for part in state], found)
    return found


def make_runner(model: Any) -> "FlatRunner | PaddedRunner":
    """The best runner that the model's caches allow; whether it is right, the parity self-check says."""
    try:
        return FlatRunner(model)
    except TypeError:
        return PaddedRunner(model)
