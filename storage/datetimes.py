"""Datetimes in payloads and filters: text to milliseconds since 1970 UTC.

Accepted are RFC 3339 and its usual abbreviations: a date; a date, `T` or a space, and a time to the
minute or second; up to nine digits of a fraction; `Z` or an offset up to 14:59; no offset means
UTC. A fraction is rounded to the millisecond in the same arithmetic as SQLite's date functions use,
because `storage.filter_sql` lets SQLite parse what this module parses here.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final

_TEXT: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[T ]([01]\d|2[0-3]):([0-5]\d)"
    r"(?::([0-5]\d)(?:\.(\d{1,9}))?(Z|[+-](?:0\d|1[0-4]):[0-5]\d)?)?)?",
    re.ASCII,
)
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


def parse_datetime_ms(text: str) -> int | None:
    """Return the instant that a text names, or None if it is not a datetime."""
    found = _TEXT.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, offset = found.groups(default="")
    try:
        days = date(int(year), int(month), int(day)).toordinal() - _EPOCH_DAY
    except ValueError:
        return None
    minutes = days * 1440 + int(hour or 0) * 60 + int(minute or 0) - _offset_minutes(offset)
    return minutes * 60_000 + _round_ms(int(second or 0), fraction)


def _offset_minutes(text: str) -> int:
    if text in {"", "Z"}:
        return 0
    minutes = int(text[1:3]) * 60 + int(text[4:6])
    return -minutes if text[0] == "-" else minutes


def _round_ms(second: int, fraction: str) -> int:
    value, scale = 0.0, 1.0
    for digit in fraction:
        value = value * 10.0 + int(digit)
        scale *= 10.0
    return int((second + value / scale) * 1000.0 + 0.5)
