"""Connections between processes on virtual time, with everything that happens to real ones.

Bytes of one direction arrive in order, late by what their link costs at that time. A *blocked*
direction holds bytes, and the news that the other end closed, until it is opened again: a
black hole under TCP. A process that is killed has its connections closed by its kernel; of a
machine without power nobody hears until it is up again and does not know the connection.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.virtual_loop import Process, VirtualLoop

RETRY_S = 0.1
FIN = None


@dataclass
class Link:
    """One direction between two machines. Times are those of the loop."""

    latency_s: float
    blocked_s: float = 0.0
    slow_s: float = 0.0
    """Until when every message takes `extra_s` more."""
    extra_s: float = 0.0
    narrow_s: float = 0.0
    """Until when only a trickle gets through."""
    refused_s: float = 0.0
    corrupt: int = 0
    """Messages that will arrive with a flipped bit."""


@dataclass
class Listener:
    """A port that is listened on; also what `asyncio.start_server` wants to have."""

    network: Network
    process: Process
    factory: Callable[[], Any]
    key: str

    def close(self) -> None:
        if self.network.listeners.get(self.key) is self:
            del self.network.listeners[self.key]

    async def _start_serving(self) -> None:
        """Listening begins at once."""

    async def wait_closed(self) -> None:
        """Closed at once."""


class Network:
    """All links, listeners and connections."""

    def __init__(self, loop: VirtualLoop, names: list[str], rng: random.Random) -> None:
        self.loop, self.rng = loop, rng
        self.listeners: dict[str, Listener] = {}
        self.without_power: set[str] = set()
        self.ends: dict[End, None] = {}
        self.links = {
            (a, b): Link(rng.uniform(0.0002, 0.002)) for a in names for b in names if a != b
        }

    def listen(self, process: Process, factory: Any, host: str, port: int) -> Listener:
        listener = self.listeners[process.name] = Listener(self, process, factory, process.name)
        return listener

    async def dial(self, process: Process, factory: Any, host: str, port: int) -> Any:
        """Connect; as TCP does, an unanswered attempt is repeated until somebody gives up."""
        there, back = self.links[process.name, host], self.links[host, process.name]
        await asyncio.sleep(self.delay_s(there) + self.delay_s(back))
        while max(there.blocked_s, back.blocked_s) > self.loop.now_s or host in self.without_power:
            await asyncio.sleep(RETRY_S)
        listener = self.listeners.get(host)
        if listener is None or there.refused_s > self.loop.now_s or process.dead:
            raise ConnectionRefusedError(f"{host} refuses connections")
        return self._connect(process, factory, listener)

    def _connect(self, process: Process, factory: Any, listener: Listener) -> Any:
        near = End(self, process, listener.process.name)
        far = End(self, listener.process, process.name)
        near.peer, far.peer = far, near
        near.protocol = factory()
        near.protocol.connection_made(near)
        self.loop.call_soon(self._accept, far, listener, context=listener.process.context)
        return near, near.protocol

    def _accept(self, end: End, listener: Listener) -> None:
        if not end.closed:
            end.protocol = listener.factory()
            end.protocol.connection_made(end)
            end.hand_over()

    def delay_s(self, link: Link, size: int = 0) -> float:
        """Draw how long a message takes."""
        delay = link.latency_s + self.rng.expovariate(5000)
        if link.slow_s > self.loop.now_s:
            delay += link.extra_s * self.rng.uniform(0.5, 1.5)
        if link.narrow_s > self.loop.now_s:
            delay += size / 20_000
        return delay

    def block(self, a: str, b: str, seconds: float) -> None:
        """Hold everything from `a` to `b`."""
        link = self.links[a, b]
        link.blocked_s = max(link.blocked_s, self.loop.now_s + seconds)
        self.loop.call_at(link.blocked_s, self._unblock, a, b)

    def _unblock(self, a: str, b: str) -> None:
        if self.links[a, b].blocked_s > self.loop.now_s:
            return
        for end in list(self.ends):
            if end.source == a and end.target == b:
                end.flush()

    def cut(self, a: str, b: str) -> None:
        """Close the connections between two machines, as a box between them may."""
        for end in list(self.ends):
            if {end.source, end.target} == {a, b}:
                end.lose(ConnectionResetError())

    def heal(self) -> None:
        """Make every link good."""
        for (a, b), link in self.links.items():
            link.blocked_s = link.slow_s = link.narrow_s = link.refused_s = 0.0
            link.corrupt = 0
            self._unblock(a, b)

    def killed(self, process: Process) -> None:
        """Close what a killed process had open."""
        for end in list(self.ends):
            if end.process is process:
                end.abort()
        self._forget_listener(process)

    def lost_power(self, process: Process) -> None:
        """Forget what a machine had open; the other ends do not hear of it."""
        self.without_power.add(process.name)
        for end in list(self.ends):
            if end.process is process:
                end.vanish()
        self._forget_listener(process)

    def has_power(self, name: str) -> None:
        """The machine is up: it answers what it does not know with a reset."""
        self.without_power.discard(name)
        for end in list(self.ends):
            if end.target == name and end.peer.vanished:
                delay_s = self.rng.uniform(0.0, 0.5)
                self.loop.call_later(
                    delay_s, end.lose, ConnectionResetError(), context=end.process.context
                )

    def _forget_listener(self, process: Process) -> None:
        listener = self.listeners.get(process.name)
        if listener is not None and listener.process is process:
            listener.close()


@dataclass(eq=False)
class End:
    """One end of a connection: the transport of its protocol, as `asyncio.Transport` is."""

    network: Network
    process: Process
    target: str
    protocol: Any = None
    closed: bool = False
    vanished: bool = False
    reading: bool = True
    due_s: float = 0.0
    backlog: list[bytes | None] = field(default_factory=list)
    """What the blocked link holds."""
    arrived: list[bytes] = field(default_factory=list)
    """What the protocol does not want to read yet."""

    def __post_init__(self) -> None:
        self.peer: End
        self.source = self.process.name
        self.network.ends[self] = None

    # -- sending ------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if not self.closed and data:
            self._send(bytes(data))

    def writelines(self, buffers: list[bytes]) -> None:
        self.write(b"".join(buffers))

    def _send(self, item: bytes | None) -> None:
        link = self.network.links[self.source, self.target]
        if self.backlog or link.blocked_s > self.network.loop.now_s:
            self.backlog.append(item)
            return
        if link.corrupt and item:
            link.corrupt -= 1
            item = _flipped(item, self.network.rng)
        size = len(item) if item else 0
        loop = self.network.loop
        self.due_s = max(self.due_s, loop.now_s + self.network.delay_s(link, size))
        peer = self.peer
        if item is FIN:
            loop.call_at(self.due_s, peer.lose, None, context=peer.process.context)
        else:
            loop.call_at(self.due_s, peer.receive, item, context=peer.process.context)

    def flush(self) -> None:
        """The link is open again."""
        backlog, self.backlog = self.backlog, []
        for item in backlog:
            self._send(item)

    # -- receiving ----------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        if not self.closed:
            self.arrived.append(data)
            self.hand_over()

    def hand_over(self) -> None:
        while self.arrived and self.reading and self.protocol is not None and not self.closed:
            self.protocol.data_received(self.arrived.pop(0))

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        self.hand_over()

    def is_reading(self) -> bool:
        return self.reading

    # -- closing ------------------------------------------------------------------------------

    def abort(self) -> None:
        """Close this end; the other one hears of it, unless the link holds the news."""
        if self.closed:
            return
        if self.network.rng.random() < 0.5:
            self.backlog = []
        if not self.peer.closed:
            self._send(FIN)
        self.lose(None)

    close = abort

    def lose(self, error: Exception | None) -> None:
        """The connection is gone."""
        if self.closed:
            return
        self.closed = True
        if not self.backlog:
            self.network.ends.pop(self, None)
        if self.protocol is not None and not self.process.dead:
            loop = self.network.loop
            loop.call_soon(self.protocol.connection_lost, error, context=self.process.context)

    def vanish(self) -> None:
        """The machine lost its power."""
        self.closed = self.vanished = True
        self.backlog = []
        self.network.ends.pop(self, None)

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return sum(len(item) for item in self.backlog if item)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def can_write_eof(self) -> bool:
        return False


def _flipped(item: bytes, rng: random.Random) -> bytes:
    """Flip one bit, often one of those at the beginning, where a frame tells its length."""
    at = rng.randrange(len(item) if rng.random() < 0.5 else min(len(item), 4))
    return item[:at] + bytes((item[at] ^ 1 << rng.randrange(8),)) + item[at + 1 :]
