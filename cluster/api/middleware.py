"""The edge: one middleware that every request passes, unknown routes included.

It checks the key, runs the handler, and turns whatever comes back into the envelope: an answer,
an error of the tree, aiohttp's own refusals, or a bug (500, logged, nothing of it shown). One
middleware instead of four, because each costs every request a coroutine.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http import RawRequestMessage
from aiohttp.typedefs import Middleware

from cluster.api.backend import Api
from cluster.api.cluster_routes import OPEN_PATHS
from cluster.api.envelope import Answer, failure, success
from cluster.api.forms import JSON, Form, form_of, form_of_error
from cluster.errors import (
    BadRequest,
    Conflict,
    DeadlineExceeded,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RecollectError,
    Unauthorized,
    UnsupportedMediaType,
)

KEY_HEADER: Final = "api-key"
BEARER: Final = "bearer "

_HTTP_ERRORS: Final[dict[int, tuple[type[RecollectError], str]]] = {
    404: (NotFound, "no such route"),
    405: (MethodNotAllowed, "the route does not have this method"),
    409: (Conflict, "the request contradicts what is stored"),
    413: (PayloadTooLarge, "the request is too large"),
    415: (UnsupportedMediaType, "the media type is not served"),
}

_logger = logging.getLogger(__name__)


class KeyCheck:
    """Compares a presented key with the node's own, in constant time, by digest."""

    def __init__(self, key: str) -> None:
        self._digest = _digest(key) if key else b""

    def check(self, request: web.BaseRequest | RawRequestMessage) -> None:
        """Pass a request with the key, or any when the node has none.

        Raises:
            Unauthorized: no key, or another one.
        """
        if not self._digest:
            return
        headers = request.headers
        accepted = False
        for key in (headers.get(KEY_HEADER), _bearer(headers.get(hdrs.AUTHORIZATION))):
            if key is not None and hmac.compare_digest(_digest(key), self._digest):
                accepted = True
        if not accepted:
            raise Unauthorized("an API key is needed: header api-key or Authorization: Bearer")


def edge(api: Api) -> Middleware:
    """Return the one middleware."""
    keys = KeyCheck(api.config.api_key)
    clock = api.clock

    @web.middleware
    async def answer(
        request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]
    ) -> web.StreamResponse:
        started = clock()
        try:
            if request.path not in OPEN_PATHS:
                keys.check(request)
            outcome = await handler(request)
            seconds = clock() - started
            response: web.StreamResponse = (
                success(outcome, seconds, form_of(request))
                if isinstance(outcome, Answer)
                else outcome
            )
        except Exception as error:  # noqa: BLE001 - the edge is where everything ends
            seconds = clock() - started
            response = refusal(error, seconds, form_of_error(request))
        taken_s = seconds if isinstance(response, web.Response) else None
        api.metrics.observe(_known(request.method), _route(request), response.status, taken_s)
        return response

    return answer


def refusal(error: Exception, seconds: float, form: Form = JSON) -> web.Response:
    """Return the envelope of anything that can be raised while a request is served."""
    if isinstance(error, web.HTTPException):
        return _http_refusal(error, seconds, form)
    for leaf in _leaves(error):
        if isinstance(leaf, RecollectError):
            return failure(leaf, seconds, form=form)
        if isinstance(leaf, TimeoutError):
            return failure(DeadlineExceeded("the request's time ran out"), seconds, form=form)
    _logger.error("unexpected error while serving a request", exc_info=error)
    internal = RecollectError("internal error; the node's log has the details")
    return failure(internal, seconds, form=form)


def _http_refusal(error: web.HTTPException, seconds: float, form: Form) -> web.Response:
    kind, sentence = _HTTP_ERRORS.get(
        error.status, (BadRequest, "the request is not HTTP as it is served here")
    )
    allowed = error.headers.get(hdrs.ALLOW)
    return failure(kind(sentence), seconds, {hdrs.ALLOW: allowed} if allowed else None, form)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors inside a task group's group, in order, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _digest(key: str) -> bytes:
    # Header bytes that are no text arrive as surrogates; they must compare, not raise.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _bearer(header: str | None) -> str | None:
    if header is None or not header.lower().startswith(BEARER):
        return None
    return header[len(BEARER) :].strip()


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return "unknown" if resource is None else resource.canonical


def _known(method: str) -> str:
    """Return a method for a metric's label, which a client must not be able to make up."""
    return method if method in hdrs.METH_ALL else "other"
