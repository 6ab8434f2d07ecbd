"""Text in pictures: how wide it is, where it is broken, and how it is written in XML.

The reader's font is unknown, so widths are estimated for a wide one; in a narrow font a box has
some more room.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from xml.sax.saxutils import escape

ELLIPSIS: Final = "…"
_NARROW: Final = frozenset("ijlftrI.,:;'|!()[]/ -`")
_WIDE: Final = frozenset("mwMW@%&QOGD—…")
_REFUSED: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML 1.0 cannot hold."""


def text_width(text: str, size: float) -> float:
    """Return about how wide a text is in a sans-serif font of that size."""
    return size * sum(map(_advance, text))


def _advance(char: str) -> float:
    if char in _NARROW:
        return 0.38
    if char in _WIDE:
        return 0.88
    if joins_previous(char):
        return 0.0
    if unicodedata.east_asian_width(char) in "WF":
        return 1.05
    return 0.7 if char.isupper() else 0.62


def joins_previous(char: str) -> bool:
    """Return whether a character is part of the sign before it."""
    return bool(unicodedata.combining(char)) or char in "\u200d\ufe0e\ufe0f"


def shortened(text: str, width: float, size: float) -> str:
    """Return a text that fits into a width, with an ellipsis when something is missing."""
    if text_width(text, size) <= width:
        return text
    room = width - text_width(ELLIPSIS, size)
    return text[: _fitting(text, room, size)].rstrip() + ELLIPSIS


def wrapped(text: str, width: float, size: float, lines_max: int) -> tuple[str, ...]:
    """Return a text in at most so many lines, broken between words where that is possible."""
    lines: list[str] = []
    rest = " ".join(text.split())
    while rest and len(lines) < lines_max - 1 and text_width(rest, size) > width:
        cut = max(1, _fitting(rest, width, size))
        space = rest.rfind(" ", 0, cut + 1)
        cut = space if space > cut // 3 else cut
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return (*lines, shortened(rest, width, size))


def _fitting(text: str, width: float, size: float) -> int:
    """Return how many characters fit, without taking a sign apart."""
    used = 0.0
    for at, char in enumerate(text):
        used += size * _advance(char)
        if used > width:
            while at and (joins_previous(text[at]) or text[at - 1] == "\u200d"):
                at -= 1  # noqa: PLW2901 - the sign begins further left
            return at
    return len(text)


def xml(text: str) -> str:
    """Return a text as it stands between tags or, in double quotes, as an attribute."""
    return escape(_REFUSED.sub("\N{REPLACEMENT CHARACTER}", text), {'"': "&quot;"})
