"""Reads the memory's state all the time, and tells the peers while it is full.

Nothing is sent while there is room. The guard that the readings go to is asked by the write path
and by the reader of request bodies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from cluster.control_group import MemoryReading
from cluster.fan_out import fan_out
from cluster.memory_guard import NOTICE_S, MemoryGuard
from cluster.peer import Peers
from cluster.peer_methods import MEMORY_FULL, MemoryFull
from storage.index_set import IndexSet

log = logging.getLogger("recollect.memory")

LOOK_S: Final = 0.1
TELL_S: Final = NOTICE_S / 5
_LINK_BYTES: Final = 8
"""A row's links in the search graph, for each M."""
_ROW_BYTES: Final = 120
"""What else hnswlib keeps for a row: its lock, label, level and places in tables."""


class MemoryWatch:
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
    ) -> None:
        self._guard, self._read, self._indexes = guard, read, indexes
        self._me, self._others, self._peers, self._clock = me, others, peers, clock

    def register(self) -> None:
        """Listen to the peers."""
        self._peers.serve(MEMORY_FULL, self._hear)

    async def run(self) -> None:
        """Watch until cancelled. A peer that does not answer keeps no reading waiting."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_for_ever())
            tasks.create_task(self._tell_for_ever())

    async def _look_for_ever(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def _tell_for_ever(self) -> None:
        while True:
            if self._guard.full:
                await self.tell()
            await asyncio.sleep(TELL_S if self._guard.full else LOOK_S)

    async def look(self) -> None:
        """Take one reading."""
        was_full = self._guard.full
        reading, pending = await asyncio.to_thread(self._measure)
        self._guard.observe(reading, pending)
        if self._guard.full != was_full:
            outcome = "are taken again" if was_full else "are refused"
            log.warning("writes %s: %s", outcome, self._guard.describe())

    def _measure(self) -> tuple[MemoryReading | None, int]:
        reading = self._read()
        return reading, 0 if reading is None else pending_bytes(self._indexes)

    async def tell(self) -> None:
        """Tell all peers that this node is full; one that is away takes no writes to pass on."""
        reached = [node for node in self._others if self._peers.connected(node)]
        until_s = self._clock() + TELL_S
        notice = MemoryFull(self._me)
        if reached:
            await fan_out(
                [self._peers.call(node, MEMORY_FULL, notice, until_s) for node in reached]
            )

    async def _hear(self, notice: MemoryFull) -> bool:
        if notice.node in self._others:
            self._guard.hear(notice.node, self._clock())
        return True


def pending_bytes(indexes: IndexSet) -> int:
    """Return what rows of fresh tails will need in the graph beyond what they have now."""
    total = 0
    for uid in indexes.uids():
        index = indexes.get(uid)
        if index is not None:
            total += index.tail_size * (_LINK_BYTES * index.shape.m + _ROW_BYTES)
    return total
