"""Commands for a shard, and what it holds, in the shape that tests compare."""

from typing import Any

import numpy as np

from cluster.command import (
    Command,
    Delete,
    DropCollection,
    PointWrite,
    Result,
    SetPayload,
    Upsert,
    encode_command,
)
from cluster.shard import ShardMachine
from cluster.state_machine import Entry
from storage.ids import encode_id

TTL_MS = 50
DIMENSION = 2
Body = Upsert | Delete | SetPayload | DropCollection


def vector(*elements: float) -> bytes:
    return np.array(elements, "<f4").tobytes()


def point(
    number: int, payload: bytes = b"{}", element: float = 1.0, if_version: int | None = None
) -> PointWrite:
    return PointWrite(encode_id(number), vector(element, 0.5), payload, if_version)


def upsert(*points: PointWrite, collection: int = 1) -> Upsert:
    return Upsert(collection, DIMENSION, list(points))


def command(body: Body, request_id: str = "", now_ms: int = 1000) -> bytes:
    return encode_command(Command(request_id, now_ms, body))


def apply(machine: ShardMachine, *commands: bytes) -> list[Result]:
    """Apply commands as one batch of entries."""
    index, term = machine.position()
    entries = [Entry(index + 1 + each, max(term, 1), raw) for each, raw in enumerate(commands)]
    return machine.apply(entries)


def content(machine: ShardMachine) -> dict[tuple[int, bytes], tuple[Any, ...]]:
    """Return all live rows: (collection, id) -> version, vector, payload, created, updated."""
    return {
        (uid, row.id): (row.version, row.vector, row.payload, row.created_ms, row.updated_ms)
        for uid in machine.collections()
        for row in machine.scroll(uid, limit=10**6, with_vector=True, with_payload=True)
    }
