"""Reads the disk's state all the time, tells the peers while it is full, and keeps the reserve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cluster.disk_guard import DiskGuard, DiskReading
from cluster.disk_reserve import DiskReserve, read_disk
from cluster.full_watch import FullWatch
from cluster.peer import Peers
from cluster.peer_methods import DISK_FULL

LOOK_S: Final = 0.25


class DiskWatch(FullWatch):
    """One node's watch over the file system of `folder`.

    `log_full` and `state_full` say whether the log's segments, and a state machine, wait for space.
    """

    def __init__(  # noqa: PLR0913 - each part comes by name
        self,
        *,
        guard: DiskGuard,
        folder: Path,
        reserve: DiskReserve,
        log_full: Callable[[], bool],
        state_full: Callable[[], bool],
        me: str,
        others: Sequence[str],
        peers: Peers,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(
            guard=guard,
            method=DISK_FULL,
            look=self.look,
            look_s=LOOK_S,
            me=me,
            others=others,
            peers=peers,
            clock=clock,
        )
        self._disk, self._folder, self._reserve = guard, folder, reserve
        self._log_full, self._state_full = log_full, state_full

    async def look(self) -> None:
        """Take one reading; give the reserve away, or take it back, as it says."""
        log_full, state_full = self._log_full(), self._state_full()
        reading = await asyncio.to_thread(self._measure, state_full)
        self._disk.observe(reading, met_full=log_full or state_full)

    def _measure(self, state_full: bool) -> DiskReading:  # noqa: FBT001
        reading = read_disk(self._folder)
        if state_full:
            self._reserve.release()
        elif not self._reserve.held:
            size = self._reserve.size(reading)
            if reading.free_bytes >= 2 * self._disk.floor_bytes(reading) + size:
                self._reserve.hold(size)
        return reading
