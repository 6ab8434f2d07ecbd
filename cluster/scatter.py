"""One read over many shards: who is asked, who is asked instead, and what is missing.

A round asks the smallest set of nodes that covers the shards still open, each for its own ones,
all at once. A shard whose node failed, or refused it as stale, goes to another replica in the
next round. When every replica of some shard has been asked, a cycle is over; the next one, after
a pause that doubles, begins anew, because a replica without a leader usually has one soon. A
caller that takes partial answers gets what one cycle found.

While a shard has replicas left, a node is waited for no longer than half of the time that
remains: a node that hangs costs a delay, not the answer. An error that is the request's own
fault is raised at once: every replica would say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from cluster.cover import Assignment, cover
from cluster.errors import RecollectError, ShardsUnavailable, Unavailable
from cluster.fan_out import fan_out
from cluster.local_reads import LocalReads, ReadKind
from cluster.peer_methods import ShardAnswer, ShardRead
from cluster.routing import Routing

PAUSE_FIRST_S: Final = 0.05

QueryType = TypeVar("QueryType")
FoundType = TypeVar("FoundType")


@dataclass(frozen=True, slots=True)
class ReadTerms:
    """What a read is held to: when it must be answered, from which index on each shard is to be
    read, how stale a replica may be, and whether missing shards are an error. `reflected` takes
    up to which index each shard was seen."""

    deadline_s: float
    required: Mapping[int, int] = field(default_factory=dict)
    allow_partial: bool = False
    max_staleness_ms: int | None = None
    reflected: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Gathered(Generic[FoundType]):
    """What was found, by the node that answered; which node answered each shard; and why the
    missing shards are missing."""

    found: list[FoundType] = field(default_factory=list)
    answered_by: dict[int, str] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)

    def require_all(self) -> None:
        """Raise ShardsUnavailable, naming them, when shards are missing."""
        if self.missing:
            raise shards_unavailable(self.missing)


def shards_unavailable(reasons: Mapping[int, str]) -> ShardsUnavailable:
    """Return the error that names these shards, those of one reason together."""
    together: dict[str, list[str]] = {}
    for shard, reason in sorted(reasons.items()):
        together.setdefault(reason, []).append(str(shard))
    text = "; ".join(f"shard {', '.join(shards)}: {why}" for why, shards in together.items())
    return ShardsUnavailable(text, shards=tuple(sorted(reasons)))


class Scatter:
    """Asks this node and others; see the module."""

    def __init__(self, routing: Routing, local: LocalReads) -> None:
        self._routing = routing
        self._local = local

    async def gather(
        self,
        kind: ReadKind[QueryType, FoundType],
        query_of: Callable[[Sequence[int]], QueryType],
        shards: Iterable[int],
        terms: ReadTerms,
        first: Mapping[int, str] | None = None,
    ) -> Gathered[FoundType]:
        """Return what `query_of(shards)` finds in `shards`.

        `first` names the node to ask first for each shard. Raises the request's own errors, and,
        unless partial answers are allowed, ShardsUnavailable.
        """
        read = _Read(self._routing, self._local, kind, query_of, terms)
        gathered: Gathered[FoundType] = Gathered(missing=dict.fromkeys(shards, "not asked"))
        pause_s = PAUSE_FIRST_S
        await read.cycle(gathered, first or {})
        while gathered.missing and not terms.allow_partial and read.time_for(pause_s):
            await self._routing.sleep(pause_s)
            pause_s *= 2
            await read.cycle(gathered, {})
        if not terms.allow_partial:
            gathered.require_all()
        return gathered


@dataclass(frozen=True, slots=True)
class _Read(Generic[QueryType, FoundType]):
    """One read on its way."""

    routing: Routing
    local: LocalReads
    kind: ReadKind[QueryType, FoundType]
    query_of: Callable[[Sequence[int]], QueryType]
    terms: ReadTerms

    def time_for(self, duration_s: float) -> bool:
        """Return whether there is time left after `duration_s`."""
        return self.routing.clock() + duration_s < self.terms.deadline_s

    async def cycle(self, gathered: Gathered[FoundType], first: Mapping[int, str]) -> None:
        """Ask for what is missing until every replica of it was asked once, or time is up."""
        asked: dict[int, set[str]] = {shard: set() for shard in gathered.missing}
        while gathered.missing and self.time_for(0):
            candidates = {
                shard: self._candidates(shard, asked[shard], first) for shard in gathered.missing
            }
            assignment, uncovered = cover(candidates, self.routing.me)
            for shard in uncovered:
                if not asked[shard]:
                    gathered.missing[shard] = (
                        "no replica can be reached that is in touch with its leader"
                    )
            if not assignment:
                return
            for node, shards in assignment.items():
                for shard in shards:
                    asked[shard].add(node)
            await self._round(assignment, asked, gathered)

    def _candidates(self, shard: int, asked: set[str], first: Mapping[int, str]) -> list[str]:
        if shard in first and not asked:
            return [first[shard]]
        members = self.routing.members(shard)
        return [node for node in members if node not in asked and self._may_answer(node, shard)]

    def _may_answer(self, node: str, shard: int) -> bool:
        if node == self.routing.me:
            return self.local.has_fresh(shard, self.terms.max_staleness_ms)
        return self.routing.peers.connected(node)

    async def _round(
        self,
        assignment: Assignment,
        asked: Mapping[int, set[str]],
        gathered: Gathered[FoundType],
    ) -> None:
        calls = [
            self._ask(node, shards, self._until(shards, asked))
            for node, shards in assignment.items()
        ]
        answers = await fan_out(calls)
        for (node, shards), answer in zip(assignment.items(), answers, strict=True):
            self._note(node, shards, answer, gathered)

    def _until(self, shards: Sequence[int], asked: Mapping[int, set[str]]) -> float:
        """Return how long to wait for a node: half of the time if others could follow it."""
        now_s, deadline_s = self.routing.clock(), self.terms.deadline_s
        others = any(len(asked[shard]) < len(self.routing.members(shard)) for shard in shards)
        return now_s + (deadline_s - now_s) / 2 if others else deadline_s

    async def _ask(self, node: str, shards: list[int], until_s: float) -> ShardAnswer[FoundType]:
        required = {
            shard: self.terms.required[shard] for shard in shards if shard in self.terms.required
        }
        left_ms, query = self.routing.left_ms(until_s), self.query_of(shards)
        read = ShardRead(shards, required, left_ms, query, self.terms.max_staleness_ms)
        if node == self.routing.me:
            return await self.local.answer(self.kind, read, until_s)
        return await self.routing.peers.call(node, self.kind.method, read, until_s)

    def _note(
        self,
        node: str,
        shards: Sequence[int],
        answer: ShardAnswer[FoundType] | RecollectError,
        gathered: Gathered[FoundType],
    ) -> None:
        if isinstance(answer, RecollectError):
            if not isinstance(answer, Unavailable) and answer.code != RecollectError.code:
                raise answer
            answer = ShardAnswer(dict.fromkeys(shards, answer.message))
        seen = self.terms.reflected
        for shard, index in answer.reflected.items():
            seen[shard] = max(index, seen.get(shard, 0))
        for shard in shards:
            if shard in answer.refused:
                gathered.missing[shard] = f"{node}: {answer.refused[shard]}"
            else:
                del gathered.missing[shard]
                gathered.answered_by[shard] = node
        if answer.found is not None:
            gathered.found.append(answer.found)
