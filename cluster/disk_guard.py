"""Keeps free space on a node's disk: what would make it grow is refused in time.

The last space is what the node needs to get on: for applying what is committed, for checkpoints of
SQLite and for the next segment of the log. So writes that add or change rows are answered 507 while
less than the floor is free, or while something has already met a full disk. Deletes and reads go
on. The floor is a setting, but at most a tenth of the file system; writes are taken again when a
quarter more than the floor is free.

Pure: readings are arguments.
"""

from __future__ import annotations

from typing import NamedTuple

from cluster.full_nodes import FullNodes


class DiskReading(NamedTuple):
    """The file system of the data folder."""

    free_bytes: int
    total_bytes: int


class DiskGuard(FullNodes):
    """Judges by the last reading it was given."""

    def __init__(self, me: str, free_bytes_min: int) -> None:
        super().__init__(me, "disk")
        self._free_bytes_min = free_bytes_min
        self._reading = DiskReading(0, 0)

    @property
    def free_bytes(self) -> int:
        """What was free at the last reading."""
        return self._reading.free_bytes

    def floor_bytes(self, reading: DiskReading) -> int:
        """Return how much must be free."""
        return min(self._free_bytes_min, reading.total_bytes // 10)

    def observe(self, reading: DiskReading, *, met_full: bool) -> None:
        """Take a reading; `met_full`: something is waiting for space now."""
        self._reading = reading
        floor = self.floor_bytes(reading)
        line = floor + floor // 4 if self.full else floor
        self.full = met_full or reading.free_bytes < line

    def describe(self) -> str:
        """Return the reading in words, for the log."""
        free, floor = self._reading.free_bytes, self.floor_bytes(self._reading)
        return f"disk: {free >> 20} MiB are free, the floor is {floor >> 20} MiB"
