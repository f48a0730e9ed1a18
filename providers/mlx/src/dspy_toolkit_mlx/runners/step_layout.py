"""Where the tokens of one step belong, laid end to end: to which rows, at which positions, behind which prefixes."""

from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
import numpy as np

__all__ = ["Block", "Plan", "PrefixGroup"]

SHORT = 16
"""Rows with at most this many tokens in a step are padded together for attention over tails; longer ones apart."""


@dataclass(slots=True)
class PrefixGroup:
    """Tokens of a step (indices, or None for all) whose rows share a prefix of `length` tokens."""

    prefix: list[Any]
    length: int
    tokens: mx.array | None
    _sides: dict[int, tuple[mx.array, mx.array]] = field(default_factory=dict)

    def sides(self, layer: int) -> tuple[mx.array, mx.array]:
        """A layer's keys (heads, size, tokens) and values (heads, tokens, size), for products."""
        if layer not in self._sides:
            keys, values = self.prefix[layer]
            self._sides[layer] = keys.squeeze(0).swapaxes(-1, -2), values.squeeze(0)  # keys[0] would be a copy
        return self._sides[layer]


@dataclass(slots=True)
class Block:
    """Rows whose tails are attended to together: queries padded to `width` tokens a row."""

    gather: mx.array | None
    rows: mx.array | None
    width: int
    count: int
    reach: mx.array
    columns: int


class Plan:
    """Where the tokens of one step belong. Built once per step, used by every layer.

    `lengths`, `tails`, `bases`: per row, the tokens of this step, those already in its tail, those in its prefix.
    """

    def __init__(self, lengths: list[int], tails: list[int], bases: list[int], prefixes: list[list[Any] | None]):
        rows = len(lengths)
        count = np.array(lengths)
        row_of = np.repeat(np.arange(rows), count)
        starts = np.cumsum(count) - count
        inside = np.arange(len(row_of)) - starts[row_of]
        position = np.array(tails)[row_of] + inside
        self.size = len(row_of)
        self.rows = rows
        self.slots = mx.array(row_of)
        self._place(position, np.array(bases)[row_of])
        self.last = mx.array(starts + count - 1)
        self.columns = int((np.array(tails) + count).max())
        self.single = self.size == rows
        """Whether every row has one token."""
        self._blocks(count, starts, np.array(tails))
        self._groups(row_of, bases, prefixes)
        self._windows: dict[tuple[int | str, int | None], mx.array] = {}

    def next(self) -> "Plan":
        """The plan of the step after this one, when each row had and has one token and the rows are the same.

        Nothing is counted again: where tokens go moves on by one.
        """
        plan = object.__new__(Plan)
        plan.__dict__.update(self.__dict__)
        plan.columns = self.columns + 1
        plan._place(self._position + 1, self._base)
        (block,) = self.blocks
        plan.blocks = [replace(block, reach=plan.spots, columns=plan.columns)]
        plan._windows = {}
        return plan

    def _place(self, position: np.ndarray, base: np.ndarray) -> None:
        """Copying a few numbers is cheaper than an operation of the device that computes them."""
        self._position, self._base = position, base
        self.spots = mx.array(position[:, None, None, None])
        self.offsets = mx.array(position + base)

    def _blocks(self, count: np.ndarray, starts: np.ndarray, tails: np.ndarray) -> None:
        self.blocks: list[Block] = []
        self.order: mx.array | None = None
        if self.single:
            reach = mx.array(tails)[:, None, None, None]
            self.blocks.append(Block(None, None, 1, self.rows, reach, self.columns))
            return
        short = count <= SHORT
        order = np.zeros(self.size, dtype=np.int64)
        filled = 0
        for rows, everyone in ((np.nonzero(short)[0], True), (np.nonzero(~short)[0], False)):
            if not len(rows):
                continue
            width = int(count[rows].max())
            lines = np.arange(self.rows) if everyone else rows
            gather = starts[lines][:, None] + np.arange(width)[None, :]
            real = np.arange(width)[None, :] < np.where(np.isin(lines, rows), count[lines], 0)[:, None]
            order[gather[real]] = filled + np.nonzero(real.ravel())[0]
            filled += real.size
            reach = tails[lines][:, None] + np.arange(width)[None, :]
            self.blocks.append(
                Block(
                    gather=mx.array(np.where(real, gather, 0)),
                    rows=None if everyone else mx.array(lines),
                    width=width,
                    count=len(lines),
                    reach=mx.array(reach)[:, None, :, None],
                    columns=int((tails + count)[rows].max()),
                )
            )
        self.order = mx.array(order)

    def _groups(self, row_of: np.ndarray, bases: list[int], prefixes: list[list[Any] | None]) -> None:
        numbers: dict[int, int] = {}
        of_row = [-1 if prefix is None else numbers.setdefault(id(prefix), len(numbers)) for prefix in prefixes]
        self.groups: list[PrefixGroup] = []
        self.group_order: mx.array | None = None
        self.one_group = len(numbers) == 1 and -1 not in of_row
        of_token = None if self.one_group or not numbers else np.array(of_row)[row_of]
        order = np.zeros(self.size, dtype=np.int64)
        filled = 1
        for number in numbers.values():
            row = of_row.index(number)
            prefix = prefixes[row]
            assert prefix is not None
            if of_token is None:
                self.groups.append(PrefixGroup(prefix, bases[row], None))
                return
            tokens = np.nonzero(of_token == number)[0]
            self.groups.append(PrefixGroup(prefix, bases[row], mx.array(tokens)))
            order[tokens] = filled + np.arange(len(tokens))
            filled += len(tokens)
        if numbers:
            self.group_order = mx.array(order)

    def tail_mask(self, index: int, window: int | None) -> mx.array:
        """Which tail columns each query of a block sees: (rows, 1, width, columns), True where it does."""
        key = (index, window)
        if key not in self._windows:
            block = self.blocks[index]
            columns = mx.arange(block.columns)
            mask = columns <= block.reach
            if window is not None:
                mask = mask & (columns > block.reach - window)
            self._windows[key] = mask
        return self._windows[key]

    def tail_bias(self) -> mx.array:
        """As `tail_mask` without a window, of rows with one token each, to be added to scores."""
        key = ("bias", None)
        if key not in self._windows:
            seen = np.arange(self.columns) <= self._position[:, None, None, None]
            self._windows[key] = mx.array(np.where(seen, np.float32(0), np.float32(-1e30)))
        return self._windows[key]

    def prefix_mask(self, group: PrefixGroup, window: int) -> mx.array:
        """Which prefix columns each token of a group sees through a window: (1, 1, tokens, prefix)."""
        key = (id(group), window)
        if key not in self._windows:
            offsets = self.offsets if group.tokens is None else self.offsets[group.tokens]
            self._windows[key] = mx.arange(group.length)[None] > offsets[:, None] - window
        return self._windows[key]
