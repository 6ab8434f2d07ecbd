"""Which rows a search may return: all, those of some shards, or those that passed a filter.

Where payload indexes answer the filter, `storage.payload_index.selection` stands in its place.

A selection is what the caller asked; `at(table)` turns it, under the index's mutex, into what it
means at that instant: how many live rows it admits, which slots they are, and a test for slots that
were found. Everything that a search answers with is decided at one such instant.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import numpy as np

from storage.seq_slots import NOWHERE, Numbers
from storage.slots import Flags, SlotTable


class Admitted(Protocol):
    """What a selection admits at one instant."""

    count: int
    """Live rows admitted, or more: what is found is complete at the latest when all is compared."""

    def flags(self, slots: Numbers) -> Flags:
        """Return which of slots[n] are alive and admitted."""
        ...

    def slots(self) -> Numbers:
        """Return all admitted slots, each once."""
        ...


class Restriction(Protocol):
    """What a search may return, before it means anything at an instant."""

    def covers(self, table: SlotTable) -> bool:
        """Return whether every live row is admitted, as far as shards can tell."""
        ...

    def expected(self, table: SlotTable) -> float:
        """Estimate how many rows are admitted. Needs the index's mutex."""
        ...

    def at(self, table: SlotTable) -> Admitted:
        """Resolve the restriction against the table as it is now. Needs the index's mutex."""
        ...


class Selection:
    """A restriction to shards, to rows by shard and sequence number, or to neither."""

    def __init__(
        self, shards: Collection[int] | None, allowed: Mapping[int, Numbers] | None
    ) -> None:
        self._shards = shards
        self._allowed = allowed

    def covers(self, table: SlotTable) -> bool:
        """Return whether every live row is admitted, as far as shards can tell."""
        if self._shards is None:
            return self._allowed is None
        return self._allowed is None and all(map(self._has, table.shards))

    def expected(self, table: SlotTable) -> int:
        """Estimate, without resolving it, how many rows the selection admits."""
        if self._allowed is not None:
            return sum(len(seqs) for shard, seqs in self._allowed.items() if self._has(shard))
        return sum(rows.live for shard, rows in table.shards.items() if self._has(shard))

    def at(self, table: SlotTable) -> Admitted:
        """Resolve the selection against the table as it is now. Needs the index's mutex."""
        if self._allowed is not None:
            return _BySlot(table, self._allowed_slots(table, self._allowed))
        if self.covers(table):
            return _Everything(table)
        return _ByShard(table, [shard for shard in table.shards if self._has(shard)])

    def _has(self, shard: int) -> bool:
        return self._shards is None or shard in self._shards

    def _allowed_slots(self, table: SlotTable, allowed: Mapping[int, Numbers]) -> Numbers:
        parts = [np.empty(0, dtype=np.int64)]
        for shard, seqs in allowed.items():
            if self._has(shard):
                found = table.lookup(shard, np.asarray(seqs, dtype=np.int64))
                parts.append(found[found != NOWHERE])
        return np.concatenate(parts)


class _Everything:
    def __init__(self, table: SlotTable) -> None:
        self._table = table
        self.count = table.live

    def flags(self, slots: Numbers) -> Flags:
        return self._table.alive[slots]

    def slots(self) -> Numbers:
        return np.flatnonzero(self._table.alive[: self._table.used])


class _ByShard:
    def __init__(self, table: SlotTable, shards: list[int]) -> None:
        self._table = table
        self._shards = np.array(shards, dtype=np.int32)
        self.count = sum(table.shards[shard].live for shard in shards)

    def flags(self, slots: Numbers) -> Flags:
        shards = self._table.records["shard"][slots]
        return self._table.alive[slots] & np.isin(shards, self._shards)

    def slots(self) -> Numbers:
        parts = [self._table.shard_slots(shard) for shard in self._shards.tolist()]
        return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *parts]))


class _BySlot:
    """Slots come from the maps, so they are alive; the mask drops repetitions and tests cheaply."""

    def __init__(self, table: SlotTable, slots: Numbers) -> None:
        self._mask = np.zeros(table.used, dtype=np.bool_)
        self._mask[slots] = True
        self.count = int(np.count_nonzero(self._mask))

    def flags(self, slots: Numbers) -> Flags:
        return self._mask[slots]

    def slots(self) -> Numbers:
        return np.flatnonzero(self._mask)
