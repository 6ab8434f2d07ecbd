"""A shard's state file from a checkpoint, as a replica would have it that stood at its index.

Row numbers, versions and times are the old ones; remembered requests are not kept. The file is made
through `StateFile`, in transactions of some rows each, and stands at its index only with the last
one: a file that was not finished is one of an empty state. What is in it is hashed on the way, and
a file that is not what the manifest promises is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from storage.checkpoint.contents import read_shard
from storage.checkpoint.database import Database
from storage.checkpoint.model import Manifest
from storage.graph_rows import Kind, packed_members
from storage.shard_schema import open_shard_state
from storage.state_file import StateFile, write_meta

_DURABLE_ROWS: Final = 20_000
"""After so many rows what is in SQLite's log moves into the file."""
_RECORD: Final = """
INSERT INTO records (collection, id, version, created_ms, updated_ms, seq, payload, digest)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_ELEMENT: Final = """
INSERT INTO graph_elements
  (graph, kind, id, version, created_ms, updated_ms, seq, expired_ms, members, content, digest)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


async def restore_shard(
    database: Database,
    manifest: Manifest,
    path: Path,
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Make the state file `path` of a shard as of a checkpoint; there must be none yet.

    Raises:
        CheckpointDamaged: the rows are not those that were written.
    """
    state = await asyncio.to_thread(open_shard_state, path)
    with closing(state):
        filler = _Filler(state)
        dropped = await read_shard(database, manifest, take=filler.take, advance=advance)
        await asyncio.to_thread(filler.finish, manifest, dropped)


class _Filler:
    """Writes rows into a new state."""

    def __init__(self, state: StateFile) -> None:
        assert state.position() == (1, 0), "only a new state is filled"
        self._state = state
        self._pending = 0
        self._writers = {
            "records": _write_records,
            "tombstones": _write_tombstones,
            "nodes": _write_nodes,
            "hyperedges": _write_edges,
            "graph_counts": _write_counts,
        }

    def take(self, table: str, rows: Sequence[Any], digests: Sequence[bytes]) -> None:
        """Write some rows of a table, as one transaction."""
        with self._state.transaction() as connection:
            self._writers[table](connection, rows, digests)
        self._pending += len(rows)
        if self._pending >= _DURABLE_ROWS:
            self._pending = 0
            self._state.make_durable()

    def finish(self, manifest: Manifest, dropped: Sequence[int]) -> None:
        """Say where the state stands, and make all of it durable."""
        with self._state.transaction() as connection:
            connection.executemany("INSERT INTO dropped VALUES (?)", [(uid,) for uid in dropped])
            write_meta(
                connection,
                {
                    "record_hash": manifest.state_hash,
                    "next_seq": manifest.next_row,
                    "clock_ms": manifest.clock_ms,
                },
            )
            self._state.set_position(manifest.applied_index, manifest.term)
        durable = self._state.make_durable()
        assert durable == manifest.applied_index, "nobody else reads this file"


def _write_records(connection: Any, rows: Sequence[Any], digests: Sequence[bytes]) -> None:
    columns = ("collection", "id", "version", "created_ms", "updated_ms", "row_number", "payload")
    written = [
        (*(row[name] for name in columns), digest)
        for row, digest in zip(rows, digests, strict=True)
    ]
    connection.executemany(_RECORD, written)
    vectors = [(row["row_number"], row["vector"]) for row in rows]
    connection.executemany("INSERT INTO vectors VALUES (?, ?)", vectors)


def _write_tombstones(connection: Any, rows: Sequence[Any], digests: Sequence[bytes]) -> None:
    del digests
    written = [(row["collection"], row["id"], row["version"]) for row in rows]
    connection.executemany("INSERT INTO tombstones VALUES (?, ?, ?)", written)


def _write_nodes(connection: Any, rows: Sequence[Any], digests: Sequence[bytes]) -> None:
    written = [
        (*_element(row, Kind.NODE), None, b"", row["content"], digest)
        for row, digest in zip(rows, digests, strict=True)
    ]
    connection.executemany(_ELEMENT, written)


def _write_edges(connection: Any, rows: Sequence[Any], digests: Sequence[bytes]) -> None:
    written, joined = [], []
    for row, digest in zip(rows, digests, strict=True):
        members = row["member_rows"]
        element = _element(row, Kind.EDGE)
        written.append(
            (*element, row["expired_ms"], packed_members(members), row["content"], digest)
        )
        joined += [(member, row["row_number"]) for member in dict.fromkeys(members)]
    connection.executemany(_ELEMENT, written)
    connection.executemany("INSERT INTO graph_members VALUES (?, ?)", joined)


def _write_counts(connection: Any, rows: Sequence[Any], digests: Sequence[bytes]) -> None:
    del digests
    written = [(row["graph"], row["version"], row["nodes"], row["edges"]) for row in rows]
    connection.executemany("INSERT INTO graphs VALUES (?, ?, ?, ?)", written)


def _element(row: Any, kind: Kind) -> tuple[Any, ...]:
    head = (row["graph"], int(kind), row["id"], row["version"])
    return (*head, row["created_ms"], row["updated_ms"], row["row_number"])
