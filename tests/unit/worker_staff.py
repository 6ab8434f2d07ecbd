"""One real worker on a thread, and the node's side of it, which is the test's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator

from cluster.api.protocol import PATIENCE
from cluster.api.server import QUICK_ROUTE
from cluster.search_calls import SearchCalls
from cluster.workers.change_ring import ChangeRing
from cluster.workers.channel import Channel, Lent, Ready, Report
from cluster.workers.copied import CopiedIndexes
from cluster.workers.shared_state import SharedState
from cluster.workers.turn import WorkerTurn
from cluster.workers.worker import Parts, Tally, Worker
from tests.unit.test_quick_route import PLAIN, QUERY, both_ways, request, rounded

TIME_S = 10.0
NUMBER = 5


class Client:
    """The far end of a connection that was lent."""

    def __init__(self, far: socket.socket) -> None:
        self.far = far
        self.far.settimeout(TIME_S)
        self._read = b""
        self.ballast = 0
        """Bytes that fill the connection, and are no answer."""

    def send(self, raw: bytes) -> None:
        self.far.sendall(raw)

    def drain(self) -> None:
        while self.ballast:
            self.ballast -= len(self.far.recv(self.ballast))

    def answer(self):
        """Return status and decoded body of the next answer."""
        while b"\r\n\r\n" not in self._read:
            self._more()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        length = next(int(line[16:]) for line in lines if line.startswith("content-length: "))
        while len(self._read) < length:
            self._more()
        raw, self._read = self._read[:length], self._read[length:]
        return int(lines[0].split()[1]), json.loads(raw)

    def _more(self) -> None:
        piece = self.far.recv(1 << 20)
        assert piece, "the connection was closed"
        self._read += piece

    def ask(self, body=PLAIN, path=QUERY):
        self.send(request(path, body))
        return self.answer()


class Staff:
    """One worker, and the node's side of it."""

    def __init__(self, ways, searches, uid) -> None:
        self.ways, self.searches, self.uid = ways, searches, uid
        self.shared = SharedState()
        self.ring = ChangeRing(self.shared, 1 << 16)
        self.ring.admit(NUMBER)
        self.shared.set_fresh_until(time.monotonic() + 600)
        self.shown: list[tuple[int, int]] = []
        self.node, theirs = Channel.pair()
        self.node._socket.settimeout(TIME_S)
        tally = Tally()
        self.turn = WorkerTurn(SearchCalls(time.thread_time), searches, time.monotonic)
        route = ways.runner.app[QUICK_ROUTE]
        self.worker = Worker(
            Parts(
                number=NUMBER,
                ticket=self.shared.ticket,
                shared=self.shared,
                channel=theirs,
                desk=route.in_worker(self.turn, tally),
                turn=self.turn,
                copy=CopiedIndexes(
                    {uid: ways.index}, self.ring, NUMBER, lambda *each: self.shown.append(each)
                ),
                tally=tally,
                clock=time.monotonic,
                rehearsal=(request(QUERY, PLAIN), b"nonsense\r\n\r\n", b"half a"),
                pause=lambda: None,
            )
        )
        self.thread = threading.Thread(target=self.worker.run)
        self.reports: list[Report] = []
        self.opened: list[socket.socket] = []

    def hear(self, kind):
        """Return the next message of a kind, with its connection; reports are kept aside."""
        while True:
            received = self.node.receive()
            assert received is not None, "the worker ended"
            message, connection = received
            if connection is not None:
                self.opened.append(connection)
            if isinstance(message, Report) and kind is not Report:
                self.reports.append(message)
                continue
            assert isinstance(message, kind), message
            return message, connection

    def lend(
        self, unread: bytes = b"", patience: int = PATIENCE, *, filled: bool = False
    ) -> Client:
        """Lend a connection; one that is `filled` has room for an answer once it is drained."""
        near, far = socket.socketpair()
        client = Client(far)
        if filled:
            near.settimeout(0.0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.ballast += near.send(b"x" * 4096)
        self.node.send(Lent(unread, patience), near.fileno())
        near.close()
        self.opened.append(far)
        return client

    def end(self) -> None:
        self.node.end()
        self.thread.join(TIME_S)
        assert not self.thread.is_alive()
        while (received := self.node.receive()) is not None:
            self.opened += [each for each in received[1:] if each is not None]
        self.node.close()
        for each in self.opened:
            each.close()


@contextlib.asynccontextmanager
async def staff(**settings) -> AsyncIterator[Staff]:
    async with both_ways(**settings) as ways:
        searches = ways.counted._inner
        view = searches._routing.local_view()
        assert view is not None
        collection = next(iter(view.collections.values()))
        made = Staff(ways, searches, collection.uid)
        made.thread.start()
        await asyncio.to_thread(made.hear, Ready)
        try:
            yield made
        finally:
            await asyncio.to_thread(made.end)


def in_thread(test):
    """Run what talks to the worker on a thread, for it waits."""

    async def run():
        async with staff() as made:
            await asyncio.to_thread(test, made)

    return run


async def general(ways, body, path=QUERY):
    """Return what the general way answers."""
    status, _, decoded = await ways.general.ask(path, body)
    decoded.pop("time")
    return status, rounded(decoded)


def alike(answer):
    status, decoded = answer
    decoded.pop("time")
    return status, rounded(decoded)
