"""A filter that payload indexes answer, as what a search may return.

Nothing is resolved beforehand: a search asks about the rows that it has found, or, when there are
few that pass, for these. Columns can come, go and be renumbered between two looks of one search,
so a filter is made into nodes again whenever they changed.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from storage.filter_nodes import Filter
from storage.payload_index.columns import PayloadColumns
from storage.payload_index.conditions import Compiled, Table, compiled, seeks_texts
from storage.payload_index.nodes import Node
from storage.seq_slots import Numbers
from storage.slots import Flags, SlotTable


class NotIndexed(Exception):
    """No payload indexes answer the filter, or not any more: their rows have to be read."""


class ByPayload:
    """The rows of some shards (None: of all) that pass a filter. Needs the index's mutex."""

    def __init__(
        self,
        payloads: PayloadColumns,
        where: Filter,
        shards: Collection[int] | None,
        *,
        comes_again: bool = False,
    ) -> None:
        """`comes_again`: this object stands for all searches that have the filter."""
        self.comes_again = comes_again
        self._payloads = payloads
        self._where = where
        self._shards = shards
        self._made_of: object = None
        self._used = self._unknown = -1
        self._compiled: Compiled | None = None

    def covers(self, _table: SlotTable) -> bool:
        """See `selection.Restriction`."""
        return False

    def expected(self, table: SlotTable) -> float:
        """See `selection.Restriction`; raises NotIndexed."""
        return self.node(table).expected

    def is_brief(self, table: SlotTable, rows_max: int) -> bool:
        """Return whether no more rows than that need a look to find and compare all that pass.

        Raises NotIndexed. The answer itself takes no time: parts of texts are not looked up for it.
        """
        if seeks_texts(self._where):
            return False
        node = self.node(table)
        listing = table.used if node.listing is None else node.listing
        return max(node.expected, listing) <= rows_max

    def at(self, table: SlotTable) -> PassingRows:
        """See `selection.Restriction`; raises NotIndexed."""
        return PassingRows(table, self.node(table), self._shards)

    def node(self, table: SlotTable) -> Node:
        """Return the filter as a node; raises NotIndexed unless it is exact."""
        found = self.compiled(table)
        if not (found.narrowed and found.node.exact):
            raise NotIndexed
        return found.node

    def compiled(self, table: SlotTable) -> Compiled:
        """Return the filter over the columns as they are."""
        columns, used, unknown = self._payloads.columns, table.used, self._payloads.unknown
        found = self._compiled
        renewed = self._made_of is not columns or (self._used, self._unknown) != (used, unknown)
        if found is None or renewed:
            self._made_of, self._used, self._unknown = columns, used, unknown
            parts = Table(self._payloads.by_path(), table.records, table.used)
            found = self._compiled = compiled(self._where, parts)
        return found


class PassingRows:
    """What a node admits of a table at one instant."""

    def __init__(self, table: SlotTable, node: Node, shards: Collection[int] | None) -> None:
        self._table, self._node = table, node
        every = shards is None or all(shard in shards for shard in table.shards)
        self._shards = None if every else np.array(sorted(shards or ()), dtype=np.int32)
        self.count = node.bound

    def flags(self, slots: Numbers) -> Flags:
        """Return which of slots[n] are alive and pass."""
        found = self._node.flags(slots)
        found &= self._table.alive[slots]
        return self._in_shards(slots, found)

    def slots(self) -> Numbers:
        """Return all slots that are alive and pass, each once."""
        found = self._node.slots()
        if found is None:
            found = np.flatnonzero(self._table.alive[: self._table.used])
            return found[self.flags(found)]
        return found[self._in_shards(found, self._table.alive[found])]

    def _in_shards(self, slots: Numbers, found: Flags) -> Flags:
        if self._shards is not None:
            found &= np.isin(self._table.records["shard"][slots], self._shards)
        return found
