"""A file that only holds space, for the moment when there is none.

Somebody else may fill the disk from one moment to the next. Then the file goes, and what cannot
wait has room: opening SQLite's files at a start, and applying what is already committed, without
which a strong read could not be answered. It is made again when there is space enough.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cluster.disk_guard import DiskReading

NAME: Final = "reserve"
RESERVE_BYTES_MAX: Final = 16 << 20
RESERVE_PART: Final = 32
"""Of the file system: a small one is not to be used up by reserves."""
START_BYTES: Final = 4 << 20
"""Free space with which every file of a node can be opened."""


def read_disk(folder: Path) -> DiskReading:
    """Return the state of the file system that a folder is on. Raises OSError."""
    found = os.statvfs(folder)
    return DiskReading(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def make_room(folder: Path) -> None:
    """Give the reserve away if a node could not start without."""
    if read_disk(folder).free_bytes < START_BYTES:
        DiskReserve(folder).release()


class DiskReserve:
    """The file in `folder`. Its methods block, and belong to one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def size(self, reading: DiskReading) -> int:
        """Return how many bytes are worth holding on such a disk."""
        return min(RESERVE_BYTES_MAX, reading.total_bytes // RESERVE_PART)

    @property
    def held(self) -> bool:
        """Whether the space is held."""
        return self._path.exists()

    def hold(self, size: int) -> None:
        """Take the space, if there is so much; nothing stays behind when there is not."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError:
            self._path.unlink()
        finally:
            os.close(descriptor)

    def release(self) -> None:
        """Give the space to whoever needs it now. Idempotent."""
        self._path.unlink(missing_ok=True)
