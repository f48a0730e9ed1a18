"""Answers of several parts: a thought, then text with tool calls, or an answer under a grammar.

    Thought ──► LLGuide                         a grammar
            ──► TextWithCalls: text ─► call ─► text ...   tools; each call follows an LLGuide of its own
            ──► Choice: TextWithCalls or LLGuide          tools and a grammar: the model calls, or answers in the format
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

__all__ = ["CallFormat", "Choice", "FreeText", "StagedGuide", "TextWithCalls", "Thought"]


class _Stage:
    """Defaults of a stage: parts of several kinds, no mask, no calls."""

    staged = True
    until = ""
    finished = False
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
        """The tokens of all runs; `channels` says what each belongs to."""
        self.channels = [channel for channel, tokens in runs for _ in tokens]
        return [token for _, tokens in runs for token in tokens]


class FreeText(_Stage):
    """Text until the model ends it or the budget does."""

    def __init__(self, eos: frozenset[int]):
        super().__init__()
        self._eos = eos

    def advance(self, token: int, left: int) -> list[int]:
        if token in self._eos:
            self.finished = True
            return self._say()
        self.finished = self.cut = left <= 1
        return self._say(("text", [token]))


class Thought(_Stage):
    """A thought of at most `budget` tokens. End of text inside it closes it, so that an answer follows.

    `opened`: the prompt ends with the opening tag. Else, if `requested`, the tag is forced; if not, the model decides
    by writing it. `after` follows the closing tag. `reserve` tokens are always left for the answer.
    """

    def __init__(
        self,
        tags: tuple[Sequence[int], int],
        eos: frozenset[int],
        budget: int,
        *,
        opened: bool,
        requested: bool,
        after: Sequence[int] = (),
        reserve: int = 1,
    ):
        super().__init__()
        self._open, self._close = tags
        self._eos = eos
        self._budget = budget
        self._inside = opened
        self._requested = requested
        self._after = after
        self._reserve = reserve
        self._spent = 0
        self.refused = False

    def start(self) -> list[int]:
        if self._inside or not self._requested:
            return self._say()
        self._inside = True
        return self._say(("mark", self._open))

    def advance(self, token: int, left: int) -> list[int]:
        """Sets `refused` and returns nothing if the model does not begin with a thought."""
        if not self._inside:
            self._inside = token == self._open[0]
            self.finished = self.refused = not self._inside
            return self._say(("mark", self._open if self._inside else ()))
        ending = [self._close, *self._after]
        if token == self._close or token in self._eos:
            self.finished = True
            return self._say(("mark", ending))
        self._spent += 1
        self.finished = self._spent >= self._budget or left - 1 - len(ending) <= self._reserve
        return self._say(("thinking", [token]), ("mark", ending if self.finished else ()))


@dataclass(frozen=True, kw_only=True)
class CallFormat:
    """How calls stand in a text.

    `trigger` are the tokens that open a call. If the first is a special token it alone opens one; else a call opens
    where the text says `until`, whatever its tokens. `guide` makes the guide of a call's rest, `read` turns a
    call's text into calls.
    """

    trigger: Sequence[int]
    until: str
    guide: Callable[[], LLGuide]
    read: Callable[[str], Sequence[Call]]


class TextWithCalls(_Stage):
    """Text with tool calls in it. The mark that opens a call starts a guide that only valid calls satisfy.

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
        """The first token of the opening mark."""
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
            self.finished = True
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
            text, opening, beyond = self._tail.partition(self.until.encode())
            if opening:
                opened = self._tokenizer.tokenize_bytes(data[: len(data) - len(beyond)]) if beyond else [token]
                return self._begin(opened, left, channel="text")
            self._tail = text[-len(self.until) :]
        self.finished = self.cut = left <= 1
        return self._say(("text", [token]))

    def _begin(self, opening: Sequence[int], left: int | None = None, channel: Channel = "mark") -> list[int]:
        """Begin a call, unless `left` tokens are too few to finish it."""
        guide = self._form.guide()
        if left is not None and left < len(opening) + guide.reserve:
            self.finished = self.cut = True
            return self._say()
        self._guide, self._tail = guide, b""
        self._body = guide.start()
        said = self._say((channel, opening), ("call", self._body))
        if guide.finished:
            self._end(guide)
        return said

    def _in_call(self, guide: LLGuide, token: int, left: int) -> list[int]:
        added = guide.advance(token, left)
        self._body += added
        if guide.finished:
            self._end(guide)
            if left <= len(added) and not self.finished:
                self.finished = self.cut = True
        return self._say(("call", added))

    def _end(self, guide: LLGuide) -> None:
        self._guide = None
        calls = self._form.read(self._tokenizer.decode_str(self._body)) if guide.complete else ()
        self.calls = [*self.calls, *calls]
        self.complete = self.complete and bool(calls)
        self.cut = guide.cut
        self.finished = guide.cut or not self._several


class Choice(_Stage):
    """Calls, or an answer under a grammar: the first token decides."""

    def __init__(self, text_with_calls: TextWithCalls, answer: LLGuide):
        super().__init__()
        self._text_with_calls = text_with_calls
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
        allow(bitmask[row], self._text_with_calls.first)

    def advance(self, token: int, left: int) -> list[int]:
        if self._chosen is not None:
            added = self._chosen.advance(token, left)
        elif token == self._text_with_calls.first and token not in self._held[:1]:
            self._chosen = self._text_with_calls
            added = self._text_with_calls.start()
        else:
            self._chosen = self._answer
            added = self._held or self._answer.advance(token, left)
        self.channels = list(self._chosen.channels)
        self.calls = self._chosen.calls
        self.finished, self.cut, self.complete = self._chosen.finished, self._chosen.cut, self._chosen.complete
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
    def finished(self) -> bool:
        return len(self._stages) == 1 and self._stage.finished

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
        """The stage's tokens, followed by the start of the next stage if this one has ended."""
        added = list(tokens)
        self._mark(len(added))
        while self._stage.finished and len(self._stages) > 1:
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
