"""A page of memory that a node and its search workers share: whether a copy is still the truth.

Rows that are written reach every copy (`change_ring`). What else changes, as a collection does, an
index of payloads, or a shard that comes as a snapshot, makes a copy worthless: the node takes a new
ticket before it acknowledges that. A worker's copy is as of one ticket, and it looks after it has
read a request: where the ticket is another one by then, it answers nothing. So whoever sends a
search after a write was acknowledged finds what was written, whichever process answers.

A replica must be fresh, too, for which it takes the news of its leader; these reach the node alone.
It tells its workers until when its replicas are fresh, for a short while at a time.

Each word is eight bytes at an address that divides by eight, so it is read and written as a whole.
"""

from __future__ import annotations

import itertools
import mmap
from typing import Final

WORKERS_MAX: Final = 64
_WORD: Final = 8
_TICKET: Final = 0
_FRESH_UNTIL_NS: Final = 1
_WRITTEN: Final = 2
_BEATS: Final = 8
"""Each worker's beat, from this word on."""
_PLACES: Final = _BEATS + WORKERS_MAX
"""Each worker's place in the ring of changes."""
_NS: Final = 1_000_000_000


class SharedState:
    """See the module. Made before a fork, by the node."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _WORD * (_PLACES + WORKERS_MAX))
        self._words = memoryview(self._memory).cast("q")
        self._tickets = itertools.count(1)

    def change(self) -> None:
        """Make every copy worthless; from any thread.

        No two threads write the same ticket. The one that another overtakes is not lost: a copy is
        as of a ticket that was read, and neither of theirs is that one.
        """
        self._words[_TICKET] = next(self._tickets)

    @property
    def ticket(self) -> int:
        """What tells one instant from all others."""
        return self._words[_TICKET]

    def set_fresh_until(self, time_s: float) -> None:
        """Let copies be believed until then, by the clock that both sides read."""
        self._words[_FRESH_UNTIL_NS] = int(time_s * _NS)

    def is_fresh(self, now_s: float) -> bool:
        """Return whether the node's replicas are fresh enough for any read that names no bound."""
        return now_s * _NS < self._words[_FRESH_UNTIL_NS]

    def beat(self, worker: int) -> None:
        """Show that a worker goes on."""
        self._words[_BEATS + worker] += 1

    @property
    def written(self) -> int:
        """Bytes that were ever written to the ring of changes."""
        return self._words[_WRITTEN]

    def set_written(self, count: int) -> None:
        """Let workers read up to there."""
        self._words[_WRITTEN] = count

    def place(self, worker: int) -> int:
        """Return how many of these bytes a worker has read."""
        return self._words[_PLACES + worker]

    def set_place(self, worker: int, count: int) -> None:
        """Let the ring's room up to there be used again."""
        self._words[_PLACES + worker] = count

    def beats(self, worker: int) -> int:
        """Return how often a worker has shown that it goes on."""
        return self._words[_BEATS + worker]
