"""Changes of indexes on their way to search workers, in memory that all of them share.

The node writes a change here after its own index has it and before the write is acknowledged. A
worker that has read a request reads all that is here before it answers, so it has whatever was
acknowledged before the request was sent. Nobody waits for anybody: where a worker is so far behind
that there is no room, its copy is given up.

A copy that is forked has what was written before its place here was taken. What is written while it
is forked it may have already, and gets once more, which changes nothing (`storage.vector_index`).

A record stands whole and in one piece, with its length and a checksum: on a processor that lets
another one see writes in another order, a record that is not whole yet is not read yet.
"""

from __future__ import annotations

import mmap
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Final

from cluster.workers.shared_state import SharedState

RING_BYTES: Final = 4 * 1024 * 1024
"""2,600 vectors of 384 dimensions."""
_HEADER: Final = struct.Struct("<II")
"""Length and CRC-32 of what follows; a length of `_WRAP`: go on at the beginning."""
_WRAP: Final = 0xFFFFFFFF
_ALIGNED: Final = 8


class ChangeRing:
    """See the module. One process writes, from one thread at a time; each worker reads."""

    def __init__(self, shared: SharedState, size: int = RING_BYTES) -> None:
        assert size % _ALIGNED == 0, "every record begins at a multiple"
        self._shared = shared
        self._size = size
        self._memory = mmap.mmap(-1, size)
        self._mutex = threading.Lock()
        self._readers: tuple[int, ...] = ()

    def admit(self, worker: int) -> None:
        """Let a worker read from here on; before it is forked."""
        with self._mutex:
            self._shared.set_place(worker, self._shared.written)
            self._readers = (*self._readers, worker)

    def dismiss(self, worker: int) -> None:
        """Wait for a worker no longer."""
        with self._mutex:
            self._readers = tuple(each for each in self._readers if each != worker)

    @property
    def is_read(self) -> bool:
        """Whether anybody reads."""
        return bool(self._readers)

    def append(self, record: bytes) -> bool:
        """Write a record; False: there is no room for it."""
        with self._mutex:
            if not self._readers:
                return True
            needed = -(-(_HEADER.size + len(record)) // _ALIGNED) * _ALIGNED
            begin = self._shared.written
            offset = begin % self._size
            skipped = self._size - offset if offset + needed > self._size else 0
            oldest = min(map(self._shared.place, self._readers))
            if begin + skipped + needed - oldest > self._size:
                return False
            if skipped:
                _HEADER.pack_into(self._memory, offset, _WRAP, 0)
                offset = 0
            start = offset + _HEADER.size
            self._memory[start : start + len(record)] = record
            _HEADER.pack_into(self._memory, offset, len(record), zlib.crc32(record))
            self._shared.set_written(begin + skipped + needed)
            return True

    def read(self, worker: int) -> Iterator[bytes]:
        """Yield the records that a worker has not read; each counts as read when the next comes."""
        place, written = self._shared.place(worker), self._shared.written
        while place < written:
            offset = place % self._size
            length, checksum = _HEADER.unpack_from(self._memory, offset)
            if length == _WRAP:
                place += self._size - offset
                continue
            start = offset + _HEADER.size
            if length > self._size - start:
                return
            record = self._memory[start : start + length]
            if zlib.crc32(record) != checksum:
                return
            yield record
            place += -(-(_HEADER.size + length) // _ALIGNED) * _ALIGNED
            self._shared.set_place(worker, place)
