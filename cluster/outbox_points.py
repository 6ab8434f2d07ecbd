"""What the changes of a table mean for a collection: points to write, ids to delete. Pure.

A key is an id when it is written as one: an unsigned 64-bit integer without leading zeros, or a
UUID in lower case with hyphens. So two keys never are one id. A row whose text or vector is NULL
has no point, and a deletion of what can be no id has nothing to do. But a row that lacks such a
column, since somebody renamed it, says nothing about its point.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from cluster.api.embedding import check_text
from cluster.api.payloads import check_payload
from cluster.api.vectors import check_vector
from cluster.errors import BadRequest
from cluster.model import Collection, Vector
from storage.ids import ID_MAX, PointId
from storage.outbox.model import IMAGE_BYTES_MAX, Event, Reason, Rejected, Source
from storage.outbox.plan import last_of_each_key

_INTEGER: Final = re.compile(r"0|[1-9][0-9]{0,19}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Draft:
    """A row that becomes a point, once its text, if it has one, has a vector."""

    event: Event
    id: PointId
    payload: dict[str, Any]
    vector: Vector | None
    text: str


@dataclass(frozen=True, slots=True)
class Drafts:
    """What a batch comes to."""

    upserts: list[Draft] = field(default_factory=list)
    deletes: list[PointId] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


def read_batch(
    source: Source, collection: Collection, events: Sequence[Event], payload_bytes_max: int
) -> Drafts:
    """Return what a batch comes to, each key by its last change."""
    drafts = Drafts()
    for event in last_of_each_key(events):
        point_id = id_of(event.key)
        if event.op == "delete" and event.key is None:
            gone = f"the table has no column '{source.id_column}' any more"
            drafts.rejected.append(Rejected(event, "invalid_payload", gone))
            continue
        if event.op == "delete":
            drafts.deletes.extend(() if point_id is None else (point_id,))
            continue
        try:
            draft = _draft(source, collection, event, point_id, payload_bytes_max)
        except BadRequest as error:
            drafts.rejected.append(Rejected(event, _reason(error), error.message))
        else:
            if draft is None:
                assert point_id is not None, "a row that was read has an id"
                drafts.deletes.append(point_id)
            else:
                drafts.upserts.append(draft)
    return drafts


def id_of(key: str | None) -> PointId | None:
    """Return the id that a key is; None when it is none."""
    if key is None:
        return None
    if _INTEGER.fullmatch(key):
        return int(key) if int(key) <= ID_MAX else None
    return key if _UUID.fullmatch(key) else None


def _draft(
    source: Source,
    collection: Collection,
    event: Event,
    point_id: PointId | None,
    payload_bytes_max: int,
) -> Draft | None:
    """Return the point of a row, None when it has none; raises BadRequest."""
    if event.oversized:
        raise BadRequest(f"the row is larger than {IMAGE_BYTES_MAX} bytes")
    if point_id is None:
        raise BadRequest(f"'{source.id_column}' is no id: an unsigned 64-bit integer or a UUID is")
    image = _image(event)
    column = source.text_column or source.vector_column
    assert column is not None, "a source has a text or a vector"
    if column not in image:
        raise BadRequest(f"the table has no column '{column}' any more")
    content = image[column]
    if content is None:
        return None
    payload = _payload(source, image)
    check_payload(payload, payload_bytes_max, "payload")
    if source.text_column is None:
        vector = check_vector(_numbers(content, column), collection, column)
        return Draft(event, point_id, payload, vector, "")
    if not isinstance(content, str):
        raise BadRequest(f"'{column}' is no text", field="text")
    check_text(content, payload_bytes_max, "text")
    return Draft(event, point_id, payload, None, content)


def _image(event: Event) -> dict[str, Any]:
    assert event.image is not None, "an upsert has an image"
    try:
        image = orjson.loads(event.image)
    except orjson.JSONDecodeError:
        raise BadRequest("the row has numbers that no JSON reader here can take") from None
    assert isinstance(image, dict), "the image of a row is an object"
    return image


def _payload(source: Source, image: dict[str, Any]) -> dict[str, Any]:
    if source.payload_columns is None:
        return {name: value for name, value in image.items() if name != source.vector_column}
    return {name: image[name] for name in source.payload_columns if name in image}


def _numbers(content: Any, column: str) -> list[float]:
    """Return the elements of an array, or of a vector in pgvector's text form."""
    try:
        found = orjson.loads(content) if isinstance(content, str) else content
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, list) or not all(type(each) in (int, float) for each in found):
        raise BadRequest(f"'{column}' is no list of finite numbers")
    return found


def _reason(error: BadRequest) -> Reason:
    return "embedding_failed" if error.field == "text" else "invalid_payload"
