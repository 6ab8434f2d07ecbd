"""Files in which a cut waits until Postgres has taken it.

Each has rows for one table, in the form of a binary COPY. They are written by a thread that holds
a snapshot of the shard, as fast as the disk allows, and sent as slowly, and as often, as Postgres
needs. What they take on the disk is watched: it must never be what makes the node refuse writes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from storage.checkpoint.errors import NoRoom
from storage.connections import out_of_space

PIECE_BYTES: Final = 256 << 10


class Spool:
    """A folder of files by name; `free_bytes_min` is what must be left on its disk.

    What fits into a piece is kept in memory: most files of a small change do.
    """

    def __init__(
        self, folder: Path, free_bytes_min: int, pause: Callable[[], None] = lambda: None
    ) -> None:
        self._folder = folder
        self._free_bytes_min = free_bytes_min
        self._pause = pause
        self._small: dict[str, bytes] = {}
        self._pieces: dict[str, list[int]] = {}
        self.rows: dict[str, int] = {}
        """How many rows each file has."""
        self.on_disk = False
        """Whether anything is on the disk."""

    def write(self, name: str, rows: Iterable[bytes]) -> int:
        """Write a file of rows; return how many they were.

        Raises:
            NoRoom: the disk has no space for it.
        """
        assert name not in self.rows, "a file is written once"
        with self._room_named(), ExitStack() as opened:
            file: BinaryIO | None = None
            count, held, pieces = 0, bytearray(), list[int]()
            for row in rows:
                count += 1
                held += row
                if len(held) >= PIECE_BYTES:
                    file = file or opened.enter_context(self._create(name))
                    self._require_room()
                    file.write(held)
                    pieces.append(len(held))
                    held.clear()
                    self._pause()
            if file is None:
                self._small[name] = bytes(held)
            else:
                file.write(held)
                self._pieces[name] = [*pieces, len(held)]
        self.rows[name] = count
        return count

    async def read(self, name: str) -> AsyncIterator[bytes]:
        """Yield a file's bytes, piece by piece, each of whole rows."""
        if name in self._small:
            yield self._small[name]
            return
        path = self._folder / name
        file = await asyncio.to_thread(path.open, "rb")
        try:
            for size in self._pieces[name]:
                yield await asyncio.to_thread(file.read, size)
        finally:
            file.close()

    def discard(self) -> None:
        """Remove all files."""
        self._small.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _create(self, name: str) -> BinaryIO:
        self.on_disk = True
        self._folder.mkdir(parents=True, exist_ok=True)
        return (self._folder / name).open("wb")

    def _require_room(self) -> None:
        space = os.statvfs(self._folder)
        if space.f_bavail * space.f_frsize < self._free_bytes_min:
            raise NoRoom("sending the rows of a checkpoint would fill this node's disk")

    @contextmanager
    def _room_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not out_of_space(error):
                raise
            raise NoRoom("the disk has no space for the rows of a checkpoint") from None
