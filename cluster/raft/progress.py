"""What the leader knows of one follower, and what is under way to it. Pure.

Two states, as in the Raft implementations that grew up (etcd's "probe" and "replicate"). While
*probing*, the leader looks for the place where the logs agree: one message at a time, paused
until it is answered or the next heartbeat is due. Once an answer proves agreement it
*replicates*: entries are pipelined, with at most `limit_bytes` of them unacknowledged, since a
slow follower must cost the leader neither its memory nor its heartbeats.

A rejection is believed only if it answers what is being asked: one lost message makes the
follower reject everything behind it, and obeying each of those rejections would send the same
suffix again for each, without end.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

FULL_PAUSE_S: Final = 0.5


@dataclass
class Progress:
    """One follower, in one term of office."""

    limit_bytes: int
    next: int = 1
    match: int = 0
    probing: bool = True
    paused: bool = False
    in_flight_bytes: int = 0
    full_until_s: float = -math.inf
    """The follower has no room: until then it gets no entries, but heartbeats."""
    _sent: deque[tuple[int, int]] = field(default_factory=deque)

    def take_office(self, last_index: int) -> None:
        """A new term of office: nothing is known of the follower's log."""
        self.match, self.next = 0, last_index + 1
        self.probe()

    def rest(self, now_s: float) -> None:
        """The follower has no room: entries would only be dropped."""
        self.full_until_s = now_s + FULL_PAUSE_S

    def probe(self) -> None:
        """What was under way is lost or refused: look for agreement again."""
        self.probing, self.paused = True, False
        self._sent.clear()
        self.in_flight_bytes = 0

    def reconnected(self) -> None:
        """What was under way on the earlier connection is lost; and the follower may have come
        back without what it once had, so what matches is to be proved again."""
        if self.match:
            self.next = self.match + 1
        self.match = 0
        self.probe()

    @property
    def may_send(self) -> bool:
        """Whether another message of entries may go now."""
        return not self.paused if self.probing else self.in_flight_bytes < self.limit_bytes

    def sent(self, last_index: int, size_bytes: int) -> None:
        """A message with entries up to `last_index` went out."""
        if self.probing:
            self.paused = True
            return
        self.next = last_index + 1
        self._sent.append((last_index, size_bytes))
        self.in_flight_bytes += size_bytes

    def accepted(self, matched: int) -> None:
        """The follower's log equals ours up to `matched`."""
        self.match = max(self.match, matched)
        if self.probing and matched + 1 >= self.next:
            self.probing = self.paused = False
        self.next = max(self.next, self.match + 1)
        while self._sent and self._sent[0][0] <= matched:
            self.in_flight_bytes -= self._sent.popleft()[1]
        assert self.in_flight_bytes >= 0, "more acknowledged than sent"
        assert self.next > self.match, "what matches is not sent again"

    def rejected(self, asked_index: int, hint: int) -> bool:
        """The follower has no entry `asked_index` of ours and suggests `hint`; False if stale."""
        stale = asked_index != self.next - 1 if self.probing else asked_index <= self.match
        if stale:
            return False
        self.next = max(self.match + 1, min(hint, asked_index))
        self.probe()
        return True
