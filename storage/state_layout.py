"""The files of one replica's state: numbered generations, of which the highest is the state.

A state called `state.db` lives in `state.db.1`, and after a snapshot was installed in
`state.db.2`. A new generation is prepared under another name, fsynced, renamed to its number,
and the directory fsynced; that rename is the one atomic step, there is no pointer to keep in
agreement with it. Dying before it leaves the old generation the highest, dying after it the new
one; what lost is swept away at the next opening.

Why not rename over one fixed name: SQLite finds `-wal` and `-shm` by the name of the database.
A write-ahead log left by the old file would be replayed into the new one, and a reader of the
old file that closes late would unlink the new one's log. No number is ever used twice while a
file of it exists, so a sidecar can only meet the database that it belongs to.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

SIDECARS = ("-wal", "-shm", "-journal")


def sync_path(path: Path) -> None:
    """fsync a file's content, or a directory's names. Raises OSError; never retry it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Create a directory and its missing parents so that they survive a power cut."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_path(directory.parent)


def remove_database(path: Path) -> None:
    """Unlink a database that nothing uses any more, with whatever SQLite left beside it."""
    for suffix in (*SIDECARS, ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def publish(prepared: Path, target: Path) -> None:
    """Give a finished file its final name, durably; it replaces what was there, atomically."""
    sync_path(prepared)
    prepared.replace(target)
    sync_path(target.parent)


class StateLayout:
    """Names, finds, publishes and sweeps the generations of the state called `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        suffixes = "|".join(SIDECARS)
        name = re.escape(path.name)
        self._pattern = re.compile(rf"{name}\.(?:(\d{{1,18}})|upcoming)(?:{suffixes})?")
        make_directory(path.parent)

    @property
    def upcoming(self) -> Path:
        """The name under which the next generation is prepared."""
        return self._path.with_name(f"{self._path.name}.upcoming")

    def file(self, generation: int) -> Path:
        """Return the database file of a generation."""
        assert generation >= 1, "generations count from one"
        return self._path.with_name(f"{self._path.name}.{generation}")

    def current(self) -> int:
        """Return the highest generation there is; 0 when the state was never created."""
        numbers = (match[1] for match in map(self._match, self._names()) if match is not None)
        found = {int(number) for number in numbers if number is not None}
        return max((number for number in found if self.file(number).exists()), default=0)

    def sweep(self, keep: int) -> None:
        """Unlink every file of other generations, and of one that was never finished."""
        for name in self._names():
            match = self._match(name)
            if match is not None and match[1] != str(keep):
                self._path.with_name(name).unlink(missing_ok=True)

    def require_space(self, count: int) -> None:
        """Raise OSError (ENOSPC) when less than `count` bytes are free for this state."""
        space = os.statvfs(self._path.parent)
        if space.f_bavail * space.f_frsize < count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def adopt(self, source: Path) -> None:
        """Move a file, also from another file system, to where it can be published."""
        shutil.move(source, self.upcoming)

    def publish(self, generation: int) -> None:
        """Make the upcoming file the given generation, and thereby the state."""
        target = self.file(generation)
        for suffix in ("", *SIDECARS):
            name = f"{target.name}{suffix}"
            assert not target.with_name(name).exists(), f"{name} is used once"
        publish(self.upcoming, target)

    def _names(self) -> list[str]:
        return sorted(each.name for each in self._path.parent.iterdir())

    def _match(self, name: str) -> re.Match[str] | None:
        return self._pattern.fullmatch(name)
