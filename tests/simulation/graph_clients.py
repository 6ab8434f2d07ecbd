"""Clients of graphs: each transaction writes one value into a point, a node and an edge.

Some transactions must be refused, some delete or expire, some are Cypher queries, which count or
join notes. All are repeated under their request id while nothing is known of their outcome.
Readers ask any node, with any promise about age, and hand what they are told to the checkers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import orjson

from cluster.command import Delete, Upsert
from cluster.errors import Conflict, NotFound, RecollectError, StorageFull, Unavailable
from cluster.graph_questions import Cypher, Describe, ElementsById, GraphAnswer, KHop, Question
from cluster.graph_router import Effort
from cluster.metadata import CreateGraph
from cluster.model import Collection, Options, Point, Record, Session, WriteAck
from cluster.node import Node
from cluster.write_commands import point_writes
from graph.model import EdgeWrite, GraphChanges, NodeWrite
from storage.ids import key_bytes
from tests.simulation.clients import NoAnswer, ask
from tests.simulation.computer import Computer
from tests.simulation.graph_checkers import LINKS, NODES, Fate, Place, point_number
from tests.simulation.node_checkers import NodeCheckers
from tests.simulation.virtual_loop import Process

BESIDE = "beside"
"""The collection whose points lie beside the graphs."""
FLEETING = "fleeting"
"""A graph that comes and goes."""
COUNTER = "counter"
NOTES = ("note1", "note2", "note3")
EFFORT = Effort()

COUNT = "MATCH (c:Counter {id: $id}) SET c.count = c.count + 1 RETURN c.count"
MARK = "MATCH (n:Thing {id: $id}) SET n.mark = $value"
NOTE = (
    "MATCH (n:Thing {id: $id}) MERGE (m:Note {id: $note}) SET m.value = $value "
    "MERGE (n)-[:NOTED]->(m)"
)
FORGET = "MATCH (m:Note {id: $note}) DETACH DELETE m"
MAKE = "CREATE (m:Made {id: $made, value: $value})"


@dataclass
class GraphLedger:
    """What all clients of graphs share."""

    value: int = 0
    operations: int = 0
    answered: int = 0

    def next_value(self) -> int:
        """Return a value that was never written."""
        self.value += 1
        return self.value


class GraphClient:
    """One client; runs until `stop`."""

    def __init__(
        self,
        number: int,
        process: Process,
        computers: list[Computer],
        ledger: GraphLedger,
        checkers: NodeCheckers,
    ) -> None:
        assert checkers.graphs is not None, "there are graphs"
        self.number, self.process, self.rng = number, process, process.rng
        self.computers, self.ledger = computers, ledger
        self.nodes, self.checkers = checkers, checkers.graphs
        self.session: dict[int, int] = {}
        self.seen: dict[tuple[str, str], int] = {}
        """Versions of points, by graph and node."""
        self.stop = False
        self.pace_s = self.rng.choice((0.05, 0.2))
        self.home = self.rng.choice(computers)
        self.timeout_s = 1.5

    async def run(self) -> None:
        acts = (self.put, self.put, self.delete, self.expire, self.join_nobody, self.compare,
                self.count, self.count, self.query, self.read, self.read, self.read,
                self.read_point, self.visit)  # fmt: skip
        while not self.stop:
            await asyncio.sleep(self.rng.expovariate(1 / self.pace_s))
            if self.rng.random() < 0.1:
                self.home = self.rng.choice(self.computers)
            self.ledger.operations += 1
            name = self.rng.choice(sorted(self.checkers.places))
            await self.rng.choice(acts)(self.checkers.places[name])

    # -- transactions -------------------------------------------------------------------------

    async def put(self, place: Place) -> None:
        """Write a node, its point, and an edge from it to others."""
        name, value = self.rng.choice(NODES), self.ledger.next_value()
        others = [each for each in NODES if each != name]
        joined = self.rng.sample(others, self.rng.choice((1, 1, 2)))
        new = self.rng.random() < 0.7
        nodes = [name, *(joined if new else [])]
        changes = GraphChanges([_node(each, value) for each in nodes], [_edge(name, joined, value)])
        if new:
            edges = [_edge(each, [name], value) for each in joined]
            changes = GraphChanges(changes.nodes, changes.edges + edges)
        await self._transact(place, "put", changes, [_point(each, value) for each in nodes])

    async def delete(self, place: Place) -> None:
        """Delete a node and its point, with its edges, or if it has no others."""
        name, cascade = self.rng.choice(NODES), self.rng.random() < 0.7
        edges = [] if cascade else [f"of-{name}"]
        changes = GraphChanges(delete_nodes=[name], delete_edges=edges, cascade=cascade)
        await self._transact(place, "delete", changes, [], gone=[name])

    async def expire(self, place: Place) -> None:
        """Let an edge become history."""
        changes = GraphChanges(expire_edges=[f"of-{self.rng.choice(NODES)}"])
        await self._transact(place, "expire", changes, [])

    async def join_nobody(self, place: Place) -> None:
        """Ask for what must be refused: an edge to a node that never exists."""
        name, value = self.rng.choice(NODES), self.ledger.next_value()
        changes = GraphChanges([_node(name, value)], [_edge(name, ["nobody"], value)])
        await self._transact(place, "join_nobody", changes, [_point(name, value)])

    async def compare(self, place: Place) -> None:
        """Write on a condition of the point, which may not hold."""
        name, value = self.rng.choice(NODES), self.ledger.next_value()
        changes = GraphChanges([_node(name, value)], delete_edges=[f"of-{name}"])
        wanted = self.rng.choice((0, self.seen.get((place.name, name), 0)))
        await self._transact(place, "compare", changes, [_point(name, value, wanted)])

    async def _transact(
        self,
        place: Place,
        kind: str,
        changes: GraphChanges,
        points: Sequence[Point],
        gone: Sequence[str] = (),
    ) -> None:
        async def write(node: Node, options: Options) -> WriteAck:
            graphs = node.router.graphs
            graph = await graphs.graph(place.name, options)
            collection = await node.router.collection(BESIDE, options)
            commands = _commands(place, collection, points, gone)
            return await graphs.write(place.name, graph, changes, options, commands)

        await self._change(place, kind, write)

    # -- queries that write -------------------------------------------------------------------

    async def count(self, place: Place) -> None:
        await self._run(place, f"count {place.name}", COUNT, id=COUNTER)

    async def query(self, place: Place) -> None:
        """Change what belongs to no transaction's value, or make something new."""
        value = self.ledger.next_value()
        note, name = self.rng.choice(NOTES), self.rng.choice(NODES)
        kind = self.rng.choice((MARK, NOTE, NOTE, FORGET, MAKE, MAKE))
        given = {"id": name, "note": note, "value": value, "made": f"made{value}"}
        await self._run(place, "query", kind, **{k: v for k, v in given.items() if f"${k}" in kind})

    async def _run(self, place: Place, kind: str, query: str, **parameters: Any) -> None:
        question = Cypher(query=query, parameters=orjson.dumps(parameters), rows_max=100)

        async def run(node: Node, options: Options) -> WriteAck:
            graph = await node.router.graphs.graph(place.name, options)
            written, ack = await node.router.graphs.run(graph, question, options, EFFORT)
            return replace(ack, version=written.version)

        await self._change(place, kind, run)

    async def _change(self, place: Place, kind: str, make: Any) -> None:
        """Ask, and ask again under the same request id while the outcome is unknown."""
        request_id = f"g{self.number}-{self.ledger.next_value()}"
        fate = self.checkers.fates[request_id] = Fate(place.shard, kind)
        for _ in range(self.rng.choice((1, 2, 4))):
            if await self._attempt(place, fate, partial(self._asked, make, request_id)):
                self.ledger.answered += 1
                return
            await asyncio.sleep(self.rng.uniform(0.0, 0.5))
            self.home = self.rng.choice(self.computers)

    async def _attempt(self, place: Place, fate: Fate, asked: Any) -> bool:
        """Ask once; return whether the outcome is known."""
        try:
            ack = await asked()
        except Conflict:
            fate.refused = True
        except (Unavailable, StorageFull, NoAnswer):
            return False
        except RecollectError as error:
            self.checkers.fail(f"{fate.kind} on {place.name}: {error!r}")
        else:
            self._acknowledged(place, fate, ack)
        return True

    async def _asked(self, make: Any, request_id: str) -> WriteAck:
        options = {"request_id": request_id, "session": Session(dict(self.session))}
        ack: WriteAck = await self._ask(make, **options)
        return ack

    def _acknowledged(self, place: Place, fate: Fate, ack: WriteAck) -> None:
        self.nodes.note("graph", fate.kind, ack.version, self.process.loop.now_s)
        self.session = dict(ack.session.indexes)
        fate.version = ack.version
        view = next(c.node.view() for c in self.computers if c.node is not None)
        if ack.version and view is not None:
            self.nodes.durable(place.shard + 1, ack.version, view.shard_map[place.shard])
        self._learned(place, ack.version)

    def _learned(self, place: Place, version: int) -> None:
        """What anybody was shown, no strong read that begins later may lack."""
        known = self.checkers.told_until
        known[place.shard] = max(version, known.get(place.shard, 0))

    # -- a graph that comes and goes ----------------------------------------------------------

    async def visit(self, place: Place) -> None:
        """Do something to the graph that others may drop meanwhile."""
        act = self.rng.choice((self._come, self._change_it, self._change_it, self._read_it))
        if self.rng.random() < 0.1:
            act = self._go
        try:
            await self._ask(act)
        except (Unavailable, StorageFull, NoAnswer, NotFound):
            return
        except RecollectError as error:
            self.checkers.fail(f"{act.__name__} on {FLEETING}: {error!r}")

    async def _come(self, node: Node, options: Options) -> None:
        await node.router.graphs.create(CreateGraph(FLEETING, 4, "Dot", None, ()), options)

    async def _go(self, node: Node, options: Options) -> None:
        await node.router.graphs.drop(FLEETING, options)

    async def _change_it(self, node: Node, options: Options) -> None:
        graph, value = await node.router.graphs.graph(FLEETING, options), self.ledger.next_value()
        changes = GraphChanges([_node("a", value), _node("b", value)], [_edge("a", ["b"], value)])
        request_id = f"g{self.number}-{value}"
        shard = node.router.graphs.shard(FLEETING)
        fate = self.checkers.fates[request_id] = Fate(shard, "put")
        once = replace(options, request_id=request_id)
        ack = await node.router.graphs.write(FLEETING, graph, changes, once)
        fate.version = ack.version

    async def _read_it(self, node: Node, options: Options) -> None:
        graphs = node.router.graphs
        graph, question = await graphs.graph(FLEETING, options), all_links()
        answer = await graphs.ask(graph, question, replace(options, strong=True), EFFORT)
        place = Place(FLEETING, graphs.shard(FLEETING), graph.uid, 0)
        self.checkers.saw(place, question, answer, 0)

    # -- reads --------------------------------------------------------------------------------

    async def read(self, place: Place) -> None:
        """Ask something about the graph."""
        names = [*NODES, "nobody"]
        questions: tuple[Question, ...] = (
            all_links(),
            ElementsById(kind="nodes", ids=names, with_vector=self.rng.random() < 0.5),
            ElementsById(kind="edges", ids=[f"of-{each}" for each in names]),
            KHop(ids=[self.rng.choice(NODES)], hops=self.rng.randint(1, 3), direction="both"),
            Describe(),
        )
        question = self.rng.choice(questions)

        async def read(node: Node, options: Options) -> GraphAnswer:
            graph = await node.router.graphs.graph(place.name, options)
            return await node.router.graphs.ask(graph, question, options, EFFORT)

        found, floor = await self._read(place, read)
        if found is not None:
            self.nodes.note("graph read", found.version, self.process.loop.now_s)
            self.checkers.saw(place, question, found, floor)
            self._learned(place, found.version)

    async def read_point(self, place: Place) -> None:
        """Read a point that lies beside the graph."""
        name = self.rng.choice(NODES)

        async def read(node: Node, options: Options) -> list[Record]:
            collection = await node.router.collection(BESIDE, options)
            ids = [point_number(name)]
            return await node.router.retrieve(
                collection, ids, with_payload=False, with_vector=True, options=options
            )

        records, floor = await self._read(place, read, shard_keys=(place.name,))
        if records is not None:
            record = records[0] if records else None
            self.checkers.saw_point(place, name, record, floor)
            self.seen[place.name, name] = version = record.version if record else 0
            self._learned(place, version)

    async def _read(self, place: Place, make: Any, **terms: Any) -> tuple[Any, int]:
        """Return what was answered, None for nothing, and the index that it must reflect."""
        promise = self.rng.choice(("strong", "session", "default"))
        floor, session = 0, Session()
        if promise == "strong":
            floor = self.checkers.told_until.get(place.shard, 0)
        elif promise == "session":
            floor, session = self.session.get(place.shard, 0), Session(dict(self.session))
        reflected: dict[int, int] = {}
        terms |= {"strong": promise == "strong", "session": session, "reflected": reflected}
        try:
            found = await self._ask(make, **terms)
        except (Unavailable, StorageFull, NoAnswer):
            self.home = self.rng.choice(self.computers)
            return None, 0
        except NotFound:
            return None, 0
        except RecollectError as error:
            self.checkers.fail(f"a read of {place.name}: {error!r}")
            return None, 0
        self.ledger.answered += 1
        if promise == "session":
            self.session = dict(session.merged(reflected).indexes)
        return found, floor

    async def _ask(self, make: Any, **terms: Any) -> Any:
        computer, self.timeout_s = self.home, self.rng.choice((0.3, 1.5, 4.5))
        if computer.process is None:
            raise NoAnswer("not there")
        options = Options(computer.process.clock() + self.timeout_s, **terms)
        return await ask(computer, self.process, partial(make, options=options), self.timeout_s + 1)


def all_links() -> Cypher:
    """Return the question for both sides of every edge."""
    return Cypher(query=LINKS, parameters=b"{}", rows_max=1000)


def first_content() -> GraphChanges:
    """Return what a graph has before clients come."""
    return GraphChanges([NodeWrite(COUNTER, ("Counter",), b'{"count":0}')])


def _vector(value: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([value, 1.0, 0.5, 0.25], "<f4")


def _node(name: str, value: int) -> NodeWrite:
    content = orjson.dumps({"value": value})
    return NodeWrite(name, ("Thing",), content, _vector(value).tobytes())


def _edge(name: str, others: Sequence[str], value: int) -> EdgeWrite:
    content = orjson.dumps({"value": value})
    return EdgeWrite(f"of-{name}", "LEADS_TO", (name, *others), (), content)


def _point(name: str, value: int, if_version: int | None = None) -> Point:
    return Point(point_number(name), _vector(value), {"value": value}, if_version)


def _commands(
    place: Place, collection: Collection, points: Sequence[Point], gone: Sequence[str]
) -> list[Upsert | Delete]:
    """Return what becomes of points, as the batch request puts it."""
    commands: list[Upsert | Delete] = []
    if gone:
        commands.append(Delete(collection.uid, [place.point(each) for each in gone]))
    if points:
        writes = point_writes(collection, points, key_bytes(place.name), bytes_max=100_000)
        commands.append(Upsert(collection.uid, collection.dimension, writes))
    return commands
