"""Finds the nearest patterns, never fewer than there are.

pgvector's HNSW index gives rows in order of distance and knows nothing of filters. Its iterative
scan goes on until enough rows have passed, but not for ever, and drops rows that come out of order.
So when it ends with too few, the question is asked again without the index: Postgres then sorts
what matches, exactly, which is quick where few match and the only answer where the index gave up.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from storage.checkpoint.database import failures_named
from storage.filters import Filter, matches
from storage.ids import encode_id
from storage.postgres_patterns.conditions import Term, split
from storage.postgres_patterns.rows import COLUMNS, Found, found_of
from storage.postgres_patterns.table import PatternSpace

SETTINGS: Final = {
    "hnsw.iterative_scan": "strict_order",
    "hnsw.ef_search": "200",
    "plan_cache_mode": "force_custom_plan",
}
"""What connections that search are opened with. A plan that is made without the limit and the
bounds of a search would often pass the index by."""
BATCH_ROWS: Final = 500
"""Rows that are asked for at once where a filter is left to be asked of each."""
READ_HERE: Final = 100
"""So many rows are read on the event loop; more would hold it up."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The nearest `limit` to a vector of the table's size, of norm 1, that pass."""

    vector: Sequence[float]
    limit: int
    filter: Filter | None = None
    threshold: float | None = None


async def nearest(connection: Any, space: PatternSpace, wanted: Wanted) -> list[Found]:
    """Return the best, best first, equal scores in order of ids; raises CheckpointError."""
    terms, rest = split(wanted.filter)
    with failures_named():
        found = await _ask(connection, space, wanted, terms, rest, indexed=space.is_indexed)
        if len(found) < wanted.limit and space.is_indexed:
            found = await _ask(connection, space, wanted, terms, rest, indexed=False)
    floor = wanted.threshold
    kept = found if floor is None else [each for each in found if each.score >= floor]
    return sorted(kept, key=lambda each: (-each.score, encode_id(each.id)))


async def _ask(
    connection: Any,
    space: PatternSpace,
    wanted: Wanted,
    terms: Sequence[Term],
    rest: Filter | None,
    *,
    indexed: bool,
) -> list[Found]:
    query = _query(space, terms, indexed=indexed)
    values = [list(wanted.vector), *(term.value for term in terms)]
    if rest is not None:
        return await _sifted(connection, query, values, wanted, rest)
    rows = await connection.fetch(f"{query} LIMIT {wanted.limit:d}", *values)
    return _read(rows) if len(rows) <= READ_HERE else await asyncio.to_thread(_read, rows)


async def _sifted(
    connection: Any, query: str, values: Sequence[Any], wanted: Wanted, rest: Filter
) -> list[Found]:
    """Take rows in order until enough of them pass, or all that follow are too far away."""
    floor = -math.inf if wanted.threshold is None else wanted.threshold
    kept: list[Found] = []
    async with connection.transaction(readonly=True):
        cursor = await connection.cursor(query, *values)
        while rows := await cursor.fetch(BATCH_ROWS):
            kept += await asyncio.to_thread(_passing, rows, rest)
            if len(kept) >= wanted.limit or rows[-1]["score"] < floor:
                break
    return kept[: wanted.limit]


def _read(rows: Sequence[Any]) -> list[Found]:
    return [found_of(row) for row in rows]


def _passing(rows: Sequence[Any], rest: Filter) -> list[Found]:
    return [each for each in _read(rows) if matches(rest, each.id, each.payload)]


def _query(space: PatternSpace, terms: Sequence[Term], *, indexed: bool) -> str:
    """Return SQL with the vector and the terms' values as parameters."""
    distance = f"embedding OPERATOR({space.schema}.<=>) {space.parameter(1)}"
    where = [term.sql.format(f"${number}") for number, term in enumerate(terms, 2)]
    condition = f"WHERE {' AND '.join(where)}" if where else ""
    # An index serves the bare distance only, so a sum keeps it out.
    order = distance if indexed else f"({distance}) + 0"
    return (
        f"SELECT id, version, {', '.join(COLUMNS)}, 1 - ({distance}) AS score "  # noqa: S608
        f"FROM stored_patterns {condition} ORDER BY {order}"
    )
