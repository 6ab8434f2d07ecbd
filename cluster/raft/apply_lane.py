"""Where committed entries become state: one lane, on its thread or, for small batches, on the loop.

All that changes state machines or opens indexes goes through the lane, one piece after the other,
never two at a time.

Handing one small batch to a thread costs more than applying it: two wake-ups, and a wait for the
interpreter with every statement. So a small batch is applied on the event loop while the lane is
empty. SQLite does not sync on commit, but for the first after a checkpoint: that one, and a state
whose checkpoint is being finished, are left to the thread. The disk may still be slow: after a
commit that took `SLOW_S` everything goes to the thread for a while. A write to many shards has a
batch for each; after `TURN_S` of them the loop sees to requests and answers before it goes on, or a
search beside such a write would wait for all of them. Nor does it go on before searches that came
meanwhile: who searches waits for one answer, who writes for a disk as well. Where searches never
end, applying has its turn all the same after `PATIENCE_S`, and a longer one.

At a follower nobody waits for most entries: those gather for `GATHER_S`, many to a transaction. An
entry that was proposed here, or a read that waits for an index, is served at once.

A full disk stops nobody: the entries wait, in order, and are tried again.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, Final, ParamSpec, Protocol, TypeVar

from cluster.replica import Replica
from storage.connections import out_of_space

log = logging.getLogger("recollect.raft")

BATCH_BYTES_MAX: Final = 8 << 20
SMALL_BYTES: Final = 32 << 10
"""Entries of so many bytes in all may be applied on the loop."""
GATHER_S: Final = 0.05
GATHER_BYTES: Final = 256 << 10
TURN_S: Final = 0.001
"""How long batches are applied on the loop in one go."""
PATIENCE_S: Final = 0.012
"""How long applying lets searches go first."""
LATE_TURN_S: Final = 0.004
"""A turn after that: where searches take all there is, a quarter of the loop is for writes."""
SLOW_S: Final = 0.2
SLOW_REST_S: Final = 5.0
DISK_FULL_RETRY_S: Final = 1.0

Arguments = ParamSpec("Arguments")
ValueType = TypeVar("ValueType")


class Observer(Protocol):
    """Who is told, in the lane, what happened to a replica's state."""

    def applied(self, replica: Replica) -> None:
        """A batch was committed; `machine.take_changes` says what it changed."""

    def installed(self, replica: Replica) -> None:
        """The state became another replica's."""


class ApplyLane:
    """See the module. Its methods belong to the event loop; `fail` ends the node."""

    def __init__(
        self,
        thread: Executor,
        observer: Observer,
        *,
        clock: Callable[[], float],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._thread, self._observer = thread, observer
        self._clock, self._fail = clock, fail
        self._loop = asyncio.get_running_loop()
        self._jobs = 0
        self._gathering: dict[int, Replica] = {}
        self._ready: deque[Replica] = deque()
        """Replicas that wait for a turn."""
        self._turn = False
        """Whether `_go_on` comes in the next turn of the loop."""
        self._slow_until_s = 0.0
        self._others_wait: Callable[[], bool] = lambda: False
        self._gives_way_until_s: float | None = None
        """When applying has its turn whoever waits; None: nobody went first since it last had."""
        self._closed = False

    def close(self) -> None:
        """Start nothing more; what the thread has is finished by whoever shuts it down."""
        self._closed = True

    def give_way_to(self, others_wait: Callable[[], bool]) -> None:
        """Let others go first on the event loop while `others_wait` says that there are some."""
        self._others_wait = others_wait

    # -- work ---------------------------------------------------------------------------------

    async def run(
        self,
        work: Callable[Arguments, ValueType],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> ValueType:
        """Run other work in the lane, on its thread."""
        self._jobs += 1
        try:
            call = self._loop.run_in_executor(self._thread, lambda: work(*args, **kwargs))
            return await call
        finally:
            self._jobs -= 1

    def submit(self, work: Callable[[], Callable[[], object]]) -> None:
        """Run work on the thread; what it returns is then called on the loop."""
        if not self._closed:
            self._jobs += 1
            self._thread.submit(self._do, work)

    def _do(self, work: Callable[[], Callable[[], object]]) -> None:
        try:
            then = work()
        except BaseException as error:  # noqa: BLE001  # the state is in doubt: the node must stop
            self._loop.call_soon_threadsafe(self._fail, error)
        else:
            self._loop.call_soon_threadsafe(self._done, then)

    def _done(self, then: Callable[[], object]) -> None:
        self._jobs -= 1
        assert self._jobs >= 0, "a job ends once"
        self._then(then)

    def _then(self, then: Callable[[], object]) -> None:
        try:
            then()
        except Exception as error:  # noqa: BLE001  # a broken invariant: the node must stop
            self._fail(error)

    # -- entries ------------------------------------------------------------------------------

    def look(self, replica: Replica) -> None:
        """See to a replica's inbox: apply it now, or let it gather."""
        if not replica.inbox or replica.applying or replica.retrying or self._closed:
            return
        if replica.awaited or replica.inbox_bytes > GATHER_BYTES:
            self._start(replica)
        elif replica.group not in self._gathering:
            if not self._gathering:
                self._loop.call_later(GATHER_S, self._flush)
            self._gathering[replica.group] = replica

    def _flush(self) -> None:
        gathered, self._gathering = self._gathering, {}
        for replica in gathered.values():
            if replica.inbox and not (replica.applying or replica.retrying or self._closed):
                self._start(replica)

    def _start(self, replica: Replica) -> None:
        replica.applying = True
        self._ready.append(replica)
        if not self._turn:
            self._go_on()

    def _go_on(self) -> None:
        """Apply what is ready, for a while; what comes during this turn of the loop waits."""
        self._turn = bool(self._ready) and not self._closed
        if not self._turn:
            self._gives_way_until_s = None
            return
        try:
            turn_s = self._turn_s()
            if turn_s:
                self._take_turn(turn_s)
            else:
                self._hand_over()
        except Exception as error:  # noqa: BLE001  # no turn would follow: the node must stop
            self._fail(error)
        self._loop.call_soon(self._go_on)

    def _turn_s(self) -> float:
        """Return for how long to apply now; 0: others go first."""
        if not self._others_wait():
            return TURN_S
        if self._gives_way_until_s is None:
            self._gives_way_until_s = self._clock() + PATIENCE_S
        if self._clock() < self._gives_way_until_s:
            return 0.0
        self._gives_way_until_s = None
        return LATE_TURN_S

    def _take_turn(self, turn_s: float) -> None:
        turn_ends_s = self._clock() + turn_s
        while self._ready and not self._closed:
            replica = self._ready.popleft()
            if not self._jobs and self._is_for_the_loop(replica):
                self._apply_here(replica)
            else:
                self.submit(partial(self._apply, replica))
            if self._clock() >= turn_ends_s:
                break

    def _hand_over(self) -> None:
        """Give the thread what is not for the loop: that need not wait for it."""
        for _ in range(len(self._ready)):
            replica = self._ready.popleft()
            if self._is_for_the_loop(replica):
                self._ready.append(replica)
            else:
                self.submit(partial(self._apply, replica))

    def _is_for_the_loop(self, replica: Replica) -> bool:
        return (
            replica.inbox_bytes <= SMALL_BYTES
            and not replica.machine.busy
            and self._clock() >= self._slow_until_s
            and not replica.takes_long()
        )

    def _apply_here(self, replica: Replica) -> None:
        began_s = self._clock()
        try:
            then = self._apply(replica)
        except Exception as error:  # noqa: BLE001  # the state is in doubt: the node must stop
            self._fail(error)
            return
        ended_s = self._clock()
        if ended_s - began_s > SLOW_S:
            self._slow_until_s = ended_s + SLOW_REST_S
        self._then(then)

    def _apply(self, replica: Replica) -> Callable[[], None]:
        """Apply what waits, in one transaction; return what the loop has to know of it."""
        entries = replica.take_inbox(BATCH_BYTES_MAX)
        try:
            results: list[Any] = replica.machine.apply(entries)
        except sqlite3.OperationalError as error:
            if not out_of_space(error):
                raise
            replica.give_back(entries)
            return lambda: self._stalled(replica)
        self._observer.applied(replica)
        return lambda: self._applied(replica, entries, results)

    def _applied(self, replica: Replica, entries: list[Any], results: list[Any]) -> None:
        replica.storage_full = replica.applying = False
        if entries:
            replica.applied(entries, results)
        self.look(replica)

    def _stalled(self, replica: Replica) -> None:
        if not replica.storage_full:
            log.error("group %d waits for space: the disk is full", replica.group)
        replica.storage_full = replica.retrying = True
        replica.applying = False
        self._loop.call_later(DISK_FULL_RETRY_S, self._retry, replica)

    def _retry(self, replica: Replica) -> None:
        replica.retrying = False
        replica.storage_full = bool(replica.inbox)  # a snapshot may have overtaken what waited
        if replica.inbox and not (replica.applying or self._closed):
            self._start(replica)
