"""The bytes of the write-ahead log. Pure.

A segment is a preallocated file of batches. A batch is one write and one fdatasync:

    magic u32 | crc32 u32 | length u32 | sequence u64 | records ...        (little-endian)

The CRC covers everything after itself and starts from the segment's salt, which stands in the
segment's name: nobody outside knows it, so bytes that a client stores can never look like a
batch. Sequences count up by one over all segments, and batch n + 1 is written only after batch n
was synced. So a bad batch with no good batch behind it is a torn tail: it was never synced,
nobody was told of it, it is cut. A bad batch with a good one behind it was synced and has rotted:
that is corruption (D20), and cutting there would forget acknowledged entries, so the node must
refuse.

The first batch of a segment begins with records that restate every group's term, vote, base and
hold, exactly as all batches before it left them, so older segments can be dropped whole. Segments
are made ahead: the newest may be without batches. The sequence in a name only sorts it behind those
that were there when it was made.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from cluster.raft.log import GroupState
from cluster.raft.messages import Entry

MAGIC: Final = 0x314C4352  # "RCL1"
HEADER: Final = struct.Struct("<IIIQ")
RECORD: Final = struct.Struct("<BII")
TWO: Final = struct.Struct("<QQ")
ONE: Final = struct.Struct("<Q")


class Kind(IntEnum):
    """What a record says."""

    ENTRY = 1
    TRUNCATE = 2
    META = 3
    BASE = 4
    RESET = 5
    HOLD = 6


class CorruptLog(Exception):
    """The log holds damage that no crash explains; the replica must be refilled, not cut."""


def record(kind: Kind, group: int, *parts: bytes) -> list[bytes]:
    """Return one record as buffers."""
    return [RECORD.pack(kind, group, sum(map(len, parts))), *parts]


def meta_body(term: int, vote: str | None) -> bytes:
    """Return the body of a META record."""
    return ONE.pack(term) + (b"" if vote is None else b"\x01" + vote.encode())


def batch(sequence: int, records: list[bytes], salt: int) -> bytes:
    """Return one batch, ready to be written into a segment of that salt."""
    length = sum(map(len, records))
    crc = zlib.crc32(struct.pack("<IQ", length, sequence), salt)
    for part in records:  # copied once, for they may be megabytes
        crc = zlib.crc32(part, crc)
    return b"".join((HEADER.pack(MAGIC, crc, length, sequence), *records))


def segment_name(sequence: int, salt: int) -> str:
    """Return the name of a segment made before that batch; names sort by sequence."""
    assert 0 <= salt < 2**32, "a salt has 32 bits"
    return f"{sequence:016x}-{salt:08x}.wal"


def sequence_of(name: str) -> int:
    """Return the sequence in a segment's name: no batch in it has a lower one."""
    return int(name.split("-", maxsplit=1)[0], 16)


def salt_of(name: str) -> int:
    """Return the salt that a segment's name tells; raises CorruptLog for a foreign name."""
    try:
        return int(name.removesuffix(".wal").split("-")[1], 16)
    except (IndexError, ValueError):
        raise CorruptLog(f"{name} is not the name of a segment") from None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as read back: where it ends and what it holds."""

    sequence: int
    end: int
    body: memoryview


def read_batch(image: memoryview, offset: int, salt: int) -> Batch | None:
    """Return the valid batch at `offset`, or None."""
    if offset + HEADER.size > len(image):
        return None
    magic, crc, length, sequence = HEADER.unpack_from(image, offset)
    end = offset + HEADER.size + length
    if magic != MAGIC or end > len(image) or zlib.crc32(image[offset + 8 : end], salt) != crc:
        return None
    return Batch(sequence, end, image[offset + HEADER.size : end])


def has_later_batch(image: bytes, offset: int, sequence: int, salt: int) -> bool:
    """Whether a valid batch numbered above `sequence` starts anywhere after `offset`."""
    view, marker = memoryview(image), struct.pack("<I", MAGIC)
    found = image.find(marker, offset + 1)
    while found >= 0:
        later = read_batch(view, found, salt)
        if later is not None and later.sequence > sequence:
            return True
        found = image.find(marker, found + 1)
    return False


def read_records(body: memoryview) -> Iterator[tuple[Kind, int, memoryview]]:
    """Yield (kind, group, body) of each record of a batch whose CRC held."""
    offset = 0
    while offset < len(body):
        kind, group, length = RECORD.unpack_from(body, offset)
        offset += RECORD.size
        assert offset + length <= len(body), "a record ends inside its batch"
        yield Kind(kind), group, body[offset : offset + length]
        offset += length


@dataclass
class Replay:
    """Rebuilds groups from records in log order."""

    groups: dict[int, GroupState] = field(default_factory=dict)
    _entries: dict[int, dict[int, Entry]] = field(default_factory=dict)

    def feed(self, kind: Kind, group: int, body: memoryview) -> int:
        """Take one record; return the entry index it wrote, or 0."""
        state = self.groups.setdefault(group, GroupState())
        entries = self._entries.setdefault(group, {})
        if kind is Kind.ENTRY:
            index, term = TWO.unpack_from(body)
            entries[index] = (bytes(body[TWO.size :]), index, term)
            return int(index)
        if kind is Kind.META:
            (state.term,) = ONE.unpack_from(body)
            state.vote = str(body[ONE.size + 1 :], "utf-8") if len(body) > ONE.size else None
        elif kind is Kind.TRUNCATE:
            (first,) = ONE.unpack(body)
            for index in [index for index in entries if index >= first]:
                del entries[index]
        elif kind is Kind.HOLD:
            (state.hold,) = ONE.unpack(body)
        else:
            index, term = TWO.unpack(body)
            if kind is Kind.RESET:
                entries.clear()
            for old in [old for old in entries if old <= index]:
                del entries[old]
            state.base = (index, term)
        return 0

    def finish(self) -> dict[int, GroupState]:
        """Return the groups.

        Raises:
            CorruptLog: a gap between entries, or between the base and the first entry.
        """
        for group, state in self.groups.items():
            kept = sorted(self._entries[group].items())
            state.entries = [entry for _, entry in kept]
            for expected, entry in enumerate(state.entries, start=state.base[0] + 1):
                if entry[1] != expected:
                    raise CorruptLog(f"group {group}: entry {expected} is missing from the log")
        return self.groups
