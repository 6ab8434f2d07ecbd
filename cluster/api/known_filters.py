"""Filters by their text: who searches again and again often searches within the same few.

A filter's text is read once, as strictly as any, and its filter kept for those who send it again.
"""

from __future__ import annotations

from typing import Final

from cluster.api.schema import FilterIn, RequestBody
from cluster.api.selection import read_filter
from cluster.api.strict_json import StrictDecoder
from storage.filters import Filter

FILTERS_MAX: Final = 256
TEXT_BYTES_MAX: Final = 1024


class _Body(RequestBody):
    filter: FilterIn | None


class KnownFilters:
    """See the module."""

    def __init__(self) -> None:
        self._decoder = StrictDecoder(_Body)
        self._known: dict[bytes, Filter | None] = {}

    def read(self, text: bytes) -> Filter | None:
        """Return the filter that a JSON text is, None for null; the same one for the same text.

        Raises:
            RecollectError: as `StrictDecoder.decode` and `read_filter` do.
        """
        if text in self._known:
            return self._known[text]
        found = read_filter(self._decoder.decode(b'{"filter":%b}' % text).filter)
        if len(text) <= TEXT_BYTES_MAX:
            if len(self._known) >= FILTERS_MAX:
                self._known.clear()
            self._known[text] = found
        return found
