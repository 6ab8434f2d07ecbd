"""Calls between nodes over the peer port: a request, its answer, a deadline.

Answers are matched by number, and numbers start at random: an answer that was on its way to an
earlier process of this node must not be taken for the answer to a call of this one. A closed
connection fails every call under way on it at once, so
nobody waits for an answer that cannot come. Calls under way per peer are bounded.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from cluster.errors import (
    BadRequest,
    DeadlineExceeded,
    Overloaded,
    PayloadTooLarge,
    RecollectError,
    Unavailable,
)
from cluster.peer import decode_error, encode_error
from cluster.raft.tcp import CALL, REPLY, FrameTooLarge, PeerPort

log = logging.getLogger("recollect.peer")

CALLS_MAX: Final = 4096

Handler = Callable[[str, Any], Awaitable[Any]]


class CallChannel:
    """Implements `cluster.peer.PeerChannel` on a `PeerPort`."""

    def __init__(
        self,
        port: PeerPort,
        *,
        clock: Callable[[], float] = time.monotonic,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._port, self._clock = port, clock
        self._handlers: dict[str, Handler] = {}
        self._waiting: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._number = int.from_bytes(
            random_bytes(7), "little"
        )  # no late answer to an earlier process fits
        port.on_call = self._answer
        port.on_reply = self._replied

    def connected(self, node: str) -> bool:
        """Return whether a call to `node` has a connection to travel on."""
        return self._port.connected(node)

    def serve(self, method: str, handler: Handler) -> None:
        """Answer calls of `method` with `handler(sender, body)`."""
        assert method not in self._handlers, f"{method} is served once"
        self._handlers[method] = handler

    def disconnected(self, peer: str) -> None:
        """Fail what was asked of a peer whose connection closed."""
        for node, future in list(self._waiting.values()):
            if node == peer and not future.done():
                future.set_exception(Unavailable(f"the connection to {peer} was lost"))

    async def call(self, node: str, method: str, body: Any, deadline_s: float) -> Any:
        """Return the answer of `node`.

        Raises Unavailable, DeadlineExceeded, Overloaded, or what the handler raised over there;
        PayloadTooLarge or BadRequest when the question or the answer is too large to travel.
        """
        if len(self._waiting) >= CALLS_MAX:
            raise Overloaded("too many calls to other nodes are under way")
        self._number += 1
        number = self._number
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (node, future)
        try:
            if not self._port.send(node, CALL, (number, method, body)):
                raise Unavailable(f"{node} is not connected")
            async with asyncio.timeout(max(0.0, deadline_s - self._clock())):
                return await future
        except FrameTooLarge as error:
            raise PayloadTooLarge(f"the request is too large for other nodes: {error}") from None
        except TimeoutError:
            raise DeadlineExceeded(f"{node} did not answer {method} in time") from None
        finally:
            del self._waiting[number]

    async def _answer(self, peer: str, content: Any) -> None:
        number, method, body = content
        handler = self._handlers.get(method, _not_served)
        try:
            reply = (number, True, await handler(peer, body))
        except RecollectError as error:
            reply = (number, False, encode_error(error))
        except Exception as error:  # one bad call must not end the connection
            log.exception("call %s from %s failed", method, peer)
            reply = (number, False, encode_error(error))
        try:
            self._port.send(peer, REPLY, reply)
        except FrameTooLarge as error:
            refusal = BadRequest(f"the answer is too large: {error}; ask for less")
            self._port.send(peer, REPLY, (number, False, encode_error(refusal)))

    def _replied(self, peer: str, content: Any) -> None:
        number, good, value = content
        node, future = self._waiting.get(number, (None, None))
        if future is None or node != peer or future.done():
            return
        if good:
            future.set_result(value)
        else:
            future.set_exception(decode_error(value))


async def _not_served(_peer: str, _body: Any) -> Any:
    raise Unavailable("this node does not serve that call yet")
