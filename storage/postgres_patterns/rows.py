"""A pattern as a row of stored_patterns, and as the payload of a point: the one from the other.

Every field has its column, so the payload is not kept as such, and a row that somebody changed by
SQL is what the next search shows. `createdAt` is the time of the last store, since a store replaces
the pattern whole.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from storage.ids import PointId, decode_id, encode_id

FIELDS: Final = {
    "session_id": "sessionId",
    "task": "task",
    "reward": "reward",
    "success": "success",
    "input": "input",
    "output": "output",
    "critique": "critique",
    "metadata": "metadata",
}
"""Column -> field of the payload."""
COLUMNS: Final = (*FIELDS, "updated_at")


class Found(NamedTuple):
    """A pattern that a search found; `score` is its cosine similarity."""

    id: PointId
    version: int
    score: float
    payload: dict[str, Any]


def id_text(point_id: PointId) -> str:
    """Return an id as the table has it: digits, or a lower-case UUID."""
    return str(decode_id(encode_id(point_id)))


def values_of(payload: Mapping[str, Any]) -> list[Any]:
    """Return the values of COLUMNS."""
    metadata = payload.get("metadata")
    values = {column: payload.get(field) for column, field in FIELDS.items()}
    values["metadata"] = None if metadata is None else orjson.dumps(metadata).decode()
    return [*values.values(), datetime.datetime.fromisoformat(payload["createdAt"])]


def found_of(row: Mapping[str, Any]) -> Found:
    """Return what a row of a search says."""
    payload = {field: row[column] for column, field in FIELDS.items() if row[column] is not None}
    if "metadata" in payload:
        payload["metadata"] = orjson.loads(payload["metadata"])
    payload["createdAt"] = time_text(row["updated_at"])
    text = row["id"]
    return Found(int(text) if text.isdigit() else text, row["version"], row["score"], payload)


def time_text(moment: datetime.datetime) -> str:
    """Return a moment in UTC as the API shows it: RFC 3339, to the millisecond."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
