"""The folder of write-ahead log segments on a real disk.

Segments are preallocated so that writing into them needs no space and fdatasync has no file size
to write, created and removed durably (the folder is synced too), and never renamed. `create` may
run on another thread than the rest.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path


class FolderDisk:
    """Implements `cluster.raft.wal.Disk`; keeps one descriptor, of the segment in use."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._open: tuple[str, int] | None = None

    def names(self) -> list[str]:
        """Return the segment names, oldest first."""
        return sorted(path.name for path in self._folder.glob("*.wal"))

    def read(self, name: str) -> bytes:
        """Return a whole segment."""
        return (self._folder / name).read_bytes()

    def create(self, name: str, size: int) -> None:
        """Make a durable segment of `size` zero bytes; nothing stays behind when that fails.

        Space is looked for first: an allocation that fails half way would, for that moment, take
        what little is left from everybody else.
        """
        space = os.statvfs(self._folder)
        if space.f_bavail * space.f_frsize < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder / name))
        descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            os.fsync(descriptor)
            self._sync_folder()
        except OSError:
            (self._folder / name).unlink()
            raise
        finally:
            os.close(descriptor)

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`."""
        descriptor, view = self._descriptor(name), memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written

    def sync(self, name: str) -> None:
        """Make all writes to a segment durable."""
        os.fdatasync(self._descriptor(name))

    def remove(self, name: str) -> None:
        """Remove a segment, durably.

        A segment of the same name may be created next, so no descriptor of this one may stay.
        """
        if self._open is not None and self._open[0] == name:
            self.close()
        (self._folder / name).unlink()
        self._sync_folder()

    def close(self) -> None:
        """Close the segment in use."""
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def _descriptor(self, name: str) -> int:
        if self._open is None or self._open[0] != name:
            self.close()
            self._open = (name, os.open(self._folder / name, os.O_RDWR))
        return self._open[1]

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
