"""Answers of several parts: a thought, then text with tool calls, or an answer under a grammar.

    Thought ──► LLGuide                         a grammar
            ──► Talk: text ─► call ─► text ...  tools; each call is walked by an LLGuide of its own
            ──► Choice: Talk or LLGuide         tools and a grammar: the model calls, or answers in the format
            ──► FreeText

Each is a `sequence.Guide`; StagedGuide runs one after the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from llguidance import LLTokenizer
from numpy.typing import NDArray

from dspy_toolkit_mlx.decoding.grammar import LLGuide
from dspy_toolkit_mlx.scheduling.sequence import Guide
from dspy_toolkit_mlx.scheduling.transcript import Call, Channel

__all__ = ["CallFormat", "Choice", "FreeText", "StagedGuide", "Talk", "Thought"]


class _Stage:
    """What stages have in common: parts of several kinds, no mask, and no calls."""

    staged = True
    until = ""
    done = False
    cut = False
    complete = True

    def __init__(self) -> None:
        self.channels: list[Channel] = []
        self.calls: Sequence[Call] = ()

    def start(self) -> list[int]:
        return []

    def fill(self, bitmask: NDArray[np.int32], row: int) -> None:
        """Everything is allowed."""

    def _say(self, *runs: tuple[Channel, Sequence[int]]) -> list[int]:
        """The tokens of all runs, each marked as what it is."""
        self.channels = [channel for channel, tokens in runs for _ in tokens]
        return [token for _, tokens in runs for token in tokens]


class FreeText(_Stage):
    """Text up to the end of text or of the budget."""

    def __init__(self, eos: frozenset[int]):
        super().__init__()
        self._eos = eos

    def advance(self, token: int, left: int) -> list[int]:
        if token in self._eos:
            self.done = True
            return self._say()
        self.done = self.cut = left <= 1
        return self._say(("text", [token]))


class Thought(_Stage):
    """A thought of at most `budget` tokens. End of text inside it closes it, so that an answer follows.

    `opened`: the prompt ends with the opening tag; else `asked`: it is forced; else the model decides by writing it.
    `after` is written behind the closing tag. `reserve` tokens are left for the answer in any case.
    """

    def __init__(
        self,
        tags: tuple[Sequence[int], int],
        eos: frozenset[int],
        budget: int,
        *,
        opened: bool,
        asked: bool,
        after: Sequence[int] = (),
        reserve: int = 1,
    ):
        super().__init__()
        self._open, self._close = tags
        self._eos = eos
        self._budget = budget
        self._inside = opened
        self._asked = asked
        self._after = after
        self._reserve = reserve
        self._spent = 0
        self.refused = False

    def start(self) -> list[int]:
        if self._inside or not self._asked:
            return self._say()
        self._inside = True
        return self._say(("mark", self._open))

    def advance(self, token: int, left: int) -> list[int]:
        """`refused` is set, and nothing returned, when the model begins with something else than a thought."""
        if not self._inside:
            self._inside = token == self._open[0]
            self.done = self.refused = not self._inside
            return self._say(("mark", self._open if self._inside else ()))
        ending = [self._close, *self._after]
        if token == self._close or token in self._eos:
            self.done = True
            return self._say(("mark", ending))
        self._spent += 1
        self.done = self._spent >= self._budget or left - 1 - len(ending) <= self._reserve
        return self._say(("thinking", [token]), ("mark", ending if self.done else ()))


@dataclass(frozen=True, kw_only=True)
class CallFormat:
    """How calls stand in a text.

    `trigger` are the tokens that open a call. If the first is a special token it alone opens one; else a call opens
    where the text comes to say `until`, whatever its tokens. `guide` makes the guide of a call's rest, `read` turns a
    call's text into calls.
    """

    trigger: Sequence[int]
    until: str
    guide: Callable[[], LLGuide]
    read: Callable[[str], Sequence[Call]]


class Talk(_Stage):
    """Text with tool calls in it. What opens a call starts a guide that only valid calls satisfy.

    `calling` begins with a call and continues with calls only; `several` allows more than one. A call that the budget
    leaves no room for is not begun.
    """

    def __init__(
        self,
        tokenizer: LLTokenizer,
        eos: frozenset[int],
        form: CallFormat,
        *,
        calling: bool = False,
        several: bool = True,
    ):
        super().__init__()
        self._tokenizer = tokenizer
        self._eos = eos
        self._trigger = form.trigger
        self._form = form
        self._calling = calling
        self._several = several
        self._guide: LLGuide | None = None
        self._body: list[int] = []
        self._tail = b""
        self.until = form.until
        self.calls = []

    @property
    def first(self) -> int:
        """The first token of what opens a call."""
        return self._trigger[0]

    def start(self) -> list[int]:
        return self._begin(self._trigger) if self._calling else []

    def fill(self, bitmask: NDArray[np.int32], row: int) -> None:
        if self._guide is not None:
            self._guide.fill(bitmask, row)
        elif self._calling:
            bitmask[row] = 0
            for token in (*self._eos, self.first):
                allow(bitmask[row], token)

    def advance(self, token: int, left: int) -> list[int]:
        if self._guide is not None:
            return self._in_call(self._guide, token, left)
        if token in self._eos:
            self.done = True
            return self._say()
        if token == self.first and (self._calling or not self.until):
            return self._begin(self._trigger, left)
        return self._in_text(token, left)

    def _in_text(self, token: int, left: int) -> list[int]:
        if not self.until or self._tokenizer.is_special_token(token):
            self._tail = b""
        else:
            data = self._tokenizer.decode_bytes([token])
            self._tail += data
            before, found, beyond = self._tail.partition(self.until.encode())
            if found:
                kept = self._tokenizer.tokenize_bytes(data[: len(data) - len(beyond)]) if beyond else [token]
                return self._begin(kept, left, channel="text")
            self._tail = before[-len(self.until) :]
        self.done = self.cut = left <= 1
        return self._say(("text", [token]))

    def _begin(self, opening: Sequence[int], left: int | None = None, channel: Channel = "mark") -> list[int]:
        """Begin a call, unless `left` says that it could not end in time."""
        guide = self._form.guide()
        if left is not None and left < len(opening) + guide.reserve:
            self.done = self.cut = True
            return self._say()
        self._guide, self._tail = guide, b""
        self._body = guide.start()
        said = self._say((channel, opening), ("call", self._body))
        if guide.done:
            self._end(guide)
        return said

    def _in_call(self, guide: LLGuide, token: int, left: int) -> list[int]:
        added = guide.advance(token, left)
        self._body += added
        if guide.done:
            self._end(guide)
            if left <= len(added) and not self.done:
                self.done = self.cut = True
        return self._say(("call", added))

    def _end(self, guide: LLGuide) -> None:
        self._guide = None
        found = self._form.read(self._tokenizer.decode_str(self._body)) if guide.complete else ()
        self.calls = [*self.calls, *found]
        self.complete = self.complete and bool(found)
        self.cut = guide.cut
        self.done = guide.cut or not self._several


class Choice(_Stage):
    """Calls, or an answer under a grammar: the first token decides."""

    def __init__(self, talk: Talk, answer: LLGuide):
        super().__init__()
        self._talk = talk
        self._answer = answer
        self._held = answer.start()
        self._chosen: Guide | None = None
        self.until = ""

    def fill(self, bitmask: NDArray[np.int32], row: int) -> None:
        if self._chosen is not None:
            self._chosen.fill(bitmask, row)
            return
        if self._held:
            bitmask[row] = 0
            allow(bitmask[row], self._held[0])
        else:
            self._answer.fill(bitmask, row)
        allow(bitmask[row], self._talk.first)

    def advance(self, token: int, left: int) -> list[int]:
        if self._chosen is not None:
            added = self._chosen.advance(token, left)
        elif token == self._talk.first and token not in self._held[:1]:
            self._chosen = self._talk
            added = self._talk.start()
        else:
            self._chosen = self._answer
            added = self._held or self._answer.advance(token, left)
        self.channels = list(self._chosen.channels)
        self.calls = self._chosen.calls
        self.done, self.cut, self.complete = self._chosen.done, self._chosen.cut, self._chosen.complete
        return added


class StagedGuide:
    """One stage after the other; the last one's end is the answer's."""

    staged = True

    def __init__(self, *stages: Guide):
        self._stages = list(stages)
        self.until = stages[-1].until
        self.channels: list[Channel] = []

    @property
    def _stage(self) -> Guide:
        return self._stages[0]

    @property
    def calls(self) -> Sequence[Call]:
        return self._stage.calls

    @property
    def done(self) -> bool:
        return len(self._stages) == 1 and self._stage.done

    @property
    def cut(self) -> bool:
        return self._stage.cut

    @property
    def complete(self) -> bool:
        return len(self._stages) == 1 and self._stage.complete

    def start(self) -> list[int]:
        self.channels = []
        return self._taken(self._stage.start())

    def fill(self, bitmask: NDArray[np.int32], row: int) -> None:
        self._stage.fill(bitmask, row)

    def advance(self, token: int, left: int) -> list[int]:
        self.channels = []
        stage = self._stage
        added = self._taken(stage.advance(token, left))
        if isinstance(stage, Thought) and stage.refused:
            return self._taken(self._stage.advance(token, left))
        return added

    def _taken(self, tokens: list[int]) -> list[int]:
        """The stage's tokens, and what the next one begins with if this one is over."""
        added = list(tokens)
        self._mark(len(added))
        while self._stage.done and len(self._stages) > 1:
            self._stages.pop(0)
            begun = self._stage.start()
            added += begun
            self._mark(len(begun))
        return added

    def _mark(self, count: int) -> None:
        plain: list[Channel] = ["text"] * count
        self.channels += self._stage.channels or plain


def allow(mask: NDArray[np.int32], token: int) -> None:
    """Set a token's bit."""
    mask[token >> 5] |= np.int32(np.uint32(1 << (token & 31)).view(np.int32))
