"""What goes through a shard's log: commands, and the results of applying them.

A command carries everything its application needs (collection uid, dimension, resolved ids,
normalised vectors, the leader's clock), because apply reads nothing but its own shard. Encoded
as tagged msgpack arrays; decoding validates types and refuses unknown tags.

Points and a graph that lie in one shard may change in one command, a `Transaction`.

A record's version is the index of the entry that last wrote it; a condition compares it: None, no
condition; 0, the record must not exist; N, it must have exactly version N. When one does not hold,
nothing of the command is applied and its result is `version_conflict`.

A request id is a name, applied once per shard, which U+001F and a digest of the whole request may
follow. A name that comes again with another digest is refused with `request_id_reused`.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from graph.model import GraphChanges

DIGEST_MARK: Final = "\x1f"


class PointWrite(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One point: canonical id, little-endian float32 bytes, payload as JSON object bytes.

    `if_version` is its condition; see the module.
    """

    id: bytes
    vector: bytes
    payload: bytes
    if_version: int | None = None


class Upsert(msgspec.Struct, array_like=True, frozen=True, tag="upsert"):
    """Insert or replace points. All or nothing."""

    collection: int
    dimension: int
    points: list[PointWrite]


class Delete(msgspec.Struct, array_like=True, frozen=True, tag="delete"):
    """Delete points by canonical id; a filter is resolved to ids before the log.

    `if_version` is the condition of a single id.
    """

    collection: int
    ids: list[bytes]
    if_version: int | None = None


class SetPayload(msgspec.Struct, array_like=True, frozen=True, tag="payload"):
    """Change payloads of existing points. `payload` is JSON object bytes.

    merge: set its keys; replace: it becomes the payload; remove: drop `keys`; clear: empty it.
    When a payload would grow beyond `bytes_max` (0: no limit) nothing changes and the result's
    error is `payload_too_large`.
    """

    collection: int
    ids: list[bytes]
    mode: Literal["merge", "replace", "remove", "clear"]
    payload: bytes = b"{}"
    keys: list[str] = []
    bytes_max: int = 0


class DropCollection(msgspec.Struct, array_like=True, frozen=True, tag="drop"):
    """Forget a collection's rows; later commands for its uid fail with `collection_dropped`."""

    collection: int
    name: str = ""
    """What the collection was called, for who follows the changes; "" when it is not known."""


class Transaction(msgspec.Struct, array_like=True, frozen=True, tag="transaction"):
    """Changes of points and of one graph, all or nothing.

    `graph` is the graph's number, 0 when no graph is changed. `if_version` is a condition on the
    whole graph: that it was last changed by that entry, 0: that it never was. `dimension` is that
    of vectors of nodes and edges.
    """

    points: list[Upsert | Delete]
    graph: int = 0
    changes: GraphChanges = GraphChanges()
    dimension: int = 0
    if_version: int | None = None


class DropGraph(msgspec.Struct, array_like=True, frozen=True, tag="drop_graph"):
    """Forget a graph; later commands for it fail with `collection_dropped`."""

    graph: int


Body = Upsert | Delete | SetPayload | DropCollection | Transaction | DropGraph


def uids_of(body: Body) -> list[int]:
    """Return the numbers of the collections and the graph that a body is about."""
    if isinstance(body, Transaction):
        graph = [body.graph] if body.graph else []
        return [each.collection for each in body.points] + graph
    return [body.graph] if isinstance(body, DropGraph) else [body.collection]


class Command(msgspec.Struct, array_like=True, frozen=True):
    """A body with its request id (applied once per shard) and the leader's clock."""

    request_id: str
    now_ms: int
    body: Body


class VersionFound(msgspec.Struct, array_like=True, frozen=True):
    """What stood in a command's way.

    For `version_conflict` the first record that did not fit its condition: canonical id, and
    version; 0: absent. Or the graph: an empty id, and its version. For `node_missing` and
    `node_in_use` the node.
    """

    id: bytes
    version: int


class Result(msgspec.Struct, array_like=True, frozen=True):
    """What applying a command gave. `error` is a stable code, or None.

    `version` is the shard index at which the command took effect: for a repeated request id the
    first one. `affected` counts points, nodes and edges written, changed or deleted. `found`
    explains `version_conflict`, `node_missing` and `node_in_use`.
    """

    version: int
    affected: int = 0
    error: str | None = None
    found: VersionFound | None = None


class KeptResult(Result, array_like=True, frozen=True):
    """A result as it is remembered, with the digest of its request ("": none was given)."""

    digest: str = ""


_LARGE_EFFECTS: Final = (b"drop", b"transaction")
"""Parts of the tags of commands whose size says little; other commands may have them by chance."""

_command_decoder = msgspec.msgpack.Decoder(Command)
_kept_decoder = msgspec.msgpack.Decoder(KeptResult)
_encoder = msgspec.msgpack.Encoder()


def encode_command(command: Command) -> bytes:
    """Return the bytes that go into the log."""
    return _encoder.encode(command)


def encode_body(body: Body) -> bytes:
    """Return a body's bytes, as `seal_command` takes them."""
    return _encoder.encode(body)


def seal_command(request_id: str, now_ms: int, body: bytes) -> bytes:
    """Return a command's bytes around an encoded body: the node that proposes stamps the time."""
    return _encoder.encode((request_id, now_ms, msgspec.Raw(body)))


def decode_command(raw: bytes) -> Command:
    """Read a command back; raises msgspec.ValidationError or DecodeError on foreign bytes."""
    return _command_decoder.decode(raw)


def may_take_long(raw: bytes) -> bool:
    """Return whether a command, however small it is, may change very much."""
    if not any(mark in raw for mark in _LARGE_EFFECTS):
        return False
    try:
        body = decode_command(raw).body
    except msgspec.MsgspecError:
        return False
    if isinstance(body, Transaction):
        return bool(body.changes.delete_nodes)
    return isinstance(body, DropCollection | DropGraph)


def name_and_digest(request_id: str) -> tuple[str, str]:
    """Return the two parts of a request id; the digest may be empty."""
    name, _, digest = request_id.partition(DIGEST_MARK)
    return name, digest


def keep_result(result: Result, digest: str) -> bytes:
    """Return a result as it is kept beside its request's name."""
    kept = KeptResult(result.version, result.affected, result.error, result.found, digest)
    return _encoder.encode(kept)


def kept_version(raw: bytes) -> int:
    """Return the index at which a kept result's command took effect."""
    return _kept_decoder.decode(raw).version


def kept_result(raw: bytes, digest: str, index: int) -> Result:
    """Read a kept result back, or return the refusal, at `index`, of another request's digest."""
    kept = _kept_decoder.decode(raw)
    if digest and kept.digest and digest != kept.digest:
        return Result(version=index, error="request_id_reused")
    return Result(kept.version, kept.affected, kept.error, kept.found)
