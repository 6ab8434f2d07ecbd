"""What goes through a shard's log: commands, and the results of applying them.

A command carries everything its application needs (collection uid, dimension, resolved ids,
normalised vectors, the leader's clock), because apply reads nothing but its own shard. Encoded
as tagged msgpack arrays; decoding validates types and refuses unknown tags.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class PointWrite(msgspec.Struct, array_like=True, frozen=True):
    """One point: canonical id, little-endian float32 bytes, payload as JSON object bytes."""

    id: bytes
    vector: bytes
    payload: bytes


class Upsert(msgspec.Struct, array_like=True, frozen=True, tag="upsert"):
    """Insert or replace points. All or nothing."""

    collection: int
    dimension: int
    points: list[PointWrite]


class Delete(msgspec.Struct, array_like=True, frozen=True, tag="delete"):
    """Delete points by canonical id; a filter is resolved to ids before the log."""

    collection: int
    ids: list[bytes]


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


Body = Upsert | Delete | SetPayload | DropCollection


class Command(msgspec.Struct, array_like=True, frozen=True):
    """A body with its request id (applied once per shard) and the leader's clock."""

    request_id: str
    now_ms: int
    body: Body


class Result(msgspec.Struct, array_like=True, frozen=True):
    """What applying a command gave. `error` is a stable code, or None.

    `version` is the shard index at which the command took effect: for a repeated request id the
    first one. `affected` counts points written, changed or deleted.
    """

    version: int
    affected: int = 0
    error: str | None = None


_command_decoder = msgspec.msgpack.Decoder(Command)
_result_decoder = msgspec.msgpack.Decoder(Result)
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


def encode_result(result: Result) -> bytes:
    """Return a result as it is kept beside its request id."""
    return _encoder.encode(result)


def decode_result(raw: bytes) -> Result:
    """Read a kept result back."""
    return _result_decoder.decode(raw)
