"""When to stand for election. Pure: time and chance are arguments.

The stock core stands as soon as its deadline passes, which lets a node that hears nobody raise
terms and, when it returns, depose a healthy leader. Here its deadline stays at infinity (D18)
until this module has won a pre-vote (Raft thesis, 9.6): a majority says it has not heard from a
leader within the shortest election timeout and would vote for our log.

A lost connection to the leader is evidence that a timeout has to wait for: then the deadline
comes forward to 30-70 ms, and we no longer count as having heard from it. All followers notice
at once, so each member waits a step longer than the one before it: two that stand together split
the votes, and a split costs more than a step. Until a leader is heard again, attempts follow each
other within 100-400 ms instead of a whole timeout.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from cluster.raft.messages import PreVote, RequestPreVote

HURRY_S = (0.03, 0.07)
HURRY_STEP_S = 0.1
HURRY_AGAIN_S = (0.1, 0.4)


@dataclass
class Election:
    """Pre-vote and timers of one replica. `members` counts all voters, itself included."""

    members: int
    timeout_s: tuple[float, float]
    random: random.Random
    deadline_s: float = math.inf
    heard_s: float = -math.inf
    hurried: bool = False
    asked_term: int = 0
    granted: set[str] = field(default_factory=set)
    voters: set[str] = field(default_factory=set)

    def arm(self, now_s: float) -> None:
        """Wait for a full random timeout from now."""
        self.deadline_s = now_s + self.random.uniform(*self.timeout_s)

    def heard_from_leader(self, now_s: float) -> None:
        """A message of the current leader arrived: any pre-vote under way is off."""
        self.heard_s = now_s
        self.hurried = False
        self.asked_term = 0
        self.arm(now_s)

    def lost_leader(self, now_s: float, rank: int) -> None:
        """The connection to the leader closed; `rank` counts the members that go first."""
        self.heard_s = -math.inf
        self.hurried = True
        wait_s = rank * HURRY_STEP_S + self.random.uniform(*HURRY_S)
        self.deadline_s = min(self.deadline_s, now_s + wait_s)

    def due(self, now_s: float) -> bool:
        """Whether it is time to ask for pre-votes."""
        return now_s >= self.deadline_s

    def ask(self, term: int, now_s: float) -> bool:
        """Begin a pre-vote for `term`; return whether it is won at once (a group of one)."""
        self.asked_term = term
        self.granted.clear()
        self.arm(now_s)
        if self.hurried:
            self.deadline_s = now_s + self.random.uniform(*HURRY_AGAIN_S)
        return self._won()

    def may_grant(
        self, ask: RequestPreVote, *, now_s: float, term: int, last: tuple[int, int]
    ) -> bool:
        """Whether we would vote for the asker; `last` is (term, index) of our last entry."""
        sticky = now_s - self.heard_s < self.timeout_s[0]
        return not sticky and ask.term > term and (ask.last_term, ask.last_index) >= last

    def count_pre_vote(self, voter: str, answer: PreVote) -> bool:
        """Count an answer; return True once, when it makes the majority."""
        if not answer.granted or not self.asked_term or answer.asked_term != self.asked_term:
            return False
        self.granted.add(voter)
        return self._won()

    def count_vote(self, voter: str) -> bool:
        """Count a vote of the running election once per voter (D16); False for a repetition."""
        if voter in self.voters:
            return False
        self.voters.add(voter)
        return True

    def stood(self) -> None:
        """A real election began: no vote has been counted yet."""
        self.voters.clear()

    def _won(self) -> bool:
        if 2 * (len(self.granted) + 1) <= self.members:
            return False
        self.asked_term = 0
        return True
