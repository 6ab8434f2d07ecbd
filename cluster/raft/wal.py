"""One write-ahead log for all groups of a node.

The thread that runs the groups buffers records and takes them as batches (`take`); another
thread writes a batch and syncs it (`write`). While one batch is being synced the next gathers:
group commit over all groups. An error of the disk is fatal and latched: a failed fsync may have
dropped the very pages that a second, successful one would seem to confirm, so there is no
second one. Whole segments are dropped once every entry in them is below its group's base.

**The log never asks for space at the moment of truth.** Batches go into preallocated segments
only, and one spare segment is always made ahead, beside the writing. Only that making may fail for
want of space, and then nothing is broken: the log is `full` until a later attempt succeeds.

* Entries are admitted (`admits`) only while all that is buffered fits into what is left of the
  active segment and the spare, and, once there is no spare, leaves `reserve_bytes` of the active
  one. So whatever was admitted can be written.
* Terms, votes, bases and the entry that begins a term of office are never asked for admission;
  the reserve is theirs. It is an eighth of a segment, at most 256 KiB: room for thousands of them.
* Should even the reserve run out, batches wait, and with them every message that depends on them:
  the node is then as good as cut off, but nothing is broken or forgotten, and it goes on by itself.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cluster.raft import wal_format as form
from cluster.raft.log import GroupState, Records
from cluster.raft.wal_format import Kind
from cluster.raft.wal_recovery import Disk, Segment, Spare, recover

__all__ = ["Disk", "Segment", "Spare", "Wal", "WriteBatch", "out_of_space"]

RESERVE_BYTES_MAX: Final = 256 << 10
ENTRY_BYTES: Final = form.RECORD.size + form.TWO.size
"""What an entry takes beside its command."""
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class WriteBatch:
    """One unit of durability, for existing space; segments in `obsolete` may go after it."""

    sequence: int
    segment: str
    offset: int
    data: bytes
    obsolete: tuple[str, ...] = ()


@dataclass
class _Gathering:
    """A batch that is not taken yet."""

    size: int = form.HEADER.size
    buffers: list[bytes] = field(default_factory=list)
    entry_max: dict[int, int] = field(default_factory=dict)
    states: list[tuple[Kind, int, bytes]] = field(default_factory=list)


class Wal:
    """See the module. `open` recovers what the disk holds; then `take` and `write` alternate."""

    def __init__(self, disk: Disk, segment_bytes: int, salts: Callable[[], int]) -> None:
        """`salts` gives 32-bit numbers that nobody outside can guess."""
        self._disk = disk
        self._salts = salts
        self._segment_bytes = segment_bytes
        self._batch_bytes_max = segment_bytes // 2
        self.reserve_bytes = min(RESERVE_BYTES_MAX, segment_bytes // 8)
        self._gathered: deque[_Gathering] = deque()
        self._segments: list[Segment] = []
        self._spares: list[Spare] = []
        self._ordered: Spare | None = None
        self._spare_bytes_min = segment_bytes
        self._offset = 0
        self._next_sequence = 1
        self._told: dict[int, dict[Kind, bytes]] = {}
        """Each group's META, BASE and HOLD as of the last batch that was taken."""
        self._restated_bytes = 0
        self.full = False
        """Whether the latest attempt to make a spare found no space."""
        self.failed: OSError | None = None
        self.synced_sequence = 0

    def open(self) -> dict[int, GroupState]:
        """Read what the disk holds, and see to it that there is a spare if there is space.

        Raises:
            CorruptLog: damage that no crash explains.
            OSError: the disk cannot be read, or has no space for the first segment of all.
        """
        found = recover(self._disk, self._segment_bytes)
        self._segments, self._spares = found.segments, found.spares
        self._next_sequence, self._offset = found.next_sequence, found.offset
        self.synced_sequence = found.next_sequence - 1
        for group, state in found.groups.items():
            self._tell(Kind.META, group, form.meta_body(state.term, state.vote))
            self._tell(Kind.BASE, group, form.TWO.pack(*state.base))
            self._tell(Kind.HOLD, group, form.ONE.pack(state.hold))
        self.refill()
        if not self._segments and not self._spares:
            raise OSError(errno.ENOSPC, "no space for the first segment of the log")
        return found.groups

    def records(self, group: int) -> Records:
        """Return one group's way to write records."""
        return _GroupRecords(self, group)

    # -- what stands --------------------------------------------------------------------------

    @property
    def open_sequence(self) -> int:
        """Number of the batch that holds the newest record, or will hold the next one."""
        return self._next_sequence + max(0, len(self._gathered) - 1)

    @property
    def gate(self) -> int:
        """The batch that must be durable before anything decided by now may leave."""
        return self._next_sequence + len(self._gathered) - 1

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Segments that hold batches, oldest first."""
        return tuple(self._segments)

    @property
    def waiting_bytes(self) -> int:
        """What is buffered and not taken yet."""
        return sum(gathered.size for gathered in self._gathered)

    def admits(self, count: int, size_bytes: int) -> bool:
        """Whether entries, with what is buffered, can be written for certain.

        Whatever batches they end up in, they need no more room than behind what gathers now, in
        one piece.
        """
        left = self._left()
        spare = self._spares[0].size - self._restated_bytes if self._spares else None
        sizes = [gathered.size for gathered in self._gathered] or [form.HEADER.size]
        sizes[-1] += size_bytes + count * ENTRY_BYTES + form.HEADER.size
        for size in sizes:
            if size > left:
                if spare is None or size > spare:
                    return False
                left, spare = spare, None
            left -= size
        return spare is not None or left >= self.reserve_bytes

    def _left(self) -> int:
        return self._segments[-1].size - self._offset if self._segments else 0

    # -- gathering ----------------------------------------------------------------------------

    def append(self, kind: Kind, group: int, *parts: bytes, entry_index: int = 0) -> None:
        """Buffer one record."""
        buffers = form.record(kind, group, *parts)
        size = sum(map(len, buffers))
        if not self._gathered or self._gathered[-1].size + size > self._batch_bytes_max:
            self._gathered.append(_Gathering())
        last = self._gathered[-1]
        last.buffers += buffers
        last.size += size
        if entry_index:
            last.entry_max[group] = max(entry_index, last.entry_max.get(group, 0))
        elif kind is not Kind.TRUNCATE:
            last.states.append((kind, group, b"".join(parts)))

    def take(self) -> WriteBatch | None:
        """Return the next batch to commit; None when there is none, or no room for it."""
        if not self._gathered:
            return None
        if self._gathered[0].size > self._left() and not self._begin_segment():
            return None
        return self._make_batch(self._gathered.popleft())

    def _begin_segment(self) -> bool:
        """Make the oldest spare the active segment; it begins with the state of every group."""
        first = self._gathered[0]
        restated = self._restated()
        self._restated_bytes = sum(map(len, restated))
        needed = first.size + self._restated_bytes
        if not self._spares or self._spares[0].size < needed:
            self._spare_bytes_min = max(self._segment_bytes, needed)
            return False
        self._spare_bytes_min = self._segment_bytes
        spare = self._spares.pop(0)
        first.buffers[:0] = restated
        first.size = needed
        self._segments.append(Segment(spare.name, spare.size))
        self._offset = 0
        return True

    def _make_batch(self, gathered: _Gathering) -> WriteBatch:
        active = self._segments[-1]
        for group, index in gathered.entry_max.items():
            active.entry_max[group] = max(index, active.entry_max.get(group, 0))
        for kind, group, body in gathered.states:
            self._tell(kind, group, body)
        data = form.batch(self._next_sequence, gathered.buffers, form.salt_of(active.name))
        assert len(data) == gathered.size, "a batch is as long as it was measured"
        assert self._offset + len(data) <= active.size, "a batch stays inside its segment"
        made = WriteBatch(
            self._next_sequence, active.name, self._offset, data, self._drop_obsolete()
        )
        self._offset += len(data)
        self._next_sequence += 1
        return made

    def _tell(self, kind: Kind, group: int, body: bytes) -> None:
        told = self._told.setdefault(group, {})
        told[Kind.BASE if kind is Kind.RESET else kind] = body

    def _restated(self) -> list[bytes]:
        buffers: list[bytes] = []
        for group, told in sorted(self._told.items()):
            for kind in (Kind.META, Kind.BASE, Kind.HOLD):
                if kind in told:
                    buffers += form.record(kind, group, told[kind])
        return buffers

    def _drop_obsolete(self) -> tuple[str, ...]:
        """Drop segments whose entries are all below bases that are told by now."""
        gone = []
        while len(self._segments) > 1 and all(
            index <= self._base(group) for group, index in self._segments[0].entry_max.items()
        ):
            gone.append(self._segments.pop(0).name)
        return tuple(gone)

    def _base(self, group: int) -> int:
        body = self._told.get(group, {}).get(Kind.BASE)
        return 0 if body is None else int(form.TWO.unpack(body)[0])

    # -- writing ------------------------------------------------------------------------------

    def write(self, made: WriteBatch) -> None:
        """Write and sync one batch; blocking, for the log's own thread.

        Raises:
            OSError: the disk failed, now or earlier. Nothing later will be written.
        """
        if self.failed is not None:
            raise self.failed
        try:
            self._disk.write(made.segment, made.offset, made.data)
            self._disk.sync(made.segment)
        except OSError as error:
            self.failed = error
            raise
        assert made.sequence == self.synced_sequence + 1, "batches are synced in order"
        self.synced_sequence = made.sequence
        for name in made.obsolete:
            self._disk.remove(name)

    # -- spares -------------------------------------------------------------------------------

    def order(self) -> Spare | None:
        """Return the spare to `make` now; None when there is one, or one is being made."""
        large = any(spare.size >= self._spare_bytes_min for spare in self._spares)
        if large or self._ordered is not None:
            return None
        names = [segment.name for segment in self._segments]
        names += [spare.name for spare in self._spares]
        newest = max(map(form.sequence_of, names), default=0)
        sequence = max(self._next_sequence, newest + 1)
        name = form.segment_name(sequence, self._salts())
        self._ordered = Spare(name, self._spare_bytes_min)
        return self._ordered

    def make(self, spare: Spare) -> bool:
        """Make a spare on disk; False when there is no space. Blocking, for any thread.

        Raises:
            OSError: the disk failed in another way.
        """
        try:
            self._disk.create(spare.name, spare.size)
        except OSError as error:
            if not out_of_space(error):
                raise
            return False
        return True

    def made(self, spare: Spare, *, success: bool) -> tuple[str, ...]:
        """Learn how the making went; return the spares that it replaces, which may be removed."""
        assert spare is self._ordered, "a spare is ordered before it is made"
        self._ordered, self.full = None, not success
        if not success:
            return ()
        small = tuple(each.name for each in self._spares if each.size < spare.size)
        self._spares = [each for each in self._spares if each.name not in small]
        self._spares.append(spare)
        return small

    def discard(self, names: tuple[str, ...]) -> None:
        """Remove spares that were replaced. Blocking, for the log's own thread."""
        for name in names:
            self._disk.remove(name)

    def refill(self) -> None:
        """Order, make and take in a spare; for a single thread."""
        spare = self.order()
        if spare is not None:
            self.discard(self.made(spare, success=self.make(spare)))


def out_of_space(error: OSError) -> bool:
    """Whether an error says that the file system or the quota is full."""
    return error.errno in NO_SPACE


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

    def admits(self, count: int, size_bytes: int) -> bool:
        return self._wal.admits(count, size_bytes)

    @property
    def full(self) -> bool:
        return self._wal.full
