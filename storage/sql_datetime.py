"""SQL twins of `storage.datetimes`, over a column `t` of text.

SQLite's own parser takes more than we do (times alone, `now`, 31 February, hour 24), so the shape
is checked first, step by step: date, time to the minute, seconds, fraction, offset.
"""

from __future__ import annotations

from typing import Final

_DATE: Final = (
    "t GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*' AND substr(t, 1, 4) <> '0000'"
    " AND strftime('%d', julianday(substr(t, 1, 10))) = substr(t, 9, 2)"
)
_MINUTES: Final = "substr(t, 11, 6) GLOB '[T ][0-2][0-9]:[0-5][0-9]' AND substr(t, 12, 2) <= '23'"
_SECONDS: Final = "substr(t, 17, 3) GLOB ':[0-5][0-9]'"
_AFTER_DIGITS: Final = "ltrim(substr(t, 21), '0123456789')"
_FRACTION: Final = (
    f"substr(t, 20, 1) = '.' AND length(substr(t, 21)) - length({_AFTER_DIGITS}) BETWEEN 1 AND 9"
)
_OFFSET: Final = (
    "({0} IN ('', 'Z') OR {0} GLOB '[+-][0-1][0-9]:[0-5][0-9]' AND substr({0}, 2, 2) <= '14')"
)
_ENDING: Final = (
    f"({_OFFSET.format('substr(t, 20)')} OR {_FRACTION} AND {_OFFSET.format(_AFTER_DIGITS)})"
)

IS_DATETIME: Final = (
    f"{_DATE} AND (length(t) = 10 OR {_MINUTES} AND (length(t) = 16 OR {_SECONDS} AND {_ENDING}))"
)
"""Whether `t` is a datetime."""

INSTANT_MS: Final = "CAST(round((julianday(t) - 2440587.5) * 86400000.0) AS INTEGER)"
"""Milliseconds since 1970 UTC of a `t` that is one."""
