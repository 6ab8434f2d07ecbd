"""The columns of all indexed fields of one collection, as its vector index keeps them.

They grow with the index's slots, one for one. A row that comes with its payload is read before
anybody has to wait for it (`read`), and written under the index's mutex (`append`). What came
without, or before its field had an index, is unknown until `fill`, which reads the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import orjson

from storage.filter_nodes import Key
from storage.payload_index.column import GONE, NOTHING_KNOWN, Column
from storage.payload_index.fields import Extract, FieldIndex, extract
from storage.seq_slots import Numbers
from storage.slots import Flags

FetchedPayload = tuple[int, int, bytes]
"""(seq, version, JSON payload)"""
FetchPayloads = Callable[[int, Sequence[int]], Iterable[FetchedPayload]]
"""Returns the stored rows of a shard that have these sequence numbers."""

NO_EXTRACTS: Final[Mapping[Column, Sequence[Extract]]] = {}
Extracts = Mapping[Column, Sequence[Extract]]
"""What columns keep of rows, one for each row."""


class PayloadColumns:
    """See the module. Guarded by the index's mutex, but for what says otherwise."""

    def __init__(self) -> None:
        self.columns: tuple[Column, ...] = ()
        """Replaced whole when fields come and go: it may be read at any time."""

    def set_fields(self, fields: Sequence[FieldIndex], used: int) -> None:
        """Have columns for just these fields; a new one knows none of the `used` slots."""
        kept = {column.field: column for column in self.columns}
        columns = [kept.get(field) or _empty(field, used) for field in fields]
        self.columns = tuple(columns)

    @property
    def unknown(self) -> int:
        """Slots that are unknown to the column that knows the fewest. Needs no mutex."""
        return max([column.unknown for column in self.columns], default=0)

    def by_path(self) -> dict[Key, list[Column]]:
        """Return the columns that know all slots, by path."""
        found: dict[Key, list[Column]] = {}
        for column in self.columns:
            if not column.unknown:
                found.setdefault(column.path, []).append(column)
        return found

    def read(self, payloads: Sequence[bytes | None]) -> Extracts:
        """Return what the columns keep of rows with these payloads. Needs no mutex."""
        columns = self.columns
        if not columns or all(payload is None for payload in payloads):
            return NO_EXTRACTS
        documents = [None if payload is None else orjson.loads(payload) for payload in payloads]
        return {
            column: [
                NOTHING_KNOWN if document is None else extract(column.path, column.kind, document)
                for document in documents
            ]
            for column in columns
        }

    def append(self, count: int, extracts: Extracts) -> None:
        """Add `count` slots, of which `extracts` says what it can."""
        for column in self.columns:
            known = extracts.get(column)
            if known is None:
                column.skip(count)
            else:
                assert len(known) == count, "an extract for each row"
                column.append(known)

    def unknown_slots(self, limit: int) -> Numbers:
        """Return up to `limit` slots that are unknown to some column, ascending."""
        parts = [column.unknown_slots(limit) for column in self.columns if column.unknown]
        parts.append(np.empty(0, dtype=np.int64))
        return np.unique(np.concatenate(parts))[:limit]

    def write(self, slots: Numbers, extracts: Extracts) -> None:
        """Fill in slots[n] where they are unknown."""
        for column in self.columns:
            known = extracts.get(column)
            if known is None or not column.unknown:
                continue
            places = np.flatnonzero(~column.is_known(slots))
            column.write(slots[places], [known[place] for place in places.tolist()])

    def bury(self, slots: Numbers) -> None:
        """Ask no more for the payloads of slots that died before they were read."""
        for column in self.columns:
            if column.unknown:
                unread = slots[~column.is_known(slots)]
                column.write(unread, [GONE] * len(unread))

    def merges(self) -> list[tuple[Column, int]]:
        """Return the columns whose run is to be renewed, each with the slot it is to end at."""
        return [(column, column.used) for column in self.columns if column.wants_merging]

    def renumbered(self, slots: Numbers) -> dict[Column, Column]:
        """Return the columns of ascending slots[n] alone, by column. Needs no mutex."""
        return {column: column.renumbered(slots) for column in self.columns}

    def exchange(self, renumbered: Mapping[Column, Column], since: Numbers, base: int) -> None:
        """Put renumbered columns in their place, with the slots `since` behind them.

        A field that came meanwhile begins anew: it knows none of the `base` slots, nor the others.
        """
        columns = []
        for column in self.columns:
            new = renumbered.get(column)
            if new is None:
                new = _empty(column.field, base + len(since))
            else:
                new.extend(column, since)
            columns.append(new)
        self.columns = tuple(columns)

    def validate(self, used: int) -> None:
        """Assert the invariants; slow, for tests."""
        for column in self.columns:
            assert column.used == used, "a column has the index's slots"
            column.validate()


def only(extracts: Extracts, flags: Flags) -> Extracts:
    """Return the extracts of the rows that are flagged."""
    kept = np.flatnonzero(flags).tolist()
    return {column: [known[place] for place in kept] for column, known in extracts.items()}


def _empty(field: FieldIndex, used: int) -> Column:
    column = Column(field)
    column.skip(used)
    return column
