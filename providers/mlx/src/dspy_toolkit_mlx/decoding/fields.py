"""Where an answer is among its fields: how much of a field's budget is used, whether a text repeats itself."""

from dspy_toolkit.grammar.answer import AnswerField

__all__ = ["FieldClock", "Repetition"]


class FieldClock:
    """Tracks which field an answer is in and how many tokens the field has so far."""

    def __init__(self, fields: tuple[AnswerField, ...]):
        self._openings = [field.opening.encode() for field in fields]
        self._budgets = [field.tokens for field in fields]
        self._tail = b""
        self._spent = 0
        self.field = -1

    def push(self, token: bytes) -> None:
        self._tail += token
        self._spent += 1
        while self.field + 1 < len(self._openings):
            opening = self._openings[self.field + 1]
            _, opened, value = self._tail.partition(opening)
            if not opened:
                self._tail = self._tail[1 - len(opening) :] if len(opening) > 1 else b""
                return
            self.field += 1
            self._tail, self._spent = value, int(bool(value))  # a token may include the value's first characters
        self._tail = b""

    @property
    def used_up(self) -> bool:
        budget = self._budgets[self.field] if self.field >= 0 else None
        return budget is not None and self._spent >= budget


class Repetition:
    """Notices a text that repeats itself, such as `The answer is 4. The answer is 4. The answer is 4. ...`.

        tokens   a b c d b c d b c d b c d        period 3, run 9: so many tokens equal the one a period before

    A text repeats itself when the run is `TOKENS` long and `TIMES` periods. The period is where the last three tokens
    stood before, so one table look-up per token is enough.
    """

    TOKENS = 48
    TIMES = 3

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._last: dict[tuple[int, ...], int] = {}
        self._period = 0
        self._run = 0

    def push(self, token: int) -> bool:
        """Take a token of the text; returns whether the text repeats itself by now."""
        tokens, index = self._tokens, len(self._tokens)
        tokens.append(token)
        recent = tuple(tokens[-3:])
        if self._period and token == tokens[index - self._period]:
            self._run += 1
        else:
            self._period = index - self._last.get(recent, index)
            self._run = 0
        self._last[recent] = index
        return self._run >= max(self.TOKENS, self.TIMES * self._period) and self._period > 0
