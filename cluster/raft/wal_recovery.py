"""Reads the write-ahead log back after any end, and leaves it fit to be continued.

The newest segments may hold no batch: spares, made ahead and not used yet, or one whose first
batch was torn. What follows the last good batch is a torn tail: it was never synced and nobody was
told of it, so it is overwritten with zeros, and the log goes on in that same place. A boot thereby
needs no new segment, hence no space, however often it is repeated on a full disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from cluster.raft import wal_format as form
from cluster.raft.log import GroupState
from cluster.raft.wal_format import CorruptLog


class Disk(Protocol):
    """The folder that holds the segments. Errors are OSError."""

    def names(self) -> list[str]:
        """Return the segment names, sorted."""

    def read(self, name: str) -> bytes:
        """Return a whole segment."""

    def create(self, name: str, size: int) -> None:
        """Make a durable, empty segment of `size` zero bytes, or leave nothing behind."""

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write inside a segment; not yet durable."""

    def sync(self, name: str) -> None:
        """Make all writes to a segment durable."""

    def remove(self, name: str) -> None:
        """Remove a segment, durably."""


@dataclass
class Segment:
    """A segment's highest entry index per group: what must be below the base to drop it."""

    name: str
    size: int
    entry_max: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spare:
    """A preallocated segment of zeros that no batch has been written to."""

    name: str
    size: int


@dataclass
class Recovered:
    """What the disk holds. The log goes on at `offset` of the last of `segments`."""

    groups: dict[int, GroupState] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)
    spares: list[Spare] = field(default_factory=list)
    next_sequence: int = 1
    offset: int = 0
    newest_batch: int = 0
    """Where the last batch begins."""


def recover(disk: Disk, spare_bytes_min: int) -> Recovered:
    """Read all segments, oldest first; keep those without batches as spares if large enough.

    Everything is synced before it is believed: after a killed process the newest batches may
    stand in the page cache only.

    Raises:
        CorruptLog: damage that no crash explains.
        OSError: the disk cannot be read or written.
    """
    found, replay, names = Recovered(), form.Replay(), disk.names()
    for name in names:
        disk.sync(name)
    images: dict[str, bytes] = {}
    newest = b""
    for name in names:
        image = disk.read(name)
        segment = _read(name, image, found, replay)
        if segment is None:
            images[name] = image
        elif images:
            raise CorruptLog(f"{next(iter(images))}: its first batch is damaged")
        else:
            found.segments.append(segment)
            newest = image
    found.groups = replay.finish()
    if found.segments:
        _confirm(disk, found, newest)
    for name, image in images.items():
        if len(image) < spare_bytes_min:
            disk.remove(name)  # its making was not finished
        else:
            _wipe(disk, name, image, 0)
            found.spares.append(Spare(name, len(image)))
    return found


def _read(name: str, image: bytes, found: Recovered, replay: form.Replay) -> Segment | None:
    salt = form.salt_of(name)
    view, offset, segment = memoryview(image), 0, None
    while (batch := form.read_batch(view, offset, salt)) is not None:
        if (found.segments or segment is not None) and batch.sequence != found.next_sequence:
            raise CorruptLog(f"{name}: batch {batch.sequence} where {found.next_sequence} belongs")
        segment = segment or Segment(name, len(image))
        for kind, group, body in form.read_records(batch.body):
            index = replay.feed(kind, group, body)
            if index:
                segment.entry_max[group] = max(index, segment.entry_max.get(group, 0))
        found.next_sequence, found.newest_batch = batch.sequence + 1, offset
        offset = batch.end
    if form.has_later_batch(image, offset, found.next_sequence - 1, salt):
        raise CorruptLog(f"{name}: a damaged batch at byte {offset} has good ones behind it")
    if segment is not None:
        found.offset = offset
    return segment


def _confirm(disk: Disk, found: Recovered, image: bytes) -> None:
    """Write the newest batch again, and zeros behind it.

    If its sync failed, its pages count as clean: they are read, but no sync would ever write them.
    Of all others the sync is known to have succeeded.
    """
    name = found.segments[-1].name
    disk.write(name, found.newest_batch, image[found.newest_batch : found.offset])
    disk.sync(name)
    _wipe(disk, name, image, found.offset)


def _wipe(disk: Disk, name: str, image: bytes, offset: int) -> None:
    """Make everything from `offset` on zeros again, durably."""
    end = len(image.rstrip(b"\0"))
    if end > offset:
        disk.write(name, offset, bytes(end - offset))
        disk.sync(name)
