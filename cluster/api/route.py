"""The route table's rows, and what turns a row into an aiohttp handler.

A handler receives a `Call` and, when its route has a body schema, the decoded body; it returns
an `Answer` or a ready response. Order of work: parameters and headers, bounded read, strict
decode, then the handler under the request's deadline. Large bodies are decoded off the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, TypeVar

from aiohttp import web

from cluster.api.backend import Api
from cluster.api.body import read_body
from cluster.api.body_decoder import LARGE_BODY_BYTES, BodyDecoder
from cluster.api.envelope import Answer
from cluster.api.forms import form_of
from cluster.api.identity import collection_name
from cluster.api.parameters import (
    read_parameters,
    request_digest,
    scoped_id,
)
from cluster.api.schema import RequestBody
from cluster.errors import CollectionNotFound, DeadlineExceeded, GraphNotFound
from cluster.model import Collection, Options, WriteAck

GRACE_S: Final = 0.25
"""What the router may take beyond its deadline before the edge answers in its place."""

TOKEN_SHARDS_MAX: Final = 300
"""Shards in the session token of a read; clients take headers of 8 KiB."""

T = TypeVar("T")
Handler = Callable[..., Awaitable[Answer | web.StreamResponse]]


class Parameter(NamedTuple):
    """A parameter that is one route's own, for the API description."""

    name: str
    place: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `answer` is the type of `result`, for the API description."""

    method: str
    path: str
    handler: Handler
    summary: str
    body: type[RequestBody] | None = None
    answer: Any = None
    writes: bool = False
    body_optional: bool = False
    """No body is an empty object."""
    searches: bool = False
    filters: bool = False
    """Takes filters, and tells in `usage` what they had no index for."""
    keyed: bool = False
    """Takes a key in the query parameter `shard_key`; other routes have it in their body."""
    plain: bool = False
    """Answers outside the envelope, and takes any query parameter."""
    streams: Sequence[Parameter] | None = None
    """What a route takes that answers with events, for as long as somebody listens."""
    errors: tuple[int, ...] = field(default=())
    """Statuses beyond those that every route has."""


class Call:
    """One request on its way through a handler."""

    __slots__ = ("api", "body_bytes", "digest", "key", "options", "request", "route", "shard_key")

    def __init__(self, api: Api, request: web.Request, route: Route, options: Options) -> None:
        self.api = api
        self.request = request
        self.route = route
        self.options = options
        self.body_bytes = 0
        self.key = ""
        self.shard_key: str | None = None
        self.digest = ""

    @property
    def path(self) -> web.UrlMappingMatchInfo:
        """The path's variables."""
        return self.request.match_info

    @property
    def collection_name(self) -> str:
        """The path's collection name, validated."""
        return collection_name(self.request.match_info["collection_name"])

    async def collection(self) -> Collection:
        """Return the path's collection; raises CollectionNotFound."""
        return await self.api.router.collection(self.collection_name, self.options)

    def write_options(self, scope: str) -> Options:
        """Return the options of a write to `scope`, with the caller's idempotency key if any."""
        if not self.key:
            return self.options
        request_id = scoped_id(self.key, self.route.method, self.route.path, scope)
        return replace(self.options, request_id=request_id, request_digest=self.digest)

    async def computed(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run pure work on the body: here when it is small, else in a thread."""
        if self.body_bytes < LARGE_BODY_BYTES:
            return work(*arguments)
        return await asyncio.to_thread(work, *arguments)

    def written(self, result: Any, ack: WriteAck) -> Answer:
        """Return a write's answer, its session holding all that the caller has seen."""
        seen = self.options.session.merged(ack.session.indexes)
        return Answer(result, session=self.api.router.session(seen))

    def answered(self, answer: Answer | web.StreamResponse) -> Answer | web.StreamResponse:
        """Return a read's answer with the session that has seen what it reflects.

        A token that would not fit a header, as many shards make one, is left out.
        """
        reflected = self.options.reflected
        if not reflected or not isinstance(answer, Answer) or answer.session is not None:
            return answer
        if len(reflected) > TOKEN_SHARDS_MAX:
            return answer
        seen = self.api.router.session(self.options.session.merged(reflected))
        return replace(answer, session=seen)


def endpoint(api: Api, route: Route) -> Callable[[web.Request], Awaitable[Any]]:
    """Return the aiohttp handler of a route."""
    limit_s = api.config.request_timeout_ms / 1000
    decoder = BodyDecoder(route.body) if route.body is not None else None

    async def answer_plain(request: web.Request) -> Any:
        options = Options(deadline_s=api.clock() + limit_s)
        return await _deadline(limit_s, route.handler(Call(api, request, route, options)))

    async def answer_bodiless(request: web.Request) -> Any:
        form_of(request)
        parameters = read_parameters(request, limit_s, keyed=route.keyed)
        call = Call(api, request, route, parameters.options(api.clock()))
        call.key, call.shard_key = parameters.idempotency_key, parameters.shard_key
        return call.answered(await _deadline(parameters.timeout_s, route.handler(call)))

    async def answer_body(request: web.Request) -> Any:
        assert decoder is not None, "this route has a schema"
        form_of(request)
        parameters = read_parameters(request, limit_s)
        with api.bodies.claim() as claim:
            if route.body_optional and not request.can_read_body:
                raw = decoder.empty(request)
            else:
                raw = await read_body(request, api.config.body_bytes_max, limit_s, claim)
            body = await decoder.decode(request, raw, claim)
            call = Call(api, request, route, parameters.options(api.clock()))
            call.body_bytes = len(raw)
            if parameters.idempotency_key:
                call.key, call.digest = parameters.idempotency_key, request_digest(raw)
            del raw
            return call.answered(await _deadline(parameters.timeout_s, _answered(call, body)))

    async def answer_stream(request: web.Request) -> Any:
        options = Options(deadline_s=api.clock() + limit_s)
        return await route.handler(Call(api, request, route, options))

    if route.streams is not None:
        return answer_stream
    if route.plain:
        return answer_plain
    return answer_bodiless if decoder is None else answer_body


async def _answered(call: Call, body: RequestBody) -> Answer | web.StreamResponse:
    """Run the handler; a write that met a dropped collection looks for a newer one of its name."""
    try:
        return await call.route.handler(call, body)
    except (CollectionNotFound, GraphNotFound):
        if not call.route.writes or call.options.strong:
            raise
    call.options = replace(call.options, strong=True)
    return await call.route.handler(call, body)


async def _deadline(seconds: float, work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(seconds + GRACE_S):
            return await work
    except TimeoutError:
        raise DeadlineExceeded("the request's time ran out") from None
