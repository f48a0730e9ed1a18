"""What runs the model: prefixes chunk by chunk, running rows step by step, ragged.

Two runners behind one protocol. `FlatRunner` lays the tokens of all rows end to end and shares prefixes by attention
(see attention.py); it needs plain or sliding-window attention through mlx-lm's common function. `PaddedRunner` uses
mlx-lm's own batch caches, copies prefixes, and so runs every other kind: SSM, convolution, hybrids.

A *state* is what the model has computed for a prefix. Both runners treat states as immutable. Everything here belongs
to the engine thread; nothing is computed until the arrays that come back are evaluated.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from typing import Any, Protocol

import mlx.core as mx

__all__ = ["Runner", "collect", "state_arrays"]


class Runner(Protocol):
    """What the engine needs of a model. `rows` counts the running rows; rows are addressed by their index."""

    name: str
    sliceable: bool

    @property
    def rows(self) -> int: ...

    def begin(self, state: Any, room: int) -> Any:
        """Caches that begin with a state (None: with nothing) and will grow by `room` tokens."""
        ...

    def grow(self, caches: Any, tokens: Rows[int]) -> None:
        """Put tokens into such caches, which are changed in place."""
        ...

    def end(self, caches: Any) -> Any:
        """The state that the caches have grown to. They must not grow any more."""
        ...

    def extend(self, state: Any, tokens: Rows[int]) -> Any:
        """The state of a prefix that is `tokens` longer than that of `state`."""
        caches = self.begin(state, len(tokens))
        self.grow(caches, tokens)
        return self.end(caches)

    def cut(self, state: Any, length: int, copy: bool = False) -> Any:
        """The state of the first `length` tokens, in the same memory unless `copy`; only if `sliceable`."""
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

    def wipe(self, rows: Rows[int]) -> None:
        """Overwrite what rows hold, because it is NaN: even a weight of 0 would carry it on to the rows' successors."""
        ...

    def arrays(self) -> list[mx.array]:
        """Arrays that a step has written to caches without the logits depending on them: evaluate them together."""
        ...

    def footprint(self) -> tuple[int, int]:
        """Bytes that a token adds to a row, and bytes that a row has whatever its length."""
        ...

    @property
    def nbytes(self) -> int: ...


def collect(value: Any, arrays: list[mx.array]) -> None:
    """Append the arrays in nested lists and tuples to `found`."""
    if isinstance(value, mx.array):
        arrays.append(value)
    elif isinstance(value, list | tuple):
        for item in value:
            collect(item, arrays)


def state_arrays(state: Any) -> list[mx.array]:
    """The arrays of a state, to be evaluated."""
    arrays: list[mx.array] = []
    collect([getattr(part, "state", part) for part in state], arrays)
    return arrays
