"""All groups of one node as one step function. Pure: no clock, no IO, no threads of its own.

Things happen to a host (a message, a proposal, time, a finished sync); then `ready` says what is
to be done, in the only safe order: *persist* this batch, *send* these messages, *apply* these
entries. A message is released when the batch that was open at its making is on disk (the gate),
so nothing leaves that a crash could make untrue, one-member groups included (D19).

A leader's appends leave at once, so that followers write while the leader does (Raft thesis,
section 10.2.1): they promise nothing but what their receivers will write themselves. The term they
carry was durable before the votes for it were asked for, and their commit index counts this
replica's disk like any other's (`HardenedCore.commit_index`). And so do acknowledgements of what is
durable already, heartbeats among them: a disk that is busy unseats nobody. A disk that stays at
one batch for some election timeouts does: its node's appends wait for it, and others stand.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from cluster.raft.core import Timing
from cluster.raft.group import RaftGroup
from cluster.raft.log import GroupLog, GroupState, Records
from cluster.raft.log_memory import LogMemory
from cluster.raft.messages import Ack, Append, Entry, Message
from cluster.raft.snapshot import Effect
from cluster.raft.wal import Wal, WriteBatch
from cluster.raft.wal_format import CorruptLog

STALLED_ELECTIONS: Final = 3
NEW = (1, 0)
"""Where the state of a new group stands: at the root entry."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What to do now, in this order of fields."""

    persist: WriteBatch | None
    send: list[tuple[str, int, Message]]
    """(peer, group, message), in order per peer."""
    apply: list[tuple[int, list[Entry]]]
    """(group, committed and durable entries)."""
    effects: list[tuple[int, Effect]]
    stepped: tuple[int, ...]
    """The groups that something happened to."""


def recover(
    state: GroupState,
    applied: tuple[int, int],
    records: Records,
    memory: LogMemory | None = None,
) -> GroupLog:
    """Fit a recovered log to the (index, term) that the state machine stands at (D1, D9).

    The state machine behind the log's base: acknowledged entries are gone from this replica, so
    it must be refilled and holds its vote until its log reaches again what it once had. The
    state machine beyond or beside the log: a snapshot was installed and the process died before
    the log's reset was written; what the state machine has applied is committed, so the log
    starts again behind it.
    """
    log = GroupLog(state, records, memory)
    index, term = applied
    if index < log.base_index:
        acknowledged = log.last_index
        log.hold_until(acknowledged)
        log.reset(index, term)
    elif log.term_at(index) != term:
        log.reset(index, term)
    assert log.term_at(index) == term, "state and log fit together"
    return log


@dataclass
class _Gated:
    """A message, and the batch that has to be on disk before it leaves."""

    gate: int
    peer: str
    group: int
    message: Message


@dataclass
class _Outbox:
    """Messages that wait for a sync, in order."""

    waiting: deque[_Gated] = field(default_factory=deque)
    free: list[tuple[str, int, Message]] = field(default_factory=list)
    acks: dict[tuple[str, int], _Gated] = field(default_factory=dict)
    """The last acknowledgement that waits, by peer and group."""

    def gate(self, gate: int, peer: str, group: int, message: Message) -> None:
        """Let a message wait; one that repeats an acknowledgement, in a later round, replaces it:
        heartbeats may come for hours while a disk hangs."""
        last = self.acks.get((peer, group))
        if isinstance(message, Ack) and last is not None and _repeats(message, last.message):
            last.message = message
            return
        gated = _Gated(gate, peer, group, message)
        self.waiting.append(gated)
        if isinstance(message, Ack):
            self.acks[(peer, group)] = gated

    def released(self, synced: int) -> list[tuple[str, int, Message]]:
        """Return what may leave now that the batches up to `synced` are on disk."""
        out, self.free = self.free, []
        while self.waiting and self.waiting[0].gate <= synced:
            gated = self.waiting.popleft()
            out.append((gated.peer, gated.group, gated.message))
            if self.acks.get((gated.peer, gated.group)) is gated:
                del self.acks[(gated.peer, gated.group)]
        return out

    def drop(self, peer: str) -> None:
        """Forget what was to go to a peer."""
        self.waiting = deque(item for item in self.waiting if item.peer != peer)
        self.free = [item for item in self.free if item[0] != peer]
        self.acks = {key: each for key, each in self.acks.items() if key[0] != peer}


def _repeats(ack: Ack, earlier: Message) -> bool:
    """Whether two acknowledgements differ in their round alone, and so need the same on disk."""
    return isinstance(earlier, Ack) and replace(earlier, round=ack.round) == ack


class GroupHost:
    """See the module. `wal` is not open yet; `open` recovers it."""

    def __init__(
        self,
        me: str,
        wal: Wal,
        *,
        clock: Callable[[], float],
        timing: Timing,
        memory: LogMemory | None = None,
    ) -> None:
        self.me = me
        self.memory = memory or LogMemory()
        self.groups: dict[int, RaftGroup] = {}
        self._wal, self._clock, self._timing = wal, clock, timing
        self._recovered: dict[int, GroupState] = {}
        self._connected: dict[str, None] = {}
        self._dirty: dict[int, None] = {}
        self._outbox = _Outbox()
        self._writing = False
        self._writing_since_s = 0.0

    def open(self) -> None:
        """Recover the log; raises CorruptLog or OSError.

        A new log gets a first record at once, durably: whoever finds state beside an empty log
        may then conclude that the log was lost.
        """
        self._recovered = self._wal.open()
        if not self._wal.segments:
            self._wal.records(0).meta(0, None)
            batch = self._wal.take()
            assert batch is not None, "a record makes a batch"
            self._wal.write(batch)

    def begin_group(self, group: int, state: GroupState) -> int:
        """Let a group that this node's log knows nothing of begin with `state`, not at the root.

        One that the log knows stays as it is. Returns the batch that has to be on disk before the
        group's state may be.
        """
        assert group not in self.groups, "a group begins before it is opened"
        assert not state.entries, "a group begins at a place, not with entries"
        if group not in self._recovered:
            records = self._wal.records(group)
            records.meta(state.term, state.vote)
            records.base(*state.base)
            records.hold(state.hold)
            self._recovered[group] = state
        return self._wal.gate

    def is_synced(self, sequence: int) -> bool:
        """Whether a batch is on disk."""
        return self._wal.synced_sequence >= sequence

    def open_group(
        self, group: int, members: tuple[str, ...], applied: tuple[int, int], rng: random.Random
    ) -> RaftGroup:
        """Start this node's replica of a group, from the log and from where its state stands.

        Raises CorruptLog when there is state of a group that the log knows nothing of: its votes
        are forgotten.
        """
        assert group not in self.groups, "a replica is opened once"
        if group not in self._recovered and applied != NEW:
            raise CorruptLog(f"group {group} stands at {applied}, but the log has no record of it")
        state = self._recovered.pop(group, None) or GroupState()
        log = recover(state, applied, self._wal.records(group), self.memory)
        raft = RaftGroup(
            self.me,
            members,
            log,
            applied[0],
            lambda peer, message: self.post(peer, group, message),
            timing=self._timing,
            clock=self._clock,
            rng=rng,
        )
        self.groups[group] = raft
        for peer in self._connected:
            if peer in members:
                raft.connected(peer)
        self._dirty[group] = None
        return raft

    def post(self, peer: str, group: int, message: Message) -> None:
        """Queue a message; it leaves once everything decided by now is on disk."""
        if peer not in self._connected:
            return
        if self._is_free(group, message):
            self._outbox.free.append((peer, group, message))
        else:
            self._outbox.gate(self._wal.gate, peer, group, message)

    def _is_free(self, group: int, message: Message) -> bool:
        """Whether a message says nothing that is not on disk yet."""
        raft = self.groups.get(group)
        if isinstance(message, Ack) and raft is not None:
            return raft.log.meta_durable and message.matched <= raft.log.durable_index
        return isinstance(message, Append) and not self._stalled

    @property
    def _stalled(self) -> bool:
        """Whether the disk has been at one batch for so long that others had better lead."""
        patience_s = STALLED_ELECTIONS * self._timing.election_timeout_s
        return self._writing and self._clock() - self._writing_since_s > patience_s

    # -- what happens -------------------------------------------------------------------------

    def touch(self, group: int) -> None:
        """Something was asked of a group; let it step."""
        self._dirty[group] = None

    def receive(self, peer: str, group: int, message: Message) -> None:
        """A message arrived; for an unknown group it is dropped (it may open later)."""
        raft = self.groups.get(group)
        if raft is not None:
            raft.receive(peer, message)
            self._dirty[group] = None

    def connected(self, peer: str) -> None:
        """A connection is up."""
        self._connected[peer] = None
        for group, raft in self.groups.items():
            if peer in raft.members:
                raft.connected(peer)
                self._dirty[group] = None

    def disconnected(self, peer: str) -> None:
        """A connection closed; what still waits for it is dropped, as the network would."""
        self._connected.pop(peer, None)
        self._outbox.drop(peer)
        for group, raft in self.groups.items():
            if peer in raft.members:
                raft.disconnected(peer)
                self._dirty[group] = None

    @property
    def due_s(self) -> float:
        """When the next timer of a group runs out."""
        return min((raft.due_s for raft in self.groups.values()), default=math.inf)

    def elapse(self) -> None:
        """Time has passed: the groups whose timers ran out step."""
        now = self._clock()
        for group, raft in self.groups.items():
            if raft.due_s <= now:
                self._dirty[group] = None

    def synced(self, sequence: int) -> None:
        """The batch being written is on disk."""
        assert self._writing, "a sync follows a batch"
        self._writing = False
        for group, raft in self.groups.items():
            before = raft.log.durable_index
            raft.log.synced(sequence)
            if raft.log.durable_index != before:
                self._dirty[group] = None

    # -- what is to be done -------------------------------------------------------------------

    def ready(self) -> Ready:
        """Let every touched group step; return what is to be persisted, sent and applied."""
        dirty, self._dirty = self._dirty, {}
        apply: list[tuple[int, list[Entry]]] = []
        effects: list[tuple[int, Effect]] = []
        for group in dirty:
            raft = self.groups[group]
            raft.tick()
            if raft.committed:
                apply.append((group, raft.committed))
                raft.committed = []
            effects += [(group, effect) for effect in raft.effects]
            raft.effects = []
        batch = None if self._writing else self._wal.take()
        if batch is not None:
            self._writing, self._writing_since_s = True, self._clock()
        send = self._outbox.released(self._wal.synced_sequence)
        return Ready(batch, send, apply, effects, tuple(dirty))

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting to step."""
        return not self._dirty

    def pinning(self) -> tuple[int, ...]:
        """Groups whose entries keep the oldest segment; empty while there are few segments."""
        segments = self._wal.segments
        if len(segments) <= 3:
            return ()
        oldest = segments[0].entry_max
        return tuple(
            group
            for group, raft in sorted(self.groups.items())
            if oldest.get(group, 0) > raft.log.base_index
        )
