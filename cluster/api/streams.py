"""Answers that do not end by themselves: server-sent events, for as long as somebody listens.

A stream holds no more than one look's events and what the connection buffers. A listener that takes
almost nothing for `stalled_s` is told `lagging` and cut off; it can go on from the last id it has.
While nothing happens, a comment shows that the connection lives, and tells the position: an id
without data moves a listener's position, too. When the node stops, streams end, and listeners are
told to come back soon, to another node if they know one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge

from cluster.api.envelope import EVENT_TYPE, SERVER
from cluster.change_feed import ChangeEvent, Follower
from cluster.errors import Overloaded

RETRY_MS: Final = 1000
PIECE_BYTES: Final = 32 << 10
"""How much a listener has to take in `stalled_s`; what the connection buffers comes on top."""
POLL_S: Final = 0.5
"""How often an idle stream looks whether its listener is still there."""
FAREWELL_S: Final = 3.0

HEADERS: Final = {
    "Content-Type": EVENT_TYPE,
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
    "Server": SERVER,
}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What streams are held to."""

    streams_max: int = 100
    keep_alive_s: float = 15.0
    stalled_s: float = 30.0


class Streams:
    """The streams of a node."""

    def __init__(self, limits: StreamLimits, registry: CollectorRegistry) -> None:
        self.limits = limits
        self.closing = False
        self._open = 0
        gauge = Gauge("recollect_streams", "Streams of changes that are open.", registry=registry)
        gauge.set_function(lambda: self._open)

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold one of the streams that there may be; raises Overloaded when all are taken."""
        if self._open >= self.limits.streams_max or self.closing:
            raise Overloaded(f"this node serves {self._open} streams and takes no more")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def close(self, _app: web.Application) -> None:
        """End all streams soon."""
        self.closing = True


class EventStream:
    """One listener's connection."""

    def __init__(self, request: web.Request, streams: Streams) -> None:
        self._request, self._streams = request, streams
        self.response = web.StreamResponse(headers=HEADERS)

    async def send(
        self, follower: Follower, render: Callable[[ChangeEvent], dict[str, Any]]
    ) -> web.StreamResponse:
        """Send what a follower gives out until the listener goes, lags, or the node stops."""
        await self.response.prepare(self._request)
        try:
            await self._send_all(follower, render)
            await self._end(f"retry: {RETRY_MS}\n\n")
        except TimeoutError:
            await self._end("event: lagging\ndata: {}\n\n")
        except ConnectionError:
            pass  # the listener went
        except Exception:
            # The answer has begun: there is no room for an error, but a listener can come back.
            _logger.exception("a stream of changes failed")
            self._cut()
        return self.response

    async def _send_all(
        self, follower: Follower, render: Callable[[ChangeEvent], dict[str, Any]]
    ) -> None:
        loop = asyncio.get_running_loop()
        keep_alive_s = self._streams.limits.keep_alive_s
        await self._write(f"retry: {RETRY_MS}\nid: {follower.position.text}\n\n".encode())
        silent_since_s = loop.time()
        while self._is_heard():
            events = await follower.next(min(POLL_S, keep_alive_s))
            if events:
                for piece in _pieces(_event(event, render(event)) for event in events):
                    await self._write(piece)
            elif loop.time() - silent_since_s >= keep_alive_s:
                await self._write(f": keep-alive\nid: {follower.position.text}\n\n".encode())
            else:
                continue
            silent_since_s = loop.time()

    def _is_heard(self) -> bool:
        transport = self._request.transport
        return transport is not None and not transport.is_closing() and not self._streams.closing

    async def _write(self, data: bytes) -> None:
        """Write, as fast as the listener takes it; raises TimeoutError when it takes nothing."""
        async with asyncio.timeout(self._streams.limits.stalled_s):
            await self.response.write(data)

    async def _end(self, farewell: str) -> None:
        with suppress(ConnectionError):
            try:
                async with asyncio.timeout(FAREWELL_S):
                    await self.response.write(farewell.encode())
                    await self.response.write_eof()
            except TimeoutError:
                self._cut()

    def _cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


def _pieces(events: Iterable[bytes]) -> Iterator[bytes]:
    """Put small events together, whole ones only: a farewell can come behind any piece."""
    piece = bytearray()
    for event in events:
        piece += event
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def _event(event: ChangeEvent, data: dict[str, Any]) -> bytes:
    kind = "upsert" if not event.stored.gone else "delete" if event.stored.id else "drop"
    head = f"event: {kind}\nid: {event.position}\ndata: ".encode()
    return head + orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n\n"
