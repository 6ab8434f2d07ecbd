"""One write-ahead log for all groups of a node.

The thread that runs the groups buffers records and takes them as batches (`take`); another
thread writes a batch and syncs it (`write`). While one batch is being synced the next gathers:
group commit over all groups. An error of the disk is fatal and latched: a failed fsync may have
dropped the very pages that a second, successful one would seem to confirm, so there is no
second one.

Whole segments are dropped once every entry in them is below its group's base.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from cluster.raft import wal_format as form
from cluster.raft.log import GroupState, Records
from cluster.raft.wal_format import CorruptLog, Kind

Restate = Callable[[], dict[int, tuple[int, str | None, tuple[int, int], int]]]
"""Gives each group's (term, vote, base, hold) as they stand."""


class Disk(Protocol):
    """The folder that holds the segments. Errors are OSError."""

    def names(self) -> list[str]:
        """Return the segment names, sorted."""

    def read(self, name: str) -> bytes:
        """Return a whole segment."""

    def create(self, name: str, size: int) -> None:
        """Make a durable, empty segment of `size` zero bytes."""

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write; not yet durable."""

    def sync(self, name: str) -> None:
        """Make all writes to a segment durable."""

    def remove(self, name: str) -> None:
        """Remove a segment, durably."""


@dataclass(frozen=True, slots=True)
class WriteBatch:
    """One unit of durability. `create` names a segment to start; `obsolete` may go after it."""

    sequence: int
    segment: str
    offset: int
    data: bytes
    create: int = 0
    obsolete: tuple[str, ...] = ()


@dataclass
class Segment:
    """A segment's highest entry index per group: what must be below the base to drop it."""

    name: str
    entry_max: dict[int, int] = field(default_factory=dict)


class Wal:
    """See the module. `open` recovers what the disk holds; then `take` and `write` alternate."""

    def __init__(self, disk: Disk, segment_bytes: int, salts: Callable[[], int]) -> None:
        """`salts` gives 32-bit numbers that nobody outside can guess."""
        self._disk = disk
        self._salts = salts
        self._salt = 0
        self._segment_bytes = segment_bytes
        self._buffer: list[bytes] = []
        self._buffered: dict[int, int] = {}
        self._segments: list[Segment] = []
        self._offset = 0
        self._next_sequence = 1
        self._restate: Restate = dict
        self.failed: OSError | None = None
        self.synced_sequence = 0

    # -- recovery -----------------------------------------------------------------------------

    def open(self) -> dict[int, GroupState]:
        """Read all segments, oldest first; what follows the last good batch is a torn tail.

        The last segment is synced before anything in it is believed: after a killed process
        its newest batches may stand in the page cache only.

        Raises:
            CorruptLog: damage that no crash explains.
            OSError: the disk cannot be read.
        """
        replay, names = form.Replay(), self._disk.names()
        if names:
            self._disk.sync(names[-1])
        for name in names:
            segment = self._read_segment(name, replay)
            if segment is not None:
                self._segments.append(segment)
            elif name != names[-1]:
                raise CorruptLog(f"{name}: its first batch is damaged")
            else:
                self._disk.remove(name)  # created, but its first batch never became durable
        self.synced_sequence = self._next_sequence - 1
        self._offset = self._segment_bytes  # the next batch opens a segment of its own
        return replay.finish()

    def _read_segment(self, name: str, replay: form.Replay) -> Segment | None:
        image = self._disk.read(name)
        salt = form.salt_of(name)
        view, offset, segment = memoryview(image), 0, None
        while (found := form.read_batch(view, offset, salt)) is not None:
            if self._segments or segment is not None:
                self._expect(name, found.sequence)
            segment = segment or Segment(name)
            for kind, group, body in form.read_records(found.body):
                index = replay.feed(kind, group, body)
                if index:
                    segment.entry_max[group] = max(index, segment.entry_max.get(group, 0))
            self._next_sequence, offset = found.sequence + 1, found.end
        if form.has_later_batch(image, offset, self._next_sequence - 1, salt):
            raise CorruptLog(f"{name}: a damaged batch at byte {offset} has good ones behind it")
        return segment

    def _expect(self, name: str, sequence: int) -> None:
        if sequence != self._next_sequence:
            raise CorruptLog(f"{name}: batch {sequence} where {self._next_sequence} belongs")

    # -- writing ------------------------------------------------------------------------------

    def attach(self, restate: Restate) -> None:
        """Give the source of the state that each new segment restates."""
        self._restate = restate

    def records(self, group: int) -> Records:
        """Return one group's way to write records."""
        return _GroupRecords(self, group)

    @property
    def open_sequence(self) -> int:
        """Number of the batch that the next record goes into."""
        return self._next_sequence

    @property
    def gate(self) -> int:
        """The batch that must be durable before anything decided by now may leave."""
        return self._next_sequence if self._buffer else self._next_sequence - 1

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Segments on disk, oldest first."""
        return tuple(self._segments)

    def append(self, kind: Kind, group: int, *parts: bytes, entry_index: int = 0) -> None:
        """Buffer one record."""
        self._buffer.extend(form.record(kind, group, *parts))
        if entry_index:
            self._buffered[group] = max(entry_index, self._buffered.get(group, 0))

    def take(self) -> WriteBatch | None:
        """Close the buffer into a batch, or return None when there is nothing to write."""
        if not self._buffer:
            return None
        size = sum(map(len, self._buffer)) + form.HEADER.size
        create = 0
        if self._offset + size > self._segment_bytes:
            restated = self._restated()
            size += sum(map(len, restated))
            self._buffer[:0] = restated
            create = max(self._segment_bytes, size)
            self._salt = self._salts()
            self._segments.append(Segment(form.segment_name(self._next_sequence, self._salt)))
            self._offset = 0
        made = self._make_batch(create)
        assert len(made.data) == size, "a batch is as long as it was measured"
        return made

    def _make_batch(self, create: int) -> WriteBatch:
        active = self._segments[-1]
        for group, index in self._buffered.items():
            active.entry_max[group] = max(index, active.entry_max.get(group, 0))
        data = form.batch(self._next_sequence, self._buffer, self._salt)
        made = WriteBatch(
            self._next_sequence, active.name, self._offset, data, create, self._drop_obsolete()
        )
        self._offset += len(data)
        self._next_sequence += 1
        self._buffer, self._buffered = [], {}
        return made

    def _restated(self) -> list[bytes]:
        buffers: list[bytes] = []
        for group, (term, vote, base, hold) in sorted(self._restate().items()):
            buffers += form.record(Kind.META, group, form.meta_body(term, vote))
            buffers += form.record(Kind.BASE, group, form.TWO.pack(*base))
            if hold:
                buffers += form.record(Kind.HOLD, group, form.ONE.pack(hold))
        return buffers

    def _drop_obsolete(self) -> tuple[str, ...]:
        bases = {group: state[2][0] for group, state in self._restate().items()}
        gone = []
        while len(self._segments) > 1 and all(
            index <= bases.get(group, 0) for group, index in self._segments[0].entry_max.items()
        ):
            gone.append(self._segments.pop(0).name)
        return tuple(gone)

    def write(self, made: WriteBatch) -> None:
        """Write and sync one batch; blocking, for the log's own thread.

        Raises:
            OSError: the disk failed, now or earlier. Nothing later will be written.
        """
        if self.failed is not None:
            raise self.failed
        try:
            if made.create:
                self._disk.create(made.segment, made.create)
            self._disk.write(made.segment, made.offset, made.data)
            self._disk.sync(made.segment)
        except OSError as error:
            self.failed = error
            raise
        assert made.sequence == self.synced_sequence + 1, "batches are synced in order"
        self.synced_sequence = made.sequence
        for name in made.obsolete:
            self._disk.remove(name)


class _GroupRecords:
    """One group's records; see `cluster.raft.log.Records`."""

    def __init__(self, wal: Wal, group: int) -> None:
        self._wal = wal
        self._group = group

    def entry(self, index: int, term: int, command: bytes) -> None:
        head = form.TWO.pack(index, term)
        self._wal.append(Kind.ENTRY, self._group, head, command, entry_index=index)

    def truncate(self, index: int) -> None:
        self._wal.append(Kind.TRUNCATE, self._group, form.ONE.pack(index))

    def meta(self, term: int, vote: str | None) -> None:
        self._wal.append(Kind.META, self._group, form.meta_body(term, vote))

    def base(self, index: int, term: int) -> None:
        self._wal.append(Kind.BASE, self._group, form.TWO.pack(index, term))

    def reset(self, index: int, term: int) -> None:
        self._wal.append(Kind.RESET, self._group, form.TWO.pack(index, term))

    def hold(self, index: int) -> None:
        self._wal.append(Kind.HOLD, self._group, form.ONE.pack(index))

    def open_sequence(self) -> int:
        return self._wal.open_sequence
