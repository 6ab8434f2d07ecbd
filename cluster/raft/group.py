"""One replica of one Raft group: what it is asked, and what it does with messages.

pysyncobj decides terms, votes, commitment and who leads. Messages come in through `receive`
only, and reach that core rewritten so that its handlers are right; answers are made here, from
what was proved. Defects of the stock library and where each is closed:

    D1 D7 D8 D9  log and state fall apart in a crash       GroupLog + wal.py; `recover` in host.py
    D2           commit index moves over unchecked tail    `_on_append` (clamp), `_on_offer`
    D3           truncation without conflict               receive.admit_append
    D4 D5 D14    stale or failed snapshot is taken/acked   snapshot.py; `_on_offer`, `installed`
    D6           two membership changes at once            membership of a group is static
    D10 D11 D15  term, vote, commit after power loss       wal.py; commit begins at what is applied
    D12          acks without a term                       messages.Ack; receive.admit_ack
    D13          4 GiB limit of the journal                wal.py
    D16          votes counted, not voters                 election.count_vote
    D17          commands queued, forwarded unseen         `propose` appends at once or refuses
    D18          elections without a pre-vote              core: infinite deadline; election.py
    D19          answers before the log is durable         core `_applyLogEntries`; wal.gate
    D20          damage read as a torn tail                wal_format.py
    D21          order from string hashing, global chance  pinned.Peer; election.random

Not thread-safe; no IO; reads time from `clock`, chance from `rng`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Final

from cluster.raft import messages as msg
from cluster.raft import snapshot as snap
from cluster.raft.core import FOLLOWER
from cluster.raft.log import REGULAR
from cluster.raft.office import Officer
from cluster.raft.pinned import peer as peer_of
from cluster.raft.reads import Answer
from cluster.raft.receive import (
    Accept,
    LogMatchingViolated,
    Nack,
    Refuse,
    admit_ack,
    admit_append,
    fitting,
)

OFFER_KEPT_S: Final = 10.0
"""How long log is kept for the sake of a snapshot that somebody pulls."""


class RaftGroup(Officer):
    """See the module."""

    # -- what the node asks -------------------------------------------------------------------

    def propose(self, command: bytes) -> tuple[int, int] | None:
        """Append a command to the leader's log; return its (index, term), or None.

        Closes D17: nothing is queued or forwarded, so a command is in this leader's log at once
        or nowhere. None as well when the log has no room for it.
        """
        if not self.is_leader or self.failed or self.heir or not self.log.admits([command]):
            return None
        index = self.log.last_index + 1
        self.log.add(REGULAR + command, index, self.term)
        return index, self.term

    def read(self, answer: Answer) -> None:
        """Ask for a ReadIndex; `answer` gets the index to wait for, or None."""
        self.reads.ask(answer)

    def compact(self, durable_applied: int, *, urgent: bool = True) -> None:
        """Cut the log below what the state machine has made durable (D1, D8).

        While a follower pulls or installs a snapshot, entries after that snapshot are kept for
        it, up to a limit; unless it is `urgent`, so is what a connected follower does not have.
        """
        limit = min(durable_applied, self.log.durable_index, self.delivered_index)
        if self.is_leader and not urgent:
            connected = [p for p in self._others() if self.isNodeConnected(peer_of(p))]
            limit = min([limit, *(self._progress[peer].match for peer in connected)])
        kept = self._offer_in_use
        if kept is not None and self.log.size_bytes < self.log.memory.offer_max:
            limit = min(limit, kept.index)
        self.log.compact(limit)

    @property
    def _offer_in_use(self) -> msg.Manifest | None:
        """The snapshot that some follower pulls or installs, as far as is known."""
        offer, used = self.offer, self._clock() - self.offer_used_s < OFFER_KEPT_S
        if offer is None or not used:
            return None
        lacking = any(each.match < offer.index for each in self._progress.values())
        return offer if lacking else None

    @property
    def owed_bytes(self) -> int:
        """About how much of the log is here only because a connected follower lacks it."""
        connected = [p for p in self._others() if self.isNodeConnected(peer_of(p))]
        if not self.is_leader or not connected:
            return 0
        matched = max(self.log.base_index, min(self._progress[peer].match for peer in connected))
        entries = max(1, self.log.last_index - self.log.base_index)
        return self.log.size_bytes * max(0, self.delivered_index - matched) // entries

    # -- connections and time -----------------------------------------------------------------

    def connected(self, peer: str) -> None:
        """A connection to `peer` is up: what was under way on an earlier one is lost."""
        self._port.connected(peer)
        self._progress[peer].reconnected()
        if self.is_leader:
            self._SyncObj__raftMatchIndex[peer_of(peer)] = 0
            self._stream(peer)

    def disconnected(self, peer: str) -> None:
        """The connection to `peer` closed."""
        self._port.disconnected(peer)
        if self.leader == peer:
            rank = [member for member in self.members if member != peer].index(self.me)
            self.election.lost_leader(self._clock(), rank)

    def tick(self) -> None:
        """Let time pass: elections, heartbeats, commitment, delivery of durable entries."""
        if self.failed:
            return
        now = self._clock()
        if not self.is_leader and self.election.due(now):
            self._consider_standing(now)
        if self.is_leader or self._SyncObj__raftElectionDeadline < now:
            self.doTick(0)
        else:
            self._heed_hearsay()
            self._SyncObj__applyLogEntries()  # all that the stock tick would do
        commit_index = self.commit_index
        if self.is_leader:
            if self.heir:
                self._bequeath()
            if self._has_news(now, commit_index):
                self._SyncObj__sendAppendEntries()
        if self.reads.waiting:
            self._serve_reads()
        self.log.release_hold(commit_index)
        assert self.log.base_index <= self.delivered_index <= commit_index
        assert commit_index <= self.log.last_index, "commit beyond the log"

    def _serve_reads(self) -> None:
        self.reads.serve(
            leading=self.is_leader,
            commit_index=self.commit_index,
            office_index=self.office_index,
        )
        if self.is_leader and self.reads.wants_broadcast:
            self._SyncObj__sendAppendEntries()

    def _consider_standing(self, now: float) -> None:
        if not self.log.may_vote:
            self.election.arm(now)
        elif self.election.ask(self.term + 1, now):
            self._stand()
        else:
            ask = msg.RequestPreVote(self.term + 1, self.log.last_index, self.log.last_term)
            for peer in self._others():
                self._send(peer, ask)

    def _stand(self) -> None:
        self._SyncObj__raftElectionDeadline = -math.inf  # the stock tick stands at once

    # -- messages -----------------------------------------------------------------------------

    def receive(self, sender: str, message: msg.Message) -> None:
        """Take one message of another member; unknown senders are ignored."""
        if sender not in self._progress or self.failed:
            return
        try:
            self._handlers[type(message)](self, sender, message)
        except LogMatchingViolated as violation:
            self.failed = str(violation)

    def _to_core(self, sender: str, message: dict[str, Any]) -> None:
        self._SyncObj__onMessageReceived(peer_of(sender), message)

    def _on_append(self, sender: str, message: msg.Append) -> None:
        if not self._follow(sender, message.term):
            self._answer(sender, 0)  # a round of an earlier term proves nothing about ours
            return
        self.told = (message.commit_index, self._clock())
        whole, message = message, fitting(message, self.log)
        full = message is not whole
        verdict = admit_append(message, self.log, self.commit_index)
        if isinstance(verdict, Refuse):
            return
        if isinstance(verdict, Nack):
            self._hear(sender, message.term)
            self._answer(sender, message.round, rejected=verdict.rejected, hint=verdict.hint)
            return
        self._append(sender, verdict)
        self._answer(sender, message.round, matched=verdict.matched, full=full)
        if not whole.entries and verdict.matched > self.log.durable_index:
            self._answer(sender, message.round)  # at once: it is heard, though the disk is busy

    def _append(self, sender: str, verdict: Accept) -> None:
        accepted = verdict.message
        self._to_core(
            sender,
            {
                "type": "append_entries",
                "term": accepted.term,
                "commit_index": accepted.commit_index,
                "entries": accepted.entries,
                "prevLogIdx": accepted.prev_index,
                "prevLogTerm": accepted.prev_term,
            },
        )
        assert self.log.last_index >= verdict.matched, "what is acknowledged is in the log"

    def _follow(self, sender: str, term: int) -> bool:
        """Whether `sender` may lead us in `term`; an older one learns our term by the answer."""
        if term < self.term:
            return False
        if term == self.term and self.is_leader:
            raise LogMatchingViolated(f"{sender} leads term {term} and so do we")
        self.election.heard_from_leader(self._clock())
        return True

    def _hear(self, sender: str, term: int) -> None:
        """Let the core hear a heartbeat that proves nothing about the log (closes D2)."""
        self._to_core(
            sender, {"type": "append_entries", "term": term, "commit_index": self.commit_index}
        )

    def _answer(self, sender: str, round_: int, **proved: Any) -> None:
        self._send(sender, msg.Ack(self.term, round_, **proved))

    def _on_offer(self, sender: str, message: msg.Offer) -> None:
        if not self._follow(sender, message.term):
            self._answer(sender, 0)  # a round of an earlier term proves nothing about ours
            return
        self._hear(sender, message.term)
        manifest = message.manifest
        if manifest is not None and manifest.index <= self.delivered_index:
            self._answer(sender, message.round, matched=manifest.index)  # D4
            return
        self._answer(sender, message.round)
        if manifest is not None:
            pull = self.receiver.offered(manifest, self._clock())
            if pull is not None:
                self._send(sender, pull)

    def _on_pull(self, sender: str, message: msg.Pull) -> None:
        if self.offer is not None and message.sha256 == self.offer.sha256:
            self.offer_used_s = self._clock()
            self.effects.append(snap.SendChunk(sender, message.sha256, message.offset))

    def _on_chunk(self, sender: str, message: msg.Chunk) -> None:
        store = self.receiver.received(message)
        if store is None:
            return
        self.effects.append(store)
        manifest = self.receiver.manifest
        assert manifest is not None, "a piece follows an offer"
        if manifest.index <= self.delivered_index:
            self.receiver.done()  # the log was faster (D4)
        elif self.receiver.complete:
            self.receiver.installing = True
            self.effects.append(snap.Install(manifest))
        else:
            self._send(sender, self.receiver.pull(self._clock()))

    def _on_ack(self, sender: str, ack: msg.Ack) -> None:
        if ack.term > self.term:
            self._adopt(ack.term)
        if not self.is_leader or admit_ack(ack, term=self.term, last_index=self.log.last_index):
            return
        self.reads.acked(sender, ack.round)
        if self._progress[sender].next <= self.log.base_index:
            self.offer_used_s = self._clock()  # it answers offers: it is pulling or installing
        self._heard_follower(sender)
        progress = self._progress[sender]
        if ack.full:
            progress.rest(self._clock())
        if ack.matched:
            progress.accepted(ack.matched)
            self._SyncObj__raftMatchIndex[peer_of(sender)] = progress.match
        if ack.rejected:
            progress.rejected(ack.rejected, ack.hint)
        self._stream(sender)

    def _heard_follower(self, sender: str) -> None:
        """Let the core's check-quorum know that a follower answered."""
        alive = {"type": "next_node_idx", "next_node_idx": 0, "reset": False, "success": False}
        self._to_core(sender, alive)

    def _on_request_vote(self, sender: str, ask: msg.RequestVote) -> None:
        if not self.log.may_vote:
            return
        self._to_core(
            sender,
            {
                "type": "request_vote",
                "term": ask.term,
                "last_log_index": ask.last_index,
                "last_log_term": ask.last_term,
            },
        )
        if self._SyncObj__votedForNodeId == sender:
            self.election.arm(self._clock())

    def _on_vote(self, sender: str, vote: msg.Vote) -> None:
        if vote.term == self.term and self.election.count_vote(sender):  # D16
            self._to_core(sender, {"type": "response_vote", "term": vote.term})

    def _on_request_pre_vote(self, sender: str, ask: msg.RequestPreVote) -> None:
        granted = (
            self.log.may_vote
            and not self.is_leader
            and self.election.may_grant(
                ask,
                now_s=self._clock(),
                term=self.term,
                last=(self.log.last_term, self.log.last_index),
            )
        )
        self._send(sender, msg.PreVote(self.term, ask.term, granted))

    def _on_pre_vote(self, sender: str, answer: msg.PreVote) -> None:
        if answer.term > self.term:
            self._adopt(answer.term)  # else a replica that fell behind could never win one
        elif not self.is_leader and self.election.count_pre_vote(sender, answer):
            self._stand()

    def _on_timeout_now(self, sender: str, message: msg.TimeoutNow) -> None:
        if self.log.may_vote:
            self._to_core(sender, {"type": "timeout_now", "term": message.term})

    def _adopt(self, term: int) -> None:
        self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None

    _handlers: ClassVar[dict[type, Callable[..., None]]] = {
        msg.Append: _on_append,
        msg.Offer: _on_offer,
        msg.Ack: _on_ack,
        msg.RequestVote: _on_request_vote,
        msg.Vote: _on_vote,
        msg.RequestPreVote: _on_request_pre_vote,
        msg.PreVote: _on_pre_vote,
        msg.TimeoutNow: _on_timeout_now,
        msg.Pull: _on_pull,
        msg.Chunk: _on_chunk,
    }

    # -- snapshots ----------------------------------------------------------------------------

    def snapshot_ready(self, manifest: msg.Manifest | None) -> None:
        """The snapshot asked for is made (None: it could not be)."""
        self.offer_wanted = False
        if manifest is not None and manifest.index >= self.log.base_index:
            assert manifest.index <= self.delivered_index, "a snapshot of what was applied"
            self.offer, self.offer_used_s = manifest, self._clock()

    def installed(self, manifest: msg.Manifest) -> None:
        """The state machine now stands, durably, at `manifest.index`."""
        assert manifest.index > self.delivered_index, "state never goes back (D4)"
        self.receiver.done()
        if self.log.term_at(manifest.index) != manifest.term:
            self.log.reset(manifest.index, manifest.term)
        self._SyncObj__raftLastApplied = manifest.index
        self._SyncObj__raftCommitIndex = max(self.commit_index, manifest.index)
        if self.leader is not None and not self.is_leader:
            self._answer(self.leader, 0, matched=manifest.index)

    def install_failed(self) -> None:
        """The snapshot was not usable: nothing changed, nothing is acknowledged (D5)."""
        self.receiver.failed(self._clock())
