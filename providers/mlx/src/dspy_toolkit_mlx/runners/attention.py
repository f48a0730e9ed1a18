"""Attention over a shared prefix and one tail per row, with the rows' tokens laid end to end.

A step's tokens are given to the model as a batch of single tokens, whatever rows they belong to, so no row is padded:

      rows      a: 1 token    b: 4 tokens         c: 1 token
      model     [a0]          [b0] [b1] [b2] [b3] [c0]            shape (6, 1)

Everything in a transformer but attention treats tokens alike, so only attention needs to know the rows. Models of
mlx-lm call `scaled_dot_product_attention`, imported by name from their base module; `hook` replaces that name with a
function that calls our layers for our caches and the original function for everything else. Scores against a prefix are
one matrix product for all rows that share it (Hydragen, arXiv 2402.05099), and the two softmaxes are joined by their
maxima and sums, which is exact.
"""

import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx_lm.models import activations, base

from dspy_toolkit_mlx.runners import cpu_kernels as host
from dspy_toolkit_mlx.runners.step_layout import Block, Plan

__all__ = ["FlatLayer", "hook"]


class FlatLayer:
    """One attention layer's tails, for all running rows: keys and values of shape (slots, heads, capacity, size).

    Takes the place of a cache in calls of the model. Row r of the batch is slot r. `window` is the sliding window in
    tokens, or None. `layer` is this layer's place in a prefix.
    """

    def __init__(self, layer: int, window: int | None):
        self.layer = layer
        self.window = window
        self.plan: Plan | None = None
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    @property
    def offset(self) -> mx.array:
        assert self.plan is not None
        return self.plan.offsets

    def make_mask(self, *_: Any, **__: Any) -> None:
        """Masks are made in `attend`, which knows the rows."""

    @property
    def nbytes(self) -> int:
        return 0 if self.keys is None or self.values is None else self.keys.nbytes + self.values.nbytes

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        plan = self.plan
        assert plan is not None
        self.keys = self._room(self.keys, keys, plan)
        self.values = self._room(self.values, values, plan)
        if plan.single and self.keys.shape[0] == plan.rows:  # one token in every slot: fewer operations than below
            self.keys = mx.put_along_axis(self.keys, plan.spots, keys, axis=2)
            self.values = mx.put_along_axis(self.values, plan.spots, values, axis=2)
        else:
            self.keys[plan.slots, :, plan.spots[:, 0, 0, 0]] = keys[:, :, 0]
            self.values[plan.slots, :, plan.spots[:, 0, 0, 0]] = values[:, :, 0]
        return keys, values

    @staticmethod
    def _room(held: mx.array | None, new: mx.array, plan: Plan) -> mx.array:
        heads, size = new.shape[1], new.shape[3]
        slots, capacity = (0, 0) if held is None else (held.shape[0], held.shape[2])
        if slots >= plan.rows and capacity >= plan.columns:
            assert held is not None
            return held
        more_slots = max(slots, plan.rows)
        step = 16 * (plan.columns // 256 + 1)  # what is held beyond need stays under a tenth or so
        more_columns = max(capacity, -(-max(plan.columns, 1) // step) * step)
        if held is None:
            return mx.zeros((more_slots, heads, more_columns, size), new.dtype)
        return mx.pad(held, [(0, more_slots - slots), (0, 0), (0, more_columns - capacity), (0, 0)])

    def move(self, source: mx.array, target: mx.array) -> None:
        """Copy the tails of some slots over those of others."""
        if self.keys is not None and self.values is not None:
            self.keys[target] = self.keys[source]
            self.values[target] = self.values[source]

    def wipe(self, slots: mx.array) -> None:
        """Set the tails of some slots to 0."""
        if self.keys is not None and self.values is not None:
            self.keys[slots] = 0
            self.values[slots] = 0

    def clear(self) -> None:
        self.keys = self.values = None

    def attend(self, queries: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        """Attention of a step's tokens: queries (tokens, heads, 1, size) to outputs of the values' size."""
        plan = self.plan
        assert plan is not None
        flat = queries[:, :, 0]
        if not plan.groups and sinks is None:
            return self._tails_only(flat, scale)[:, :, None]
        if plan.single and plan.one_group and sinks is None and self.window is None:
            scores = plan.rows * flat.shape[1] * (plan.groups[0].length + plan.columns)
            if not host.active(flat, scores):
                return self._one_group(flat, scale)
        tail, top, total = self._tails(flat * scale)
        if plan.groups:
            out, peak, mass = self._prefixes(flat * scale)
            most = mx.maximum(top, peak)
            a, b = mx.exp(top - most), mx.exp(peak - most)
            tail, total, top = tail * a + out * b, total * a + mass * b, most
        if sinks is not None:
            total = total + mx.exp(sinks[None, :, None] - top)
        return (tail / total).astype(queries.dtype)[:, :, None]

    def _operands(self, block: Block) -> tuple[mx.array, mx.array]:
        assert self.keys is not None
        assert self.values is not None
        if block.rows is None:
            return self.keys[: block.count, :, : block.columns], self.values[: block.count, :, : block.columns]
        return self.keys[block.rows, :, : block.columns], self.values[block.rows, :, : block.columns]

    def _block_queries(self, flat: mx.array, block: Block) -> mx.array:
        if block.gather is None:
            return flat[:, :, None]
        return flat[block.gather].transpose(0, 2, 1, 3)

    def _order(self, parts: list[mx.array]) -> mx.array:
        plan = self.plan
        assert plan is not None
        lines = [part.transpose(0, 2, 1, 3).reshape(-1, part.shape[1], part.shape[3]) for part in parts]
        joined = lines[0] if len(lines) == 1 else mx.concatenate(lines)
        return joined if plan.order is None else joined[plan.order]

    def _tails_only(self, flat: mx.array, scale: float) -> mx.array:
        plan = self.plan
        assert plan is not None
        parts = []
        for index, block in enumerate(plan.blocks):
            keys, values = self._operands(block)
            mask = plan.tail_mask(index, self.window)
            queries = self._block_queries(flat, block)
            parts.append(mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask))
        return self._order(parts)

    def _one_group(self, flat: mx.array, scale: float) -> mx.array:
        """One token a row, all rows behind one prefix: the step that is taken most often, in fewer operations."""
        plan = self.plan
        assert plan is not None
        assert self.keys is not None
        assert self.values is not None
        old_keys, old_values = plan.groups[0].sides(self.layer)
        rows, heads, size = flat.shape
        kinds = old_values.shape[0]
        lined = (flat * scale).reshape(rows, kinds, -1, size)
        old = (lined.swapaxes(0, 1).reshape(kinds, -1, size) @ old_keys).astype(mx.float32)
        new = lined @ self.keys[:rows, :, : plan.columns].swapaxes(-1, -2) + plan.tail_bias()

        def by_row(part: mx.array) -> mx.array:
            return part.reshape(kinds, rows, -1, part.shape[-1]).swapaxes(0, 1)

        top = mx.maximum(by_row(old.max(axis=-1, keepdims=True)), new.max(axis=-1, keepdims=True))
        old = mx.exp(old - top.swapaxes(0, 1).reshape(kinds, -1, 1))
        new = mx.exp(new - top)
        total = by_row(old.sum(axis=-1, keepdims=True)) + new.sum(axis=-1, keepdims=True)
        out = by_row(old.astype(flat.dtype) @ old_values)
        out = out + new.astype(flat.dtype) @ self.values[:rows, :, : plan.columns]
        return (out / total).astype(flat.dtype).reshape(rows, heads, 1, -1)

    def _tails(self, flat: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        plan = self.plan
        assert plan is not None
        parts: list[list[mx.array]] = [[], [], []]
        for index, block in enumerate(plan.blocks):
            keys, values = self._operands(block)
            queries = self._block_queries(flat, block)
            partials = _partial(queries, keys, values, plan.tail_mask(index, self.window))
            for part, value in zip(parts, partials, strict=True):
                part.append(value)
        out, top, total = (self._order(part) for part in parts)
        return out, top, total

    def _prefixes(self, flat: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        plan = self.plan
        assert plan is not None
        outs, tops, totals = [], [], []
        for group in plan.groups:
            keys, values = group.prefix[self.layer]
            queries = flat if group.tokens is None else flat[group.tokens]
            mask = None
            if self.window is not None:
                mask = plan.prefix_mask(group, self.window)[None, None]
            out, top, total = _partial(queries.transpose(1, 0, 2)[None], keys, values, mask)
            outs.append(out.squeeze(0).transpose(1, 0, 2))
            tops.append(top.squeeze(0).transpose(1, 0, 2))
            totals.append(total.squeeze(0).transpose(1, 0, 2))
        if plan.one_group:
            return outs[0], tops[0], totals[0]
        nothing = mx.zeros((1, *outs[0].shape[1:]), outs[0].dtype)
        none = mx.zeros((1, *tops[0].shape[1:]), tops[0].dtype)
        order = plan.group_order
        return (
            mx.concatenate([nothing, *outs])[order],
            mx.concatenate([none - 1e30, *tops])[order],
            mx.concatenate([none, *totals])[order],
        )


def _partial(
    queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | None
) -> tuple[mx.array, mx.array, mx.array]:
    """Attention without the division: (sum of weights times values, maximum of the scores, sum of the weights).

    Queries (batch, heads, tokens, size) come scaled; keys and values have as many heads or a divisor of them.
    """
    batch, heads, tokens, size = queries.shape
    groups, columns = keys.shape[1], keys.shape[2]
    if host.active(queries, batch * heads * tokens * columns):
        return _partial_on_host(queries, keys, values, mask)
    folded = queries.reshape(batch, groups, -1, size)
    scores = (folded @ keys.swapaxes(-1, -2)).astype(mx.float32)
    if mask is not None:
        lines = scores.reshape(batch, groups, heads // groups, tokens, -1)
        scores = mx.where(mask[:, :, None], lines, -1e30).reshape(scores.shape)
    top = scores.max(axis=-1, keepdims=True)
    weights = mx.exp(scores - top)
    if mask is not None:
        weights = mx.where(scores > -1e29, weights, 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    out = (weights.astype(values.dtype) @ values).astype(mx.float32)
    shape = (batch, heads, tokens)
    return out.reshape(*shape, -1), top.reshape(*shape, 1), total.reshape(*shape, 1)


def _partial_on_host(
    queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | None
) -> tuple[mx.array, mx.array, mx.array]:
    """`_partial` in blocks of lines, or of tokens where there is one line."""
    batch, heads, tokens, size = queries.shape
    groups, columns = keys.shape[1], keys.shape[2]
    seen = None if mask is None else host.booleans(mask)
    lines, width = (1, tokens) if batch == 1 else (batch, tokens)
    if batch == 1:
        width = host.block(heads * columns)
    else:
        lines = host.block(heads * tokens * columns)
    parts: list[tuple[mx.array, mx.array, mx.array]] = []
    for line in range(0, batch, lines):
        for at in range(0, tokens, width):
            folded = queries[line : line + lines, :, at : at + width]
            count, _, inside, _ = folded.shape
            scores = folded.reshape(count, groups, -1, size) @ keys[line : line + lines].swapaxes(-1, -2)
            lines_of_scores = scores.reshape(count, groups, heads // groups, inside, columns)
            part = None
            if seen is not None:
                some = seen[line : line + lines] if seen.shape[0] > 1 else seen
                part = (some[:, :, at : at + width] if seen.shape[2] > 1 else some)[:, :, None]
            top, total = host.weights(lines_of_scores, part)
            out = lines_of_scores.reshape(scores.shape) @ values[line : line + lines]
            shape = (count, heads, inside)
            parts.append((out.reshape(*shape, -1), top.reshape(*shape, 1), total.reshape(*shape, 1)))
    if len(parts) == 1:
        return parts[0]
    axis = 2 if batch == 1 else 0
    out, top, total = (mx.concatenate(list(part), axis=axis) for part in zip(*parts, strict=True))
    return out, top, total


_original: Callable[..., mx.array] = base.scaled_dot_product_attention


def _dispatch(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: Any,
    sinks: mx.array | None = None,
) -> mx.array:
    if isinstance(cache, FlatLayer):
        return cache.attend(queries, scale, sinks)
    if sinks is None and queries.shape[0] == 1 and _host_can(queries, keys, cache, mask):
        return host.attention(queries, keys, values, scale, mask)
    return _original(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)


def _host_can(queries: mx.array, keys: mx.array, cache: Any, mask: Any) -> bool:
    plain = (
        mask is None
        or isinstance(mask, str)
        or (mask.dtype == mx.bool_ and mask.size == mask.shape[-1] * mask.shape[-2])
    )
    numbers = queries.shape[1] * queries.shape[2] * keys.shape[2]
    return plain and cache is not None and not hasattr(cache, "bits") and host.active(queries, numbers)


def hook(model: Any) -> bool:
    """Let the attention of `model` use FlatLayer caches; False if none of its modules calls mlx-lm's attention.

    Sets names in modules of mlx-lm for the whole process; other caches, and other threads than an engine's, are served
    as before.
    """
    hooked = False
    for module in {type(part).__module__ for part in model.modules()}:
        namespace = sys.modules[module]
        current = getattr(namespace, "scaled_dot_product_attention", None)
        if current is _original:
            namespace.scaled_dot_product_attention = _dispatch  # type: ignore[attr-defined]
        if getattr(namespace, "swiglu", None) is activations.swiglu:
            namespace.swiglu = host.swiglu  # type: ignore[attr-defined]
        hooked = hooked or current in (_original, _dispatch)
    return hooked
