"""Reads the memory's state all the time, and tells the peers while it is full.

A full node also gives back again and again what the C library keeps of memory that was freed:
deletes and drops free it in small pieces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from cluster.control_group import MemoryReading
from cluster.full_watch import FullWatch
from cluster.memory_guard import MemoryGuard
from cluster.peer import Peers
from cluster.peer_methods import MEMORY_FULL
from storage import allocator
from storage.index_set import IndexSet

LOOK_S: Final = 0.1
NO_LIMIT_LOOK_S: Final = 5.0
GIVE_BACK_S: Final = 5.0
_LINK_BYTES: Final = 8
"""A row's links in the search graph, for each M."""
_ROW_BYTES: Final = 120
"""What else hnswlib keeps for a row: its lock, label, level and places in tables."""


class MemoryWatch(FullWatch):
    """One node's watch. `read` blocks and is called on a thread; `clock` is monotonic."""

    def __init__(  # noqa: PLR0913 - each part comes by name
        self,
        *,
        guard: MemoryGuard,
        read: Callable[[], MemoryReading | None],
        indexes: IndexSet,
        me: str,
        others: Sequence[str],
        peers: Peers,
        clock: Callable[[], float],
        give_back: Callable[[], object] = allocator.give_back,
    ) -> None:
        super().__init__(
            guard=guard,
            method=MEMORY_FULL,
            look=self.look,
            look_s=LOOK_S,
            me=me,
            others=others,
            peers=peers,
            clock=clock,
        )
        self._memory, self._read, self._indexes = guard, read, indexes
        self._give_back, self._gave_back_s = give_back, -GIVE_BACK_S

    async def look(self) -> None:
        """Take one reading."""
        if self._memory.full and self._clock() - self._gave_back_s >= GIVE_BACK_S:
            self._gave_back_s = self._clock()
            await asyncio.to_thread(self._give_back)
        reading, pending = await asyncio.to_thread(self._measure)
        self._memory.observe(reading, pending)
        self.look_s = NO_LIMIT_LOOK_S if reading is None else LOOK_S

    def _measure(self) -> tuple[MemoryReading | None, int]:
        reading = self._read()
        return reading, 0 if reading is None else pending_bytes(self._indexes)


def pending_bytes(indexes: IndexSet) -> int:
    """Return what rows will need in graphs and payload indexes beyond what they have now."""
    total = 0
    for uid in indexes.uids():
        index = indexes.get(uid)
        if index is not None:
            total += index.tail_size * (_LINK_BYTES * index.shape.m + _ROW_BYTES)
            total += index.payloads.pending_bytes
    return total
