"""One group's log: entries in memory, records for the write-ahead log, and what is durable.

Stands where pysyncobj keeps its journal and answers the same calls; positions are list
positions, entries are pysyncobj's `(command, index, term)`. The first element is the base: the
index and term of the last entry that is no longer here, with an empty command.

Every change is also written as a record into the node's write-ahead log. `durable_index` is the
highest index up to which the entries *as they stand now* are known to be on disk: a truncation
lowers it at once, a finished sync raises it to what that batch held and no later truncation
took back. Only durable entries are applied (a leader must not act on an entry that its own
crash could take away), and only then may a client hear of them (D19).

What the entries take in memory counts towards the node's `LogMemory`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol, overload

from pysyncobj.journal import Journal

from cluster.raft.log_memory import ENTRY_BYTES, LogMemory
from cluster.raft.messages import Entry

NO_OP = b"\x01"
REGULAR = b"\x00"
ROOT: Entry = (NO_OP, 1, 0)
"""The entry that every group starts with, on every node: pysyncobj's convention."""


@dataclass
class GroupState:
    """What the write-ahead log remembers of one group."""

    term: int = 0
    vote: str | None = None
    base: tuple[int, int] = (1, 0)
    hold: int = 0
    """No vote is given or sought until the log reaches this index again (lost state)."""
    entries: list[Entry] = field(default_factory=list)
    """Entries after the base, contiguous."""


class Records(Protocol):
    """Where a log's changes are written: the node's write-ahead log, one group's view of it."""

    def entry(self, index: int, term: int, command: bytes) -> None:
        """Append an entry."""

    def truncate(self, index: int) -> None:
        """Take back all entries from `index` on."""

    def meta(self, term: int, vote: str | None) -> None:
        """Set term and vote."""

    def base(self, index: int, term: int) -> None:
        """Forget all entries up to and including `index`."""

    def reset(self, index: int, term: int) -> None:
        """Forget all entries; the log now starts after `index`."""

    def hold(self, index: int) -> None:
        """Neither vote nor stand until the log reaches `index`."""

    def open_sequence(self) -> int:
        """Return the number of the batch that holds the newest record."""

    def admits(self, count: int, size_bytes: int) -> bool:
        """Whether so many entries, with commands of that size, have a place on disk."""

    @property
    def full(self) -> bool:
        """Whether the disk has no space for the log to grow."""


class GroupLog(Journal):  # type: ignore[misc]  # pysyncobj is untyped
    """See the module. Not thread-safe: it belongs to the thread that runs the groups."""

    def __init__(
        self, state: GroupState, records: Records, memory: LogMemory | None = None
    ) -> None:
        index, term = state.base
        self.memory = memory or LogMemory()
        self.memory.groups += 1
        self.size_bytes = 0
        self._entries: list[Entry] = [(NO_OP, index, term), *state.entries]
        self._records = records
        self._term, self._vote = state.term, state.vote
        self._hold = state.hold
        self._pending: deque[tuple[int, int]] = deque()  # (batch sequence, last index in it)
        self._meta_sequence = 0
        self.meta_durable = True
        """Whether term and vote as they stand are on disk."""
        self.durable_index = self.last_index
        self._grow(self._entries)
        self.validate()

    def _grow(self, entries: Sequence[Entry], sign: int = 1) -> None:
        size = sign * sum(len(entry[0]) + ENTRY_BYTES for entry in entries)
        self.size_bytes += size
        self.memory.add(size)

    def validate(self) -> None:
        """Assert that indexes are contiguous and terms never fall."""
        for before, after in pairwise(self._entries):
            assert after[1] == before[1] + 1, f"gap in the log at {after[1]}"
            assert after[2] >= before[2], f"term falls in the log at {after[1]}"
        assert self.durable_index <= self.last_index, "durable beyond the end"

    # -- reading ------------------------------------------------------------------------------

    @property
    def base_index(self) -> int:
        """Index of the last entry that is not in the log any more."""
        return self._entries[0][1]

    @property
    def last_index(self) -> int:
        """Index of the last entry."""
        return self._entries[-1][1]

    @property
    def last_term(self) -> int:
        """Term of the last entry."""
        return self._entries[-1][2]

    @property
    def may_vote(self) -> bool:
        """Whether all that this replica once acknowledged is in its log."""
        return self.last_index >= self._hold

    @property
    def hold_index(self) -> int:
        """The index that the log must reach before this replica votes again; 0 when it may."""
        return 0 if self.may_vote else self._hold

    def term_at(self, index: int) -> int | None:
        """Return the term of the entry at `index`, or None when it is not in the log."""
        if not self.base_index <= index <= self.last_index:
            return None
        return self._entries[index - self.base_index][2]

    def admits(self, commands: Sequence[bytes]) -> bool:
        """Whether there is room, in memory and on disk, for entries with these commands.

        Only entries that carry data are asked about. The one that begins a term of office is not:
        without it nothing of an earlier term could be committed, and then cut.
        """
        size = sum(map(len, commands))
        more = size + len(commands) * ENTRY_BYTES
        return self.memory.admits(self.size_bytes, more) and self._records.admits(
            len(commands), size
        )

    @property
    def disk_full(self) -> bool:
        """Whether the disk has no space for the log to grow."""
        return self._records.full

    def span(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """Return entries first..last, at least one if there is one, then up to `bytes_max`."""
        assert first > self.base_index, "the base is not an entry"
        start = first - self.base_index
        chosen: list[Entry] = []
        total = 0
        for entry in self._entries[start : last - self.base_index + 1]:
            total += len(entry[0])
            if chosen and total > bytes_max:
                break
            chosen.append(entry)
        return chosen

    @overload
    def __getitem__(self, position: int) -> Entry: ...
    @overload
    def __getitem__(self, position: slice) -> list[Entry]: ...
    def __getitem__(self, position: int | slice) -> Entry | list[Entry]:
        return self._entries[position]

    def __len__(self) -> int:
        return len(self._entries)

    # -- changing -----------------------------------------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append one entry; it is durable once its batch is synced."""
        assert idx == self.last_index + 1, f"entry {idx} after {self.last_index}"
        assert term >= self.last_term, f"term {term} after {self.last_term}"
        entry = (command, idx, term)
        self._entries.append(entry)
        self._grow((entry,))
        self._records.entry(idx, term, command)
        sequence = self._records.open_sequence()
        if self._pending and self._pending[-1][0] == sequence:
            self._pending[-1] = (sequence, idx)
        else:
            self._pending.append((sequence, idx))

    def delete_from(self, index: int) -> None:
        """Take back all entries from `index` on (a conflict with the leader's log)."""
        assert index > self.base_index, "a base is never taken back"
        if index > self.last_index:
            return
        position = index - self.base_index
        self._grow(self._entries[position:], -1)
        del self._entries[position:]
        self._records.truncate(index)
        self.durable_index = min(self.durable_index, index - 1)
        clipped = [(sequence, min(last, index - 1)) for sequence, last in self._pending]
        self._pending = deque(item for item in clipped if item[1] > self.durable_index)

    def compact(self, index: int) -> None:
        """Forget entries up to `index`: the state machine has made them durable elsewhere."""
        assert index <= self.durable_index, "only durable entries are forgotten"
        if index <= self.base_index:
            return
        position = index - self.base_index
        _, base_index, base_term = self._entries[position]
        base = (NO_OP, base_index, base_term)
        self._grow(self._entries[: position + 1], -1)
        self._entries[: position + 1] = [base]
        self._grow((base,))
        self._records.base(base_index, base_term)

    def reset(self, index: int, term: int) -> None:
        """Start again after `index`: its state came as a snapshot."""
        self._grow(self._entries, -1)
        self._entries = [(NO_OP, index, term)]
        self._grow(self._entries)
        self._pending.clear()
        self.durable_index = index
        self._records.reset(index, term)

    def hold_until(self, index: int) -> None:
        """Neither vote nor stand until the log reaches `index`: acknowledged state was lost."""
        self._hold = max(self._hold, index)
        self._records.hold(self._hold)

    def release_hold(self, commit_index: int) -> None:
        """Vote again for good, once what was lost is committed here again."""
        if 0 < self._hold <= commit_index:
            self._hold = 0
            self._records.hold(0)

    def synced(self, sequence: int) -> None:
        """Learn that all batches up to `sequence` are on disk."""
        self.meta_durable = self.meta_durable or self._meta_sequence <= sequence
        while self._pending and self._pending[0][0] <= sequence:
            _, last = self._pending.popleft()
            assert last <= self.last_index, "durable beyond the end"
            self.durable_index = max(self.durable_index, last)

    # -- pysyncobj's names --------------------------------------------------------------------
    # Those that are not here raise in `Journal`: the core neither clears nor compacts the log.

    def deleteEntriesFrom(self, position: int) -> None:
        """Truncate from a list position; nothing to do past the end."""
        if position < len(self._entries):
            self.delete_from(self._entries[position][1])

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Persist term and vote; the message that depends on them waits for the sync."""
        assert term >= self._term, "a term never falls"
        self._term, self._vote = term, votedForNodeId
        self._records.meta(term, votedForNodeId)
        self._meta_sequence = self._records.open_sequence()
        self.meta_durable = False

    def getCurrentTerm(self) -> int:
        """Return the persisted term."""
        return self._term

    def getVotedForNodeId(self) -> str | None:
        """Return the persisted vote of the current term."""
        return self._vote

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Nothing to write: after a restart the leader tells it again (D11)."""

    def snapshot_of(self) -> tuple[int, str | None, tuple[int, int], int]:
        """Return (term, vote, base, hold) as they stand."""
        return self._term, self._vote, (self._entries[0][1], self._entries[0][2]), self._hold
