"""One group's replica on this node: proposals and waits around a raft group and its state.

Runs on the event loop; the state machine is applied on the driver's apply thread, which reports
back through `applied`. A proposal is answered when *this* replica has applied the entry at the
index and term it was given; another entry at that index means it was never committed. Losing
leadership ends the wait at once with OutcomeUnknown: the request id makes a retry safe, and
waiting longer only lengthens the write gap of a failover.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from cluster.command import Result
from cluster.errors import (
    DeadlineExceeded,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PayloadTooLarge,
    StorageFull,
)
from cluster.raft.group import RaftGroup
from cluster.raft.messages import Entry as RaftEntry
from cluster.state_machine import Entry

PROPOSALS_MAX: Final = 10_000
PROPOSED_BYTES_MAX: Final = 64 << 20
COMMAND_BYTES_MAX: Final = 2 << 20
"""What no router proposes; a larger entry would not fit a frame and cut the link for ever."""
WAITS_MAX: Final = 10_000


class Replica:
    """See the module. `touch` lets the raft group step."""

    def __init__(
        self, group: int, raft: RaftGroup, machine: Any, touch: Callable[[], None]
    ) -> None:
        self.group, self.shard = group, group - 1
        self.raft, self.machine = raft, machine
        self.inbox: deque[RaftEntry] = deque()
        self.storage_full = False
        self.retrying = False
        self.applied_index, self.applied_term = machine.position()
        self._touch = touch
        self._proposed: dict[int, tuple[int, int, asyncio.Future[Result]]] = {}
        self._proposed_bytes = 0
        self._applied_waits: list[tuple[int, int, asyncio.Future[None]]] = []
        self._wait_number = 0
        self._contact = raft.told
        self._fresh_as_of_s = -math.inf

    # -- what it is ---------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        """Whether this replica leads; check-quorum bounds how long it may err."""
        return self.raft.is_leader and self.raft.failed == ""

    @property
    def leader(self) -> str | None:
        """The node that leads, as far as this replica knows."""
        return self.raft.leader

    @property
    def term(self) -> int:
        """The current term."""
        return self.raft.term

    def fresh(self, max_staleness_ms: int) -> bool:
        """Whether reads here reflect all that was committed up to `max_staleness_ms` ago."""
        if self.raft.failed:
            return False
        if self.is_leader:
            return bool(0 < self.raft.office_index <= self.applied_index)
        return time.monotonic() - self._fresh_as_of_s <= max_staleness_ms / 1000

    def observe(self) -> None:
        """Note, after a step, how far the leader said it was, and whether that is applied.

        `_contact` is (commit index, time) of one contact with the leader, as the leader told it;
        once that index is applied, reads here reflect all that was committed at that time. Only
        then is the next contact looked at: under a steady load the newest is always ahead.
        """
        if self._contact[0] <= self.applied_index:
            self._fresh_as_of_s = max(self._fresh_as_of_s, self._contact[1])
            self._contact = self.raft.told
            if self._contact[0] <= self.applied_index:
                self._fresh_as_of_s = max(self._fresh_as_of_s, self._contact[1])
        if self._proposed and not self.is_leader:
            self._fail_proposals()

    # -- asking -------------------------------------------------------------------------------

    async def propose(self, command: bytes, deadline_s: float) -> Result:
        """Return a command's result once a majority has it on disk and it is applied here.

        Raises:
            NotLeader: nothing was proposed, or it is known not to be committed.
            OutcomeUnknown: it was proposed, and may or may not be committed.
            Overloaded, StorageFull: nothing was proposed.
        """
        if self.storage_full:
            raise StorageFull("the disk of the leader is full")
        if len(command) > COMMAND_BYTES_MAX:
            raise PayloadTooLarge("the command is larger than a log entry may be")
        if (
            len(self._proposed) >= PROPOSALS_MAX
            or self._proposed_bytes + len(command) > PROPOSED_BYTES_MAX
        ):
            raise Overloaded("too many writes are waiting for this shard")
        place = self.raft.propose(command)
        if place is None:
            raise NotLeader("this replica does not lead", leader=self.leader)
        index, term = place
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._proposed[index] = (term, len(command), future)
        self._proposed_bytes += len(command)
        self._touch()
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                return await future
        except TimeoutError:
            raise OutcomeUnknown("the write was not committed in time") from None

    async def wait_applied(self, index: int, deadline_s: float) -> None:
        """Return when reads here reflect `index`; raises DeadlineExceeded."""
        if index <= self.applied_index:
            return
        if len(self._applied_waits) >= WAITS_MAX:
            raise Overloaded("too many reads wait for this shard to catch up")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wait_number += 1
        wait = (index, self._wait_number, future)
        heapq.heappush(self._applied_waits, wait)
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                await future
        except TimeoutError:
            raise DeadlineExceeded("this replica did not catch up in time") from None
        finally:
            if wait in self._applied_waits:
                self._applied_waits.remove(wait)
                heapq.heapify(self._applied_waits)

    async def read_index(self, deadline_s: float) -> int:
        """Return the commit index, after a majority confirmed that this replica leads.

        Raises NotLeader or DeadlineExceeded.
        """
        if not self.is_leader:
            raise NotLeader("this replica does not lead", leader=self.leader)
        future: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self.raft.read(lambda index: None if future.done() else future.set_result(index))
        self._touch()
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                index = await future
        except TimeoutError:
            raise DeadlineExceeded("leadership was not confirmed in time") from None
        if index is None:
            raise NotLeader("leadership was lost", leader=self.leader)
        return index

    # -- what the apply thread reports --------------------------------------------------------

    def take_inbox(self, bytes_max: int) -> list[Entry]:
        """Take entries to apply in one transaction; called on the apply thread."""
        taken: list[Entry] = []
        total = 0
        while self.inbox and total <= bytes_max:
            command, index, term = self.inbox.popleft()
            total += len(command)
            taken.append(Entry(index, term, command[1:]))
        return taken

    def give_back(self, entries: list[Entry]) -> None:
        """Return entries that could not be applied, in order."""
        for entry in reversed(entries):
            kind = b"\x00" if entry.command else b"\x01"
            self.inbox.appendleft((kind + entry.command, entry.index, entry.term))

    def discard_below(self, index: int) -> None:
        """Forget entries that a snapshot has overtaken; called on the apply thread."""
        while self.inbox and self.inbox[0][1] <= index:
            self.inbox.popleft()

    def applied(self, entries: list[Entry], results: list[Result]) -> None:
        """Entries are applied and committed; answer who waits for them."""
        assert len(entries) == len(results), "an entry has a result"
        assert entries[0].index == self.applied_index + 1, "entries are applied in order"
        self.applied_index, self.applied_term = entries[-1].index, entries[-1].term
        for entry, result in zip(entries, results, strict=True):
            self._answer(entry, result)
        self._wake()

    def installed(self) -> None:
        """The state came as a snapshot; what was proposed below it has an unknown fate."""
        self.applied_index, self.applied_term = self.machine.position()
        self._fail_proposals()
        self._wake()

    def _answer(self, entry: Entry, result: Result) -> None:
        waiting = self._proposed.pop(entry.index, None)
        if waiting is None:
            return
        term, size, future = waiting
        self._proposed_bytes -= size
        if future.done():
            return
        if term == entry.term:
            future.set_result(result)
        else:
            future.set_exception(NotLeader("the write was not committed", leader=self.leader))

    def _fail_proposals(self) -> None:
        proposed, self._proposed, self._proposed_bytes = self._proposed, {}, 0
        for _, _, future in proposed.values():
            if not future.done():
                future.set_exception(OutcomeUnknown("leadership changed during the write"))

    def _wake(self) -> None:
        while self._applied_waits and self._applied_waits[0][0] <= self.applied_index:
            _, _, future = heapq.heappop(self._applied_waits)
            if not future.done():
                future.set_result(None)
