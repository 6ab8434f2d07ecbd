"""What the HTTP API calls for graphs. A graph lies in one shard, so each request goes to one group.

Writes are one log entry, whole. Questions go to any fresh replica of the shard, this node's first;
a query that writes goes to the leader. See `cluster.graph_local`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.command import Delete, Transaction, Upsert
from cluster.errors import GraphNotFound, RecollectError
from cluster.fan_out import fan_out
from cluster.graph_catalog import GraphCatalog
from cluster.graph_circumstances import retold
from cluster.graph_local import LocalGraphs
from cluster.graph_questions import (
    CYPHER_WRITE,
    CypherWrite,
    CypherWritten,
    GraphAnswer,
    GraphRead,
    Question,
)
from cluster.leaders import Leaders
from cluster.metadata import CreateGraph
from cluster.model import Graph, Options, WriteAck
from cluster.read_path import ReadPath
from cluster.routing import Routing
from cluster.scatter import Scatter
from cluster.write_path import WritePath
from graph.cypher import Query
from graph.model import GraphChanges
from graph.validation import check_changes


@dataclass(frozen=True, slots=True)
class Effort:
    """How much work an answer may be."""

    timeout_ms: int | None = None
    expansions_max: int = 1_000_000


@dataclass(frozen=True)
class GraphRouter:
    """See the module."""

    routing: Routing
    leaders: Leaders
    writes: WritePath
    reads: ReadPath
    scatter: Scatter
    catalog: GraphCatalog
    local: LocalGraphs

    def register(self) -> None:
        """Answer other nodes' calls."""
        self.local.register()

    def graphs(self) -> list[Graph]:
        """Return the graphs that this node knows, in the order of their creation."""
        return self.catalog.graphs()

    def shard(self, name: str) -> int:
        """Return the shard in which a graph of this name lies."""
        return self.catalog.shard(name)

    async def graph(self, name: str, options: Options) -> Graph:
        """Return a graph. Raises GraphNotFound, or Unavailable when nobody can tell."""
        return await self.catalog.graph(name, options)

    async def create(self, wanted: CreateGraph, options: Options) -> bool:
        """Create a graph; False when the equal one exists. Raises CollectionExists."""
        return await self.catalog.create(wanted, options)

    async def drop(self, name: str, options: Options) -> bool:
        """Drop a graph; False when there was none."""
        return await self.catalog.drop(name, options)

    @property
    def command_bytes_max(self) -> int:
        """The size of the largest command in a log."""
        return self.routing.command_bytes_max()

    async def parsed(self, text: str) -> Query:
        """Return a Cypher query. Raises BadRequest or UnsupportedFeature."""
        with retold():
            return await self.local.parsed(text)

    async def write(
        self,
        name: str,
        graph: Graph | None,
        changes: GraphChanges,
        options: Options,
        points: Sequence[Upsert | Delete] = (),
        if_version: int | None = None,
    ) -> WriteAck:
        """Change a graph, and points that lie beside it under its name, in one log entry.

        `if_version`: only if that entry was the last to change the graph. Raises BadRequest naming
        the field of what is malformed, GraphConflict, VersionConflict, PayloadTooLarge;
        ShardsUnavailable or StorageFull.
        """
        dropped = GraphNotFound(f"graph '{name}', or the collection, was dropped")
        uid, dimension = (graph.uid, graph.dimension) if graph else (0, 0)

        def prepare() -> Transaction:
            with retold():
                check_changes(changes)
            return Transaction(list(points), uid, changes, dimension, if_version)

        upserts = any(isinstance(each, Upsert) for each in points)
        grows = bool(changes.nodes or changes.edges) or upserts
        shard = self.shard(name)
        return await self.writes.commit_whole(shard, prepare, dropped, options, grows=grows)

    async def ask(
        self, graph: Graph, question: Question, options: Options, effort: Effort
    ) -> GraphAnswer:
        """Return the answer to a question. Raises what it is refused with, or ShardsUnavailable."""
        shard = self.shard(graph.name)
        terms = await self.reads.terms(options, [shard])
        read = self._read(graph, question, options, effort)
        gathered = await self.scatter.gather(self.local.kind, lambda _: read, [shard], terms)
        (answer,) = gathered.found
        return answer

    async def ask_all(
        self, graphs: Sequence[Graph], question: Question, options: Options, effort: Effort
    ) -> list[GraphAnswer]:
        """Return the answers of several graphs, in order; raises the first failure."""
        asked = [self.ask(graph, question, options, effort) for graph in graphs]
        answers: list[GraphAnswer] = []
        for found in await fan_out(asked):
            if isinstance(found, RecollectError):
                raise found
            answers.append(found)
        return answers

    async def run(
        self, graph: Graph, question: Question, options: Options, effort: Effort
    ) -> tuple[CypherWritten, WriteAck]:
        """Carry out a query that writes. Raises what it is refused with, or Unavailable.

        Raises StorageFull when the graph would grow and cannot. Whether it would is known when the
        query has run, so the leader sees to that.
        """
        shard = self.shard(graph.name)
        splitting = self.writes.splitting(options)
        request = CypherWrite(
            shard,
            self._read(graph, question, options, effort),
            graph.dimension,
            splitting.request_id,
            options.request_digest,
        )

        async def ask(node: str, until_s: float) -> CypherWritten:
            if node == self.routing.me:
                return await self.local.write(request)
            done = await self.routing.peers.call(node, CYPHER_WRITE, request, until_s)
            own = self.routing.replica(shard)
            if own is not None and done.version:
                own.learn_commit(done.version, done.term)
            return done

        written = await self.leaders.change_at_leader(shard, ask, options.deadline_s)
        return written, await self.writes.acknowledge(shard, written.seen, options)

    def _read(
        self, graph: Graph, question: Question, options: Options, effort: Effort
    ) -> GraphRead:
        left_ms = self.routing.left_ms(options.deadline_s) * 9 // 10
        timeout_ms = left_ms if effort.timeout_ms is None else min(left_ms, effort.timeout_ms)
        indexes = graph.indexes
        return GraphRead(graph.uid, indexes, question, timeout_ms, effort.expansions_max)
