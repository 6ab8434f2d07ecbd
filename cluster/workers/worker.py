"""What a search worker does: it answers quick searches on the connections that it was lent.

A worker is the node itself as it was at one moment, forked: it has the same indexes in the same
memory, and the same code decides what a request means. What is written afterwards reaches it
through `change_ring`. What it cannot answer as the node would, it gives back with the connection
and every byte that was not answered: another kind of request, a search that is long, or whatever
came while the copy was not known to be the truth (`shared_state`). It knows one answer, 200.

It has one thread, and no event loop: it reads what is there, takes in what was written, searches
for all that came at once in one call, and sends. The order is what makes an answer right: what was
acknowledged before a request was sent is in the ring before the request can be read.

A connection on which nothing happens for a while goes back, too: how long it may be kept is the
node's affair. When the copy is of no use any more the worker says so, gives back what is lent to
it, and ends when the node ends its side; so it does when the node is no more.
"""

from __future__ import annotations

import contextlib
import errno
import select
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from aiohttp.http import RawRequestMessage

from cluster.quick_search import Payload
from cluster.workers.channel import (
    Back,
    Channel,
    Leaving,
    Lent,
    MessageTooLarge,
    Needed,
    Payloads,
    Ready,
    Report,
)
from cluster.workers.lent import Connection, Connections
from cluster.workers.requests import NotForWorkers, Request, Requests
from cluster.workers.shared_state import SharedState
from cluster.workers.turn import Lacking

IDLE_S: Final = 5.0
REPORT_S: Final = 0.25
SERVED_PER_REPORT_MAX: Final = 8192
BEAT_S: Final = 0.1
FLUSH_S: Final = 1.0
"""What clients get to take the rest of their answers when all connections go back."""
REQUESTS_PER_TURN_MAX: Final = 4
"""Searches of one call: more would make the first wait for the last."""


class Desk(Protocol):
    """What reads, judges and answers requests, as `cluster.api.quick_route` does."""

    def admits(self, message: RawRequestMessage) -> bool:
        """Return whether a request could have a quick answer, by its head."""
        ...

    def begin(
        self, message: RawRequestMessage, body: bytes, answered: Callable[[bytes | None], None]
    ) -> bool:
        """Begin to answer a request; False: it is not for here."""
        ...


class Turn(Protocol):
    """What makes the searches that requests have begun, as `cluster.workers.turn` does."""

    def make(self) -> list[Lacking]:
        """Make them; return those whose payloads are to be fetched."""
        ...

    def forget(self) -> None:
        """Forget how long searches took."""
        ...

    def complete(self, waited: Lacking, rows: Sequence[Payload] | None) -> None:
        """Answer one of these with what was fetched."""
        ...


class Copy(Protocol):
    """The copy of the node's indexes, as `cluster.workers.copied` has it."""

    def settle(self) -> None:
        """Take in what the node had not taken in when it was forked."""
        ...

    def catch_up(self) -> None:
        """Take in what was written."""
        ...

    def show(self, shard: int, index: int) -> None:
        """Take notice that answers may show a shard up to a log index."""
        ...

    def notes(self) -> dict[str, Any]:
        """Return what a report says of the searches since the last one."""
        ...


class Tally:
    """Counts what was answered, in the place of the node's metrics."""

    def __init__(self) -> None:
        self._served: dict[str, list[float]] = {}

    def observe(self, _method: str, route: str, _status: int, seconds: float | None) -> None:
        """Count one answered request."""
        if seconds is not None:
            self._served.setdefault(route, []).append(seconds)

    def take(self) -> dict[str, list[float]]:
        """Return what was counted since the last call."""
        taken, self._served = self._served, {}
        return taken


class Parts(NamedTuple):
    """What a worker is made of. `clock` is monotonic, in seconds, and the node's own."""

    number: int
    ticket: int
    shared: SharedState
    channel: Channel
    desk: Desk
    turn: Turn
    copy: Copy
    tally: Tally
    clock: Callable[[], float]
    rehearsal: Sequence[bytes]
    """Requests that the node has seen lately."""
    pause: Callable[[], None]
    """Waits for a moment."""


class Worker:
    """See the module."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._channel = parts.channel
        self._requests = Requests(parts.desk.admits)
        self._poll = select.epoll()
        self._lent = Connections(self._poll)
        self._asked: list[tuple[Connection, Request]] = []
        """Requests of this turn."""
        self._lacking: dict[int, Lacking] = {}
        """Searches whose payloads the node is asked for."""
        self._needs = 0
        self._reported_s = parts.clock()
        self._is_leaving = False

    def run(self) -> None:
        """Serve until the node ends this; raises OSError when it has gone."""
        try:
            self._run()
        except Exception:
            with contextlib.suppress(Exception):
                self._give_all_back()
            raise
        finally:
            self._poll.close()
            self._channel.close()

    def _run(self) -> None:
        self._channel.set_blocking(blocking=True)
        self._poll.register(self._channel.descriptor, select.EPOLLIN)
        if self._parts.shared.ticket == self._parts.ticket:
            self._rehearse()
        self._channel.send(Ready())
        while True:
            ready = self._poll.poll(BEAT_S, REQUESTS_PER_TURN_MAX)
            now_s = self._parts.clock()
            for descriptor, _ in ready:
                if descriptor == self._channel.descriptor:
                    if not self._hear(now_s):
                        self._give_all_back()
                        return
                else:
                    self._go_on(descriptor)
            self._turn()
            self._look_around(now_s)

    def _rehearse(self) -> None:
        """Answer requests for nobody, and forget it.

        What a forked process touches first it has to get from its parent page by page: the first
        search took 5 to 20 ms, and nobody is to wait for that.
        """
        self._parts.copy.settle()
        for raw in self._parts.rehearsal:
            with contextlib.suppress(Exception):  # else all that follow would fail of it
                request = self._requests.take(raw)
                if request is not None:
                    self._parts.desk.begin(request.message, request.body, lambda _: None)
                    self._parts.turn.make()
        self._parts.tally.take()
        self._parts.copy.notes()
        self._parts.turn.forget()

    def _hear(self, now_s: float) -> bool:
        """Take one message; False: there will be none any more."""
        received = self._channel.receive()
        if received is None:
            return False
        message, lent = received
        if isinstance(message, Payloads):
            self._complete(message)
            return True
        assert isinstance(message, Lent), "a node lends, and sends payloads"
        if lent is None:  # there was no descriptor left for it
            self._lent.closed += 1
            return True
        connection = Connection(lent, message.unread, message.patience, now_s)
        self._lent.add(connection)
        if self._is_leaving:
            self._give_back(connection, is_moving=True)
        elif message.unread:
            self._consider(connection)
        else:
            self._lent.watch(connection)
        return True

    def _complete(self, payloads: Payloads) -> None:
        """Answer a search with what it waited for."""
        waited = self._lacking.pop(payloads.number, None)
        if waited is not None:  # else it has gone back meanwhile
            for shard, index in payloads.shown.items():
                self._parts.copy.show(shard, index)
            self._parts.turn.complete(waited, payloads.rows)

    def _go_on(self, descriptor: int) -> None:
        """Go on with a connection that can be read from, or written to."""
        connection = self._lent.find(descriptor)
        if connection is None:
            return
        if connection.unsent:
            self._lent.send(connection, self._parts.clock())
        elif self._lent.read(connection):
            self._consider(connection)

    def _consider(self, connection: Connection) -> None:
        """See whether a request is here whole, and for a worker."""
        try:
            request = self._requests.take(connection.unread)
        except NotForWorkers:
            self._refuse(connection)
            return
        if request is None:
            self._lent.watch(connection)
        else:
            self._asked.append((connection, request))

    def _turn(self) -> None:
        """Answer the requests that came, once the copy has all that they may ask for."""
        asked, self._asked = self._asked, []
        self._parts.copy.catch_up()
        parts = self._parts
        if not self._is_leaving and parts.shared.ticket != parts.ticket:
            self._leave()
        elif asked and not parts.shared.is_fresh(parts.clock()):
            for connection, _ in asked:
                self._give_back(connection)
        elif asked:
            self._answer(asked)

    def _answer(self, asked: list[tuple[Connection, Request]]) -> None:
        for connection, request in asked:
            answered = partial(self._answered, connection)
            if not self._parts.desk.begin(request.message, request.body, answered):
                self._refuse(connection)
        for waited in self._parts.turn.make():
            self._ask_for_payloads(waited)
        for connection, _ in asked:
            if connection.unread and self._lent.find(connection.socket.fileno()) is connection:
                self._lent.watch(connection, 0)  # it waits for payloads

    def _ask_for_payloads(self, waited: Lacking) -> None:
        self._needs += 1
        try:
            self._channel.send(Needed(self._needs, waited.search.collection, waited.points))
        except MessageTooLarge:
            self._parts.turn.complete(waited, None)
        else:
            self._lacking[self._needs] = waited

    def _answered(self, connection: Connection, response: bytes | None) -> None:
        """Send an answer; None: the request is the node's after all."""
        if self._lent.find(connection.socket.fileno()) is not connection:
            return  # it went back while payloads were fetched
        if response is None:
            self._refuse(connection)
        else:
            self._lent.answer(connection, response, self._parts.clock())

    def _refuse(self, connection: Connection) -> None:
        """Give a connection back for a request that is not for workers."""
        connection.was_refused()
        self._give_back(connection)

    def _give_back(
        self, connection: Connection, *, is_moving: bool = False, patience_s: float = 0.0
    ) -> None:
        """Give a connection back, with what was not answered; close it where a client does not
        take what was."""
        if self._lent.flush(connection, patience_s):
            back = Back(connection.unread, connection.patience, is_moving)
            self._send_back(back, connection.socket.fileno())
            self._lent.forget(connection)

    def _send_back(self, back: Back, descriptor: int) -> None:
        while True:
            try:
                self._channel.send(back, descriptor)
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                self._parts.pause()  # too many are on their way, of all nodes of this user
            else:
                return

    def _leave(self) -> None:
        """Say that the copy is of no use, and give back what is here; the node ends the rest."""
        self._is_leaving = True
        self._channel.send(Leaving())
        self._give_all_back()

    def _give_all_back(self) -> None:
        self._lacking.clear()
        end_s = self._parts.clock() + FLUSH_S
        for connection in sorted(self._lent, key=lambda each: len(each.unsent)):
            patience_s = max(0.0, end_s - self._parts.clock())
            self._give_back(connection, is_moving=True, patience_s=patience_s)
        self._report()

    def _look_around(self, now_s: float) -> None:
        """Show that this goes on, report, and give back what nobody used for a while."""
        self._parts.shared.beat(self._parts.number)
        if self._lent.closed:  # the node shares out by how many each has
            self._report()
        if now_s - self._reported_s < REPORT_S:
            return
        self._reported_s = now_s
        for connection in self._lent:
            if now_s - connection.since_s >= IDLE_S:
                self._give_back(connection)
        self._report()

    def _report(self) -> None:
        served, notes = self._parts.tally.take(), self._parts.copy.notes()
        closed, self._lent.closed = self._lent.closed, 0
        if closed or any(notes.values()):
            self._channel.send(Report(served={}, closed=closed, **notes))
        for route, taken in served.items():
            for start in range(0, len(taken), SERVED_PER_REPORT_MAX):
                part = {route: taken[start : start + SERVED_PER_REPORT_MAX]}
                self._channel.send(Report(served=part))
