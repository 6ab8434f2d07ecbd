"""A position in the changes of all shards, as text that a consumer keeps and gives back.

One part a shard, in the order of the shards, with dots between: the log index in hexadecimal; or,
behind one row of an entry that wrote several, the index, the collection's number and the row's id,
with tildes between. A position means the same on every node, for all replicas of a shard have the
same log. Consumers must not look into it: its form may change, and then begins with another mark.
"""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Final

from storage.changes import Place
from storage.ids import is_canonical

MARK: Final = "a."
INDEX_MAX: Final = 2**63 - 1

_PART: Final = re.compile(r"([0-9a-f]{1,16})(?:~([0-9a-f]{1,16})~([A-Za-z0-9_-]{2,2000}))?")


class Position:
    """Places by shard, and their text, of which a change costs only its own shard's part."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = list(places)
        self._parts = [_text(place) for place in places]

    @classmethod
    def parse(cls, text: str, shards: int) -> Position:
        """Return the position of a text; raises ValueError when it is none of this cluster."""
        parts = text.removeprefix(MARK).split(".")
        if not text.startswith(MARK) or len(parts) != shards:
            raise ValueError("a position is as an event's id told it")
        return cls([_place(part) for part in parts])

    def move(self, shard: int, place: Place) -> None:
        """Go on to a place in one shard."""
        assert place.index >= self.places[shard].index, "a position goes forward"
        self.places[shard], self._parts[shard] = place, _text(place)

    @property
    def text(self) -> str:
        """What a consumer is told."""
        return MARK + ".".join(self._parts)


def _text(place: Place) -> str:
    if not place.id:
        return f"{place.index:x}"
    encoded = urlsafe_b64encode(place.id).decode().rstrip("=")
    return f"{place.index:x}~{place.collection:x}~{encoded}"


def _place(part: str) -> Place:
    found = _PART.fullmatch(part)
    if found is None:
        raise ValueError("a position is as an event's id told it")
    index, collection = int(found[1], 16), int(found[2] or "0", 16)
    if max(index, collection) > INDEX_MAX:
        raise ValueError("a position has an index that no log has")
    if found[3] is None:
        return Place(index)
    try:
        canonical = urlsafe_b64decode(found[3] + "=" * (-len(found[3]) % 4))
    except binascii.Error:
        canonical = b""
    if not is_canonical(canonical):
        raise ValueError("a position has an id that no point has")
    return Place(index, collection, canonical)
