"""What a replica does about leadership and commits beside pysyncobj's rules.

*Handing over* (Raft thesis, section 3.10): a leader that is to hand over takes no more proposals,
so that its heir can catch up even under load, and then lets the heir stand at once. If that takes
longer than an election timeout it goes on leading.

*News of commits*: followers hear of a commit with the next entries, or after a moment. Who cannot
wait is told by somebody who knows: a log that holds the entry (index, term) equals the leader's up
to it (paper, section 5.3), so all before it is committed too.

Not thread-safe; no IO; reads time from `clock`.
"""

from __future__ import annotations

import math

from cluster.raft.core import HardenedCore
from cluster.raft.pinned import peer as peer_of


class Officer(HardenedCore):
    """See the module."""

    def transfer_to(self, peer: str) -> None:
        """Hand leadership to `peer`, once it is caught up; until then take no proposals."""
        if self.is_leader and not self.heir:
            self.heir, self._heir_told = peer, False
            self._heir_until_s = self._clock() + self.timing.election_timeout_s
            self._bequeath()

    def _bequeath(self) -> None:
        if self._clock() >= self._heir_until_s or not self.isNodeConnected(peer_of(self.heir)):
            self.heir = ""
        elif self.caught_up(self.heir) and not self._heir_told:
            self._heir_told = True
            self.transferLeadership(peer_of(self.heir))

    def learn_commit(self, index: int, term: int) -> None:
        """Take a member's word that the entry (index, term) is committed; it may come later."""
        self._hearsay = max(self._hearsay, (index, term))

    def _heed_hearsay(self) -> None:
        index, term = self._hearsay
        if index > self.commit_index and self.log.term_at(index) == term:
            self._SyncObj__raftCommitIndex = index

    def caught_up(self, peer: str) -> bool:
        """Whether `peer` holds all of this leader's log."""
        return bool(self._SyncObj__raftMatchIndex.get(peer_of(peer), 0) == self.log.last_index)

    @property
    def due_s(self) -> float:
        """When the group has to tick next if nothing happens to it."""
        if self.failed:
            return math.inf
        if not self.is_leader:
            return float(min(self.election.deadline_s, self._SyncObj__raftElectionDeadline))
        if self.heir:
            return -math.inf
        beat_s: float = self._SyncObj__newAppendEntriesTime
        if self.commit_index != self._sent[1]:
            return min(beat_s, self._told_s + self.commit_notice_s)
        return beat_s

    def _has_news(self, now: float, commit_index: int) -> bool:
        """Whether followers must hear now. That something is committed can wait a moment for
        company: who waits for it at a follower was told with the answer."""
        if self.log.last_index != self._sent[0] or self.reads.wants_broadcast:
            return True
        return commit_index != self._sent[1] and now >= self._told_s + self.commit_notice_s
