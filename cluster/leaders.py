"""Calls that only a group's leader can answer: proposals and the ReadIndex barrier.

The node that took the request finds the leader; a call is forwarded at most once, because the
node it is forwarded to answers NotLeader, with its hint, instead of forwarding again. So there
are no loops, and no request waits behind two guesses it does not know of.

A pass asks each member at most once, the likeliest first: this node when it leads, whom its own
replica follows, whom the last answer named, then the others. Between passes it waits, longer
each time, until the deadline. A leader that hangs must not use up the whole deadline, hence a
remote attempt is given up after a while; what it may still do later is harmless, because every
attempt carries the same request id and a request id is applied once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from cluster.command import Result, seal_command
from cluster.errors import (
    DeadlineExceeded,
    NotLeader,
    NotReady,
    OutcomeUnknown,
    Overloaded,
    RecollectError,
    Unavailable,
)
from cluster.peer_methods import PROPOSE, READ_INDEX, Propose, Proposed, ReadIndex
from cluster.routing import METADATA_GROUP, GroupReplica, Routing

PAUSE_FIRST_S: Final = 0.02
PAUSE_MAX_S: Final = 0.32
_ATTEMPT_ELECTIONS: Final = 1.5
"""Shortest election timeouts after which a forwarded attempt is given up: by then a cluster that
lost its leader usually has the next one."""

ValueType = TypeVar("ValueType")


Ask = Callable[[str, float], Awaitable[ValueType]]
"""Asks a node, given the time until which to wait for it."""


@dataclass
class _Trail:
    """What a call has met so far."""

    hint: str | None = None
    unknown: bool = False
    """Whether some attempt may have reached a log."""
    last: RecollectError | None = None

    def verdict(self, group: int) -> Unavailable:
        """Return what to tell the caller once time is up."""
        whose = "the metadata group has " if group == METADATA_GROUP else ""
        if self.last is None:
            return Unavailable(f"{whose}no node that could be asked in time")
        text = f"{whose}no leader that answers ({self.last.message})"
        return OutcomeUnknown(text) if self.unknown else Unavailable(text)

    def note(self, error: RecollectError) -> None:
        """Take note of a failure; one that may have taken effect outweighs a mere "not here"."""
        self.hint = error.leader if isinstance(error, NotLeader) else None
        proposed = not isinstance(error, NotLeader | NotReady)
        if proposed or not self.unknown:
            self.last = error
        self.unknown = self.unknown or proposed


class Leaders:
    """Proposes to leaders and asks them for read indexes, here or on other nodes."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing
        self._known: dict[int, str] = {}
        self._attempt_s = _ATTEMPT_ELECTIONS * routing.config.election_timeout_ms / 1000

    async def propose(self, group: int, request_id: str, body: bytes, deadline_s: float) -> Result:
        """Return the result of a command, once a majority has it on disk and the leader applied it.

        Raises OutcomeUnknown, Unavailable, Overloaded, StorageFull; a retry with the same request
        id is always safe.
        """

        async def ask(node: str, until_s: float) -> Result:
            if node == self._routing.me:
                return await self._propose_here(group, request_id, body, deadline_s)
            request = Propose(group, request_id, body, self._routing.left_ms(until_s))
            done = await self._routing.peers.call(node, PROPOSE, request, until_s)
            own = self._routing.replica(group)
            if own is not None:
                own.learn_commit(done.result.version, done.term)
            return done.result

        return await self.change_at_leader(group, ask, deadline_s)

    async def read_index(self, group: int, deadline_s: float) -> int:
        """Return an index such that a read at it sees all that was acknowledged before the call.

        Raises Unavailable or DeadlineExceeded.
        """

        async def ask(node: str, until_s: float) -> int:
            if node == self._routing.me:
                return await self._replica(group).read_index(until_s)
            request = ReadIndex(group, self._routing.left_ms(until_s))
            return await self._routing.peers.call(node, READ_INDEX, request, until_s)

        return await self.ask_leader(group, ask, deadline_s)

    async def ask_leader(self, group: int, ask: Ask[ValueType], deadline_s: float) -> ValueType:
        """Return what `ask` reads at the group's leader; raises Unavailable or DeadlineExceeded."""
        try:
            return await self.change_at_leader(group, ask, deadline_s)
        except OutcomeUnknown as error:
            raise DeadlineExceeded(error.message) from error

    def likely(self, group: int) -> str | None:
        """Return the node that this one takes for the group's leader."""
        replica = self._routing.replica(group)
        if replica is not None and replica.is_leader:
            return self._routing.me
        own = replica.leader if replica is not None else None
        return own or self._known.get(group)

    def register(self) -> None:
        """Answer other nodes' calls; never by forwarding."""
        self._routing.peers.serve(PROPOSE, self._serve_propose)
        self._routing.peers.serve(READ_INDEX, self._serve_read_index)

    async def _serve_propose(self, request: Propose) -> Proposed:
        deadline_s = self._routing.deadline_after(request.timeout_ms)
        group = request.group
        result = await self._propose_here(group, request.request_id, request.body, deadline_s)
        return Proposed(result, self._replica(group).term_at(result.version))

    async def _serve_read_index(self, request: ReadIndex) -> int:
        deadline_s = self._routing.deadline_after(request.timeout_ms)
        return await self._replica(request.group).read_index(deadline_s)

    async def _propose_here(
        self, group: int, request_id: str, body: bytes, deadline_s: float
    ) -> Result:
        replica = self._replica(group)
        if not replica.is_leader:
            text = "no leader is known" if replica.leader is None else "another node leads"
            raise NotLeader(text, leader=replica.leader)
        command = seal_command(request_id, self._routing.wall_ms(), body)
        return await replica.propose(command, deadline_s)

    def _replica(self, group: int) -> GroupReplica:
        replica = self._routing.replica(group)
        if replica is None:
            raise NotLeader(f"{self._routing.me} has no replica")
        return replica

    async def change_at_leader(
        self, group: int, ask: Ask[ValueType], deadline_s: float
    ) -> ValueType:
        """Return what `ask`, which may change something there, returns at the leader.

        Raises at the deadline: OutcomeUnknown when some attempt may have taken effect, else
        Unavailable. Raises at once what another attempt would not change.
        """
        trail = _Trail()
        pause_s = PAUSE_FIRST_S
        clock = self._routing.clock
        while True:
            for node in self._candidates(group, trail):
                if clock() >= deadline_s:
                    break
                try:
                    return await self._ask(group, node, ask, deadline_s)
                except RecollectError as error:
                    if not _another_try_helps(error):
                        raise
                    self._forget(group, node)
                    trail.note(error)
            if clock() + pause_s >= deadline_s:
                raise trail.verdict(group)
            await self._routing.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _ask(
        self, group: int, node: str, ask: Ask[ValueType], deadline_s: float
    ) -> ValueType:
        attempt_ends_s = self._routing.clock() + self._attempt_s
        here = node == self._routing.me
        answer = await ask(node, deadline_s if here else min(deadline_s, attempt_ends_s))
        self._known[group] = node
        return answer

    def _candidates(self, group: int, trail: _Trail) -> Iterator[str]:
        """Yield each member at most once, by what is known when the next one is needed."""
        asked: set[str] = set()
        while True:
            guesses = (trail.hint, self.likely(group), *self._routing.members(group))
            left = (node for node in guesses if node is not None and node not in asked)
            node = next((node for node in left if self._reachable(node)), None)
            if node is None:
                return
            asked.add(node)
            yield node

    def _reachable(self, node: str) -> bool:
        return node == self._routing.me or self._routing.peers.connected(node)

    def _forget(self, group: int, node: str) -> None:
        if self._known.get(group) == node:
            del self._known[group]


def _another_try_helps(error: RecollectError) -> bool:
    """Return whether another node, or the same one later, may do what this one did not.

    An overloaded leader would only be loaded more.
    """
    if isinstance(error, Overloaded):
        return False
    return isinstance(error, Unavailable) or error.code == RecollectError.code
