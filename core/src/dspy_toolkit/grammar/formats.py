"""Strings that a JSON schema names by format: what pydantic parses and what it prints."""

from typing import NamedTuple

__all__ = ["FORMATS", "Format", "moment"]


class Format(NamedTuple):
    """A regular expression and its shortest text."""

    regex: str
    minimal: str


_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"  # 0001 to 9999, as in Python
_LEAP_YEAR = (
    "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"  # Gregorian, without 0000
)
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|{_LEAP_YEAR}-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
_ZONE = r"(?:Z|[+-](?:0[0-9]|1[0-4]):[0-5][0-9])"
_CLOCK = r"(?:[0-9]{1,2}H(?:[0-9]{1,2}M)?(?:_)?|[0-9]{1,2}M(?:_)?|_)".replace("_", r"[0-9]{1,2}(?:\.[0-9]{1,6})?S")
_DURATION = rf"-?P(?:[0-9]{{1,4}}Y(?:[0-9]{{1,3}}D)?(?:T{_CLOCK})?|[0-9]{{1,7}}D(?:T{_CLOCK})?|T{_CLOCK})"
_HEX = "[0-9a-f]"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"


def _uuid(version: str) -> Format:
    digit, variant = (_HEX, _HEX) if version == "any" else (version, "[89ab]")
    regex = f"{_HEX}{{8}}-{_HEX}{{4}}-{digit}{_HEX}{{3}}-{variant}{_HEX}{{3}}-{_HEX}{{12}}"
    third = "0000" if version == "any" else f"{version}000"
    return Format(regex, f"00000000-0000-{third}-{'0' if version == 'any' else '8'}000-000000000000")


FORMATS: dict[str, Format] = {
    "date": Format(_DATE, "2000-01-01"),
    "duration": Format(_DURATION, "P1D"),
    "ipv4": Format(rf"{_BYTE}(?:\.{_BYTE}){{3}}", "0.0.0.0"),
    # Written out in full; the abbreviated forms with "::" are not generated.
    "ipv6": Format("[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){7}", "0:0:0:0:0:0:0:1"),
    "uri": Format(
        r"https?://[a-z][a-z0-9]{0,30}(?:\.[a-z][a-z0-9]{0,30}){0,4}\.[a-z]{2,12}"
        r"(?:/[A-Za-z0-9_.~-]{0,60}){0,8}(?:\?[A-Za-z0-9_.~=-]{1,60})?",
        "http://a.aa",
    ),
    "uuid": _uuid("any"),
} | {f"uuid{version}": _uuid(version) for version in "1345678"}


def moment(kind: str, zone: str | int | None) -> Format:
    """A `date-time` or `time`. `zone` is pydantic's constraint on the offset: "aware", "naive", or None for either."""
    date = f"{_DATE}T" if kind == "date-time" else ""
    sample = "2000-01-01T00:00:00" if kind == "date-time" else "00:00:00"
    if zone == "aware":
        return Format(date + _TIME + _ZONE, sample + "Z")
    if zone == "naive":
        return Format(date + _TIME, sample)
    if zone is not None:
        raise ValueError(f"a fixed offset of {zone} seconds from UTC cannot be required of the text")
    return Format(f"{date}{_TIME}{_ZONE}?", sample)
