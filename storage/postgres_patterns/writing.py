"""Stores patterns: one statement each, or, with an idempotency key, one transaction.

The version of a pattern is drawn from a sequence once its row is locked, so it grows with every
write to the pattern, whoever else writes it at the same time. A request with a key leaves a row
beside the pattern that it wrote, in the same transaction; a second one waits for the first at that
row, and gets its result. As in a cluster, a condition that did not hold is such a result, too.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from storage.checkpoint.database import failures_named
from storage.checkpoint.errors import DatabaseUnavailable
from storage.ids import PointId
from storage.postgres_patterns.rows import COLUMNS, id_text, values_of
from storage.postgres_patterns.table import PatternSpace

_SWEPT: Final = 10
"""Requests that a new one may remove: more than come, so that they never pile up."""
_CLAIM: Final = """
INSERT INTO stored_pattern_requests AS r (request_id, digest, expires_at)
VALUES ($1, $2, now() + $3) ON CONFLICT (request_id)
DO UPDATE SET digest = excluded.digest, expires_at = excluded.expires_at, version = NULL
WHERE r.expires_at <= now() RETURNING true
"""
_KEPT: Final = """
SELECT digest, version, conflict FROM stored_pattern_requests WHERE request_id = $1
"""
_KEEP: Final = """
UPDATE stored_pattern_requests SET version = $2, conflict = $3 WHERE request_id = $1
"""
_SWEEP: Final = """
DELETE FROM stored_pattern_requests WHERE request_id IN (
  SELECT request_id FROM stored_pattern_requests WHERE expires_at <= now()
  ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
"""
_VERSION: Final = "SELECT version FROM stored_patterns WHERE id = $1"
_DRAWN: Final = "nextval('stored_pattern_versions')"


@dataclass(frozen=True, slots=True)
class Pattern:
    """What is to be stored; `embedding` are finite floats, `if_version` is as for a point."""

    id: PointId
    embedding: Sequence[float]
    payload: Mapping[str, Any]
    if_version: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """An idempotency key: its id, what it was given for, and how long it is remembered."""

    id: str
    digest: str
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class Stored:
    """The version written; in a `conflict` the one that was found, 0 for none."""

    version: int
    conflict: bool = False


class RequestReused(Exception):
    """The key stands for another request, which is still remembered."""


async def store(
    connection: Any, space: PatternSpace, pattern: Pattern, request: Request | None
) -> Stored:
    """Write a pattern, durably once this returns; a repeated request gives its first result.

    Raises RequestReused or CheckpointError.
    """
    with failures_named():
        if request is None and pattern.if_version is None:
            return await _write(connection, space, pattern)
        async with connection.transaction():
            if request is None:
                return await _write(connection, space, pattern)
            return await _once(connection, space, pattern, request)


async def _once(connection: Any, space: PatternSpace, pattern: Pattern, request: Request) -> Stored:
    ttl = datetime.timedelta(milliseconds=request.ttl_ms)
    if not await connection.fetchval(_CLAIM, request.id, request.digest, ttl):
        kept = await connection.fetchrow(_KEPT, request.id)
        if kept is None:
            raise DatabaseUnavailable("the request was forgotten just now")
        if kept["digest"] != request.digest:
            raise RequestReused
        return Stored(kept["version"], kept["conflict"])
    stored = await _write(connection, space, pattern)
    await connection.execute(_KEEP, request.id, stored.version, stored.conflict)
    await connection.execute(_SWEEP, _SWEPT)
    return stored


async def _write(connection: Any, space: PatternSpace, pattern: Pattern) -> Stored:
    key = id_text(pattern.id)
    values = [key, *values_of(pattern.payload), list(pattern.embedding)]
    if pattern.if_version is None:
        return Stored(await connection.fetchval(_upsert(space), *values))
    if pattern.if_version == 0:
        version = await connection.fetchval(_insert(space), *values)
    else:
        version = await connection.fetchval(_update(space), *values, pattern.if_version)
    if version is not None:
        return Stored(version)
    return Stored(await connection.fetchval(_VERSION, key) or 0, conflict=True)


def _insert(space: PatternSpace, on_conflict: str = "DO NOTHING") -> str:
    """Return SQL with the parameters id, COLUMNS and embedding."""
    names = ", ".join(("id", *COLUMNS, "created_at", "embedding"))
    last = len(COLUMNS) + 1
    given = ", ".join(f"${number}" for number in (*range(1, last + 1), last))
    return (
        f"INSERT INTO stored_patterns ({names}) VALUES ({given}, {space.parameter(last + 1)}) "  # noqa: S608
        f"ON CONFLICT (id) {on_conflict} RETURNING version"
    )


def _upsert(space: PatternSpace) -> str:
    taken = ", ".join(f"{name} = excluded.{name}" for name in (*COLUMNS, "embedding"))
    return _insert(space, f"DO UPDATE SET {taken}, version = {_DRAWN}")


def _update(space: PatternSpace) -> str:
    """Return SQL with the parameters id, COLUMNS, embedding and the version it must have."""
    given = ", ".join(f"{name} = ${number}" for number, name in enumerate(COLUMNS, 2))
    last = len(COLUMNS) + 2
    return (
        f"UPDATE stored_patterns SET {given}, embedding = {space.parameter(last)}, "  # noqa: S608
        f"version = {_DRAWN} WHERE id = $1 AND version = ${last + 1} RETURNING version"
    )
