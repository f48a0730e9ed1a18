"""Grammars on requests: compiled once, followed token by token, closed in time.

The engine knows a grammar only as a `Guide`. llguidance is the one matcher behind it today; it never raises for a bad
grammar or token but goes into an error state, so every call here is followed by a look at it.
"""

import json
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask
from numpy.typing import NDArray

from dspy_toolkit.errors import GrammarError

__all__ = ["GrammarSource", "GrammarStore", "LLGuide", "Matcher"]

_SUFFIX = re.compile(r'\b(?:suffix|stop)\s*=\s*("(?:[^"\\]|\\.)*")')
_CLOSERS = (frozenset('"'), frozenset('"]}'), frozenset('"]} \n\t'), frozenset('"]} \n\t,:'))
_FIRST = frozenset(b'"]} \n\t,:')
OVERRUN = 256
"""How many tokens past its budget an answer may take to end well-formed, before it is given up."""


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
    """A grammar as it arrives: Lark text or a JSON schema (as canonical JSON text), and a shortest answer if known."""

    kind: str
    text: str
    minimal: str | None = None

    @classmethod
    def lark(cls, text: str, minimal: str | None = None) -> "GrammarSource":
        return cls("lark", text, minimal)

    @classmethod
    def json_schema(cls, schema: dict[str, Any]) -> "GrammarSource":
        return cls("json", json.dumps(schema, sort_keys=True, ensure_ascii=False))


@dataclass(frozen=True, slots=True)
class _Compiled:
    matcher: LLMatcher
    start: tuple[int, ...]
    markers: tuple[tuple[int, ...], ...]
    reserve: int
    is_json: bool


class GrammarStore:
    """Compiled grammars of one tokenizer, the `size` last used. Safe to call from any thread.

    Raises GrammarError for a grammar that does not compile, before any token is computed.
    """

    def __init__(self, tokenizer: LLTokenizer, size: int = 256):
        self.tokenizer = tokenizer
        self.words = (tokenizer.vocab_size + 31) // 32
        self.quote = (tuple(tokenizer.tokenize_str('"')),)
        self._size = size
        self._lock = threading.Lock()
        self._compiled: OrderedDict[GrammarSource, _Compiled] = OrderedDict()
        self._closers: tuple[NDArray[np.int32], ...] | None = None

    def guide(self, source: GrammarSource) -> "LLGuide":
        with self._lock:
            compiled = self._compiled.get(source)
            if compiled is None:
                compiled = self._compile(source)
                self._compiled[source] = compiled
                while len(self._compiled) > self._size:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(source)
            return LLGuide(self, compiled, compiled.matcher.deep_copy())

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
        markers = {json.loads(literal) for literal in _SUFFIX.findall(source.text)} if source.kind == "lark" else ()
        return _Compiled(
            matcher=matcher,
            start=tuple(start),
            markers=tuple(tuple(self.tokenizer.tokenize_str(text)) for text in sorted(markers, key=len, reverse=True)),
            reserve=len(self.tokenizer.tokenize_str(source.minimal)) + 4 if source.minimal else 24,
            is_json=source.kind == "json" or (source.minimal or "").startswith("{"),
        )

    def closers(self) -> tuple[NDArray[np.int32], ...]:
        """Bit masks of the tokens that end things, best first: a quote, then brackets, then blanks, then separators.

        A quote comes first because in a string everything else would be more of the string, and where it opens one,
        the next quote closes it.
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
    """A sequence's walk through one grammar (a `sequence.Guide`), with two liberties that models need:

    *end of text inside a free field closes the field*, and *when the budget runs out, what is open is closed*.
    """

    def __init__(self, store: GrammarStore, compiled: _Compiled, matcher: LLMatcher):
        self._store = store
        self._compiled = compiled
        self._matcher = matcher
        self._eos = frozenset(store.tokenizer.eos_tokens)
        self._closing = False
        self._spent = 0
        self._in_string = False
        self._escaped = False
        self._ended = False
        self.cut = False

    @property
    def done(self) -> bool:
        return self._ended or self._matcher.is_stopped()

    @property
    def complete(self) -> bool:
        """Whether what was produced is a whole sentence of the grammar."""
        return self._matcher.is_accepting() and not self._matcher.is_error()

    def start(self) -> list[int]:
        self._note(self._compiled.start)
        return list(self._compiled.start)

    def fill(self, bitmask: NDArray[np.int32], row: int) -> None:
        """Write the mask of the next token into a row of `bitmask` (int32, one bit per token, set means allowed)."""
        fill_next_token_bitmask(self._matcher, bitmask, row)
        self._check()
        mask = bitmask[row]
        if self._closing and not self._matcher.is_accepting():
            for closers in self._store.closers():
                ending = mask & closers
                if ending.any():
                    mask[:] = ending
                    return
        if (self._closing and self._matcher.is_accepting()) or self._field_end():
            if self._closing:
                mask[:] = 0
            for token in self._eos:
                mask[token >> 5] |= np.int32(np.uint32(1 << (token & 31)).view(np.int32))

    def advance(self, token: int, left: int) -> list[int]:
        if token in self._eos:
            added = [] if self._matcher.is_accepting() else list(self._field_end())
            if not added:
                self._matcher.consume_token(token)
                self._check()
                self._ended = True
                return []
            self._matcher.consume_tokens(added)
        else:
            added = [token]
            self._matcher.consume_token(token)
        self._check()
        self._note(added)
        added += self._forced()
        if left - len(added) <= max(4, self._compiled.reserve - self._spent) and not self.done:
            self._closing = True
            added += self._close()
            if left - len(added) < -OVERRUN and not self.done:
                self._ended = self.cut = True
        return added

    def _close(self) -> list[int]:
        """Append what ends the open field and everything that this forces; the mask does the rest."""
        added: list[int] = []
        while not self.done and (end := self._field_end()):
            self.cut = True
            self._matcher.consume_tokens(list(end))
            self._check()
            self._note(end)
            added += [*end, *self._forced()]
        if not self.done and not self._matcher.is_accepting():
            self.cut = True
        return added

    def _forced(self) -> list[int]:
        tokens = self._matcher.compute_ff_tokens()
        if tokens:
            self._matcher.consume_tokens(tokens)
            self._check()
            self._spent += len(tokens)
            self._note(tokens)
        return tokens

    def _field_end(self) -> tuple[int, ...]:
        """The tokens that end the free field we are in, or none if we are not in one that may end here."""
        if self._compiled.is_json:
            ends = self._store.quote if self._in_string and not self._escaped else ()
        else:
            ends = self._compiled.markers
        for tokens in ends:
            if self._matcher.validate_tokens(list(tokens)) == len(tokens):
                return tokens
        return ()

    def _note(self, tokens: list[int] | tuple[int, ...]) -> None:
        """Follow JSON strings, to know whether a quote would close one."""
        if not self._compiled.is_json:
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
