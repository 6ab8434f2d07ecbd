"""What cuts replace is closed: it stays for older checkpoints, and is current no more.

Which rows these are comes as arrays, so that a small change needs no table to be made for it, nor
one to be emptied. A cut of many has them in pieces. They are arrays of text, and Postgres makes of
them what it needs: the driver has to ask it about arrays of anything else, on each new connection,
and that takes longer than what is to be done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from storage.checkpoint.copy_format import fields_of
from storage.checkpoint.cut import Cut
from storage.checkpoint.tables import CLOSINGS, KEYS, VERSIONED

KEYS_MAX: Final = 5_000
"""Keys in one statement, but for those of a last piece."""
PARSED_HERE_BYTES: Final = 32 << 10
"""More than so much is read on a thread: the event loop is not held up."""
_Key = tuple[int, int]
"""A cluster's number, and a checkpoint's."""

_CLOSE: Final = """
closed_{table} AS (
  UPDATE {table} SET to_checkpoint = $2 WHERE ctid = ANY (ARRAY(
    SELECT found.place FROM r CROSS JOIN LATERAL (
      SELECT t.ctid AS place FROM {table} t
      WHERE t.cluster = $1 AND t.shard = r.shard AND t.to_checkpoint IS NULL AND {match} LIMIT 1
    ) found WHERE {condition}
  ))
)
"""
"""Said so that each is looked up in the index of what is current: a plain join is planned by
statistics, which after the first checkpoint there are none of, and reads the whole shard."""
_CLOSE_ALL: Final = """
UPDATE {table} SET to_checkpoint = $2
WHERE cluster = $1 AND shard = ANY($3::text[]::integer[]) AND to_checkpoint IS NULL
"""
_NEWLY_DROPPED: Final = """
INSERT INTO dropped_collections (cluster, shard, from_checkpoint, collection)
SELECT $1, shard, $2, collection
FROM unnest($3::text[]::integer[], $4::text[]::bigint[]) AS d(shard, collection)
ON CONFLICT DO NOTHING RETURNING shard::text, collection::text
"""
_CLOSE_DROPPED: Final = """
UPDATE {table} t SET to_checkpoint = $2
FROM unnest($3::text[]::integer[], $4::text[]::bigint[]) AS d(shard, collection)
WHERE t.cluster = $1 AND t.shard = d.shard AND t.{column} = d.collection AND to_checkpoint IS NULL
"""
_TEXT_OF: Final[Mapping[str, Callable[[bytes], str]]] = {
    "bigint": lambda field: str(int.from_bytes(field, "big", signed=True)),
    "integer": lambda field: str(int.from_bytes(field, "big", signed=True)),
    "bytea": lambda field: "\\x" + field.hex(),
    "text": bytes.decode,
}


def _closing(name: str, keys: Mapping[str, str]) -> str:
    """Return the statement that closes all that a file of what is replaced stands for."""
    arrays = [f"${place}::text[]::{kind}[]" for place, kind in enumerate(keys.values(), start=4)]
    source = f"unnest($3::text[]::integer[], {', '.join(arrays)}) AS r(shard, {', '.join(keys)})"
    closings = [
        _CLOSE.format(table=table, condition=condition, match=match)
        for table, source_name, condition, match in CLOSINGS
        if source_name == name
    ]
    return f"WITH r AS (SELECT * FROM {source}), {','.join(closings)} SELECT"  # noqa: S608


_CLOSE_NAMED: Final = {name: _closing(name, keys) for name, keys in KEYS.items()}


async def close_replaced(connection: Any, cuts: Sequence[Cut]) -> None:
    """Close what is current in Postgres and not in the shards of these cuts any more.

    The cuts are of one checkpoint.
    """
    key: _Key = (cuts[0].task.cluster, cuts[0].task.checkpoint)
    if first := [str(cut.task.shard) for cut in cuts if cut.task.is_first]:
        for table in VERSIONED:
            await connection.execute(_CLOSE_ALL.format(table=table), *key, first)
    for name in KEYS:
        await _close_named(connection, key, cuts, name)
    await _close_dropped(connection, key, cuts)


async def _close_named(connection: Any, key: _Key, cuts: Sequence[Cut], name: str) -> None:
    held: list[tuple[str, ...]] = []
    for cut in cuts:
        if cut.spool.rows.get(name):
            async for piece in cut.spool.read(name):
                held += await _keys(cut.task.shard, name, piece)
                if len(held) >= KEYS_MAX:
                    await connection.execute(_CLOSE_NAMED[name], *key, *zip(*held, strict=True))
                    held.clear()
    if held:
        await connection.execute(_CLOSE_NAMED[name], *key, *zip(*held, strict=True))


async def _keys(shard: int, name: str, piece: bytes) -> list[tuple[str, ...]]:
    """Return the shard and the fields of each row of a piece."""
    if len(piece) > PARSED_HERE_BYTES:
        return await asyncio.to_thread(_parsed, shard, name, piece)
    return _parsed(shard, name, piece)


def _parsed(shard: int, name: str, piece: bytes) -> list[tuple[str, ...]]:
    text_of = [_TEXT_OF[kind] for kind in KEYS[name].values()]
    return [
        (str(shard), *(one(field) for one, field in zip(text_of, fields, strict=True)))
        for fields in fields_of(piece)
    ]


async def _close_dropped(connection: Any, key: _Key, cuts: Sequence[Cut]) -> None:
    dropped = [(str(cut.task.shard), str(uid)) for cut in cuts for uid in cut.dropped]
    if dropped:
        found = await connection.fetch(_NEWLY_DROPPED, *key, *zip(*dropped, strict=True))
        for table, column in VERSIONED.items() if found else ():
            query = _CLOSE_DROPPED.format(table=table, column=column)
            await connection.execute(query, *key, *zip(*found, strict=True))
