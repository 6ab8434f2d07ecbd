"""The search workers of a node: when there are any, which connections they have, and their end.

Workers are forked while the node is searched a lot, and go on while rows are written: these reach
them (`change_ring`). A copy that has taken in many rows is replaced by a new one, since it compares
these one by one, and nothing builds them into its graph. So is one that lacks what the node has
learned since: a narrower beam, the rows of a filter side by side. What else is changed makes all
copies worthless (`shared_state`). Where that happens again and again the node waits longer each
time before it forks anew, and serves alone meanwhile, as it does what is no quick search.

A node lends a connection once it has answered some quick searches on it and the next one comes.
What comes back has its unread bytes with it: another worker gets it, or it is served as if they had
just arrived.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from cluster.indexing import Changed
from cluster.workers.change_ring import ChangeRing
from cluster.workers.channel import (
    Back,
    Channel,
    Leaving,
    Lent,
    Message,
    Needed,
    Ready,
    Report,
)
from cluster.workers.errands import Errands
from cluster.workers.forking import Fork, has_ended, kill
from cluster.workers.lent import READ_BYTES
from cluster.workers.shared_state import WORKERS_MAX, SharedState
from cluster.workers.staffing import Calm, Demand
from cluster.workers.surface import Surface

log = logging.getLogger("recollect.workers")

TICK_S: Final = 0.05
IDLE_TICK_S: Final = 0.5
"""Where nobody searches there is nothing to look after."""
FRESH_FOR_MS: Final = 250
"""Workers believe replicas for so long, less where little age is accepted. A node that is late by
several ticks does not stop them."""
RENEWED_AFTER_S: Final = 2.0
RENEWED_ROWS: Final = 3072
"""A copy is replaced when the node has built so many rows that the copy compares one by one."""
LOOSE_MAX: Final = 8192
"""With more rows to compare than that nothing is worth a copy."""
ROWS_MAX: Final = 16_384
"""A copy that has as many to compare, and could not be replaced, ends."""
TRIES_MAX: Final = 10
STUCK_S: Final = 10.0
END_S: Final = 4.0
REHEARSAL: Final = 16
"""Requests that a new worker answers for nobody, to begin with."""
COMPANY_S: Final = 1.0
"""How long connections wait for all workers to be there, so that each gets its share."""


@dataclass(eq=False)
class _Hired:
    """A worker, as its node knows it."""

    number: int
    pid: int
    channel: Channel
    ticket: int
    born_s: float
    rows: int
    """Rows that were ever written before the first that it compares one by one."""
    improved: int
    """What the indexes had learned by then."""
    follows: _Hired | None
    """The one that is to end when this one is ready."""
    is_ready: bool = False
    lent: int = 0
    beats: int = 0
    beat_s: float = 0.0
    is_leaving: bool = False

    @property
    def serves(self) -> bool:
        """Whether connections may be lent to it."""
        return self.is_ready and not self.is_leaving


class SearchWorkers:
    """See the module. On the node's event loop, but for `rows_changed` and `reshaped`."""

    def __init__(self, count: int, surface: Surface) -> None:
        assert 0 < count <= WORKERS_MAX // 2, "each has a place beside one that leaves"
        self._count = count
        self._surface = surface
        self._shared = SharedState()
        self._ring = ChangeRing(self._shared)
        self._hired: list[_Hired] = []
        self._ended: list[int] = []
        """Processes that have ended, and are to be waited for."""
        now_s = surface.clock()
        self._demand, self._calm = Demand(counted_s=now_s), Calm(since_s=now_s)
        self._rows = 0
        """Rows that were ever written; counted by the thread that applies."""
        self._rehearsal: deque[bytes] = deque(maxlen=REHEARSAL)
        self._tries = 0
        """In a row, in which it was not the moment to fork; the builder waits meanwhile."""
        self._errands = Errands(surface)
        self._adopting = 0
        """Connections on their way back."""
        self._left = -1
        """The ticket of the last copy that was of no use any more."""
        self._is_closed = False
        self._tasks = asyncio.TaskGroup()

    # -- for the indexes ------------------------------------------------------------------------

    def rows_changed(self, changed: Changed) -> None:
        """Rows of a shard have changed in this node's index, and are not acknowledged yet."""
        self._rows += len(changed.rows) + len(changed.gone)
        if self._ring.is_read and not self._ring.append(msgspec.msgpack.encode(changed)):
            self._shared.change()

    def reshaped(self) -> None:
        """Something else has changed; from any thread."""
        self._shared.change()

    # -- for connections ------------------------------------------------------------------------

    def answered(self) -> None:
        """The node has answered a quick search itself."""
        self._demand.quick += 1

    def lend(self, descriptor: int, unread: bytes, patience: int) -> bool:
        """Give a connection to a worker; False: none takes it.

        The node closes its own descriptor afterwards, and does not shut the connection down.
        """
        worker = self._whom_to_lend()
        if worker is None or len(unread) > READ_BYTES:
            return False
        try:
            worker.channel.send(Lent(unread, patience), descriptor)
        except OSError:
            return False
        worker.lent += 1
        if unread:
            self._rehearsal.append(unread)
        return True

    def _whom_to_lend(self) -> _Hired | None:
        """Return the worker with the fewest connections, if it is time to lend any."""
        now_s, ticket = self._surface.clock(), self._shared.ticket
        staying = [each for each in self._hired if each.serves and each.ticket == ticket]
        if not staying or not self._shared.is_fresh(now_s):
            return None
        if len(staying) < self._count and now_s - staying[0].born_s < COMPANY_S:
            return None  # else the first one had them all
        if not self._surface.has_descriptors(self.lent):
            return None
        return min(staying, key=lambda each: each.lent)

    @property
    def count(self) -> int:
        """Workers that there are just now."""
        return len(self._hired)

    @property
    def lent(self) -> int:
        """Connections that they have."""
        return sum(each.lent for each in self._hired)

    # -- hiring ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Have workers while they are of use; until cancelled."""
        try:
            async with self._tasks:
                while True:
                    try:
                        self._look(self._surface.clock())
                    except Exception:  # the node serves alone as well
                        log.exception("search workers are not looked after")
                    await asyncio.sleep(IDLE_TICK_S if self._is_idle else TICK_S)
        finally:
            self._surface.indexes.pause(paused=False)

    @property
    def _is_idle(self) -> bool:
        """Whether there is nothing to look after."""
        demand = self._demand
        return not (self._hired or self._ended or self._tries or demand.quick or demand.is_high)

    def _look(self, now_s: float) -> None:
        fresh_for_ms = self._surface.stays_fresh_ms(FRESH_FOR_MS)
        if fresh_for_ms:
            self._shared.set_fresh_until(now_s + fresh_for_ms / 1000)
        self._calm.look(self._shared.ticket, now_s)
        self._demand.look(now_s, self.lent, self._rows)
        self._watch(now_s)
        no_use = self._is_closed or self._demand.is_gone(now_s)
        if no_use or not self._surface.has_memory():
            self._surface.indexes.pause(paused=False)
            self._dismiss(self._hired)
        else:
            self._staff(now_s)

    def _staff(self, now_s: float) -> None:
        """Fork a worker that is missing, or one to follow another."""
        self._dismiss([each for each in self._hired if self._rows - each.rows > ROWS_MAX])
        staying = [each for each in self._hired if not each.is_leaving]
        followed = [each.follows for each in staying]
        outdated = [each for each in staying if self._is_outdated(each, now_s)]
        outdated = [each for each in outdated if each not in followed]
        missing = len(staying) < self._count and (self._demand.is_high or bool(staying))
        if not (outdated or missing) or not self._calm.lasts(now_s):
            self._surface.indexes.pause(paused=False)
        elif all(each.is_ready for each in staying):  # one at a time
            self._hire(now_s, outdated[0] if outdated else None)

    def _is_outdated(self, worker: _Hired, now_s: float) -> bool:
        if now_s - worker.born_s < RENEWED_AFTER_S:
            return False
        indexes = self._surface.indexes
        looser = self._rows - worker.rows - indexes.loose
        return looser > RENEWED_ROWS or worker.improved != indexes.improved

    def _hire(self, now_s: float, follows: _Hired | None) -> None:
        """Fork a worker, if this is the moment for it; else make sure that one comes."""
        indexes = self._surface.indexes
        if indexes.loose > LOOSE_MAX:
            indexes.pause(paused=False)
            return
        rows, improved = self._rows - indexes.loose, indexes.improved
        forked = self._fork()
        # Who builds is inside an index nearly all the time, unless it is asked to wait.
        self._tries = 0 if forked else self._tries + 1
        indexes.pause(paused=0 < self._tries < TRIES_MAX)
        if forked is not None:
            fork, ours, pid = forked
            worker = _Hired(fork.number, pid, ours, fork.ticket, now_s, rows, improved, follows)
            worker.beat_s = self._demand.used_s = now_s
            self._hired.append(worker)
            asyncio.get_running_loop().add_reader(ours.descriptor, self._listen, worker)
            log.debug("search worker %d serves (pid %d)", fork.number, pid)
        elif self._tries >= TRIES_MAX:
            self._tries = 0
            self._calm.ended(now_s, 0.0)

    def _fork(self) -> tuple[Fork, Channel, int] | None:
        """Fork a worker: what was decided of it, this side of its channel, and its process id.

        None: it cannot be done now. What the ring and the ticket are is read before: what comes
        while it is forked is not missed then.
        """
        free = set(range(WORKERS_MAX)) - {each.number for each in self._hired}
        if not free:
            return None
        number = min(free)
        try:
            ours, theirs = Channel.pair()
        except OSError as error:
            log.warning("no search worker: %s", error)
            return None
        rehearsal = tuple(self._rehearsal)
        fork = Fork(number, self._shared.ticket, self._shared, self._ring, theirs, rehearsal)
        self._ring.admit(number)
        pid = None
        try:
            pid = self._surface.fork(fork)
        except OSError as error:
            log.warning("no search worker: %s", error)
        finally:
            theirs.close()
            if pid is None:
                self._ring.dismiss(number)
                ours.close()
        if pid is None:
            return None
        ours.set_blocking(blocking=False)
        return fork, ours, pid

    # -- while they are there -------------------------------------------------------------------

    def _listen(self, worker: _Hired) -> None:
        """Take what a worker has to say."""
        while True:
            try:
                received = worker.channel.receive()
            except BlockingIOError:
                return
            if received is None:
                self._end(worker)
                return
            self._hear(worker, *received)

    def _hear(self, worker: _Hired, message: Message, connection: socket.socket | None) -> None:
        if isinstance(message, Back):
            worker.lent -= 1
            if connection is not None:  # else there was no descriptor left for it
                self._take_back(message, connection)
        elif isinstance(message, Report):
            worker.lent -= message.closed
            self._demand.quick += self._errands.note(message)
        elif isinstance(message, Needed):
            self._tasks.create_task(self._fetch(worker, message))
        elif isinstance(message, Ready):
            worker.is_ready = True
            if worker.follows is not None:
                self._dismiss([worker.follows])
                worker.follows = None
        elif isinstance(message, Leaving):
            if worker.ticket != self._left:  # all that leave together count once
                self._left = worker.ticket
                self._lost(worker)
            self._dismiss([worker])

    def _lost(self, worker: _Hired) -> None:
        """A worker ends that should have gone on: wait longer for the next if it ends early."""
        now_s = self._surface.clock()
        self._calm.ended(now_s, now_s - worker.born_s)

    def _take_back(self, back: Back, connection: socket.socket) -> None:
        """Give a connection to another worker, or serve it."""
        if back.is_moving and self.lend(connection.fileno(), back.unread, back.patience):
            connection.close()
        else:
            self._adopting += 1
            self._tasks.create_task(self._adopt(back, connection))

    async def _adopt(self, back: Back, connection: socket.socket) -> None:
        try:
            await self._errands.adopt(connection, back.unread, back.patience)
        finally:
            self._adopting -= 1

    async def _fetch(self, worker: _Hired, needed: Needed) -> None:
        if not await self._errands.fetch(worker.channel, needed) and worker in self._hired:
            self._dismiss([worker])  # it gives back what waits

    def _watch(self, now_s: float) -> None:
        """End workers that do not go on, and wait for those that have ended."""
        for worker in self._hired:
            beats = self._shared.beats(worker.number)
            if beats != worker.beats:
                worker.beats, worker.beat_s = beats, now_s
            elif now_s - worker.beat_s > STUCK_S:
                log.error("search worker %d (pid %d) is stuck", worker.number, worker.pid)
                kill(worker.pid)
                worker.beat_s = now_s
        self._ended = [pid for pid in self._ended if not has_ended(pid)]

    def _end(self, worker: _Hired) -> None:
        """A worker has ended its side."""
        asyncio.get_running_loop().remove_reader(worker.channel.descriptor)
        worker.channel.close()
        self._ring.dismiss(worker.number)
        self._hired.remove(worker)
        self._ended.append(worker.pid)
        if not worker.is_ready:
            self._rehearsal.clear()  # one of these may be what it failed of
        if not worker.is_leaving:
            log.error("search worker %d (pid %d) is gone", worker.number, worker.pid)
            self._lost(worker)

    def _dismiss(self, workers: Sequence[_Hired]) -> None:
        """Have all connections of some workers back."""
        for worker in workers:
            if not worker.is_leaving:
                worker.is_leaving = True
                worker.channel.end()

    async def close(self) -> None:
        """Have all connections back, and no workers any more; `run` has to go on meanwhile."""
        self._is_closed = True
        self._dismiss(self._hired)
        deadline_s = self._surface.clock() + END_S
        while self._hired or self._ended or self._adopting:
            self._watch(self._surface.clock())
            if self._surface.clock() > deadline_s:
                for worker in self._hired:
                    kill(worker.pid)
            await asyncio.sleep(TICK_S / 5)
