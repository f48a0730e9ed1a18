"""A field's `pattern`, as a regular expression over the text a model writes, and its shortest match.

In a JSON string some characters are written as escapes (`\\n`, `\\"`), so the pattern is taken apart and written anew.
"""

import importlib
import json
import re
import string
from collections.abc import Callable, Iterable
from typing import Any

from dspy_toolkit.grammar.formats import Format
from dspy_toolkit.grammar.schema import UnsupportedTypeError

__all__ = ["escape", "translate"]

# The parser of `re` has no public name; hypothesis and others import it from here as well.
_parser: Any = importlib.import_module("re._parser")

_ESCAPED = '"\\\n\t\r\b\f'
_LIKELY = string.ascii_lowercase + string.ascii_uppercase + string.digits + "-_ ." + string.printable
_MOST = 1000


def escape(text: str, *, in_json: bool) -> str:
    """A regular expression that matches exactly `text`, or the way JSON writes it."""
    if in_json:
        text = json.dumps(text, ensure_ascii=False)[1:-1]
    return "".join(_one(char) for char in text)


def _one(char: str) -> str:
    if ord(char) < 32:
        return f"\\x{ord(char):02x}"
    # `\<` and `\>` are word boundaries where the grammar is read.
    return "\\" + char if char in string.punctuation and char not in "/<>" else char


def translate(pattern: str, *, in_json: bool, anything: str) -> Format:
    """Pydantic's `pattern`, which may match anywhere in the text unless anchored.

    `anything` is the expression of one character of the text. Raises UnsupportedTypeError.
    """
    try:
        tree = _parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UnsupportedTypeError(f"its pattern {pattern!r} cannot be read: {error}") from error
    if tree.state.flags & ~re.UNICODE:
        raise UnsupportedTypeError(f"its pattern {pattern!r} has inline flags; spell the alternatives out")
    items = list(tree)
    start = bool(items) and _is_at(items[0], "AT_BEGINNING", "AT_BEGINNING_STRING")
    end = bool(items) and _is_at(items[-1], "AT_END", "AT_END_STRING")
    items = items[1 if start else 0 : len(items) - 1 if end else None]
    writer = _Writer(pattern, in_json)
    inner = writer.sequence(items)
    around = f"(?:{anything})*"
    return Format(("" if start else around) + inner.regex + ("" if end else around), inner.minimal)


def _is_at(item: Any, *names: str) -> bool:
    return str(item[0]) == "AT" and str(item[1]) in names


class _Writer:
    def __init__(self, pattern: str, in_json: bool):
        self._pattern = pattern
        self._in_json = in_json

    def sequence(self, items: Iterable[Any]) -> Format:
        inner = [self._item(str(operation), argument) for operation, argument in items]
        return Format("".join(part.regex for part in inner), "".join(part.minimal for part in inner))

    def _item(self, operation: str, argument: Any) -> Format:
        if operation == "LITERAL":
            return Format(escape(chr(argument), in_json=self._in_json), chr(argument))
        if operation == "ANY":
            return self._chars("[^\\n]", lambda char: char != "\n")
        if operation == "NOT_LITERAL":
            return self._chars(f"[^{_one(chr(argument))}]", lambda char: char != chr(argument))
        if operation == "IN":
            return self._set(argument)
        if operation in ("MAX_REPEAT", "MIN_REPEAT"):
            return self._repeat(*argument)
        if operation == "SUBPATTERN":
            return self.sequence(argument[-1])
        if operation == "BRANCH":
            branches = [self.sequence(branch) for branch in argument[1]]
            regex = "|".join(branch.regex for branch in branches)
            return Format(f"(?:{regex})", min((branch.minimal for branch in branches), key=len))
        raise UnsupportedTypeError(
            f"its pattern {self._pattern!r} uses {operation.lower().replace('_', ' ')}, which a grammar cannot express"
        )

    def _repeat(self, low: int, high: Any, body: Any) -> Format:
        inner = self.sequence(body)
        if low > _MOST or (str(high) != "MAXREPEAT" and int(high) > _MOST):
            raise UnsupportedTypeError(f"its pattern {self._pattern!r} repeats more than {_MOST} times")
        most = "" if str(high) == "MAXREPEAT" else int(high)
        return Format(f"(?:{inner.regex}){{{low},{most}}}", inner.minimal * low)

    def _set(self, members: list[Any]) -> Format:
        negated = str(members[0][0]) == "NEGATE"
        text, tests = "", []
        for operation, argument in members[1:] if negated else members:
            written, test = self._member(str(operation), argument)
            text += written
            tests.append(test)
        return self._chars(
            f"[{'^' if negated else ''}{text}]", lambda char: any(test(char) for test in tests) != negated
        )

    def _member(self, operation: str, argument: Any) -> tuple[str, Callable[[str], bool]]:
        if operation == "LITERAL":
            return _one(chr(argument)), lambda char: char == chr(argument)
        if operation == "RANGE":
            low, high = map(chr, argument)
            return f"{_one(low)}-{_one(high)}", lambda char: low <= char <= high
        kind = str(argument)  # CATEGORY_DIGIT, CATEGORY_NOT_SPACE, ...
        letter = {"DIGIT": "d", "SPACE": "s", "WORD": "w"}[kind.rsplit("_", 1)[1]]
        shorthand = "\\" + (letter.upper() if "_NOT_" in kind else letter)
        return shorthand, lambda char: re.match(shorthand, char) is not None

    def _chars(self, members: str, test: Callable[[str], bool]) -> Format:
        """One character out of a set. In JSON, the ones that are written as escapes become alternatives."""
        sample = next((char for char in _LIKELY if test(char)), None)
        if sample is None:
            raise UnsupportedTypeError(f"its pattern {self._pattern!r} has a class without an ASCII character")
        if not self._in_json:
            return Format(members, sample)
        plain = rf'[{members}&&[^"\\\x00-\x1f]]'
        escaped = [escape(char, in_json=True) for char in _ESCAPED if test(char)]
        return Format(f"(?:{'|'.join([plain, *escaped])})", sample)
