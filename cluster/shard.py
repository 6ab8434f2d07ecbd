"""A shard's state machine: points of all collections, changed by the commands of its log.

Pure but for its file: time and ids come with the command, and nothing but the shard itself is
read. A command is validated before anything is touched, so it is applied whole or answered with
a typed error: `bad_command` for what no correct leader proposes, `collection_dropped` for
writes that were on their way when their collection went, `version_conflict` when a condition does
not hold.

A command whose request id was applied before, and is not forgotten (`storage.requests`), gets its
first result and changes nothing. A `version_conflict` is such a result: a repeated request must
not find its condition true later. Other errors are not remembered. Replicas must be given the
same `request_id_ttl_ms`: it decides what is applied.

After `apply`, `take_changes` is what the vector index has to learn, last state per row. It says
nothing of dropped collections (their index goes as a whole), and is empty after `install` and
`load`: the index has to be reconciled with the rows then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

import msgspec
import numpy as np

from cluster.command import (
    Command,
    Delete,
    DropCollection,
    PointWrite,
    Result,
    SetPayload,
    Upsert,
    VersionFound,
    decode_command,
    keep_result,
    kept_result,
    kept_version,
    name_and_digest,
)
from cluster.state_machine import Change, Entry, FileMachine
from storage.ids import is_canonical
from storage.payloads import (
    EMPTY_PAYLOAD,
    PayloadChange,
    PayloadOverflow,
    canonical_payload,
    merging,
    removing,
    replacing,
)
from storage.record_reads import RecordReads
from storage.records import RECORDS_SCHEMA, RecordWriter, Stamp, Written, recompute_hash
from storage.requests import REQUESTS_SCHEMA, TIME_MS_MAX, RequestMemory, recompute_request_hash
from storage.state_file import StateFile

_UID_MAX = _INDEX_MAX = 2**63 - 1
_Points = dict[bytes, tuple[bytes, bytes]]


class ShardMachine(FileMachine["_ShardBatch"], RecordReads):
    """The records of one shard, in the state file `path`, or in memory without one.

    Raises CorruptState when the file cannot be used.
    """

    _changes: list[Change]

    def __init__(self, path: Path | None, *, request_id_ttl_ms: int) -> None:
        assert request_id_ttl_ms > 0, "request ids are remembered for some time"
        self._request_id_ttl_ms = request_id_ttl_ms
        state = StateFile(path, RECORDS_SCHEMA + REQUESTS_SCHEMA)
        super().__init__(state, self._batch, self._committed)

    def take_changes(self) -> list[Change]:
        """Return, once, what the last apply changed, in the order of its last changes."""
        changes, self._changes = self._changes, []
        return changes

    def recompute_hash(self) -> bytes:
        """Return the state hash computed from all content; reads everything."""
        with self._state.reader() as connection:
            return recompute_hash(connection)

    def request_hash(self) -> bytes:
        """Return the 16-byte hash over the remembered requests."""
        with self._state.reader() as connection:
            return recompute_request_hash(connection)

    def _batch(self, connection: sqlite3.Connection) -> _ShardBatch:
        self._changes = []
        return _ShardBatch(connection, self._request_id_ttl_ms)

    def _committed(self, batch: _ShardBatch) -> None:
        self._changes = list(batch.changes.values())


class _BadCommand(ValueError):
    """A command that no correct leader proposes."""


class _ShardBatch:
    """One transaction of entries; `changes` by seq."""

    def __init__(self, connection: sqlite3.Connection, request_id_ttl_ms: int) -> None:
        self._records = RecordWriter(connection)
        self.changes: dict[int, Change] = {}
        self._requests = RequestMemory(connection, request_id_ttl_ms, kept_version)

    def execute(self, entry: Entry) -> Result:
        """Apply one command, whole or not at all."""
        try:
            return self._once(_decoded(entry.command), entry.index)
        except _BadCommand:
            return Result(version=entry.index, error="bad_command")
        except PayloadOverflow:
            return Result(version=entry.index, error="payload_too_large")

    def finish(self, index: int) -> None:
        """Write what is kept once per transaction, whose last entry is `index`."""
        self._records.finish()
        self._requests.finish(index)

    def state_hash(self) -> bytes:
        """Return the hash over all rows and tombstones."""
        return self._records.state_hash()

    def _once(self, command: Command, index: int) -> Result:
        now_ms = self._requests.now_ms(command.now_ms)
        name, digest = name_and_digest(command.request_id)
        kept = self._requests.recall(name, now_ms, index)
        if kept is not None:
            return kept_result(kept, digest, index)
        body = command.body
        if not isinstance(body, DropCollection) and self._records.is_dropped(body.collection):
            return Result(version=index, error="collection_dropped")
        found = self._conflict(body)
        if found is None:
            result = Result(version=index, affected=self._change(body, Stamp(index, now_ms)))
        else:
            result = Result(version=index, error="version_conflict", found=found)
        self._requests.remember(name, keep_result(result, digest), now_ms)
        return result

    def _conflict(self, body: Upsert | Delete | SetPayload | DropCollection) -> VersionFound | None:
        """Return the first record that does not fit its condition."""
        conditions = _conditions(body)
        if not conditions:
            return None
        versions = self._records.versions(body.collection, list(conditions))
        for record_id, wanted in conditions.items():
            version = versions.get(record_id, 0)
            if version != wanted:
                return VersionFound(record_id, version)
        return None

    def _change(self, body: Upsert | Delete | SetPayload | DropCollection, stamp: Stamp) -> int:
        """Change the rows; return how many points that was."""
        uid = body.collection
        match body:
            case Upsert():
                written = self._records.upsert(uid, stamp, _points(body))
            case Delete():
                written = self._records.delete(uid, stamp, _distinct(body.ids))
            case SetPayload():
                change = _payload_change(body)
                ids, bytes_max = _distinct(body.ids), body.bytes_max
                written = self._records.set_payload(uid, stamp, ids, change, bytes_max=bytes_max)
            case DropCollection():
                return self._drop(uid)
            case _:
                assert_never(body)
        self._note(uid, stamp.version, written)
        return len(written)

    def _drop(self, uid: int) -> int:
        self.changes = {seq: each for seq, each in self.changes.items() if each.collection != uid}
        return self._records.drop(uid)

    def _note(self, uid: int, version: int, written: Sequence[Written]) -> None:
        for seq, record_id, vector in written:
            # Moved to the end: the order of the changes is that of their versions.
            self.changes.pop(seq, None)
            self.changes[seq] = Change(uid, seq, version, record_id, vector)


def _decoded(raw: bytes) -> Command:
    try:
        command = decode_command(raw)
    except msgspec.MsgspecError as error:
        raise _BadCommand(str(error)) from None
    _require(0 <= command.now_ms <= TIME_MS_MAX)
    _require("\0" not in command.request_id)
    _require(0 <= command.body.collection <= _UID_MAX)
    return command


def _conditions(body: Upsert | Delete | SetPayload | DropCollection) -> dict[bytes, int]:
    """Return id -> required version, 0 for absent; an id with a condition comes once."""
    conditions: dict[bytes, int] = {}
    if isinstance(body, Upsert):
        conditions = {
            point.id: point.if_version for point in body.points if point.if_version is not None
        }
        ids = [point.id for point in body.points] if conditions else []
        _require(len(ids) == len(set(ids)))
    elif isinstance(body, Delete) and body.if_version is not None:
        _require(len(body.ids) == 1)
        conditions = {body.ids[0]: body.if_version}
    _require(all(0 <= version <= _INDEX_MAX for version in conditions.values()))
    _require(all(map(is_canonical, conditions)))
    return conditions


def _points(body: Upsert) -> _Points:
    """Return id -> (vector, canonical payload); of an id that comes twice the last counts."""
    _require(body.dimension > 0)
    vectors = [point.vector for point in body.points]
    _require(all(len(vector) == 4 * body.dimension for vector in vectors))
    elements = np.frombuffer(b"".join(vectors), "<f4")
    _require(bool(np.isfinite(elements).all()))
    return dict(_point(point) for point in body.points)


def _point(point: PointWrite) -> tuple[bytes, tuple[bytes, bytes]]:
    _require(is_canonical(point.id))
    return point.id, (point.vector, _payload(point.payload))


def _distinct(ids: Sequence[bytes]) -> list[bytes]:
    _require(all(map(is_canonical, ids)))
    return list(dict.fromkeys(ids))


def _payload(raw: bytes) -> bytes:
    try:
        return canonical_payload(raw)
    except ValueError as error:
        raise _BadCommand(str(error)) from None


def _payload_change(body: SetPayload) -> PayloadChange:
    payload = _payload(body.payload)
    _require(not any("\0" in key for key in body.keys))
    match body.mode:
        case "merge":
            return merging(payload)
        case "replace":
            return replacing(payload)
        case "remove":
            return removing(body.keys)
        case "clear":
            return replacing(EMPTY_PAYLOAD)
        case _:
            assert_never(body.mode)


def _require(holds: bool) -> None:  # noqa: FBT001
    if not holds:
        raise _BadCommand
