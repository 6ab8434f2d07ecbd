"""From what a user wants written to log commands, checked before anything is proposed. Pure.

Vectors under Cosine are scaled to length 1 here, once, so that a score is a dot product and every
replica stores the same bytes. Of an id that comes twice in a batch the last one counts, as if
they were written one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson

from cluster.batch import FRAMING_BYTES, Share, Splitting, split
from cluster.command import Delete, PointWrite, SetPayload, Upsert
from cluster.errors import BadRequest, PayloadTooLarge
from cluster.model import Collection, Point
from storage.ids import PointId, encode_id, keyed_id

PayloadMode = Literal["merge", "replace", "remove", "clear"]
Matrix = np.ndarray[Any, np.dtype[np.float32]]


class PayloadChange(NamedTuple):
    """What to do to payloads; see `cluster.command.SetPayload`."""

    mode: PayloadMode
    payload: Mapping[str, Any]
    keys: Sequence[str]
    bytes_max: int = 0


def upsert_shares(
    collection: Collection,
    points: Sequence[Point],
    splitting: Splitting,
    key: bytes | None = None,
) -> list[Share]:
    """Return the commands that write `points`, under a key where points have one.

    Raises BadRequest or PayloadTooLarge, naming the first bad point.
    """
    budget = splitting.budget()
    items = point_writes(collection, points, key, bytes_max=budget)

    def body(chunk: list[PointWrite]) -> Upsert:
        return Upsert(collection.uid, collection.dimension, chunk)

    ids = [item.id for item in items]
    sizes = [len(p.id) + len(p.vector) + len(p.payload) + FRAMING_BYTES for p in items]
    return split(items, ids, sizes, body, splitting)


def point_writes(
    collection: Collection, points: Sequence[Point], key: bytes | None, *, bytes_max: int
) -> list[PointWrite]:
    """Return points as they are written, each id once, at most `bytes_max` each.

    Raises BadRequest or PayloadTooLarge, naming the first bad point.
    """
    vectors = _vectors(collection, points)
    writes: dict[bytes, PointWrite] = {}
    for at, (point, vector) in enumerate(zip(points, vectors, strict=True)):
        canonical = _canonical(point.id, "points[{}].id", at)
        if key is not None:
            canonical = keyed_id(canonical, key)
        payload = _dumped(point.payload, "points[{}].payload", at)
        write = PointWrite(canonical, vector, payload, point.if_version)
        if len(canonical) + len(vector) + len(payload) + FRAMING_BYTES > bytes_max:
            raise PayloadTooLarge("the point exceeds a log command", field=f"points[{at}]")
        if canonical in writes:
            _refuse_unclear(writes[canonical], write, f"points[{at}].id")
        writes[canonical] = write
    return list(writes.values())


def delete_shares(
    uid: int, ids: Sequence[bytes], splitting: Splitting, if_version: int | None = None
) -> list[Share]:
    """Return the commands that delete the points of canonical `ids`.

    `if_version` is the condition of a single id; see `cluster.command`.
    """
    distinct = list(dict.fromkeys(ids))
    sizes = list(map(_id_bytes, distinct))
    assert if_version is None or len(distinct) == 1, "a condition is about one point"
    return split(distinct, distinct, sizes, lambda chunk: Delete(uid, chunk, if_version), splitting)


def payload_shares(
    uid: int, ids: Sequence[bytes], change: PayloadChange, splitting: Splitting
) -> list[Share]:
    """Return the commands that change the payloads of the points of canonical `ids`.

    Raises BadRequest or PayloadTooLarge for a payload that cannot travel.
    """
    distinct = list(dict.fromkeys(ids))
    sizes = list(map(_id_bytes, distinct))
    payload = _dumped(change.payload, "payload", 0)
    keys = list(change.keys)
    fixed_bytes = len(payload) + sum(len(key.encode()) + FRAMING_BYTES for key in keys)
    if splitting.budget(fixed_bytes) < max(sizes, default=0):
        raise PayloadTooLarge("the payload exceeds a log command", field="payload")

    def body(chunk: list[bytes]) -> SetPayload:
        return SetPayload(uid, chunk, change.mode, payload, keys, change.bytes_max)

    return split(distinct, distinct, sizes, body, splitting, fixed_bytes=fixed_bytes)


def canonical_ids(ids: Sequence[PointId], name: str) -> list[bytes]:
    """Return the canonical bytes of users' ids; raises BadRequest naming the first bad one."""
    return [_canonical(each, f"{name}[{{}}]", at) for at, each in enumerate(ids)]


def unit_vectors(vectors: Matrix) -> Matrix:
    """Return float32 rows scaled to length 1; a row of zeros becomes NaN.

    The norm is taken in float64, where squares of float32 neither overflow nor vanish.
    """
    wide = vectors.astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    with np.errstate(divide="ignore", invalid="ignore"):
        np.divide(wide, norms[:, None], out=wide)  # in place: the rows may be many
        scaled: Matrix = wide.astype("<f4")
    return scaled


def _vectors(collection: Collection, points: Sequence[Point]) -> list[bytes]:
    for at, point in enumerate(points):
        if point.vector.shape != (collection.dimension,):
            raise BadRequest(
                f"the vector has {point.vector.size} elements, not {collection.dimension}",
                field=f"points[{at}].vector",
            )
    if not points:
        return []
    matrix: Matrix = np.array([point.vector for point in points], dtype="<f4")
    if collection.distance == "Cosine":
        matrix = unit_vectors(matrix)
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        field = f"points[{int(np.argmin(finite))}].vector"
        raise BadRequest("the vector is not finite, or has no direction", field=field)
    raw, width = matrix.tobytes(), 4 * collection.dimension
    return [raw[start : start + width] for start in range(0, len(raw), width)]


def _dumped(payload: Mapping[str, Any], field: str, at: int) -> bytes:
    """Return a payload as JSON; `field`, with the place `at` in it, is made for an error alone."""
    try:
        return orjson.dumps(payload if type(payload) is dict else dict(payload))
    except (TypeError, ValueError) as error:
        text = f"the payload is not plain JSON: {error}"
        raise BadRequest(text, field=field.format(at)) from None


def _canonical(point_id: PointId, field: str, at: int) -> bytes:
    try:
        return encode_id(point_id)
    except ValueError as error:
        raise BadRequest(str(error), field=field.format(at)) from None


def _refuse_unclear(earlier: PointWrite, write: PointWrite, field: str) -> None:
    """Refuse an id that comes twice in a batch, once with a condition: on which of the two?"""
    if (earlier.if_version, write.if_version) != (None, None):
        raise BadRequest("the id of a point with a condition comes twice", field=field)


def _id_bytes(canonical: bytes) -> int:
    return len(canonical) + FRAMING_BYTES
