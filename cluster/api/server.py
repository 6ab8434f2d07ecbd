"""The HTTP server around the application: what is refused before any route is known.

Broken HTTP and oversized headers never reach a middleware, so the protocol renders its own
refusals in the envelope. Compressed bodies are never inflated, idle connections are closed, and
a handler's work has a bounded time to finish when the node stops.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong
from aiohttp.streams import StreamReader

from cluster.api.envelope import failure
from cluster.api.middleware import refusal
from cluster.api.quick_route import QuickRoute
from cluster.errors import BadRequest, MethodNotAllowed, RecollectError

KEEPALIVE_S: Final = 75.0
SHUTDOWN_S: Final = 5.0
HEAD_S: Final = 8.0
"""Time for a request's line and headers to arrive, from their first byte."""
READ_BUFFER_BYTES: Final = 256 * 1024
"""Bytes read ahead of a handler; larger pieces mean fewer wake-ups for a large body."""

METHODS: Final = "GET, HEAD, PUT, POST, DELETE"
"""What an unknown method is told instead; no route has more."""

# aiohttp's parser knows a closed set of methods and quotes the line that has another one.
_REQUEST_LINE: Final = re.compile(r"b'[A-Za-z0-9!#$%&*+.^_`|~-]{1,64} \S+ HTTP/1\.[01]'")
_SERVED: Final = 500
"""From this status on aiohttp reports a fault of ours, below it one of the client."""

QUICK_ROUTE: Final = web.AppKey("quick_route", QuickRoute)
"""Where an application has its quick route, if it has one."""

_logger = logging.getLogger(__name__)


class ApiRunner(web.AppRunner):
    """Runs the application; use it in place of `web.AppRunner`."""

    def __init__(self, app: web.Application, **settings: Any) -> None:
        defaults: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": KEEPALIVE_S,
            "read_bufsize": READ_BUFFER_BYTES,
            "shutdown_timeout": SHUTDOWN_S,
        }
        super().__init__(app, **(defaults | settings))

    async def _make_server(self) -> web.Server:  # type: ignore[explicit-override]
        made = await super()._make_server()
        server = _Server(
            _enveloped(made.request_handler),
            request_factory=made.request_factory,
            loop=asyncio.get_running_loop(),
            **self._kwargs,
        )
        server.quick = self.app.get(QUICK_ROUTE)
        return server


class _Server(web.Server):
    quick: QuickRoute | None = None

    def __call__(self) -> web.RequestHandler:  # type: ignore[explicit-override]
        return _Protocol(self, self.quick, loop=self._loop, **self._kwargs)


class _Asked(NamedTuple):
    """A request whose quick answer is awaited."""

    message: RawRequestMessage
    body: bytes


class _Protocol(web.RequestHandler):
    __slots__ = ("_asked", "_head_timer", "_quick")

    def __init__(self, server: _Server, quick: QuickRoute | None, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._head_timer: asyncio.TimerHandle | None = None
        self._quick = quick
        self._asked: _Asked | None = None

    def data_received(self, data: bytes) -> None:  # type: ignore[explicit-override]
        """Answer quickly what can be, and give a head that began a bounded time to end.

        aiohttp's loop over requests sleeps on while an answer is quick; it would wait for the rest
        of a head for ever.
        """
        waiter, begun = self._waiter, False
        if self._quick is None or waiter is None or waiter.done():
            super().data_received(data)
        else:
            self._waiter = None
            super().data_received(data)
            self._waiter = waiter
            if self._messages and self._asked is None:
                begun = self._begin_quick(self._quick)
                if not begun:
                    waiter.set_result(None)
        if begun or self._messages or self._current_request is not None or self._asked is not None:
            self._end_head_timer()
        elif self._head_timer is None:
            loop = asyncio.get_running_loop()
            self._head_timer = loop.call_later(HEAD_S, self._refuse_slow_head)

    def _begin_quick(self, quick: QuickRoute) -> bool:
        """Begin to answer the request that came, if it came alone and whole; else return False."""
        message, payload = self._messages[0]
        if len(self._messages) > 1 or self.writing_paused or not payload.is_eof():
            return False
        if not isinstance(message, RawRequestMessage) or not quick.admits(message):
            return False
        self._messages.clear()
        # To read it as usual would let aiohttp feed its parser once more.
        body = b"".join(payload._buffer)  # noqa: SLF001
        self._asked = asked = _Asked(message, body)
        self._request_in_progress = True
        self._keep_alive_for(quick.timeout_s)
        if quick.begin(message, asked.body, self._answered):
            return True
        self._asked, self._request_in_progress = None, False
        self._keep_alive_for(0.0)
        self._give_back(asked)
        return False

    def _answered(self, response: bytes | None) -> None:
        """Send a quick answer; None: the request goes the general way after all."""
        asked, self._asked = self._asked, None
        assert asked is not None, "an answer has its request"
        self._request_in_progress = False
        if self._handler_waiter is not None:
            self._handler_waiter.set_result(None)
        if self.transport is None or self._parser is None or self._manager is None:
            return
        if response is None:
            self._give_back(asked)
        else:
            self.transport.write(response)
            self._parser.message_consumed()
            self._manager.requests_count += 1
            self._keep_alive_for(0.0)
        if self._messages and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _give_back(self, asked: _Asked) -> None:
        """Put a request that was taken first in aiohttp's queue again."""
        payload = StreamReader(self, READ_BUFFER_BYTES, loop=self._loop)
        payload.feed_data(asked.body)
        payload.feed_eof()
        self._messages.appendleft((asked.message, payload))

    def _keep_alive_for(self, busy_s: float) -> None:
        self._next_keepalive_close_time = self._loop.time() + busy_s + self._keepalive_timeout

    def connection_lost(self, exc: BaseException | None) -> None:  # type: ignore[explicit-override]
        self._end_head_timer()
        super().connection_lost(exc)

    def _end_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_slow_head(self) -> None:
        self._head_timer = None
        idle = not self._messages and self._current_request is None and self._asked is None
        if idle and self.transport is not None:
            self.transport.close()

    def handle_error(  # type: ignore[explicit-override]
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, so there is no room for an error")
        if status >= _SERVED:
            _logger.error("unexpected error outside the handlers", exc_info=exc)
            error: RecollectError = RecollectError("internal error; the node's log has the details")
        elif isinstance(exc, LineTooLong):
            error = BadRequest("the request line or a header is too long")
        elif isinstance(exc, BadHttpMethod) and _REQUEST_LINE.search(message or ""):
            error = MethodNotAllowed("the method is not known")
        else:
            error = BadRequest("the request is not valid HTTP")
        allowed = {"Allow": METHODS} if isinstance(error, MethodNotAllowed) else None
        response = failure(error, 0.0, allowed)
        response.force_close()
        return response


def _enveloped(
    handler: Callable[[Any], Awaitable[web.StreamResponse]],
) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """Wrap what aiohttp raises around the middleware, such as for an unknown `Expect`."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            return refusal(error, 0.0)

    return handle
