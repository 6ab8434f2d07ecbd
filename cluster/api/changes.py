"""Following what changes: points of all collections, or patterns, as server-sent events.

A listener begins now, at the start of everything that is stored, or behind a position, which is
the id of an event: in the header `Last-Event-ID`, as browsers send it when they come back, or in
the parameter `from`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import orjson
from aiohttp import web

from cluster.api.identity import collection_name
from cluster.api.parameters import TRUTH
from cluster.api.patterns import COLLECTION as PATTERNS
from cluster.api.patterns import SHOWN
from cluster.api.route import Call, Parameter, Route
from cluster.api.streams import HEADERS, EventStream
from cluster.change_feed import ChangeEvent, Wanted
from cluster.change_position import Position
from cluster.change_reader import Shown
from cluster.errors import BadRequest
from storage.ids import decode_id, shard_key_of

LAST_EVENT_ID: Final = "Last-Event-ID"
NAMES_MAX: Final = 100

_FROM: Final = Parameter("from", "query", {"type": "string"})
_SHOWN: Final = tuple(
    Parameter(name, "query", {"type": "boolean"}) for name in ("with_payload", "with_vector")
)
_PLACE: Final = Parameter(LAST_EVENT_ID, "header", {"type": "string"})
_NAMES: Final = Parameter("collection", "query", {"type": "array", "items": {"type": "string"}})


async def follow_changes(call: Call) -> web.StreamResponse:
    """Send every change of points, of some collections or of all."""
    query = _query(call, ("collection", "from", "with_payload", "with_vector"))
    names = [name for text in query.get("collection", []) for name in text.split(",")]
    if len(names) > NAMES_MAX:
        raise BadRequest(f"at most {NAMES_MAX} collections can be named", field="collection")
    chosen = frozenset(collection_name(name, "collection") for name in names)
    shown = Shown(
        with_payload=_truth(query, "with_payload", default=True),
        with_vector=_truth(query, "with_vector", default=False),
    )
    wanted = Wanted(chosen or None, shown)
    return await _stream(call, _single(query, "from"), wanted, change_shape)


async def follow_patterns(call: Call) -> web.StreamResponse:
    """Send every change of patterns."""
    query = _query(call, ("from",))
    wanted = Wanted(frozenset((PATTERNS,)))
    return await _stream(call, _single(query, "from"), wanted, pattern_shape)


def change_shape(event: ChangeEvent) -> dict[str, Any]:
    """Return a change of a point, or the end of a collection in one shard, as it is sent."""
    change = event.stored
    data: dict[str, Any] = {
        "collection": event.name or None,
        "collection_uid": change.collection,
        "shard": event.shard,
        "version": change.version,
    }
    if change.id:
        data["id"] = decode_id(change.id)
        key = shard_key_of(change.id)
        if key is not None:
            data["shard_key"] = key
    if change.gone:
        data["deleted"] = True
    if change.payload is not None:
        data["payload"] = orjson.Fragment(change.payload)
    if change.vector is not None:
        data["vector"] = np.frombuffer(change.vector, "<f4")
    return data


def pattern_shape(event: ChangeEvent) -> dict[str, Any]:
    """Return a change of a pattern as it is sent."""
    change = event.stored
    data: dict[str, Any] = {"shard": event.shard, "version": change.version}
    if change.id:
        data["id"] = decode_id(change.id)
    if change.gone:
        data["deleted"] = True
    if change.payload is not None:
        payload = orjson.loads(change.payload)
        data |= {name: payload.get(name) for name in SHOWN}
    return data


async def _stream(
    call: Call, start: str, wanted: Wanted, render: Callable[[ChangeEvent], dict[str, Any]]
) -> web.StreamResponse:
    streams = call.api.streams
    with streams.claim():
        position = await _position(call, start)
        if call.request.method == "HEAD":
            return web.Response(headers=HEADERS)
        with call.api.router.changes.follow(position, wanted) as follower:
            return await EventStream(call.request, streams).send(follower, render)


async def _position(call: Call, start: str) -> Position:
    """Return where to begin: what a listener has seen counts more than where it once began."""
    feed = call.api.router.changes
    seen = call.request.headers.getall(LAST_EVENT_ID, [])
    if len(seen) > 1:
        raise BadRequest("the header is given twice", field=LAST_EVENT_ID)
    text, field = (seen[0], LAST_EVENT_ID) if seen and seen[0] else (start, "from")
    if text in ("", "now"):
        return await feed.end(call.options)
    if text == "start":
        return feed.beginning()
    try:
        return feed.parse(text)
    except ValueError as error:
        raise BadRequest(str(error), field=field) from None


def _query(call: Call, known: tuple[str, ...]) -> dict[str, list[str]]:
    query = call.request.rel_url.query
    unknown = next((name for name in query if name not in known), None)
    if unknown is not None:
        raise BadRequest("unknown query parameter", field=unknown[:255])
    return {name: query.getall(name) for name in query}


def _single(query: dict[str, list[str]], name: str) -> str:
    values = query.get(name, [""])
    if len(values) > 1:
        raise BadRequest("the parameter is given twice", field=name)
    return values[0]


def _truth(query: dict[str, list[str]], name: str, *, default: bool) -> bool:
    if name not in query:
        return default
    found = TRUTH.get(_single(query, name).lower())
    if found is None:
        raise BadRequest(f"{name} is true or false", field=name)
    return found


ROUTES: Final = (
    Route(
        "GET",
        "/changes",
        follow_changes,
        "Follow the changes of points",
        streams=(_NAMES, *_SHOWN, _FROM, _PLACE),
    ),
    Route(
        "GET",
        "/patterns/stream",
        follow_patterns,
        "Follow the changes of patterns",
        streams=(_FROM, _PLACE),
    ),
)
