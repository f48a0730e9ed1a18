"""Regular expressions for numbers in a range, written in the way Python prints them.

Everything a pattern of this file accepts reads back, rounded to a double, as a number inside the range. That holds at
the ends too: an excluded end is replaced by the next double inside, and rounding is monotonic.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import suppress
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

__all__ = [
    "FLOAT_PLACES",
    "INTEGER_DIGITS",
    "decimal_range",
    "float_bounds",
    "float_range",
    "integer_range",
    "shortest",
]

INTEGER_DIGITS = 18
"""Digits of an integer that its type does not bound: enough for 64 bits, and no model can ramble on in digits."""

FLOAT_PLACES = 20
"""Decimal places in plain notation: `repr` needs at most 20 (0.0001 and 16 digits more)."""

_EXACT = Context(prec=1000)  # the digits of the smallest double and then some
_PLAIN_MAX = Decimal("9" * 16 + "." + "9" * FLOAT_PLACES)
_SMALL = range(-324, 0)
_LARGE = range(16, 309)
_MANTISSA_PLACES = 16  # 17 digits in all are enough for every double
_ALMOST_TEN = Decimal("9." + "9" * _MANTISSA_PLACES)


def integer_range(low: int | None, high: int | None) -> str:
    """Integers from `low` to `high`, both included, without leading zeros. None leaves an end to INTEGER_DIGITS."""
    limit = 10**INTEGER_DIGITS - 1
    if low is None:
        low = -limit if high is None or high > -limit else high * 10
    if high is None:
        high = limit if low < limit else low * 10
    if low > high:
        raise ValueError(f"no integer is at least {low} and at most {high}")
    parts = []
    if low < 0:
        parts.append("-" + _naturals(max(1, -high), -low))
    if high >= 0:
        parts.append(_naturals(max(0, low), high))
    return _any(parts)


def _naturals(low: int, high: int) -> str:
    parts = []
    for digits in range(len(str(low)), len(str(high)) + 1):
        start = max(low, 10 ** (digits - 1) if digits > 1 else 0)
        end = min(high, 10**digits - 1)
        parts.append((digits, str(start), str(end)))
    full = [digits for digits, start, end in parts if digits > 1 and (start, end) == _all_of(digits)]
    texts = [_span(start, end) for digits, start, end in parts if digits not in full]
    if full:  # neighbours by construction: 10-99, 100-999, ...
        texts.append(f"[1-9]{_digits(full[0] - 1, full[-1] - 1)}")
    return _any(texts)


def _all_of(digits: int) -> tuple[str, str]:
    return str(10 ** (digits - 1)), str(10**digits - 1)


def _span(low: str, high: str) -> str:
    """Digit strings from `low` to `high`, which have one length."""
    if low == high:
        return low
    if low[0] == high[0]:
        return low[0] + _span(low[1:], high[1:])
    rest = len(low) - 1
    first, last = int(low[0]), int(high[0])
    parts = []
    if low[1:] != "0" * rest:
        parts.append(low[0] + _span(low[1:], "9" * rest))
        first += 1
    high_is_whole = high[1:] == "9" * rest
    if not high_is_whole:
        last -= 1
    if first <= last:
        parts.append(_digit(first, last) + _digits(rest, rest))
    if not high_is_whole:
        parts.append(high[0] + _span("0" * rest, high[1:]))
    return _any(parts)


def decimal_range(low: Decimal, high: Decimal, places: int = FLOAT_PLACES) -> str:
    """Decimals from `low` to `high`, both included, in plain notation with at most `places` decimal places.

    `low` is rounded up and `high` down to `places`. Raises ValueError if nothing is left.
    """
    step = Decimal(1).scaleb(-places)
    low = low.quantize(step, rounding=ROUND_CEILING, context=_EXACT)
    high = high.quantize(step, rounding=ROUND_FLOOR, context=_EXACT)
    if low > high:
        raise ValueError(f"no number with {places} decimal places is at least {low} and at most {high}")
    parts = []
    if low < 0:
        parts.append("-" + _positive(max(Decimal(0), -high), -low, places))
    if high >= 0:
        parts.append(_positive(max(Decimal(0), low), high, places))
    return _any(parts)


def _positive(low: Decimal, high: Decimal, places: int) -> str:
    low_whole, low_part = _split(low)
    high_whole, high_part = _split(high)
    if low_whole == high_whole:
        return str(low_whole) + _point(_between(low_part, high_part, places), optional=not low_part)
    parts = [str(high_whole) + _point(_at_most(high_part, places), optional=True)]
    if low_part:
        parts.append(str(low_whole) + _point(_at_least(low_part, places), optional=False))
        low_whole += 1
    if low_whole < high_whole:
        parts.append(_naturals(low_whole, high_whole - 1) + _point(_digits(1, places), optional=True))
    return _any(parts)


def _split(value: Decimal) -> tuple[int, str]:
    whole, _, part = format(value, "f").partition(".")
    return int(whole), part.rstrip("0")


def _point(part: str, *, optional: bool) -> str:
    """The decimal point and the places after it. `part` may match nothing, a bare point may not."""
    if not part:
        return ""
    return rf"(?:\.{part})?" if optional else rf"\.{part}"


def _at_least(part: str, room: int) -> str:
    if not part:
        return _digits(0, room)
    same = part[0] + _at_least(part[1:], room - 1)
    if part[0] == "9":
        return same
    return _any([_digit(int(part[0]) + 1, 9) + _digits(0, room - 1), same])


def _at_most(part: str, room: int) -> str:
    if room == 0:
        return ""
    if not part:
        return "0" if room == 1 else f"0{{1,{room}}}"
    rest = _at_most(part[1:], room - 1)
    same = part[0] + (f"(?:{rest})?" if rest else "")
    if part[0] == "0":
        return same
    return _any([_digit(0, int(part[0]) - 1) + _digits(0, room - 1), same])


def _between(low: str, high: str, room: int) -> str:
    if not low:
        return _at_most(high, room)
    if not high or (low[0], room) == (high[0], 1):
        return low[0]
    if low[0] == high[0]:
        if not low[1:]:
            rest = _at_most(high[1:], room - 1)
            return low[0] + (f"(?:{rest})?" if rest else "")
        return low[0] + _between(low[1:], high[1:], room - 1)
    parts = [low[0] + _at_least(low[1:], room - 1)]
    first, last = int(low[0]) + 1, int(high[0]) - 1
    if first <= last:
        parts.append(_digit(first, last) + _digits(0, room - 1))
    rest = _at_most(high[1:], room - 1)
    parts.append(high[0] + (f"(?:{rest})?" if rest else ""))
    return _any(parts)


def float_bounds(schema: dict) -> tuple[Decimal, Decimal]:
    """The smallest and largest double that the JSON schema of a number allows, as `repr` prints them."""
    low, high = -sys.float_info.max, sys.float_info.max
    if "minimum" in schema:
        low = max(low, float(schema["minimum"]))
    if "exclusiveMinimum" in schema:
        low = max(low, math.nextafter(float(schema["exclusiveMinimum"]), math.inf))
    if "maximum" in schema:
        high = min(high, float(schema["maximum"]))
    if "exclusiveMaximum" in schema:
        high = min(high, math.nextafter(float(schema["exclusiveMaximum"]), -math.inf))
    return Decimal(repr(low)), Decimal(repr(high))


def float_range(low: Decimal, high: Decimal) -> str:
    """Finite floats from `low` to `high`, both included.

    Plain notation below 10**16, and scientific notation below 1 and from 10**16 on, as `repr` and people write it
    (`1e-05`, `2e-5`, `1e+16`).
    """
    parts = []
    if low <= _PLAIN_MAX and high >= -_PLAIN_MAX:
        with suppress(ValueError):  # narrower than the last decimal place: scientific notation remains
            parts.append(decimal_range(max(low, -_PLAIN_MAX), min(high, _PLAIN_MAX)))
        if low < 0 <= high:
            parts.append(r"-0(?:\.0)?")  # what repr makes of minus zero
    if low < 0:
        parts += [f"-{text}" for text in _scientific(max(-high, Decimal(0)), -low)]
    if high > 0:
        parts += _scientific(max(low, Decimal(0)), high)
    if not parts:
        raise ValueError(f"no float is at least {low} and at most {high}")
    return _any(parts)


def _scientific(low: Decimal, high: Decimal) -> Iterator[str]:
    """Positive numbers with one digit before the point, by exponent: whole decades together, cut ones apart."""
    if high <= 0:
        return
    for exponents in (_SMALL, _LARGE):
        whole = []
        for exponent in exponents:
            first = low.scaleb(-exponent, _EXACT) if low else Decimal(0)
            last = high.scaleb(-exponent, _EXACT)
            if first >= 10 or last < 1:
                continue
            if first <= 1 and last >= 10:
                whole.append(exponent)
                continue
            ends = max(first, Decimal(1)), min(last, _ALMOST_TEN)
            yield decimal_range(*ends, _MANTISSA_PLACES) + _exponent(exponent, exponent)
        if whole:
            yield rf"[1-9](?:\.[0-9]{{1,{_MANTISSA_PLACES}}})?" + _exponent(whole[0], whole[-1])


def _exponent(low: int, high: int) -> str:
    sign, first, last = ("-", -high, -low) if high < 0 else (r"\+?", low, high)
    if first > 9:
        return f"e{sign}{_naturals(first, last)}"
    one_digit = f"e{sign}0?{_naturals(first, min(last, 9))}"
    return one_digit if last < 10 else _any([one_digit, f"e{sign}{_naturals(10, last)}"])


def shortest(low: Decimal, high: Decimal, *, whole: bool) -> str:
    """The shortest of the usual ways to write a number in the range: zero, a whole number, an end of the range."""
    if low <= 0 <= high:
        return "0"
    near, far = (low, high) if low > 0 else (high, low)
    rounding = ROUND_CEILING if near > 0 else ROUND_FLOOR
    integer = near.to_integral_value(rounding=rounding)
    texts = [format(integer, "f")] if abs(integer) <= abs(far) and abs(integer) <= _PLAIN_MAX else []
    if not whole:
        texts += [repr(float(near))]
    return min(texts, key=len)


def _digit(first: int, last: int) -> str:
    return str(first) if first == last else f"[{first}-{last}]"


def _digits(least: int, most: int) -> str:
    if most == 0:
        return ""
    if least == most:
        return "[0-9]" if most == 1 else f"[0-9]{{{most}}}"
    return f"[0-9]{{{least},{most}}}"


def _any(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"
