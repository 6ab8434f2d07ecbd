"""What every part of the router shares: this node, its replicas, its view, its clock.

A group is a shard's number, or METADATA_GROUP. The view is the newest of two: what this node's
metadata replica has applied, and, for a node outside that group, what it last fetched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, ParamSpec, Protocol, TypeVar

from cluster.command import Result
from cluster.config import Config
from cluster.errors import NotReady
from cluster.metadata import ClusterView
from cluster.model import SEEN_METADATA, Session
from cluster.peer import Peers
from cluster.shard import ShardMachine

METADATA_GROUP: Final = SEEN_METADATA

Arguments = ParamSpec("Arguments")
ValueType = TypeVar("ValueType")


class GroupReplica(Protocol):
    """What the router needs of a replica of any group."""

    @property
    def is_leader(self) -> bool:
        """Whether this replica leads its group, as far as it knows."""
        ...

    @property
    def leader(self) -> str | None:
        """The node that leads, as far as this replica knows."""
        ...

    @property
    def applied_index(self) -> int:
        """The last log index that reads here reflect."""
        ...

    @property
    def shown_index(self) -> int:
        """The highest log index that a read which ends now may have seen."""
        ...

    @property
    def term(self) -> int:
        """The current term."""
        ...

    def fresh(self, max_staleness_ms: int) -> bool:
        """Return whether the leader was heard of within that time and all it told is applied."""
        ...

    def term_at(self, index: int) -> int:
        """Return the term of the log's entry at `index`; 0 when it is not in the log."""
        ...

    def learn_commit(self, index: int, term: int) -> None:
        """Take another member's word that it has applied the entry (index, term); 0: unknown."""
        ...

    async def propose(self, command: bytes, deadline_s: float) -> Result:
        """Return a command's result once it is committed and applied here.

        Raises NotLeader, OutcomeUnknown, DeadlineExceeded, Overloaded, StorageFull.
        """
        ...

    async def wait_applied(self, index: int, deadline_s: float) -> None:
        """Return when reads here reflect `index`; raises DeadlineExceeded."""
        ...

    async def read_index(self, deadline_s: float) -> int:
        """Return the leader's commit index, confirmed by a majority; raises NotLeader."""
        ...


class ShardReplica(GroupReplica, Protocol):
    """A replica of a shard."""

    @property
    def machine(self) -> ShardMachine:
        """The shard's state, to read from."""
        ...


@dataclass(kw_only=True)
class Routing:
    """See the module. `clock` is monotonic, in seconds; `sleep` waits on that clock."""

    config: Config
    me: str
    metadata: GroupReplica | None
    local_view: Callable[[], ClusterView | None]
    replicas: Mapping[int, ShardReplica]
    peers: Peers
    executor: Executor
    clock: Callable[[], float]
    wall_ms: Callable[[], int]
    sleep: Callable[[float], Awaitable[None]]
    metadata_members: Sequence[str]
    view_learned: Callable[[ClusterView], None] | None
    """Told of each newer view that another node sent."""
    _fetched_view: ClusterView | None = None

    def view(self) -> ClusterView:
        """Return the newest view; raises NotReady before the cluster is formed."""
        view = self.local_view()
        fetched = self._fetched_view
        if fetched is not None and (view is None or view.applied_index < fetched.applied_index):
            view = fetched
        if view is None:
            raise NotReady("the cluster is not formed yet")
        return view

    def command_bytes_max(self) -> int:
        """Return the size of the largest command; raises NotReady before there is a cluster."""
        return self.view().command_bytes_max or self.config.command_bytes_max

    def learn_view(self, view: ClusterView) -> None:
        """Take note of a view that another node sent."""
        known = self._fetched_view
        if known is None or known.applied_index < view.applied_index:
            self._fetched_view = view
            if self.view_learned is not None:
                self.view_learned(view)

    def session(self, seen: Session) -> Session:
        """Return `seen` with what this node's view, which names collections, reflects."""
        view = self.view().applied_index
        known = seen.indexes.get(SEEN_METADATA, 0)
        return seen if view <= known else Session({**seen.indexes, SEEN_METADATA: view})

    def members(self, group: int) -> Sequence[str]:
        """Return the nodes that hold a replica of a group, the preferred leader first."""
        if group == METADATA_GROUP:
            return self.metadata_members
        return self.view().shard_map[group]

    def replica(self, group: int) -> GroupReplica | None:
        """Return this node's replica of a group, if it has one."""
        return self.metadata if group == METADATA_GROUP else self.replicas.get(group)

    def left_ms(self, deadline_s: float) -> int:
        """Return the whole milliseconds until a deadline, at least 0."""
        return max(0, int((deadline_s - self.clock()) * 1000))

    def deadline_after(self, timeout_ms: int) -> float:
        """Return the time on this node's clock at which `timeout_ms` will have passed."""
        return self.clock() + timeout_ms / 1000

    async def run(
        self,
        work: Callable[Arguments, ValueType],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> ValueType:
        """Run blocking work on a thread of the pool."""
        return await self.run_in(self.executor, work, *args, **kwargs)

    async def run_in(
        self,
        executor: Executor,
        work: Callable[Arguments, ValueType],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> ValueType:
        """Run blocking work on a thread of another pool."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, lambda: work(*args, **kwargs))
