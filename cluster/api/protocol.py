"""What happens on one HTTP connection, around aiohttp's own protocol.

Broken HTTP and oversized headers never reach a middleware, so refusals of these are rendered here,
in the envelope. A request that can have a quick answer gets one before aiohttp's loop over requests
wakes, and a connection on which many came is lent to a search worker when the next one begins.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any, Final, NamedTuple, Protocol

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong
from aiohttp.streams import StreamReader

from cluster.api.boundary import Boundary
from cluster.api.envelope import failure
from cluster.api.quick_route import QuickRoute
from cluster.errors import BadRequest, MethodNotAllowed, RecollectError

HEAD_S: Final = 8.0
"""Time for a request's line and headers to arrive, from their first byte."""
HOLD_S: Final = 1.0
"""Time for the body of a request that may have a quick answer, before the general way reads it."""
READ_BUFFER_BYTES: Final = 256 * 1024
"""Bytes read ahead of a handler; larger pieces mean fewer wake-ups for a large body."""
PATIENCE: Final = 16
"""Quick searches in a row on a connection before it is lent to a search worker."""

METHODS: Final = "GET, HEAD, PUT, POST, DELETE"
"""What an unknown method is told instead; no route has more."""

# aiohttp's parser knows a closed set of methods and quotes the line that has another one.
_REQUEST_LINE: Final = re.compile(r"b'[A-Za-z0-9!#$%&*+.^_`|~-]{1,64} \S+ HTTP/1\.[01]'")
_SERVED: Final = 500
"""From this status on aiohttp reports a fault of ours, below it one of the client."""

_logger = logging.getLogger(__name__)


class Lender(Protocol):
    """Search workers, as `cluster.workers.pool` has them."""

    def answered(self) -> None:
        """A quick search was answered here."""
        ...

    def lend(self, descriptor: int, unread: bytes, patience: int) -> bool:
        """Give a connection away, with the bytes of its next request; False: it stays here."""
        ...


class _Asked(NamedTuple):
    """A request whose quick answer is awaited."""

    message: RawRequestMessage
    body: bytes


class ApiProtocol(web.RequestHandler):
    """See the module. `lender` has search workers, where there are any."""

    __slots__ = (
        "_asked",
        "_boundary",
        "_head_timer",
        "_hold_timer",
        "_lender",
        "_patience",
        "_quick",
        "_streak",
        "_unread",
    )

    def __init__(
        self, server: web.Server, quick: QuickRoute | None, lender: Lender | None, **settings: Any
    ) -> None:
        super().__init__(server, **settings)
        self._head_timer: asyncio.TimerHandle | None = None
        self._quick = quick
        self._lender = lender
        self._asked: _Asked | None = None
        self._patience = PATIENCE
        self._streak = 0
        """Quick answers since the last request of another kind."""
        self._boundary = Boundary()
        self._hold_timer: asyncio.TimerHandle | None = None
        """Runs while the body is waited for of a request that may have a quick answer."""
        self._unread = b""

    def take_back(self, unread: bytes, patience: int) -> None:
        """Begin with bytes that were read before, on a connection to be watched for so long."""
        self._unread, self._patience = unread, patience

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # type: ignore[explicit-override]
        """Go on with what was read before, if anything was."""
        super().connection_made(transport)
        if self._unread:
            unread, self._unread = self._unread, b""
            self.data_received(unread)

    def data_received(self, data: bytes) -> None:  # type: ignore[explicit-override]
        """Answer quickly what can be, and give a head that began a bounded time to end.

        aiohttp's loop over requests sleeps on while an answer is quick; it would wait for the rest
        of a head for ever.
        """
        waiter, begun = self._waiter, False
        if self._quick is None or waiter is None or waiter.done():
            self._receive(data)
        elif self._streak >= self._patience and self._boundary.is_here and self._is_lent(data):
            return
        else:
            self._waiter = None
            self._receive(data)
            self._waiter = waiter
            begun = self._see_to_it(self._quick)
        if begun or self._messages or self._current_request is not None or self._asked is not None:
            self._end_head_timer()
        elif self._head_timer is None:
            loop = asyncio.get_running_loop()
            self._head_timer = loop.call_later(HEAD_S, self._refuse_slow_head)

    def _receive(self, data: bytes) -> None:
        """Parse what came, and follow where requests begin."""
        waited = len(self._messages)
        super().data_received(data)
        if data:  # else aiohttp looks whether its parser holds something back
            self._boundary.follow(data, [message for message, _ in self._messages][waited:])

    def _see_to_it(self, quick: QuickRoute) -> bool:
        """Begin to answer a request quickly, or wait for its body, or let the general way have it.

        Many clients send a head and a body one after the other, and the first is here alone.
        Returns whether an answer was begun.
        """
        if not self._messages or self._asked is not None:
            return False
        if self._may_be_quick(quick):
            if not self._messages[0][1].is_eof():
                self._hold()
                return False
            self._end_hold()
            if self._begin_quick(quick):
                return True
        self._end_hold()
        self._streak = 0
        self._leave_to_general()
        return False

    def _may_be_quick(self, quick: QuickRoute) -> bool:
        message, _ = self._messages[0]
        if len(self._messages) > 1 or self.writing_paused:
            return False
        if self._hold_timer is not None:
            return True
        return isinstance(message, RawRequestMessage) and quick.admits(message)

    def _hold(self) -> None:
        if self._hold_timer is None:
            loop = asyncio.get_running_loop()
            self._hold_timer = loop.call_later(HOLD_S, self._hold_no_longer)
            self._keep_alive_for(HOLD_S)

    def _hold_no_longer(self) -> None:
        self._hold_timer = None
        self._streak = 0
        self._leave_to_general()

    def _end_hold(self) -> None:
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None

    def _leave_to_general(self) -> None:
        """Wake aiohttp's loop over requests, if it sleeps and there is one."""
        if self._messages and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _is_lent(self, data: bytes) -> bool:
        """Give the connection to a search worker, with a request that begins; False: it stays."""
        transport, lender = self.transport, self._lender
        if transport is None or lender is None or self._asked is not None or self._messages:
            return False
        if transport.get_write_buffer_size() or transport.get_extra_info("sslcontext"):
            return False
        connection = transport.get_extra_info("socket")
        if connection is None or not lender.lend(connection.fileno(), data, self._patience):
            return False
        transport.pause_reading()
        transport.abort()  # closes the descriptor, which the worker has, too
        return True

    def _begin_quick(self, quick: QuickRoute) -> bool:
        """Begin to answer the request that is here alone and whole; False: it is not for here."""
        message, payload = self._messages[0]
        assert isinstance(message, RawRequestMessage), "one that is admitted was parsed"
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
            self._streak += 1
            if self._lender is not None:
                self._lender.answered()
            self._keep_alive_for(0.0)
        self._leave_to_general()

    def _give_back(self, asked: _Asked) -> None:
        """Put a request that was taken first in aiohttp's queue again."""
        payload = StreamReader(self, READ_BUFFER_BYTES, loop=self._loop)
        payload.feed_data(asked.body)
        payload.feed_eof()
        self._messages.appendleft((asked.message, payload))

    def _keep_alive_for(self, busy_s: float) -> None:
        self._next_keepalive_close_time = self._loop.time() + busy_s + self._keepalive_timeout

    def connection_lost(self, exc: BaseException | None) -> None:  # type: ignore[explicit-override]
        """Wait for nothing any more."""
        self._end_head_timer()
        self._end_hold()
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
        """Refuse in the envelope what aiohttp would refuse in its own words."""
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
