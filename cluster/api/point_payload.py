"""Changing payloads of existing points: merge, replace, remove keys, clear."""

from __future__ import annotations

from typing import Any, Final

from cluster.api import answers
from cluster.api.backend import PayloadMode
from cluster.api.envelope import Answer
from cluster.api.payloads import check_payload
from cluster.api.point_schema import DeletePayload, SelectPoints, SetPayload
from cluster.api.points import finished, selected
from cluster.api.route import Call, Route
from cluster.api.selection import read_selector


async def merge_payload(call: Call, body: SetPayload) -> Answer:
    """Set the given keys, keep the others."""
    check_payload(body.payload, call.api.config.payload_bytes_max, "payload")
    return await _change(call, body, "merge", payload=body.payload)


async def replace_payload(call: Call, body: SetPayload) -> Answer:
    """Make the given object the whole payload."""
    check_payload(body.payload, call.api.config.payload_bytes_max, "payload")
    return await _change(call, body, "replace", payload=body.payload)


async def delete_keys(call: Call, body: DeletePayload) -> Answer:
    """Remove keys."""
    return await _change(call, body, "remove", keys=body.keys)


async def clear_payload(call: Call, body: SelectPoints) -> Answer:
    """Remove every key."""
    return await _change(call, body, "clear")


async def _change(
    call: Call,
    body: SelectPoints,
    mode: PayloadMode,
    *,
    payload: dict[str, Any] | None = None,
    keys: list[str] | None = None,
) -> Answer:
    selector = read_selector(body, call.api.config.batch_points_max)
    collection = await call.collection()
    options = selected(call, body, collection, selector)
    ack = await call.api.router.set_payload(
        collection, selector, mode, payload or {}, keys or [], options
    )
    return finished(call, ack)


_PAYLOAD = "/collections/{collection_name}/points/payload"


def _route(method: str, path: str, handler: Any, summary: str, body: type[SelectPoints]) -> Route:
    return Route(
        method,
        path,
        handler,
        summary,
        body=body,
        answer=answers.UpdateShape,
        writes=True,
        errors=(404,),
    )


ROUTES: Final = (
    _route("POST", _PAYLOAD, merge_payload, "Merge into payloads", SetPayload),
    _route("PUT", _PAYLOAD, replace_payload, "Replace payloads", SetPayload),
    _route("POST", f"{_PAYLOAD}/delete", delete_keys, "Remove payload keys", DeletePayload),
    _route("POST", f"{_PAYLOAD}/clear", clear_payload, "Clear payloads", SelectPoints),
)
