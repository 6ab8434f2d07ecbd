"""The peer port: one listener, one authenticated connection per pair of nodes.

Of each pair the node with the greater name dials; a newer connection replaces an older one.
Raft messages of all groups and the calls of `cluster.peer` share it: everything that is posted
while the loop runs one turn goes out as one frame, so the heartbeats of all groups between two
nodes travel together. A peer that does not read is cut off once `QUEUE_BYTES_MAX` wait for it:
Raft and the callers' deadlines deal with a lost connection, nobody deals with a full memory.

A call or a reply that is too large for a frame is never sent: the other end would close the
connection, with everything on it. Messages of Raft are small, as `cluster.config` sees to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from cluster.raft import frames
from cluster.raft.frames import ForeignPeer

log = logging.getLogger("recollect.peer")

QUEUE_BYTES_MAX: Final = 64 << 20
HANDSHAKE_S: Final = 3.0
DIAL_EVERY_S: Final = 0.25
PING_S: Final = 1.0
SILENT_S: Final = 4.0

RAFT: Final = 1
CALL: Final = 2
REPLY: Final = 3
PING: Final = 4


class FrameTooLarge(Exception):
    """The other end takes no frame of that size, so it was not sent."""


class Link:
    """One established connection."""

    def __init__(
        self,
        peer: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        sealer: frames.Sealer,
        opener: frames.Opener,
        *,
        now_s: float,
    ) -> None:
        self.peer, self.reader, self.writer = peer, reader, writer
        self._sealer, self.opener = sealer, opener
        self.last_heard_s = now_s

    def send(self, kind: int, content: Any) -> bool:
        """Write one frame; False when the connection is closed, or too much is waiting and it is.

        Between a close and the news of it there is a turn of the loop, in which uvloop raises.
        """
        return self.send_packed(frames.pack(kind, content))

    def send_packed(self, body: bytes) -> bool:
        """Do the same with a frame's body."""
        if self.writer.transport.is_closing():
            return False
        if self.writer.transport.get_write_buffer_size() > QUEUE_BYTES_MAX:
            self.close()
            return False
        self.writer.writelines(self._sealer.seal(body))
        return True

    def close(self) -> None:
        """Close at once; what is queued is lost."""
        self.writer.transport.abort()


class PeerPort:
    """See the module. Callbacks run on the event loop."""

    def __init__(  # noqa: PLR0913  # each part comes by name
        self,
        *,
        me: str,
        peers: dict[str, tuple[str, int]],
        listen: tuple[str, int],
        secret: str,
        frame_bytes_max: int,
        clock: Callable[[], float] = time.monotonic,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.me, self._peers, self._listen = me, peers, listen
        self._clock, self._random_bytes = clock, random_bytes
        self._secret, self._frame_bytes_max = secret, frame_bytes_max
        self._links: dict[str, Link] = {}
        self._outgoing: dict[str, list[tuple[int, bytes]]] = {}
        self._flush_planned = False
        self.on_raft: Callable[[str, int, Any], None] = lambda *_: None
        self.on_connected: Callable[[str], None] = lambda _: None
        self.on_disconnected: Callable[[str], None] = lambda _: None
        self.on_call: Callable[[str, Any], Awaitable[None]] | None = None
        self.on_reply: Callable[[str, Any], None] = lambda *_: None
        self._tasks: asyncio.TaskGroup | None = None

    def connected(self, peer: str) -> bool:
        """Whether a connection to `peer` is up."""
        return peer in self._links

    # -- sending ------------------------------------------------------------------------------

    def post_raft(self, peer: str, group: int, message: bytes) -> None:
        """Queue one group's encoded message for the frame of this turn of the loop."""
        if peer not in self._links:
            return
        self._outgoing.setdefault(peer, []).append((group, message))
        if not self._flush_planned:
            self._flush_planned = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_planned = False
        outgoing, self._outgoing = self._outgoing, {}
        for peer, messages in outgoing.items():
            link = self._links.get(peer)
            if link is not None:
                for batch in _by_size(messages, self._frame_bytes_max // 2):
                    link.send(RAFT, batch)

    def send(self, peer: str, kind: int, content: Any) -> bool:
        """Send a call or a reply; False when there is no connection.

        Raises:
            FrameTooLarge: it is not sent, and the connection stays.
        """
        link = self._links.get(peer)
        if link is None:
            return False
        body = frames.pack(kind, content)
        if len(body) > self._frame_bytes_max:
            raise FrameTooLarge(f"{len(body)} bytes, and a frame has {self._frame_bytes_max}")
        return link.send_packed(body)

    # -- life ---------------------------------------------------------------------------------

    async def run(self, started: asyncio.Event) -> None:
        """Listen and dial until cancelled.

        Raises:
            OSError: the address cannot be listened on.
        """
        host, port = self._listen
        server = await asyncio.start_server(self._accepted, host, port, limit=1 << 20)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for peer in self._peers:
                    if peer < self.me:
                        self._tasks.create_task(self._dial_for_ever(peer))
                self._tasks.create_task(self._ping_for_ever())
                started.set()
        finally:
            server.close()
            for link in list(self._links.values()):
                link.close()

    async def _dial_for_ever(self, peer: str) -> None:
        host, port = self._peers[peer]
        while True:
            if peer not in self._links:
                try:
                    async with asyncio.timeout(HANDSHAKE_S):
                        streams = await asyncio.open_connection(host, port, limit=1 << 20)
                except (OSError, TimeoutError):
                    streams = None
                if streams is not None:
                    await self._serve_link(self._greet(peer, *streams), streams[1])
            await asyncio.sleep(DIAL_EVERY_S)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve_link(self._welcome(reader, writer), writer)

    async def _serve_link(self, handshake: Awaitable[Link], writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                link = await handshake
            await self._read(link)
        except ForeignPeer as error:
            log.warning("refused a peer connection: %s", error)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    # -- handshake ----------------------------------------------------------------------------

    async def _greet(
        self, peer: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Link:
        mine = self._random_bytes(frames.NONCE_BYTES)
        writer.write(frames.hello(self.me, mine))
        answer = await reader.readexactly(frames.NONCE_BYTES + frames.PROOF_BYTES)
        nonces = mine + answer[: frames.NONCE_BYTES]
        names = (self.me, peer)
        expected = frames.proof(self._secret, "listener", *names, nonces)
        if not frames.same(answer[frames.NONCE_BYTES :], expected):
            raise ForeignPeer(f"{peer} does not know the peer secret")
        writer.write(frames.proof(self._secret, "dialler", *names, nonces))
        return self._link(peer, reader, writer, ("dialler", "listener"), nonces)

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Link:
        head = await reader.readexactly(len(frames.MAGIC) + 1)
        if head[:-1] != frames.MAGIC:
            raise ForeignPeer("not a Recollect node")
        peer = (await reader.readexactly(head[-1])).decode(errors="replace")
        theirs = await reader.readexactly(frames.NONCE_BYTES)
        if peer not in self._peers or peer == self.me:
            raise ForeignPeer("a node that is not in the configuration")
        mine = self._random_bytes(frames.NONCE_BYTES)
        nonces, names = theirs + mine, (peer, self.me)
        writer.write(mine + frames.proof(self._secret, "listener", *names, nonces))
        answer = await reader.readexactly(frames.PROOF_BYTES)
        if not frames.same(answer, frames.proof(self._secret, "dialler", *names, nonces)):
            raise ForeignPeer(f"{peer} does not know the peer secret")
        return self._link(peer, reader, writer, ("listener", "dialler"), nonces)

    def _link(
        self,
        peer: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        roles: tuple[str, str],
        nonces: bytes,
    ) -> Link:
        keys = [frames.derive(self._secret, f"frames-{role}", nonces) for role in roles]
        sock = writer.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opener = frames.Opener(keys[1], self._frame_bytes_max)
        return Link(peer, reader, writer, frames.Sealer(keys[0]), opener, now_s=self._clock())

    # -- reading ------------------------------------------------------------------------------

    async def _read(self, link: Link) -> None:
        older = self._links.pop(link.peer, None)
        if older is not None:
            older.close()
            self.on_disconnected(link.peer)
        self._links[link.peer] = link
        self.on_connected(link.peer)
        try:
            while data := await link.reader.read(1 << 20):
                link.last_heard_s = self._clock()
                for body in link.opener.feed(data):
                    if self._links.get(link.peer) is not link:
                        return  # replaced: nothing old may come behind the news of the new one
                    self._dispatch(link.peer, *frames.unpack(body))
        finally:
            if self._links.get(link.peer) is link:
                del self._links[link.peer]
                self.on_disconnected(link.peer)

    def _dispatch(self, peer: str, kind: int, content: Any) -> None:
        if kind == RAFT:
            for group, message in content:
                self.on_raft(peer, group, message)
        elif kind == CALL and self.on_call is not None and self._tasks is not None:
            self._tasks.create_task(self._answer(peer, content))
        elif kind == REPLY:
            self.on_reply(peer, content)

    async def _answer(self, peer: str, content: Any) -> None:
        assert self.on_call is not None, "calls are answered once there are handlers"
        await self.on_call(peer, content)

    async def _ping_for_ever(self) -> None:
        """Keep idle connections proved alive; close those that fell silent."""
        while True:
            await asyncio.sleep(PING_S)
            for link in list(self._links.values()):
                if self._clock() - link.last_heard_s > SILENT_S:
                    link.close()
                else:
                    link.send(PING, None)


def _by_size(messages: list[tuple[int, bytes]], bytes_max: int) -> list[list[tuple[int, bytes]]]:
    """Cut one turn's messages so that no frame passes the limit."""
    batches: list[list[tuple[int, bytes]]] = [[]]
    total = 0
    for group, message in messages:
        size = 100 + len(message)
        if batches[-1] and total + size > bytes_max:
            batches.append([])
            total = 0
        batches[-1].append((group, message))
        total += size
    return batches
