"""ReadIndex: a read that is never stale, without writing to the log. Pure.

Raft thesis, section 6.4: the leader must have committed an entry of its own term; it notes its
commit index, proves with one more round of heartbeats that it still leads, and the read may be
answered by any replica that has applied up to that index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Answer = Callable[[int | None], None]
"""Called once: with the index to wait for, or None when leadership was lost."""


@dataclass
class _Read:
    answer: Answer
    index: int = 0
    round: int = 0


@dataclass
class ReadBarrier:
    """The strong reads that wait at one leader."""

    members: int
    round: int = 0
    """Number of the latest broadcast. It grows while the process lives, so an echo of an earlier
    term of office never reaches the round of a later read."""
    _acked: dict[str, int] = field(default_factory=dict)
    _waiting: list[_Read] = field(default_factory=list)

    def ask(self, answer: Answer) -> None:
        """Queue a read."""
        self._waiting.append(_Read(answer))

    def acked(self, follower: str, echoed_round: int) -> None:
        """A follower of our term answered a broadcast."""
        self._acked[follower] = max(echoed_round, self._acked.get(follower, 0))

    @property
    def waiting(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    @property
    def wants_broadcast(self) -> bool:
        """Whether a read waits for a round that has not been sent."""
        return any(read.index and read.round > self.round for read in self._waiting)

    def serve(self, *, leading: bool, commit_index: int, office_index: int) -> None:
        """Answer what can be answered. `office_index` is the first entry of this term."""
        if not self._waiting:
            return
        if not leading:
            self._fail_all()
            return
        if commit_index < office_index:
            return
        still: list[_Read] = []
        for read in self._waiting:
            if not read.index:
                read.index, read.round = commit_index, self.round + 1
            if self._proved(read.round):
                read.answer(read.index)
            else:
                still.append(read)
        self._waiting = still

    def _proved(self, round_: int) -> bool:
        echoes = sum(1 for echoed in self._acked.values() if echoed >= round_)
        return 2 * (echoes + 1) > self.members

    def _fail_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for read in waiting:
            read.answer(None)
