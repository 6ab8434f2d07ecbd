"""The one shape of every answer, in JSON or MessagePack.

    success  {"result": ..., "status": "ok", "time": seconds}
    error    {"status": {"error": sentence}, "error": {code, field, retryable, ...}, "time": s}

Handlers return an `Answer` and raise errors of the tree; only the edge turns either into bytes,
so no answer can miss its time or its shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import web

from cluster.api.forms import JSON, Form
from cluster.errors import (
    NotReady,
    RecollectError,
    ShardsUnavailable,
    Unauthorized,
    VersionConflict,
)
from cluster.model import Session

SESSION_HEADER: Final = "X-Recollect-Session"
EVENT_TYPE: Final = "text/event-stream"
SERVER: Final = "recollect"


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful result. `beside` joins it in the envelope; a write carries its `session`."""

    result: Any
    beside: Mapping[str, Any] | None = None
    session: Session | None = None


def success(answer: Answer, seconds: float, form: Form = JSON) -> web.Response:
    """Render an answer; in JSON numpy vectors are written as arrays."""
    envelope = {"result": answer.result, "status": "ok", "time": seconds}
    if answer.beside is not None:
        envelope.update(answer.beside)
    headers = {"Content-Type": form.media_type, "Server": SERVER}
    if answer.session is not None:
        headers[SESSION_HEADER] = answer.session.encode()
    return web.Response(body=form.encode(envelope), headers=headers)


def failure(
    error: RecollectError,
    seconds: float,
    headers: Mapping[str, str] | None = None,
    form: Form = JSON,
) -> web.Response:
    """Render an error of the tree with its status, code, field and whether to retry."""
    detail: dict[str, Any] = {
        "code": error.code,
        "field": error.field,
        "retryable": error.retryable,
    }
    if isinstance(error, ShardsUnavailable):
        detail["shards"] = list(error.shards)
    if isinstance(error, VersionConflict):
        detail["point"] = error.point
        detail["current_version"] = error.current_version
    if isinstance(error, NotReady) and error.reasons:
        detail["reasons"] = list(error.reasons)
    envelope = {"status": {"error": error.message}, "error": detail, "time": seconds}
    sent = {"Content-Type": form.media_type, "Server": SERVER, **(headers or {})}
    if error.retry_after_s is not None:
        sent["Retry-After"] = f"{error.retry_after_s:g}"
    if isinstance(error, Unauthorized):
        sent["WWW-Authenticate"] = "Bearer"
    return web.Response(status=error.status, body=_dump_error(envelope, form), headers=sent)


def _dump_error(envelope: dict[str, Any], form: Form) -> bytes:
    try:
        return form.encode(envelope)
    except (orjson.JSONEncodeError, UnicodeEncodeError):
        # A message may quote a header, which can hold bytes that are no text.
        envelope["status"] = {"error": "the request was refused"}
        envelope["error"]["field"] = None
        return form.encode(envelope)
