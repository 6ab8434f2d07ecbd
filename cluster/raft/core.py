"""pysyncobj's SyncObj with its surroundings replaced: the overrides, and nothing else.

The stock core keeps terms, votes, the commit rule and the roles. What it may send goes out
through `_Port`; the log is ours; replication, application and compaction are overridden. Each
override names the defect that it closes; the table of defects is in `cluster.raft.group`.

No IO; reads time from `clock`, chance from `rng`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.transport import Transport

from cluster.raft import messages as msg
from cluster.raft import snapshot as snap
from cluster.raft.election import Election
from cluster.raft.log import NO_OP, GroupLog
from cluster.raft.pinned import NoPoller, Peer
from cluster.raft.pinned import peer as peer_of
from cluster.raft.progress import Progress
from cluster.raft.reads import ReadBarrier

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
Send = Callable[[str, msg.Message], None]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times and sizes of a group."""

    election_timeout_s: float = 1.0
    heartbeat_s: float = 0.1
    commit_notice_s: float = 0.02
    append_bytes_max: int = 1 << 20
    inflight_bytes_max: int = 4 << 20

    def conf(self) -> SyncObjConf:
        """Return pysyncobj's settings: everything it would do on its own is off."""
        return SyncObjConf(
            autoTick=False,
            pollerType="select",
            raftMinTimeout=self.election_timeout_s,
            raftMaxTimeout=self.election_timeout_s * 1.3,
            appendEntriesPeriod=self.heartbeat_s,
            leaderFallbackTimeout=self.election_timeout_s,
            connectionTimeout=3600.0,
            appendEntriesUseBatch=True,
            commandsWaitLeader=False,
            dynamicMembershipChange=False,
        )


class _Port(Transport):  # type: ignore[misc]  # pysyncobj is untyped
    """What stock code sends: votes and leadership transfer. Anything else stays here (D17)."""

    def __init__(self, send: Send) -> None:
        super().__init__(None, None, [])
        self._send = send

    def send(self, node: Peer, message: dict[str, Any]) -> bool:
        """Translate one of the three stock messages that may leave."""
        kind, term = message["type"], message.get("term", 0)
        if kind == "request_vote":
            last = message["last_log_index"], message["last_log_term"]
            self._send(node.id, msg.RequestVote(term, *last))
        elif kind == "response_vote":
            self._send(node.id, msg.Vote(term))
        elif kind == "timeout_now":
            self._send(node.id, msg.TimeoutNow(term))
        else:
            raise AssertionError(f"stock code sent {kind}")
        return True

    def connected(self, peer: str) -> None:
        """Tell the core of a connection."""
        self._onNodeConnected(peer_of(peer))

    def disconnected(self, peer: str) -> None:
        """Tell the core of a lost connection."""
        self._onNodeDisconnected(peer_of(peer))


class HardenedCore(SyncObj):  # type: ignore[misc]  # pysyncobj is untyped
    """See the module. `members` are all voters' names, this one included."""

    def __init__(  # noqa: PLR0913  # each part of a replica comes by name
        self,
        me: str,
        members: tuple[str, ...],
        log: GroupLog,
        applied_index: int,
        send: Send,
        *,
        timing: Timing,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        assert me in members, "a replica is a member of its group"
        assert log.base_index <= applied_index <= log.last_index, "state and log fit together"
        self.me, self.members, self.log = me, members, log
        self.timing, self._clock, self._send = timing, clock, send
        spread = (timing.election_timeout_s, timing.election_timeout_s * 1.3)
        self.election = Election(len(members), spread, rng)
        self.reads = ReadBarrier(len(members))
        self.receiver = snap.Receiver()
        self.offer: msg.Manifest | None = None
        self.offer_used_s = -math.inf
        self.offer_wanted = False
        self.committed: list[msg.Entry] = []
        self.effects: list[snap.Effect] = []
        self.failed: str = ""
        self._progress = {peer: Progress(timing.inflight_bytes_max) for peer in self._others()}
        self._sent = (0, 0)
        self._last_append: msg.Append | None = None
        """One object for all followers that are told the same: it is then encoded once."""
        self.heir = ""
        """Who leadership is being handed to; empty: nobody."""
        self._heir_until_s = -math.inf
        self._heir_told = False
        self._hearsay = (0, 0)
        self._told_s = -math.inf
        self.commit_notice_s = timing.commit_notice_s
        """How long news of a commit may wait for company."""
        self.told = (0, -math.inf)
        """(commit index, time) as the leader last told it: what a fresh replica has applied."""
        self._SyncObj__newAppendEntriesTime = 0.0
        self._port = _Port(send)
        super().__init__(
            peer_of(me),
            [peer_of(peer) for peer in self._others()],
            conf=timing.conf(),
            nodeClass=Peer,
            transport=self._port,
        )
        self._poller = NoPoller()
        self._SyncObj__raftLog = log
        self._SyncObj__raftCurrentTerm = max(log.getCurrentTerm(), log.last_term)
        self._SyncObj__votedForNodeId = log.getVotedForNodeId()
        self._SyncObj__raftLastApplied = applied_index
        self._SyncObj__raftCommitIndex = applied_index
        self.election.arm(clock())
        if len(members) == 1:
            self.election.deadline_s = clock()

    def _others(self) -> list[str]:
        return [peer for peer in self.members if peer != self.me]

    # -- what stands -------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        """Whether this replica believes it leads; check-quorum bounds how long it may err."""
        return bool(self._SyncObj__raftState == LEADER)

    @property
    def leader(self) -> str | None:
        """Name of the leader that this replica follows, or its own."""
        node = self._getLeader()
        return None if node is None else str(node.id)

    @property
    def term(self) -> int:
        """The current term."""
        return int(self.raftCurrentTerm)

    @property
    def delivered_index(self) -> int:
        """Index of the last entry handed over for application."""
        return int(self.raftLastApplied)

    @property
    def commit_index(self) -> int:
        """Index of the last entry known to be committed.

        The stock core counts the leader among those that hold an entry, before its disk has it;
        here a leader counts itself when it is durable, so nobody hears of a commit that the
        leader's crash could undo (closes D19).
        """
        index = int(self._SyncObj__raftCommitIndex)
        return min(index, self.log.durable_index) if self.is_leader else index

    @property
    def office_index(self) -> int:
        """Index of the entry that began this replica's latest term of office; 0: none yet."""
        return int(self._SyncObj__noopIDx or 0)

    # -- overrides of the stock core ----------------------------------------------------------

    def _SyncObj__generateRaftTimeout(self) -> float:
        """Closes D18: no stock deadline ever passes unless `_stand` set it; and D21: the
        process-wide random source is not used."""
        return math.inf

    def _SyncObj__sendNextNodeIdx(self, *_: Any, **__: Any) -> None:
        """Closes D5 and D12: answers are made by `receive`, from what was proved."""

    def _SyncObj__applyLogEntries(self) -> bool:
        """Closes D19 and the poison pill: entries are handed over, once committed and durable
        here; the state machine applies them elsewhere and its errors are results."""
        end = min(self.commit_index, self.log.durable_index)
        first = self.delivered_index + 1
        if end >= first and not self.receiver.installing:
            entries = self.log.span(first, end, 1 << 62)
            self.committed += entries
            self._SyncObj__raftLastApplied = entries[-1][1]
        return False

    def _SyncObj__tryLogCompaction(self) -> None:
        """Closes D1, D7, D8, D14: the log is cut by `compact` alone."""

    def _SyncObj__setState(self, newState: int) -> None:
        """Keep pre-vote in step with the core's role."""
        before = self._SyncObj__raftState
        self.heir, self._heir_told = "", False
        super()._SyncObj__setState(newState)
        if newState == CANDIDATE:
            self.election.stood()
        elif newState == FOLLOWER and before == LEADER:
            self.election.arm(self._clock())
            self.offer = None

    def _SyncObj__onBecomeLeader(self) -> None:
        """Begin a term of office: nothing is under way, nothing is known of the followers."""
        for progress in self._progress.values():
            progress.take_office(self.log.last_index)
        super()._SyncObj__onBecomeLeader()
        assert self.log[-1][0] == NO_OP, "a term of office begins with an entry of its own"

    def _SyncObj__sendAppendEntries(self) -> None:
        """Replicate with bounded bytes in flight; each message is a heartbeat as well."""
        now = self._clock()
        timer = now >= self._SyncObj__newAppendEntriesTime
        self._SyncObj__newAppendEntriesTime = self._next_beat(now)
        self._told_s = now
        self._sent = (self.log.last_index, self.commit_index)
        self.reads.round += 1
        for peer in self._others():
            progress = self._progress[peer]
            if timer:
                progress.paused = False
            if not self.isNodeConnected(peer_of(peer)):
                continue
            if progress.next <= self.log.base_index:
                self._offer_snapshot(peer)
            elif not self._stream(peer):
                self._append_to(peer, progress.next - 1, [])

    def _next_beat(self, now: float) -> float:
        """Return the next whole multiple of the heartbeat's period: the groups of a node beat
        together, and what they say to another node travels in one frame."""
        return (now // self.timing.heartbeat_s + 1) * self.timing.heartbeat_s

    def _stream(self, peer: str) -> bool:
        """Send entries while there are any and there is room; return whether any were sent."""
        log, progress, before = self.log, self._progress[peer], self._progress[peer].next
        some = False
        if self._clock() < progress.full_until_s:
            return False
        while log.base_index < progress.next <= log.last_index and progress.may_send:
            entries = log.span(progress.next, log.last_index, self.timing.append_bytes_max)
            self._append_to(peer, progress.next - 1, entries)
            progress.sent(entries[-1][1], sum(len(entry[0]) for entry in entries))
            some = True
        assert progress.next >= before, "streaming goes forward"
        return some

    def _append_to(self, peer: str, after: int, entries: list[msg.Entry]) -> None:
        term = self.log.term_at(after)
        assert term is not None, "the entry before the next one is in the log"
        made = msg.Append(self.term, self.commit_index, after, term, entries, self.reads.round)
        if made != self._last_append:
            self._last_append = made
        self._send(peer, self._last_append)

    def _offer_snapshot(self, peer: str) -> None:
        if self.offer is not None and self.offer.index < self.log.base_index:
            self.offer = None
        if self.offer is None and not self.offer_wanted:
            self.offer_wanted = True
            self.effects.append(snap.WantSnapshot())
        self._send(peer, msg.Offer(self.term, self.reads.round, self.offer))
