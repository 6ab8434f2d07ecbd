"""A disk that forgets: what was written but not synced may be lost, torn or kept by a crash.

A sync that fails once does what Linux does: the pages count as clean afterwards, so the cache
shows what the platter does not have, and a later sync, which succeeds, does not write them either.
"""

from __future__ import annotations

import errno
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.virtual_loop import PowerGone


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
        self.fail_once: set[str] = set()
        """Which of "write" and "sync" fail once with EIO."""
        self.budget: int | None = None
        """Operations that are still done; then the power is gone."""
        self.on_sync: Callable[[str], None] = lambda _: None
        self.free_bytes: float = math.inf

    def names(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        return bytes(self.files[name].cached)

    def create(self, name: str, size: int) -> None:
        self._spend()
        assert name not in self.files, "a segment is created once"
        if size > self.free_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.free_bytes -= size
        self.files[name] = File(bytearray(size), bytearray(size))

    def write(self, name: str, offset: int, data: bytes) -> None:
        self._spend()
        self._fail("write")
        file = self.files[name]
        assert offset + len(data) <= len(file.cached), "a write stays inside its segment"
        file.cached[offset : offset + len(data)] = data
        file.pending.append((offset, data))

    def sync(self, name: str) -> None:
        if self.fail_sync:
            raise OSError(5, "Input/output error")
        self._spend()
        file = self.files[name]
        if "sync" in self.fail_once:
            file.pending.clear()
        self._fail("sync")
        for offset, data in file.pending:
            file.durable[offset : offset + len(data)] = data
        file.pending.clear()
        self.on_sync(name)

    def remove(self, name: str) -> None:
        self._spend()
        self.free_bytes += len(self.files.pop(name).cached)

    def _spend(self) -> None:
        if self.budget is not None:
            if self.budget == 0:
                raise PowerGone
            self.budget -= 1

    def _fail(self, what: str) -> None:
        if what in self.fail_once:
            self.fail_once.discard(what)
            raise OSError(errno.EIO, "Input/output error")

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
