"""A random walk through a grammar: byte by byte, only what the grammar allows, closed within a number of bytes."""

import random
from collections.abc import Sequence

from dspy.lm15 import InvalidRequestError, ServerError
from llguidance import LLMatcher, LLTokenizer

from dspy_toolkit.engine import AnswerField, AnswerGrammar

TOKENIZER = LLTokenizer("byte")
_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyz ")
_CLOSING = (b'"', b"]", b"}", b" ")
_STOP = 0.15  # how likely a free text ends, at every byte
_OVERRUN = 1024  # bytes that closing may take beyond the limit before the call fails


def walk(grammar: AnswerGrammar, dice: random.Random, limit: int) -> str:
    """A sentence of the grammar of about `limit` bytes at most. Raises `dspy.lm15` errors, never returns half of one.

    A field whose own budget is used up, and everything once the limit is near, is closed: a free text by one of the
    grammar's markers or by a quote, brackets by their partners.
    """
    matcher = LLMatcher(TOKENIZER, LLMatcher.grammar_from_lark(grammar.lark))
    if matcher.is_error():
        raise InvalidRequestError(f"The grammar does not compile: {matcher.get_error().splitlines()[0]}")
    text = bytearray()
    reserve = len((grammar.minimal or "").encode())
    while not matcher.is_stopped():
        closing = len(text) + reserve >= limit or _budget_spent(text, grammar.fields)
        if matcher.is_accepting() and (closing or dice.random() < _STOP):
            break
        step = _end_of_text(matcher, grammar) if closing or dice.random() < _STOP else []
        step = step or [_draw(_allowed(matcher), dice, closing=closing)]
        if step == list(TOKENIZER.eos_tokens):
            break
        matcher.consume_tokens(step)
        text += bytes(step)
        if len(text) > limit + _OVERRUN:
            raise ServerError(f"The answer could not be closed within {limit + _OVERRUN} bytes.")
    return text.decode()


def _end_of_text(matcher: LLMatcher, grammar: AnswerGrammar) -> list[int]:
    """The bytes that end the free text we are in, none where nothing may end here."""
    for marker in ['"'] if grammar.quoted else grammar.markers:
        tokens = TOKENIZER.tokenize_str(marker)
        if matcher.validate_tokens(tokens) == len(tokens):
            return tokens
    return []


def _allowed(matcher: LLMatcher) -> list[int]:
    mask = matcher.compute_bitmask()
    return [token for token in range(TOKENIZER.vocab_size) if mask[token >> 3] >> (token & 7) & 1]


def _draw(allowed: Sequence[int], dice: random.Random, *, closing: bool) -> int:
    if closing:
        for end in _CLOSING:
            if end[0] in allowed:
                return end[0]
    letters = [token for token in allowed if token in _LETTERS]
    printable = [token for token in allowed if 32 <= token < 127]
    return dice.choice(letters or printable or allowed)


def _budget_spent(text: bytes | bytearray, fields: Sequence[AnswerField]) -> bool:
    """Whether the field that the text is in has taken as many tokens (here: bytes) as it may."""
    for field in reversed(fields):
        _, opening, value = text.rpartition(field.opening.encode())
        if opening:
            return field.tokens is not None and len(value) >= field.tokens
    return False
