"""One group's replica on this node: proposals and waits around a raft group and its state.

Runs on the event loop; committed entries are applied in the driver's apply lane, which reports
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

from cluster.command import Result, may_take_long
from cluster.errors import (
    DeadlineExceeded,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PayloadTooLarge,
    RecollectError,
    StorageFull,
)
from cluster.raft.group import RaftGroup
from cluster.raft.messages import Entry as RaftEntry
from cluster.state_machine import Entry

PROPOSALS_MAX: Final = 10_000
WAITING_BYTES_MAX: Final = 64 << 20
"""Commands that wait for room in the log."""
COMMAND_BYTES_MAX: Final = 2 << 20
"""What no router proposes; a larger entry would not fit a frame and cut the link for ever."""
WAITS_MAX: Final = 10_000


class Replica:
    """See the module. `touch` lets the raft group step."""

    def __init__(
        self,
        group: int,
        raft: RaftGroup,
        machine: Any,
        touch: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.group, self.shard = group, group - 1
        self.raft, self.machine = raft, machine
        self.inbox: deque[RaftEntry] = deque()
        self._bytes_in = self._bytes_out = 0
        self.applying = False
        """Whether the apply lane has work for this replica under way."""
        self.heavy = group == 0
        """Whether applying an entry may take long, whatever its size: metadata opens indexes."""
        self.storage_full = False
        self.retrying = False
        self.applied_index, _ = machine.position()
        self.shown_index = self.applied_index
        """The highest index that a read here may have seen; `applied_index` follows it."""
        self._touch, self._clock = touch, clock
        self._proposed: dict[int, tuple[int, int, asyncio.Future[Result]]] = {}
        self._proposed_bytes = 0
        self._waiting: deque[tuple[bytes, asyncio.Future[Result]]] = deque()
        self._waiting_bytes = 0
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
        return self._clock() - self._fresh_as_of_s <= max_staleness_ms / 1000

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
        leads = self.is_leader and self.raft.office_index <= self.raft.commit_index
        if leads and self.raft.commit_index <= self.applied_index:
            # Check-quorum: a majority answered us within an election timeout.
            confirmed_s = self._clock() - self.raft.timing.election_timeout_s
            self._fresh_as_of_s = max(self._fresh_as_of_s, confirmed_s)
        if self._proposed and not self.is_leader:
            self._fail_proposals()
        if self._waiting:
            self._put_waiting()

    @property
    def awaited(self) -> bool:
        """Whether somebody here waits for an entry to be applied."""
        return bool(self._proposed or self._applied_waits or self.heavy)

    @property
    def inbox_bytes(self) -> int:
        """Bytes of entries that wait to be applied."""
        return self._bytes_in - self._bytes_out

    # -- asking -------------------------------------------------------------------------------

    async def propose(self, command: bytes, deadline_s: float) -> Result:
        """Return a command's result once a majority has it on disk and it is applied here.

        Commands enter the log in the order in which they come, as it has room for them.

        Raises:
            NotLeader: nothing was proposed, or it is known not to be committed.
            OutcomeUnknown: it was proposed, and may or may not be committed.
            Overloaded, StorageFull: nothing was proposed.
        """
        if len(command) > COMMAND_BYTES_MAX:
            raise PayloadTooLarge("the command is larger than a log entry may be")
        if (
            len(self._proposed) + len(self._waiting) >= PROPOSALS_MAX
            or self._waiting_bytes + len(command) > WAITING_BYTES_MAX
        ):
            raise Overloaded("too many writes are waiting for this shard")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, future))
        self._waiting_bytes += len(command)
        self._put_waiting()
        try:
            async with asyncio.timeout(max(0.0, deadline_s - self._clock())):
                return await future
        except TimeoutError:
            if self._withdraw(future):
                raise Overloaded("the log had no room for the write in time") from None
            raise OutcomeUnknown("the write was not committed in time") from None
        except asyncio.CancelledError:
            self._withdraw(future)
            raise

    def _put_waiting(self) -> None:
        """Propose what waits, in order, as far as there is room; refuse it when there cannot be."""
        before = len(self._waiting)
        while self._waiting:
            command, future = self._waiting[0]
            refusal = self._refusal(command)
            if refusal is None and not self._has_room(command):
                break
            self._waiting.popleft()
            self._waiting_bytes -= len(command)
            if future.done():
                continue
            place = None if refusal else self.raft.propose(command)
            if place is None:
                future.set_exception(refusal or self._not_leader())
            else:
                index, term = place
                self._proposed[index] = (term, len(command), future)
                self._proposed_bytes += len(command)
        if len(self._waiting) != before:
            self._touch()

    def _refusal(self, command: bytes) -> RecollectError | None:
        if not self.is_leader:
            return self._not_leader()
        full = self.raft.log.disk_full and not self.raft.log.admits([command])
        return StorageFull("the disk of the leader is full") if full or self.storage_full else None

    def _has_room(self, command: bytes) -> bool:
        """Whether the log takes the command, and no more than a share of it is not yet applied."""
        log = self.raft.log
        within = self._proposed_bytes + len(command) <= log.memory.share or not self._proposed
        return within and log.admits([command])

    def _not_leader(self) -> NotLeader:
        return NotLeader("this replica does not lead", leader=self.raft.heir or self.leader)

    def _withdraw(self, future: asyncio.Future[Result]) -> bool:
        """Take back a command that still waits; whether it did."""
        for place, (command, each) in enumerate(self._waiting):
            if each is future:
                del self._waiting[place]
                self._waiting_bytes -= len(command)
                return True
        return False

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
        self._touch()
        try:
            async with asyncio.timeout(max(0.0, deadline_s - self._clock())):
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
            async with asyncio.timeout(max(0.0, deadline_s - self._clock())):
                index = await future
        except TimeoutError:
            raise DeadlineExceeded("leadership was not confirmed in time") from None
        if index is None:
            raise NotLeader("leadership was lost", leader=self.leader)
        return index

    def learn_commit(self, index: int, term: int) -> None:
        """Take another member's word that it has applied the entry (index, term)."""
        if term and index > self.applied_index:
            self.raft.learn_commit(index, term)
            self._touch()

    def term_at(self, index: int) -> int:
        """Return the term of the log's entry at `index`; 0 when it is not in the log."""
        return self.raft.log.term_at(index) or 0

    # -- what the apply lane does --------------------------------------------------------

    def takes_long(self) -> bool:
        """Whether what waits to be applied may take long, whatever its size."""
        return self.heavy or any(may_take_long(command[1:]) for command, _, _ in self.inbox)

    def take_committed(self, entries: list[RaftEntry]) -> None:
        """Take entries that are committed and durable here; they wait in the inbox."""
        self.inbox.extend(entries)
        self._bytes_in += sum(len(command) for command, _, _ in entries)

    def take_inbox(self, bytes_max: int) -> list[Entry]:
        """Take entries to apply in one transaction; called in the apply lane."""
        taken: list[Entry] = []
        total = 0
        while self.inbox and total <= bytes_max:
            command, index, term = self.inbox.popleft()
            total += len(command)
            taken.append(Entry(index, term, command[1:]))
        self._bytes_out += total
        if taken:
            self.will_show(taken[-1].index)
        return taken

    def will_show(self, index: int) -> None:
        """The state is about to reflect `index`, before anybody is told."""
        self.shown_index = max(self.shown_index, index)

    def give_back(self, entries: list[Entry]) -> None:
        """Return entries that could not be applied, in order."""
        for entry in reversed(entries):
            kind = b"\x00" if entry.command else b"\x01"
            self.inbox.appendleft((kind + entry.command, entry.index, entry.term))
            self._bytes_out -= 1 + len(entry.command)

    def discard_below(self, index: int) -> None:
        """Forget entries that a snapshot has overtaken; called in the apply lane."""
        while self.inbox and self.inbox[0][1] <= index:
            self._bytes_out += len(self.inbox.popleft()[0])

    def applied(self, entries: list[Entry], results: list[Result]) -> None:
        """Entries are applied and committed; answer who waits for them."""
        assert len(entries) == len(results), "an entry has a result"
        assert entries[0].index == self.applied_index + 1, "entries are applied in order"
        self.applied_index = entries[-1].index
        for entry, result in zip(entries, results, strict=True):
            self._answer(entry, result)
        self._put_waiting()
        self._wake()

    def installed(self) -> None:
        """The state came as a snapshot; what was proposed below it has an unknown fate."""
        self.storage_full = False
        self.applied_index, _ = self.machine.position()
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
