"""A disk that forgets: what was written but not synced may be lost, torn or kept by a crash."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass
class File:
    """A file as the platter has it, and as the page cache has it."""

    durable: bytearray
    cached: bytearray
    pending: list[tuple[int, bytes]] = field(default_factory=list)


class FaultyDisk:
    """Implements `cluster.raft.wal.Disk`. Creation and removal are durable at once."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.fail_sync = False

    def names(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        return bytes(self.files[name].cached)

    def create(self, name: str, size: int) -> None:
        assert name not in self.files, "a segment is created once"
        self.files[name] = File(bytearray(size), bytearray(size))

    def write(self, name: str, offset: int, data: bytes) -> None:
        file = self.files[name]
        assert offset + len(data) <= len(file.cached), "a write stays inside its segment"
        file.cached[offset : offset + len(data)] = data
        file.pending.append((offset, data))

    def sync(self, name: str) -> None:
        if self.fail_sync:
            raise OSError(5, "Input/output error")
        file = self.files[name]
        file.durable[:] = file.cached
        file.pending.clear()

    def remove(self, name: str) -> None:
        del self.files[name]

    def lose_power(self, rng: random.Random) -> None:
        """Keep of each unsynced write nothing, all, or some sectors in any order."""
        for name in sorted(self.files):
            file = self.files[name]
            for offset, data in file.pending:
                self._tear(file, offset, data, rng)
            file.cached[:] = file.durable
            file.pending.clear()

    @staticmethod
    def _tear(file: File, offset: int, data: bytes, rng: random.Random) -> None:
        fate = rng.random()
        for start in range(0, len(data), 64):
            if fate < 0.3 or (fate < 0.7 and rng.random() < 0.5):
                continue
            piece = data[start : start + 64]
            file.durable[offset + start : offset + start + len(piece)] = piece
