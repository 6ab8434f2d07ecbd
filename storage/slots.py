"""What an index knows about its rows besides their vectors: the table behind its slots.

A slot is a row's place in the index: dense, node-local, given out in order and never reused. A new
version of a row gets a new slot and the old one dies; a slot's record never changes after that, so
that a search may resolve what it found without a lock. Only `alive` and the maps change in place,
under the index's mutex.

Invariants: a live slot is the slot of its (shard, seq) in the maps, and no other live slot has that
pair; a slot given out is smaller than every later one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from storage.ids import EDGE_TAG, ID_BYTES_MAX, INTEGER_BYTES, INTEGER_TAG, KEYED_TAG, NODE_TAG
from storage.seq_slots import NOWHERE, SEQ_MAX, Numbers, SeqSlots

RECORD: Final = np.dtype(
    [("shard", "<i4"), ("seq", "<i8"), ("version", "<i8"), ("id", f"V{ID_BYTES_MAX}")]
)
"""A slot's row. Shorter ids are padded with zeros; their tag tells the length.

Of an id with a key, which may be long, nothing but the tag is kept: its row in the store has it."""

Records = npt.NDArray[np.void]
Flags = npt.NDArray[np.bool_]

SLOT_MAX: Final = 2**31 - 1
_CAPACITY_MIN: Final = 256
_ID_SIZES: Final = {INTEGER_BYTES, ID_BYTES_MAX}
_LONG_TAGS: Final = {bytes((tag,)) for tag in (KEYED_TAG, NODE_TAG, EDGE_TAG)}
"""Tags of ids of any length: of these an index keeps the tag alone, and the row tells."""
_KEPT_OF_LONG: Final = bytes((KEYED_TAG,)).ljust(ID_BYTES_MAX, b"\0")


class IndexHit(NamedTuple):
    """A row that was found, with its score in the collection's own sense.

    `id` is empty when the row's id has a key; see `RECORD`.
    """

    shard: int
    seq: int
    version: int
    id: bytes
    score: float


class Batch(NamedTuple):
    """Rows of one shard in arrays of equal length: each seq once, in the order given."""

    shard: int
    seqs: Numbers
    versions: Numbers
    ids: Records

    def where(self, flags: Flags) -> Batch:
        """Return the rows that are flagged."""
        return Batch(self.shard, self.seqs[flags], self.versions[flags], self.ids[flags])


class SlotTable:
    """Records and liveness by slot, and slots by (shard, seq). Guarded by its owner's mutex."""

    def __init__(self) -> None:
        self.records: Records = np.zeros(_CAPACITY_MIN, dtype=RECORD)
        self.alive: Flags = np.zeros(_CAPACITY_MIN, dtype=np.bool_)
        self.shards: dict[int, SeqSlots] = {}
        """Only shards that have live rows."""
        self.used = 0
        """Slots given out; the next one to be given."""
        self.live = 0

    def newer(self, batch: Batch) -> Flags:
        """Return which rows of a batch are newer than what the table has."""
        slots = self.lookup(batch.shard, batch.seqs)
        newer: Flags = (slots == NOWHERE) | (self.records["version"][slots] < batch.versions)
        return newer

    def append(self, batch: Batch) -> Numbers:
        """Give each row a slot, and let the older versions die. Returns the slots that died."""
        count = len(batch.seqs)
        first, self.used = self.used, self.used + count
        assert self.used <= SLOT_MAX, "the maps hold 32 bits"
        self._reserve(self.used)
        older = self.lookup(batch.shard, batch.seqs)
        died: Numbers = older[older != NOWHERE]
        self.alive[died] = False
        target = self.records[first : self.used]
        target["shard"] = batch.shard
        target["seq"] = batch.seqs
        target["version"] = batch.versions
        target["id"] = batch.ids
        shard = self.shards.setdefault(batch.shard, SeqSlots())
        shard.assign(batch.seqs, np.arange(first, self.used))
        self.alive[first : self.used] = True
        self.live += count - len(died)
        return died

    def remove(self, shard: int, seqs: Numbers) -> Numbers:
        """Let the rows of distinct seqs die; absent ones are passed over. Returns their slots."""
        slots = self.lookup(shard, seqs)
        present = slots != NOWHERE
        died: Numbers = slots[present]
        if len(died):
            self.alive[died] = False
            rows = self.shards[shard]
            rows.assign(seqs[present], np.full(len(died), NOWHERE))
            self.live -= len(died)
            if not rows.live:
                del self.shards[shard]
        return died

    def drop_shard(self, shard: int) -> Numbers:
        """Let all rows of a shard die. Returns their slots."""
        rows = self.shards.pop(shard, None)
        died = rows.slots() if rows else np.empty(0, dtype=np.int64)
        self.alive[died] = False
        self.live -= len(died)
        return died

    def lookup(self, shard: int, seqs: Numbers) -> Numbers:
        """Return the live slot of each row, `NOWHERE` for those that are absent."""
        rows = self.shards.get(shard)
        return rows.lookup(seqs) if rows else np.full(len(seqs), NOWHERE, dtype=np.int64)

    def shard_slots(self, shard: int) -> Numbers:
        """Return the live slots of a shard."""
        rows = self.shards.get(shard)
        return rows.slots() if rows else np.empty(0, dtype=np.int64)

    def forget(self, slots: Numbers) -> None:
        """Let live slots die."""
        assert self.alive[slots].all(), "only the living die"
        records = self.records[slots]
        for shard in np.unique(records["shard"]).tolist():
            self.remove(shard, np.ascontiguousarray(records["seq"][records["shard"] == shard]))

    def adopt(self, records: Records, alive: Flags) -> None:
        """Append slots of another table, the dead ones too.

        Raises:
            ValueError: two live slots with the same shard and sequence number.
        """
        first, self.used = self.used, self.used + len(records)
        self._reserve(self.used)
        self.records[first : self.used] = records
        self.alive[first : self.used] = alive
        slots = np.flatnonzero(alive) + first
        shards, seqs = self.records["shard"][slots], self.records["seq"][slots]
        self.live += len(slots)
        for shard in np.unique(shards).tolist():
            mine = shards == shard
            rows = self.shards.setdefault(shard, SeqSlots())
            expected = rows.live + int(np.count_nonzero(mine))
            rows.assign(seqs[mine], slots[mine])
            if rows.live != expected:
                raise ValueError(f"shard {shard} has a row twice")

    def validate(self) -> None:
        """Assert the invariants of this module; slow, for tests."""
        slots = np.sort(
            np.concatenate([np.empty(0, np.int64), *map(self.shard_slots, self.shards)])
        )
        assert np.array_equal(slots, np.flatnonzero(self.alive[: self.used])), "maps are the living"
        assert not self.alive[self.used :].any(), "only slots given out live"
        assert self.live == len(slots), "the living are counted"
        for shard in self.shards:
            mine = self.shard_slots(shard)
            assert (self.records["shard"][mine] == shard).all(), "a row is in its shard's map"
            found = self.lookup(shard, np.ascontiguousarray(self.records["seq"][mine]))
            assert np.array_equal(found, mine), "a row is found by its seq"

    def _reserve(self, count: int) -> None:
        if count <= len(self.alive):
            return
        capacity = max(count, len(self.alive) * 3 // 2)
        records = np.zeros(capacity, dtype=RECORD)
        records[: len(self.records)] = self.records
        alive = np.zeros(capacity, dtype=np.bool_)
        alive[: len(self.alive)] = self.alive
        self.records, self.alive = records, alive


def make_batch(shard: int, rows: Sequence[tuple[int, int, bytes, bytes]]) -> tuple[Batch, Numbers]:
    """Return (seq, version, id, vector) rows as a batch, and the position of each in `rows`.

    Of several rows with one seq the one with the highest version stays, the last among equals.

    Raises:
        ValueError: a sequence number out of range, or an id that is not canonical.
    """
    positions = np.arange(len(rows))
    if len({row[0] for row in rows}) < len(rows):
        positions = np.array(_newest(rows))
        rows = [rows[position] for position in positions.tolist()]
    seqs, versions, ids, _ = zip(*rows, strict=True)
    if not 0 <= min(seqs) <= max(seqs) < SEQ_MAX:
        raise ValueError(f"a row's sequence number is 0..{SEQ_MAX - 1}")
    numbers = np.array(seqs, dtype=np.int64), np.array(versions, dtype=np.int64)
    return Batch(shard, *numbers, _kept_ids(ids)), positions


def _newest(rows: Sequence[tuple[int, int, bytes, bytes]]) -> list[int]:
    """Return where the row stands that counts, for each sequence number."""
    best: dict[int, int] = {}
    for position, row in enumerate(rows):
        seen = best.get(row[0])
        if seen is None or rows[seen][1] <= row[1]:
            best[row[0]] = position
    return list(best.values())


def make_hits(records: Records, slots: Numbers, scores: list[float]) -> list[IndexHit]:
    """Resolve slots[n] that were found, in order, with their scores."""
    make = IndexHit._make  # quicker than a call with five arguments
    return [
        make((shard, seq, version, _shown_id(raw), score))
        for (shard, seq, version, raw), score in zip(records[slots].tolist(), scores, strict=True)
    ]


def _kept_ids(ids: Sequence[bytes]) -> Records:
    if not {each[:1] for each in ids}.isdisjoint(_LONG_TAGS):
        ids = [_KEPT_OF_LONG if each[:1] in _LONG_TAGS else each for each in ids]
    if not {len(each) for each in ids} <= _ID_SIZES:
        raise ValueError("an id is 9 or 17 canonical bytes, or has a key")
    return np.array(ids, dtype=f"S{ID_BYTES_MAX}").view(f"V{ID_BYTES_MAX}")


def _shown_id(kept: bytes) -> bytes:
    if kept[0] == INTEGER_TAG:
        return kept[:INTEGER_BYTES]
    return b"" if kept[0] == KEYED_TAG else kept
