"""A cluster in one process for the router's tests: real state machines and indexes, no network.

Each group is one log that all its replicas apply, at once unless a test holds one back. What
would run on a thread runs inline. The wire
hands a call to the other router's handler, encoded and decoded as it would be on its way. Time
stands still but for what the code waits for: sleeping, and waiting for what does not come, move
the clock to the end of the wait.

What a test can do: change leaders, let a leader lie about who leads, lose the answer of a command
that was applied, refuse commands, kill, cut off or hang a node, hold back a replica, make it stale.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec

from cluster.command import Command, Result, decode_command
from cluster.config import Config
from cluster.errors import (
    DeadlineExceeded,
    NotLeader,
    OutcomeUnknown,
    RecollectError,
    Unavailable,
)
from cluster.metadata import ClusterView, Init, MetadataMachine, encode_metadata
from cluster.model import Collection, Options, Session
from cluster.peer import decode_error, encode_error
from cluster.router import Router
from cluster.shard import ShardMachine
from cluster.state_machine import Entry
from storage.index_set import IndexSet

TIMEOUT_S = 4.5


class InlineExecutor:
    """Does at once what it is given: the machines are in memory and know one thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            future.set_exception(error)
        return future


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.on_sleep: Callable[[], object] = lambda: None
        """Called when the router pauses."""
        self.on_wait: Callable[[], object] = lambda: None
        """Called when something is waited for in vain."""

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s
        self.on_sleep()
        await asyncio.sleep(0)

    def wait_until(self, deadline_s: float) -> None:
        self.now_s = max(self.now_s, deadline_s)
        self.on_wait()


class Group:
    """One log, its leader, and the replicas that apply it."""

    def __init__(self, members: list[str], clock: Clock) -> None:
        self.clock = clock
        self.leader: str | None = members[0]
        self.term = 1
        self.log: list[Entry] = []
        self.replicas: dict[str, GroupReplica] = {}
        self.failures: list[Callable[[], Exception]] = []
        """Raised by the next proposals instead of appending them."""
        self.fail_from: int | None = None
        """Proposals for this index and later ones fail."""
        self.answers_lost = 0
        """The next commands are applied, but their proposers never hear of it."""
        self.members = members

    def elect(self, node: str | None) -> None:
        """Change the leader; None: there is none."""
        self.leader = node
        self.term += 1

    @property
    def next_index(self) -> int:
        return self.log[-1].index + 1 if self.log else 2

    def append(self, command: bytes) -> Result:
        index = self.next_index
        self.log.append(Entry(index, self.term, command))
        for replica in self.replicas.values():
            if replica.is_leader or not replica.held_back:
                replica.catch_up()
        assert self.leader is not None
        return self.replicas[self.leader].results[index]


class GroupReplica:
    """What the router sees of a replica."""

    def __init__(self, group: Group, node: str, machine: Any) -> None:
        self.group, self.node, self.machine = group, node, machine
        self.results: dict[int, Result] = {}
        self.held_back = False
        self.is_stale = False
        self.stale_ms = 0
        """How long ago it heard from its leader."""
        self.believes: str | None = None
        """Whom this replica takes for the leader instead of the real one."""
        self.applied_override: int | None = None
        """What the replica says it has applied, while its machine is further."""
        self.proposed: list[bytes] = []
        self.on_propose: Callable[[], object] = lambda: None
        """Called before something is proposed here."""
        self.applied: Callable[[GroupReplica], None] = lambda replica: None
        group.replicas[node] = self

    @property
    def is_leader(self) -> bool:
        return self.group.leader == self.node

    @property
    def leader(self) -> str | None:
        return self.believes or self.group.leader

    @property
    def term(self) -> int:
        return self.group.term

    @property
    def applied_index(self) -> int:
        override = self.applied_override
        return int(self.machine.position()[0]) if override is None else override

    @property
    def shown_index(self) -> int:
        return int(self.machine.position()[0])

    def fresh(self, max_staleness_ms: int) -> bool:
        return not self.is_stale and self.stale_ms <= max_staleness_ms

    def catch_up(self) -> None:
        """Apply what the log has."""
        entries = [entry for entry in self.group.log if entry.index > self.applied_index]
        for entry, result in zip(entries, self.machine.apply(entries), strict=True):
            self.results[entry.index] = result
        self.applied(self)

    def term_at(self, index: int) -> int:
        return self.group.term

    def learn_commit(self, index: int, term: int) -> None:
        """The shared log needs no telling."""

    async def propose(self, command: bytes, deadline_s: float) -> Result:
        self.proposed.append(command)
        self.on_propose()
        await asyncio.sleep(0)
        if not self.is_leader:
            raise NotLeader("not here", leader=self.leader)
        if self.group.failures:
            raise self.group.failures.pop(0)()
        if self.group.fail_from is not None and self.group.next_index > self.group.fail_from:
            raise Unavailable("no majority")
        result = self.group.append(command)
        if self.group.answers_lost:
            self.group.answers_lost -= 1
            raise OutcomeUnknown("leadership changed")
        return result

    async def wait_applied(self, index: int, deadline_s: float) -> None:
        await asyncio.sleep(0)
        if self.applied_index < index:
            self.group.clock.wait_until(deadline_s)
            raise DeadlineExceeded("not applied in time")

    async def read_index(self, deadline_s: float) -> int:
        await asyncio.sleep(0)
        if not self.is_leader:
            raise NotLeader("not here", leader=self.leader)
        return self.group.log[-1].index if self.group.log else 1


class Wire:
    """Who can talk to whom."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.channels: dict[str, Channel] = {}
        self.dead: set[str] = set()
        self.hanging: set[str] = set()
        self.answers_lost: set[str] = set()
        """Nodes that do what they are asked, but whose answers do not arrive."""
        self.on_call: Callable[[str, str, str], object] = lambda source, target, method: None
        self.on_answer: Callable[[str, Any], Any] = lambda method, answer: answer
        """May replace what a handler answered."""
        self.largest_answer = 0
        """Bytes."""
        self.calls: list[tuple[str, str, str]] = []
        """(from, to, method) of every call."""

    def of(self, method: str) -> list[tuple[str, str]]:
        """Return (from, to) of every call of a method."""
        return [(source, target) for source, target, name in self.calls if name == method]


class Channel:
    """One node's end of the wire."""

    def __init__(self, wire: Wire, node: str) -> None:
        self.wire, self.node = wire, node
        self.handlers: dict[str, Callable[[str, Any], Awaitable[Any]]] = {}
        self.unseen_deaths: set[str] = set()
        """Nodes whose death this one has not noticed yet."""
        wire.channels[node] = self

    def connected(self, node: str) -> bool:
        return node not in self.wire.dead or node in self.unseen_deaths

    def serve(self, method: str, handler: Callable[[str, Any], Awaitable[Any]]) -> None:
        assert method not in self.handlers
        self.handlers[method] = handler

    async def call(self, node: str, method: str, body: Any, deadline_s: float) -> Any:
        wire = self.wire
        assert deadline_s >= wire.clock(), "no call is made after its deadline"
        wire.calls.append((self.node, node, method))
        wire.on_call(self.node, node, method)
        await asyncio.sleep(0)
        if node in wire.dead or self.node in wire.dead:
            raise Unavailable(f"{node} is not connected")
        if node in wire.hanging:
            wire.clock.wait_until(deadline_s)
            raise DeadlineExceeded(f"{node} did not answer")
        answer = await self._handled(node, method, body)
        if node in wire.answers_lost:
            raise Unavailable(f"the connection to {node} was lost")
        return answer

    async def _handled(self, node: str, method: str, body: Any) -> Any:
        carried = msgspec.msgpack.decode(msgspec.msgpack.encode(body))
        try:
            answer = await self.wire.channels[node].handlers[method](self.node, carried)
        except RecollectError as error:
            raise decode_error(encode_error(error)) from None
        encoded = msgspec.msgpack.encode(self.wire.on_answer(method, answer))
        self.wire.largest_answer = max(self.wire.largest_answer, len(encoded))
        return msgspec.msgpack.decode(encoded)


class Node:
    """A router with its replicas and indexes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.indexes = IndexSet(None)
        self.shards: dict[int, GroupReplica] = {}
        self.metadata: GroupReplica | None = None
        self.told: ClusterView | None = None
        self.router: Router

    def view(self) -> ClusterView | None:
        if self.metadata is None:
            return self.told
        view: ClusterView | None = self.metadata.machine.view
        return view

    def learn(self, view: ClusterView) -> None:
        self.told = view
        self.open_indexes(view)

    def metadata_applied(self, replica: GroupReplica) -> None:
        self.open_indexes(replica.machine.view)

    def open_indexes(self, view: ClusterView | None) -> None:
        for each in view.collections.values() if view else ():
            known = self.indexes.get(each.uid)
            self.indexes.open(
                each.uid, each.dimension, each.distance, each.hnsw_m, each.hnsw_ef_construct
            )
            for shard, replica in self.shards.items() if known is None else ():
                self.index(shard, each.uid, replica.machine)
            self.fill(each)

    def fill(self, collection: Collection) -> None:
        """Have the payload indexes of a collection, and read what they lack."""

        def fetch(shard: int, seqs: Sequence[int]) -> Iterator[tuple[int, int, bytes]]:
            machine = self.shards[shard].machine
            for row in machine.rows_by_seq(
                collection.uid, seqs, with_vector=False, with_payload=True
            ):
                yield row.seq, row.version, row.payload

        index = self.indexes.get(collection.uid)
        assert index is not None
        if index.payloads.fields != collection.payload_indexes:
            index.payloads.set_fields(collection.payload_indexes, fetch)
        while index.payloads.fill():
            pass

    def index(self, shard: int, uid: int, machine: ShardMachine) -> None:
        index = self.indexes.get(uid)
        assert index is not None
        index.upsert(shard, list(machine.index_rows(uid)))

    def shard_applied(self, shard: int) -> Callable[[GroupReplica], None]:
        def applied(replica: GroupReplica) -> None:
            for change in replica.machine.take_changes():
                index = self.indexes.get(change.collection)
                if index is None:
                    continue
                if change.vector is None:
                    index.remove(shard, [change.seq])
                else:
                    row = (change.seq, change.version, change.id, change.vector)
                    index.defer(shard, [row], (), [change.payload])

        return applied


class RouterCluster:
    """Some nodes with a shard map; `node1` leads the metadata group."""

    def __init__(
        self,
        shard_map: list[list[str]],
        *,
        metadata_members: list[str] | None = None,
        **settings: Any,
    ) -> None:
        self.clock = Clock()
        self.wire = Wire(self.clock)
        names = sorted({node for members in shard_map for node in members})
        self.shard_map, self.names = shard_map, names
        self.pool: Any = InlineExecutor()
        addresses = ",".join(f"{name}=127.0.0.1:{6001 + at}" for at, name in enumerate(names))
        self.config = Config(
            node_id=names[0], cluster_nodes=addresses, shards=len(shard_map), **settings
        )
        self.nodes = {name: Node(name) for name in names}
        self.metadata = Group(metadata_members or names, self.clock)
        self.groups = [Group(list(members), self.clock) for members in shard_map]
        self._request_number = 0
        self.on_pause: Callable[[], object] = lambda: None
        """Called when a question to a graph lets others in."""
        self._open()
        self._form()
        for node in self.nodes.values():
            node.router = self._router(node)
            node.router.register_handlers()

    def _open(self) -> None:
        for name in self.metadata.members:
            machine = MetadataMachine(None, request_id_ttl_ms=60_000)
            replica = GroupReplica(self.metadata, name, machine)
            replica.applied = self.nodes[name].metadata_applied
            self.nodes[name].metadata = replica
        for shard, group in enumerate(self.groups):
            for name in group.members:
                shard_machine = ShardMachine(None, request_id_ttl_ms=60_000)
                replica = GroupReplica(group, name, shard_machine)
                replica.applied = self.nodes[name].shard_applied(shard)
                self.nodes[name].shards[shard] = replica

    def _form(self) -> None:
        replication = max(map(len, self.shard_map))
        init = Init("test", len(self.groups), replication, self.shard_map, self.names)
        self.metadata.append(encode_metadata(init, now_ms=1))
        for node in self.nodes.values():
            node.told = self.nodes["node1"].view()

    def new_router(self, name: str, **changes: Any) -> Router:
        """Return another router of a node, which is not on the wire."""
        return replace(self[name], **changes)

    def _router(self, node: Node) -> Router:
        return Router(
            config=self.config,
            node=node.name,
            metadata=node.metadata,
            view=node.view,
            replicas=node.shards,
            channel=Channel(self.wire, node.name),
            indexes=node.indexes,
            executor=self.pool,
            clock=self.clock,
            wall_ms=lambda: 1_700_000_000_000 + int(node.name.removeprefix("node")),
            request_ids=self._new_id,
            sleep=self.clock.sleep,
            metadata_members=self.metadata.members,
            view_learned=node.learn,
            pause=self._pause,
        )

    def _pause(self) -> None:
        self.on_pause()

    def _new_id(self) -> str:
        self._request_number += 1
        return f"request{self._request_number}"

    def __getitem__(self, name: str) -> Router:
        return self.nodes[name].router

    def options(self, **choices: Any) -> Options:
        """Return options whose deadline is the product's default."""
        session = Session(choices.pop("session", {}))
        return Options(deadline_s=self.clock() + TIMEOUT_S, session=session, **choices)

    def replica(self, node: str, shard: int) -> GroupReplica:
        return self.nodes[node].shards[shard]

    def kill(self, *nodes: str) -> None:
        """Stop nodes; the others notice at once."""
        self.wire.dead.update(nodes)

    def commands(self, shard: int) -> list[Command]:
        """Return what is in a shard's log."""
        return [decode_command(entry.command) for entry in self.groups[shard].log]

    async def collection(self, name: str = "things", **changes: Any) -> Collection:
        """Create a collection through node1."""
        shape = {"dimension": 4, "distance": "Cosine", "hnsw_m": 16, "hnsw_ef_construct": 100}
        return await self["node1"].create_collection(
            name, **{**shape, "embedding_space": None, **changes}, options=self.options()
        )

    def close(self) -> None:
        for group in [self.metadata, *self.groups]:
            for replica in group.replicas.values():
                replica.machine.close()


@contextmanager
def cluster(shard_map: list[list[str]], **choices: Any) -> Iterator[RouterCluster]:
    """Run a cluster of these shards, and close its machines."""
    opened = RouterCluster(shard_map, **choices)
    try:
        yield opened
    finally:
        opened.close()
