"""What this node answers about graphs from its own replicas, and the queries that write, which only
the leader of a graph's shard carries out.

A question is answered from the graph in memory, on a thread. Most are answered in a moment, and
nothing tells beforehand which are not. So each may first do a little work on the threads that all
reads have; if that was too little it is asked again, of the threads for long questions. Answers
have a largest size, whether they have to travel or not.

A question ends before whoever asked would turn to another replica, which would only begin anew.

A query that writes is run on the leader's newest state, and what it changes is proposed under the
condition that the graph is still that of the state. When it is not, somebody else came between, and
the query is run again. So a query that writes is one transaction, as if it had run alone. Each
attempt has a request id of its own: a conflict is remembered like any result. A request that comes
again is not run again, for it would see what it did itself: it is answered the version of its
first time, without the rows, which nobody kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import orjson

from cluster.command import DIGEST_MARK, Result, Transaction, encode_body, seal_command
from cluster.errors import (
    BadRequest,
    DeadlineExceeded,
    GraphNotFound,
    NotLeader,
    NotReady,
    PayloadTooLarge,
    RecollectError,
)
from cluster.graph_answers import answer_question
from cluster.graph_circumstances import Circumstances
from cluster.graph_cypher import SHORT, Write, parsed, run_write
from cluster.graph_questions import (
    CYPHER_WRITE,
    GRAPH,
    HEAVY,
    WHOLE,
    CypherWrite,
    CypherWritten,
    GraphAnswer,
    GraphRead,
)
from cluster.graph_threads import GraphThreads
from cluster.local_queries import Machines, with_ids
from cluster.local_reads import LocalReads, ReadKind
from cluster.routing import Routing, ShardReplica
from cluster.shard import ShardMachine
from cluster.write_path import raise_refusal
from graph.cypher import Query
from storage.graph_rows import VECTORS, Kind, element_id, element_name
from storage.index_set import IndexSet

KINDS: Final = {"nodes": Kind.NODE, "edges": Kind.EDGE}
ATTEMPTS_MAX: Final = 100
LIGHT_EXPANSIONS: Final = 20_000
"""So much work is done on the threads of all reads: about ten milliseconds."""
_FRAME_SHARE: Final = 4
"""An answer fills at most this fraction of a frame between nodes."""
_TIME_SHARE: Final = 0.8
"""A question may take so much of the time for which its answer is waited for."""


class _Tried(NamedTuple):
    """What a query that writes came to on some version of the graph: its rows, and the transaction
    that it makes, encoded; None when it changes nothing."""

    rows: bytes
    version: int
    body: bytes | None
    grows: bool


@dataclass(frozen=True, kw_only=True)
class LocalGraphs:
    """See the module. `admit_growth` raises StorageFull when one of these shards cannot grow;
    `pause` lets other threads in: see `graph.budget`."""

    routing: Routing
    indexes: IndexSet
    local: LocalReads
    threads: GraphThreads
    admit_growth: Callable[[Sequence[int]], None]
    pause: Callable[[], None]
    identifier: Callable[[], str]

    @property
    def kind(self) -> ReadKind[GraphRead, GraphAnswer]:
        """How questions about graphs are scattered."""
        return ReadKind(GRAPH, self._answer)

    def register(self) -> None:
        """Answer other nodes' questions."""
        self.local.serve(self.kind)
        self.routing.peers.serve(CYPHER_WRITE, self.write)

    async def load(self, machine: ShardMachine) -> None:
        """Make a shard's graphs in memory, on a thread."""
        await self.routing.run_in(self.threads.writes, machine.load_graphs)

    async def parsed(self, text: str) -> Query:
        """Return a query; raises graph.errors.BadQuery. Only a short one is read at once."""
        if len(text) <= SHORT:
            return parsed(text)
        return await self.routing.run_in(self.threads.writes, parsed, text)

    async def write(self, request: CypherWrite) -> CypherWritten:
        """Carry out a query that writes, as the leader; raises NotLeader."""
        replica = self._leading(request.group)
        deadline_s = self.routing.clock() + request.read.timeout_ms / 1000
        for attempt in range(ATTEMPTS_MAX):
            name = _attempt(request, attempt)
            index = await replica.read_index(deadline_s)
            await replica.wait_applied(index, deadline_s)
            found = await self.routing.run_in(
                self.threads.writes, self._tried, replica.machine, request, name, deadline_s
            )
            if isinstance(found, Result):
                result, answer = found, _NO_ROWS
            elif found.body is None:
                return CypherWritten(found.rows, 0, 0, found.version)
            else:
                if found.grows:
                    self.admit_growth([request.group])
                command = seal_command(name, self.routing.wall_ms(), found.body)
                result, answer = await replica.propose(command, deadline_s), found.rows
            if result.error != "version_conflict":
                _raise_refusal(result)
                term = replica.term_at(result.version)
                return CypherWritten(answer, result.version, term, result.version)
        raise DeadlineExceeded("the graph changes too often for this query")

    def _leading(self, group: int) -> ShardReplica:
        replica = self.routing.replicas.get(group)
        if replica is None or not replica.is_leader:
            leader = None if replica is None else replica.leader
            raise NotLeader("this node does not lead the graph's shard", leader=leader)
        return replica

    async def _answer(self, machines: Machines, read: GraphRead, until_s: float) -> GraphAnswer:
        ((shard, machine),) = machines.items()
        now_s = self.routing.clock()
        deadline_s = now_s + min(read.timeout_ms / 1000, _TIME_SHARE * (until_s - now_s))
        work = partial(self._answer_here, shard, machine, read, deadline_s)
        if not isinstance(read.question, HEAVY) and machine.graphs.loaded(read.graph) is not None:
            expansions_max = min(read.expansions_max, LIGHT_EXPANSIONS)
            answer, exhausted = await self.routing.run(work, expansions_max)
            if not exhausted or expansions_max == read.expansions_max:
                return answer
        whole = isinstance(read.question, WHOLE)
        threads = self.threads.whole if whole else self.threads.reads
        answer, _ = await self.routing.run_in(threads, work, read.expansions_max)
        return answer

    def _answer_here(
        self,
        shard: int,
        machine: ShardMachine,
        read: GraphRead,
        deadline_s: float,
        expansions_max: int,
    ) -> tuple[GraphAnswer, bool]:
        """Return what so much work can find, and whether that was too little."""
        graph = machine.graphs.get(read.graph)
        around = self._circumstances(shard, machine, read.graph, deadline_s)
        budget = around.budget(expansions_max)
        answer = answer_question(graph, read, around, budget)
        self._check_size(answer.result)
        return answer, budget.spent > expansions_max

    def _check_size(self, answer: bytes) -> None:
        bytes_max = self._answer_bytes_max
        if len(answer) > bytes_max:
            raise BadRequest(f"the answer is larger than {bytes_max} bytes: ask for less")

    @property
    def _answer_bytes_max(self) -> int:
        return self.routing.config.frame_bytes_max // _FRAME_SHARE

    def _tried(
        self, machine: ShardMachine, request: CypherWrite, name: str, deadline_s: float
    ) -> _Tried | Result:
        """Run a query; return its first result instead when this very attempt was made before.

        Whether it was is looked up afterwards: what the query met then shows in the rows by then.
        """
        read, failure, found = request.read, None, None
        graph = machine.graphs.get(read.graph)
        around = self._circumstances(request.group, machine, read.graph, deadline_s)
        try:
            found = run_write(graph, read, around)
            self._check_size(found.result)
        except RecollectError as error:
            failure = error
        known = machine.remembered(name)
        if known is not None:
            return known
        if failure is not None:
            raise failure
        assert found is not None, "a query fails, or changes something, or nothing"
        return self._encoded(request, found)

    def _encoded(self, request: CypherWrite, found: Write) -> _Tried:
        changes = found.changes
        if changes is None:
            return _Tried(found.result, found.version, None, grows=False)
        graph, dimension = request.read.graph, request.dimension
        body = encode_body(Transaction([], graph, changes, dimension, if_version=found.version))
        bytes_max = self.routing.command_bytes_max()
        if len(body) > bytes_max:
            raise PayloadTooLarge(f"the query changes more than {bytes_max} bytes at once")
        grows = bool(changes.nodes or changes.edges)
        return _Tried(found.result, found.version, body, grows)

    def _circumstances(
        self, shard: int, machine: ShardMachine, uid: int, deadline_s: float
    ) -> Circumstances:
        return Circumstances(
            clock=self.routing.clock,
            deadline_s=deadline_s,
            pause=self.pause,
            wall_ms=self.routing.wall_ms(),
            changes_bytes_max=self.routing.command_bytes_max(),
            answer_bytes_max=self._answer_bytes_max,
            identifier=self.identifier,
            vectors=partial(_vectors, machine, uid),
            nearest=partial(self._nearest, shard, machine, uid),
        )

    def _nearest(
        self, shard: int, machine: ShardMachine, uid: int, kind: str, vector: bytes, k: int
    ) -> list[Near]:
        collection = uid + VECTORS[KINDS[kind]]
        index = self.indexes.get(collection)
        if index is None:
            raise NotReady(f"{self.routing.me} has not opened this graph's index yet")
        hits = index.search(np.frombuffer(vector, "<f4"), k, shards=[shard])
        named = with_ids({shard: machine}, collection, hits)
        return [(element_name(hit.id), hit.score) for hit in named]


Near = tuple[str, float]
"""An element's id, and its similarity or distance."""


_NO_ROWS: Final = orjson.dumps(
    {"columns": [], "rows": [], "truncated": False, "truncated_by": None, "stats": {}}
)


def _attempt(request: CypherWrite, attempt: int) -> str:
    """Return the request id of an attempt."""
    name = f"{request.request_id}:{attempt}"
    return name + DIGEST_MARK + request.request_digest if request.request_digest else name


def _raise_refusal(result: Result) -> None:
    if result.error == "collection_dropped":
        raise GraphNotFound("the graph was dropped")
    raise_refusal(result)


def _vectors(machine: ShardMachine, uid: int, kind: str, ids: list[str]) -> dict[str, bytes]:
    element = KINDS[kind]
    keys = [element_id(element, name) for name in ids]
    rows = machine.retrieve(uid + VECTORS[element], keys, with_vector=True, with_payload=False)
    return {element_name(row.id): row.vector for row in rows if row.vector is not None}
