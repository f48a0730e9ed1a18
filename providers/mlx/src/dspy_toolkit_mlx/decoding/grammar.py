"""Grammars of requests: compiled once, followed token by token, closed within the budget.

The engine knows a grammar only as a `Guide`. llguidance is the one matcher behind it today; it never raises for a bad
grammar or token but goes into an error state, so every call here is followed by a check.
"""

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from dspy_toolkit.errors import GrammarError
from dspy_toolkit.grammar.answer import AnswerField, AnswerGrammar
from dspy_toolkit_mlx.decoding.fields import FieldClock, Repetition
from dspy_toolkit_mlx.scheduling.transcript import Call, Channel

__all__ = ["GrammarSource", "GrammarStore", "LLGuide", "Matcher"]

_CLOSERS = (frozenset('"'), frozenset('"]}'), frozenset('"]} \n\t'), frozenset('"]} \n\t,:'))
_FIRST = frozenset(b'"]} \n\t,:')
OVERRUN = 64
"""How many tokens past max_tokens an answer may take to end well-formed; one that needs more is cut at max_tokens."""
OVERRUN_KNOWN = 128
"""The same beyond a shortest answer that is known: such a grammar is always finished."""


class Matcher(Protocol):
    """The six methods a grammar library must have (llguidance's `LLMatcher` has them)."""

    def consume_token(self, sampled_token: int) -> bool: ...
    def consume_tokens(self, sampled_tokens: list[int]) -> bool: ...
    def validate_tokens(self, tokens: list[int]) -> int: ...
    def compute_ff_tokens(self) -> list[int]: ...
    def is_accepting(self) -> bool: ...
    def is_stopped(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """A grammar to compile: Lark text or a JSON schema (as JSON text), and a shortest answer if known.

    `markers`, `quoted` and `fields` are those of `AnswerGrammar`; `fields` is empty where no field has a budget. `end`
    is what the whole answer ends with, where more could follow instead. `ends_repetition`: a free text that repeats
    itself is closed.
    """

    kind: str
    text: str
    minimal: str | None = None
    fields: tuple[AnswerField, ...] = ()
    markers: tuple[str, ...] = ()
    end: str = ""
    quoted: bool = False
    ends_repetition: bool = False

    @classmethod
    def of(cls, grammar: AnswerGrammar) -> "GrammarSource":
        budgeted = any(field.tokens is not None for field in grammar.fields)
        return cls(
            "lark",
            grammar.lark,
            grammar.minimal,
            fields=grammar.fields if budgeted else (),
            markers=grammar.markers,
            quoted=grammar.quoted,
            ends_repetition=True,
        )

    @classmethod
    def json_schema(cls, schema: dict[str, Any]) -> "GrammarSource":
        # In the order of the schema: it is the order in which properties are written.
        return cls("json", json.dumps(schema, ensure_ascii=False), quoted=True)


@dataclass(frozen=True, slots=True)
class _Compiled:
    matcher: LLMatcher
    start: list[int]
    markers: list[list[int]]
    end: list[int]
    reserve: int
    minimal_known: bool  # whether the reserve is that of a shortest answer
    quoted: bool
    ends_repetition: bool


class GrammarStore:
    """Compiled grammars of one tokenizer, the `size` last used. Safe to call from any thread.

    Raises GrammarError for a grammar that does not compile, before any token is computed.
    """

    def __init__(self, tokenizer: LLTokenizer, size: int = 256):
        self.tokenizer = tokenizer
        self.words = (tokenizer.vocab_size + 31) // 32
        self.quote = [tokenizer.tokenize_str('"')]
        self.eos = frozenset(tokenizer.eos_tokens)
        self.eos_bits = [(token >> 5, np.uint32(1 << (token & 31)).view(np.int32)) for token in tokenizer.eos_tokens]
        self._size = size
        self._lock = threading.Lock()
        self._compiled: OrderedDict[GrammarSource, _Compiled] = OrderedDict()
        self._closers: tuple[NDArray[np.int32], ...] | None = None
        self.repetitions_ended = 0

    def guide(self, source: GrammarSource) -> "LLGuide":
        key = replace(source, fields=())  # budgets are not compiled
        with self._lock:
            compiled = self._compiled.get(key)
            if compiled is None:
                compiled = self._compile(source)
                self._compiled[key] = compiled
                while len(self._compiled) > self._size:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(key)
            return LLGuide(self, compiled, compiled.matcher.deep_copy(), source.fields)

    def _compile(self, source: GrammarSource) -> _Compiled:
        if source.kind == "json":
            grammar = LLMatcher.grammar_from_json_schema(source.text, overrides={"whitespace_flexible": False})
        else:
            grammar = LLMatcher.grammar_from_lark(source.text)
        matcher = LLMatcher(self.tokenizer, grammar)
        if matcher.is_error():
            raise GrammarError(f"The grammar does not compile: {matcher.get_error().splitlines()[0]}")
        start = matcher.compute_ff_tokens()
        if start:
            matcher.consume_tokens(start)
        if matcher.is_error():
            raise GrammarError(f"The grammar cannot start: {matcher.get_error().splitlines()[0]}")
        return _Compiled(
            matcher=matcher,
            start=start,
            markers=[self.tokenizer.tokenize_str(text) for text in sorted(source.markers, key=len, reverse=True)],
            end=self.tokenizer.tokenize_str(source.end) if source.end else [],
            reserve=len(self.tokenizer.tokenize_str(source.minimal)) + 4 if source.minimal else 24,
            minimal_known=source.minimal is not None,
            quoted=source.quoted,
            ends_repetition=source.ends_repetition,
        )

    def closers(self) -> tuple[NDArray[np.int32], ...]:
        """Bit masks of the tokens that end things, best first: a quote, then brackets, then blanks, then separators.

        A quote comes first: inside a string everything else would continue the string, and if it opens one, the next
        quote closes it.
        """
        if self._closers is None:
            bits = np.zeros((len(_CLOSERS), self.words * 32), dtype=np.uint8)
            for token in range(self.tokenizer.vocab_size):
                data = self.tokenizer.decode_bytes([token])
                if not data or len(data) > 8 or data[0] not in _FIRST or self.tokenizer.is_special_token(token):
                    continue
                letters = set(data.decode("utf-8", "replace"))
                for tier, allowed in enumerate(_CLOSERS):
                    bits[tier, token] = letters <= allowed
            self._closers = tuple(np.packbits(line, bitorder="little").view(np.int32) for line in bits)
        return self._closers


class LLGuide:
    """A sequence's walk through one grammar (a `sequence.Guide`), with four allowances for models:

    *end of text inside a free field closes the field*, *a field whose own budget is used up is closed*, *a free field
    that repeats itself is closed*, and *when the whole budget runs out, what is open is closed*.
    """

    staged = False
    until = ""
    channels: tuple[Channel, ...] = ()
    calls: tuple[Call, ...] = ()

    def __init__(
        self,
        store: GrammarStore,
        compiled: _Compiled,
        matcher: LLMatcher,
        fields: tuple[AnswerField, ...] = (),
    ):
        self._store = store
        self._clock = FieldClock(fields) if fields else None
        self._compiled = compiled
        self._matcher = matcher
        self._eos = store.eos
        self._bits: NDArray[np.int32] | None = None
        self._rows = range(0)
        self._plain = self._clock is None and not compiled.quoted
        self._repetition = Repetition() if compiled.ends_repetition else None
        self._closing = False
        self._spent = 0
        self._in_string = False
        self._escaped = False
        self._ended = False
        self.cut = False

    @property
    def finished(self) -> bool:
        return self._ended or self._matcher.is_stopped()

    @property
    def complete(self) -> bool:
        """Whether what was produced is a whole sentence of the grammar."""
        return self._matcher.is_accepting() and not self._matcher.is_error()

    @property
    def reserve(self) -> int:
        """About how many tokens a shortest answer takes."""
        return self._compiled.reserve

    def start(self) -> list[int]:
        self._note(self._compiled.start)
        return list(self._compiled.start)

    def fill(self, bitmask: NDArray[np.int32], row: int) -> None:
        """Write the mask of the next token into a row of `bitmask` (int32, one bit per token, set means allowed)."""
        if bitmask is not self._bits:
            self._point_at(bitmask)
        matcher = self._matcher
        matcher.unsafe_compute_mask_ptr(self._rows[row], self._store.words * 4)
        if matcher.is_error():
            self._check()
        if (self._closing or (self._clock is not None and self._clock.used_up)) and not matcher.is_accepting():
            mask = bitmask[row]
            for closers in self._store.closers():
                ending = mask & closers
                if ending.any():
                    mask[:] = ending
                    return
        if (self._closing and matcher.is_accepting()) or self._field_end():
            mask = bitmask[row]
            if self._closing:
                mask[:] = 0
            for word, bit in self._store.eos_bits:
                mask[word] |= bit

    def _point_at(self, bitmask: NDArray[np.int32]) -> None:
        """Compute the addresses of the rows, which the matcher writes to unchecked."""
        size = self._store.words * 4
        if bitmask.dtype != np.int32 or bitmask.strides != (size, 4) or not bitmask.flags.writeable:
            raise ValueError(f"Expected writable rows of {size} bytes, got {bitmask.dtype} by {bitmask.strides}.")
        address = bitmask.ctypes.data
        self._rows = range(address, address + bitmask.nbytes, size)
        self._bits = bitmask

    def advance(self, token: int, left: int) -> list[int]:
        if token in self._eos:
            added = [] if self._matcher.is_accepting() else [*self._field_end()]
            if not added:
                self._matcher.consume_token(token)
                self._check()
                self._ended = True
                return []
            self._matcher.consume_tokens(added)
        else:
            added = [token]
            self._matcher.consume_token(token)
        if self._matcher.is_error():
            self._check()
        self._note(added)
        added += self._forced()
        if left - len(added) <= max(4, self._compiled.reserve - self._spent) and not self.finished:
            self._closing = True
            added += self._close()
            return self._within(added, left)
        if self._clock is not None and self._clock.used_up:
            added += self._close_field()
        elif self._repeats(added):
            self._store.repetitions_ended += 1
            added += self._end_field(self._field_end())
        return added

    def _within(self, added: list[int], left: int) -> list[int]:
        """The added tokens; where max_tokens is reached, with a short ending, or cut off if there is none."""
        if self.finished or left > len(added):
            return added
        if self._compiled.minimal_known:
            ending: list[int] | None = [] if len(added) - left <= self._compiled.reserve + OVERRUN_KNOWN else None
        else:
            ending = self._ending(left + OVERRUN - len(added))
            self._ended = True
        if ending is not None:
            return added + ending
        self._ended = self.cut = True
        return added[: max(left, 1)]

    def _ending(self, tokens: int) -> list[int] | None:
        """At most so many tokens that end the answer, the first allowed one where there is a choice; None if more."""
        ending: list[int] = []
        bitmask = np.empty((1, self._store.words), dtype=np.int32)
        while not self.finished and not self._matcher.is_accepting():
            end = self._way_out()
            if not end:
                bitmask[:] = -1
                self.fill(bitmask, 0)
                (allowed,) = np.nonzero(np.unpackbits(bitmask.view(np.uint8), bitorder="little"))
                end = [int(token) for token in allowed[:1] if int(token) not in self._eos]
            if not end or len(ending) > tokens:
                return None
            ending += self._end_field(end)
        return ending

    def _repeats(self, added: list[int]) -> bool:
        """Whether the free text that `added` belongs to repeats itself."""
        if self._repetition is None:
            return False
        if len(added) > 1:  # something was forced: no free text
            self._repetition = Repetition()
            return False
        if not self._repetition.push(added[0]) or not self._field_end():
            return False
        self._repetition = Repetition()
        return True

    def _end_field(self, end: list[int]) -> list[int]:
        """Append tokens that end something, and what they force."""
        self._matcher.consume_tokens(end)
        self._check()
        self._note(end)
        return [*end, *self._forced()]

    @property
    def _field_over(self) -> bool:
        return self._clock is not None and self._clock.used_up

    def _close_field(self) -> list[int]:
        """Append what ends the field whose budget is used up; if that needs sampling, the mask allows only endings."""
        added: list[int] = []
        while not self.finished and len(added) < OVERRUN and self._field_over and (end := self._way_out()):
            added += self._end_field(end)
        return added

    def _close(self) -> list[int]:
        """Append what ends the open field and all that this forces; the mask restricts what is still sampled."""
        added: list[int] = []
        while not self.finished and len(added) < OVERRUN and (end := self._way_out()):
            self.cut = True
            added += self._end_field(end)
        if not self.finished and not self._matcher.is_accepting():
            self.cut = True
        return added

    def _way_out(self) -> list[int]:
        """Tokens that end the answer or the current field, or the only token that the mask allows."""
        if end := self._field_end():
            return end
        last = self._compiled.end if self._closing and not self._in_string else []
        if last and self._matcher.validate_tokens(last) == len(last):
            return last
        bitmask = np.full((1, self._store.words), -1, dtype=np.int32)
        self.fill(bitmask, 0)
        (words,) = np.nonzero(bitmask[0])
        bits = int(bitmask[0, words[0]]) & 0xFFFFFFFF if len(words) == 1 else 0
        token = int(words[0]) * 32 + bits.bit_length() - 1 if bits.bit_count() == 1 else None
        return [] if token is None or token in self._eos else [token]

    def _forced(self) -> list[int]:
        tokens = self._matcher.compute_ff_tokens()
        if tokens:
            self._matcher.consume_tokens(tokens)
            self._check()
            self._spent += len(tokens)
            self._note(tokens)
        return tokens

    def _field_end(self) -> list[int]:
        """The tokens that end the free field we are in, or none if we are not in one that may end here."""
        if self._compiled.quoted:
            ends = self._store.quote if self._in_string and not self._escaped else []
        else:
            ends = self._compiled.markers
        for tokens in ends:
            if self._matcher.validate_tokens(tokens) == len(tokens):
                return tokens
        return []

    def _note(self, tokens: list[int]) -> None:
        """Track fields, and JSON strings to know whether a quote would close one."""
        if self._plain:
            return
        if self._clock is not None:
            for token in tokens:
                self._clock.push(self._store.tokenizer.decode_bytes([token]))
        if not self._compiled.quoted:
            return
        for byte in self._store.tokenizer.decode_bytes(list(tokens)):
            if self._escaped:
                self._escaped = False
            elif byte == 0x22:
                self._in_string = not self._in_string
            elif byte == 0x5C and self._in_string:
                self._escaped = True

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"The grammar matcher failed: {self._matcher.get_error().splitlines()[0]}")
