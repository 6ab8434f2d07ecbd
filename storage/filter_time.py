"""Dates and times in text, read twice alike: by Python and by SQLite.

Read are RFC 3339 and, as Qdrant does, its relaxed forms: a space for the T, no zone (UTC), a zone
without a colon, no seconds, a date alone (midnight). A moment is a whole number of microseconds
since 1970; further digits are cut off. The second 60 is the one after 59. Years are 0001 to 9999.

SQLite's own functions are asked for nothing but the day: they accept the 31st of February, and
know milliseconds only.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final

_FORM: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2})"
    r"(?::([0-9]{2})(?:\.([0-9]+))?(?:[Zz]|([+-])([0-9]{2}):?([0-9]{2}))?)?)?"
)
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()

_DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
_CLOCK = "[0-2][0-9]:[0-5][0-9]:[0-6][0-9]"

TIME_SQL: Final = f"""(
WITH given (text) AS (SELECT {{}}),
filled (moment) AS (
  SELECT CASE length(text)
    WHEN 10 THEN text || 'T00:00:00' WHEN 16 THEN text || ':00' ELSE text END FROM given
), sized AS (
  SELECT moment, CASE
    WHEN moment GLOB '*[Zz]' THEN 1
    WHEN substr(moment, 20) GLOB '*[+-][0-9][0-9]:[0-5][0-9]' THEN 6
    WHEN substr(moment, 20) GLOB '*[+-][0-9][0-9][0-5][0-9]' THEN 5
    ELSE 0 END AS size
  FROM filled WHERE moment GLOB '{_DAY}[Tt ]{_CLOCK}*'
), cut AS (
  SELECT moment, substr(moment, 1, 10) AS day,
    substr(moment, 20, length(moment) - 19 - size) AS part,
    iif(size > 1, substr(moment, -size), '') AS zone
  FROM sized
)
SELECT (
  strftime('%s', day) + substr(moment, 12, 2) * 3600 + substr(moment, 15, 2) * 60
  + substr(moment, 18, 2)
  - (substr(zone, 2, 2) * 3600 + substr(zone, -2) * 60) * iif(zone GLOB '-*', -1, 1)
) * 1000000 + CAST(substr(substr(part, 2) || '000000', 1, 6) AS INTEGER)
FROM cut
WHERE substr(moment, 12, 2) < '24' AND substr(moment, 18, 2) <= '60' AND moment >= '0001'
  AND date(day, '+0 days') = day AND (zone = '' OR substr(zone, 2, 2) < '24')
  AND (part = '' OR (part GLOB '.[0-9]*' AND substr(part, 2) NOT GLOB '*[^0-9]*'))
)"""  # noqa: S608 - made of the patterns above
"""The moment in the text that takes the place of `{}`, in microseconds; NULL if it is none."""


def read_time(text: str) -> int | None:
    """Return the moment in microseconds since 1970, or None if the text is no date and time."""
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    fraction, sign, *zone = found.groups()[6:]
    zone_hour, zone_minute = (int(part or 0) for part in zone)
    if hour > 23 or minute > 59 or second > 60 or zone_hour > 23 or zone_minute > 59:
        return None
    try:
        days = date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError:
        return None
    offset_s = (zone_hour * 3600 + zone_minute * 60) * (-1 if sign == "-" else 1)
    seconds = days * 86400 + hour * 3600 + minute * 60 + second - offset_s
    return seconds * 1_000_000 + int(((fraction or "") + "000000")[:6])
