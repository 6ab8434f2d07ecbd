"""What a command in a log must be like; a shard refuses what no correct leader proposes.

Commands are checked again when they are applied: a shard is the last that could notice, and what
it has accepted cannot be taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, assert_never

import msgspec
import numpy as np

from cluster.command import (
    Body,
    Command,
    Delete,
    DropGraph,
    SetPayload,
    Transaction,
    Upsert,
    decode_command,
    uids_of,
)
from storage.graph_rows import GRAPH_UIDS
from storage.ids import is_canonical
from storage.payloads import (
    EMPTY_PAYLOAD,
    PayloadChange,
    canonical_payload,
    merging,
    removing,
    replacing,
)
from storage.requests import TIME_MS_MAX

_UID_MAX: Final = 2**63 - 1
_INDEX_MAX: Final = 2**63 - 1

Points = dict[bytes, tuple[bytes, bytes]]
"""id -> (vector, canonical payload)."""


class BadCommand(ValueError):
    """A command that no correct leader proposes."""


def decoded(raw: bytes) -> Command:
    """Read a command. Raises BadCommand, as all here do."""
    try:
        command = decode_command(raw)
    except msgspec.MsgspecError as error:
        raise BadCommand(str(error)) from None
    _require(0 <= command.now_ms <= TIME_MS_MAX)
    _require("\0" not in command.request_id)
    _require(all(0 <= uid <= _UID_MAX for uid in uids_of(command.body)))
    if isinstance(command.body, Transaction | DropGraph):
        lowest = 0 if isinstance(command.body, Transaction) else 1
        _require(lowest <= command.body.graph <= _UID_MAX - GRAPH_UIDS)
    return command


def check_vectors(body: Transaction) -> None:
    """Check the vectors of a transaction's nodes and edges."""
    given = [node.vector for node in body.changes.nodes]
    given += [edge.vector for edge in body.changes.edges]
    vectors = [vector for vector in given if vector is not None]
    _require(all(len(vector) == 4 * body.dimension > 0 for vector in vectors))
    _require(bool(np.isfinite(np.frombuffer(b"".join(vectors), "<f4")).all()))


def conditions_of(body: Body) -> dict[bytes, int]:
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


def points_of(body: Upsert) -> Points:
    """Return id -> (vector, canonical payload); of an id that comes twice the last counts."""
    _require(body.dimension > 0)
    vectors = [point.vector for point in body.points]
    _require({len(vector) for vector in vectors} <= {4 * body.dimension})
    elements = np.frombuffer(b"".join(vectors), "<f4")
    _require(bool(np.isfinite(elements).all()))
    ids = [point.id for point in body.points]
    _require(all(map(is_canonical, ids)))
    payloads = _payloads([point.payload for point in body.points])
    return dict(zip(ids, zip(vectors, payloads, strict=True), strict=True))


def distinct(ids: Sequence[bytes]) -> list[bytes]:
    """Return ids, each once."""
    _require(all(map(is_canonical, ids)))
    return list(dict.fromkeys(ids))


def _payload(raw: bytes) -> bytes:
    return _payloads([raw])[0]


def _payloads(raws: list[bytes]) -> list[bytes]:
    try:
        return [canonical_payload(raw) for raw in raws]
    except ValueError as error:
        raise BadCommand(str(error)) from None


def payload_change(body: SetPayload) -> PayloadChange:
    """Return what a body does to a payload."""
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
        raise BadCommand
