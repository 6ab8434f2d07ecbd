"""Whether building an index can wait: rows come in a flood, and nobody searches. Pure.

To build a row into a graph costs many times what it costs to store it, so a bulk load is
acknowledged sooner when the processor is left to it. Rows that wait are found all the same, by
comparing each of them, for which only searches pay. So building goes on when the flood ends, and
when very many rows wait.

When somebody searches during a flood, rows still do not go into the large graph: it takes them in
more slowly than they come, and adding excludes searches. Segments are built then, as soon as there
are rows enough for one (`storage.segments`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

ROWS_PER_S: Final = 1000.0
"""What comes more slowly is built as it comes: there is processor enough for both."""
WAITING_MAX: Final = 262_144
WAITING_BYTES_MAX: Final = 400 * 1024 * 1024
"""Vectors that wait are in memory twice once they are built, and each search compares them all."""
LOOK_S: Final = 0.25
"""How long to count rows before their rate means anything: a follower takes them in by the lump."""
SEARCHED_S: Final = 1.0
"""How long a search is remembered."""


@dataclass(slots=True)
class Flood:
    """What is known of one index; times are of one clock, in seconds."""

    row_bytes: int = 1
    """Of one vector."""
    searched: bool = False
    """Whether somebody has searched since the last look."""
    _searched_at_s: float = -inf
    _rows: int = 0
    _at_s: float = 0.0
    _pours: bool = False

    def take_searched(self) -> bool:
        """Return whether somebody has searched since the last call; in a copy."""
        searched, self.searched = self.searched, False
        return searched

    def lasts(self, rows: int, waiting: int, now_s: float, *, segment_due: bool = False) -> bool:
        """Look: return whether to wait; `rows` ever came, and of these so many are `waiting`.

        `segment_due`: a segment could be made of those who wait.
        """
        if self.searched:
            self.searched, self._searched_at_s = False, now_s
        elapsed_s = now_s - self._at_s
        if elapsed_s >= LOOK_S:
            self._pours = rows - self._rows >= ROWS_PER_S * elapsed_s
            self._rows, self._at_s = rows, now_s
        if waiting >= min(WAITING_MAX, WAITING_BYTES_MAX // self.row_bytes):
            return False
        searched = now_s - self._searched_at_s <= SEARCHED_S
        return self._pours and not (searched and segment_due)
