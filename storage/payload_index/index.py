"""The payload indexes of one collection on one node: defined, filled, and asked.

A definition takes effect at once; its column is filled from the store by whoever calls `fill`, the
thread that builds the vector index. Until a column knows every row it answers nothing, and those
who ask read payloads instead. All methods are safe to call from any thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final
from weakref import WeakMethod

import numpy as np

from storage.filter_nodes import Filter, Key
from storage.filter_parse import written_key
from storage.index_state import IndexState
from storage.payload_index.columns import FetchPayloads
from storage.payload_index.conditions import unindexed
from storage.payload_index.fields import FieldIndex, FieldType
from storage.payload_index.selection import ByPayload, NotIndexed, PassingRows
from storage.seq_slots import Numbers

FILL_ROWS: Final = 1000
_RUN_BYTES: Final = 12
"""A key's place in its column's order."""
_PLANS_MAX: Final = 128
_PLAN_BYTES_MAX: Final = 1024
"""Plans hold on to what their columns were: few are kept, and of long lists of values none."""
_EVERYTHING: Final = Filter()
_NARROW_PART: Final = 4
_NARROW_MAX: Final = 200_000
"""Rows are worth naming one by one when they are at most this part of all, and this many."""


class PayloadIndex:
    """See the module. Two methods of the vector index that has this one: `settle` takes in what it
    has deferred; `changed` is called when `fill` may have work.

    They are held weakly. In a cycle an index that was dropped would keep its memory until the
    collector comes by, which on a quiet node is never.
    """

    def __init__(
        self, state: IndexState, settle: Callable[[], None], changed: Callable[[], None]
    ) -> None:
        self._state = state
        self._settle = weakly(settle)
        self._changed = weakly(changed)
        self._fetch: FetchPayloads | None = None
        self._plans: dict[bytes, ByPayload] = {}
        self._planned_for: object = None
        """The columns that the plans are for."""

    @property
    def fields(self) -> tuple[FieldIndex, ...]:
        """The definitions in effect."""
        return tuple(column.field for column in self._state.payloads.columns)

    @property
    def has_fields(self) -> bool:
        """Whether there are any."""
        return bool(self._state.payloads.columns)

    @property
    def has_work(self) -> bool:
        """Whether `fill` has something to do."""
        return self._state.payloads.unknown > 0

    @property
    def pending_bytes(self) -> int:
        """About what rows that are not in the columns' order yet will need there."""
        columns = self._state.payloads.columns
        return sum(_RUN_BYTES * (column.used - column.run.end) for column in columns)

    def set_fields(self, fields: Sequence[FieldIndex], fetch: FetchPayloads) -> None:
        """Have indexes on just these fields, filled by `fetch`."""
        self._settle()
        self._fetch = fetch
        self._plans = {}
        with self._state.mutex:
            self._state.payloads.set_fields(fields, self._state.table.used)
        self._changed()

    def is_ready(self, field: FieldIndex) -> bool:
        """Return whether there is just this index, and it knows every row."""
        columns = self._state.payloads.columns
        return any(column.field == field and not column.unknown for column in columns)

    def is_brief(self, rows: ByPayload, rows_max: int) -> bool:
        """Return whether a search of these rows looks at so few, and waits for nobody.

        Raises NotIndexed.
        """
        mutex = self._state.mutex
        if not mutex.acquire(blocking=False):
            return False
        try:
            return rows.is_brief(self._state.table, rows_max)
        finally:
            mutex.release()

    def unindexed(self, where: Filter) -> list[str]:
        """Return, as paths in order, what a filter tests that no index helps with."""
        kinds: dict[Key, list[FieldType]] = {}
        for path, columns in self._state.payloads.by_path().items():
            kinds[path] = [column.kind for column in columns]
        return list(dict.fromkeys(map(written_key, unindexed(where, kinds))))

    def restriction(self, where: Filter, shards: Collection[int] | None) -> ByPayload:
        """Return a filter as what a search may return."""
        return ByPayload(self._state.payloads, where, shards)

    def plan(self, text: bytes, where: Filter) -> ByPayload | None:
        """Return a filter of all shards as `restriction` does, the same one for the same text.

        None: a part of it has no index now, or it has no parts. What the columns said of it last is
        kept, unless the text is long, so a filter that comes again while nobody writes costs
        nothing to read.
        """
        columns = self._state.payloads.columns
        if self._planned_for is not columns:
            self._plans, self._planned_for = {}, columns
        plans = self._plans
        plan = plans.pop(text, None)
        if plan is None:
            if where == _EVERYTHING or self.unindexed(where):
                return None
            kept = len(text) <= _PLAN_BYTES_MAX
            plan = ByPayload(self._state.payloads, where, None, comes_again=kept)
        if plan.comes_again:
            if len(plans) >= _PLANS_MAX:
                plans.pop(next(iter(plans)), None)
            plans[text] = plan  # the one that was asked for last is last
        return plan

    def text_of(self, rows: ByPayload) -> bytes | None:
        """Return the text of a filter that `plan` gave, if it is remembered."""
        return next((text for text, plan in self._plans.items() if plan is rows), None)

    def count(self, where: Filter, shards: Collection[int]) -> int | None:
        """Return how many rows of these shards pass; None: indexes do not answer the filter."""
        self._settle()
        with self._state.mutex:
            try:
                return len(self.restriction(where, shards).at(self._state.table).slots())
            except NotIndexed:
                return None

    def narrow(
        self, where: Filter, shards: Collection[int], rows_max: int = _NARROW_MAX
    ) -> Mapping[int, Numbers] | None:
        """Return the rows of these shards that may pass, by shard and sequence number.

        None: indexes do not say, or there are more than `rows_max`, or too many to name them.
        """
        self._settle()
        with self._state.mutex:
            table = self._state.table
            found = self.restriction(where, shards).compiled(table)
            few = min(table.used // _NARROW_PART, rows_max, _NARROW_MAX)
            if not found.narrowed or found.node.bound > few:
                return None
            slots = PassingRows(table, found.node, shards).slots()
            records = table.records[slots]
        owners, seqs = records["shard"], records["seq"].astype(np.int64)
        return {shard: seqs[owners == shard] for shard in np.unique(owners).tolist()}

    def points(self) -> dict[str, dict[int, int]]:
        """Return, for each field and shard, how many live rows have a key."""
        self._settle()
        counts: dict[str, dict[int, int]] = {}
        with self._state.mutex:
            table = self._state.table
            living = np.flatnonzero(table.alive[: table.used])
            owners = table.records["shard"][living]
            for column in self._state.payloads.columns:
                number = np.bincount(owners[column.has_keys(living)])
                shards = np.flatnonzero(number)
                counts[column.field.name] = dict(
                    zip(shards.tolist(), number[shards].tolist(), strict=True)
                )
        return counts

    def fill(self, limit: int = FILL_ROWS) -> int:
        """Read payloads of rows that some column does not know yet; return of how many.

        A row that has another version in the store is left: its new version is on its way here.

        Raises:
            RuntimeError: the store cannot be read now; try again later.
        """
        if not self.has_work or self._fetch is None:
            return 0
        with self._state.building:
            return self._fill(self._fetch, limit)

    def _fill(self, fetch: FetchPayloads, limit: int) -> int:
        state = self._state
        with state.mutex:
            slots = state.payloads.unknown_slots(limit)
            alive = state.table.alive[slots]
            state.payloads.bury(slots[~alive])
            records = state.table.records[slots[alive]]
            slots = slots[alive]
        stored: dict[tuple[int, int, int], bytes] = {}
        try:
            for shard in np.unique(records["shard"]).tolist():
                seqs = records["seq"][records["shard"] == shard].tolist()
                stored.update(((shard, seq, at), raw) for seq, at, raw in fetch(shard, seqs))
        except sqlite3.Error as error:
            raise RuntimeError(f"payloads cannot be read: {error}") from error
        found = [stored.get(key) for key in zip(*_parts(records), strict=True)]
        known = np.array([payload is not None for payload in found], dtype=np.bool_)
        extracts = state.payloads.read([payload for payload in found if payload is not None])
        with state.mutex:
            state.payloads.write(slots[known], extracts)
        return len(alive) - int(np.count_nonzero(~known))

    def merge(self) -> None:
        """Renew the order of columns behind which many rows have gathered."""
        state = self._state
        if self._planned_for is not state.payloads.columns:
            self._plans, self._planned_for = {}, None  # they hold on to columns that are gone
        if not any(column.wants_merging for column in state.payloads.columns):
            return
        with state.building:
            with state.mutex:
                merges = state.payloads.merges()
            for column, end in merges:
                run = column.merged(end)
                with state.mutex:
                    column.run = run


def _parts(records: np.ndarray[tuple[int], np.dtype[np.void]]) -> list[list[int]]:
    return [records[name].tolist() for name in ("shard", "seq", "version")]


def weakly(method: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls a bound method as long as its object lives."""
    held = WeakMethod(method)

    def call() -> None:
        bound = held()
        if bound is not None:
            bound()

    return call
