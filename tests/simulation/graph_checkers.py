"""What must hold of graphs, on every replica after every batch, and of every answer about them.

A replica's graph in memory is, at each index, exactly its twin's (`graph_twin`), edge for edge, and
the points that are written with it are, too. An answer is what the twin of the very version that it
names would say, and that version is no older than what was promised. So no reader sees half of a
transaction, or an edge to a node that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from cluster.command import Result
from cluster.graph_questions import Cypher, Describe, ElementsById, GraphAnswer, KHop, Question
from cluster.model import Record
from cluster.state_machine import Entry
from graph.state import GraphState
from storage.ids import encode_id, key_bytes, keyed_id
from tests.simulation.graph_twin import GraphHeld, NodeHeld, PointHeld, ShardTwin

NODES = ("a", "b", "c", "d")
"""Nodes that are written together with the edge and the point of their name."""


@dataclass
class Place:
    """A graph, and the collection whose points lie beside it."""

    name: str
    shard: int
    graph: int
    collection: int

    def point(self, name: str) -> bytes:
        """Return the identity of the point that belongs to a node."""
        return keyed_id(encode_id(point_number(name)), key_bytes(self.name))


@dataclass
class Fate:
    """What clients were told of one request."""

    shard: int
    kind: str
    version: int | None = None
    """Of its acknowledgement; 0: there was nothing to change."""
    refused: bool = False


@dataclass
class GraphCheckers:
    """See the module. `fail` notes a violation."""

    fail: Callable[[str], None]
    places: dict[str, Place] = field(default_factory=dict)
    twins: dict[int, ShardTwin] = field(default_factory=dict)
    fates: dict[str, Fate] = field(default_factory=dict)
    results: dict[tuple[int, int], Result] = field(default_factory=dict)
    checked: dict[tuple[str, int], GraphState] = field(default_factory=dict)
    """(node, graph) -> the last state in memory that was found right."""
    told_until: dict[int, int] = field(default_factory=dict)
    """Shard -> the newest version that anybody was told of."""
    answers: int = 0

    def twin(self, shard: int) -> ShardTwin:
        """Return a shard's twin."""
        return self.twins.setdefault(shard, ShardTwin())

    # -- what replicas hold -------------------------------------------------------------------

    def applied(self, node: str, machine: Any, entries: Sequence[Entry]) -> None:
        """A batch was committed on a replica."""
        shard = machine.group - 1
        for entry, result in zip(entries, machine.results, strict=True):
            if self.results.setdefault((shard, entry.index), result) != result:
                self.fail(f"{node}: shard {shard} gave another result at {entry.index}")
            if entry.index > self.twin(shard).until:
                self._follow(shard, entry, result)
        for uid in self.twin(shard).graphs:
            self._compare_memory(node, machine, uid)
        for place in self.places.values():
            if place.shard == shard:
                self._compare_points(node, machine, place)

    def compare_rows(self, node: str, machine: Any) -> None:
        """The graphs that a replica's rows make are those in its memory, and the twin's."""
        shard, until = machine.group - 1, machine.position()[0]
        twin = self.twin(shard)
        for uid in machine.graph_uids():
            self._compare(f"{node}, rows", machine, uid, machine._read_graph(uid, lambda: None))
            self._compare(f"{node}, memory", machine, uid, machine.graphs.get(uid).state)
        live = [uid for uid in twin.graphs if twin.graph(uid, until).version]
        if machine.graph_uids() != sorted(live):
            self.fail(f"{node}: shard {shard} has {machine.graph_uids()} instead of {live}")
        for place in self.places.values():
            if place.shard == shard:
                self._compare_points(node, machine, place)

    def _follow(self, shard: int, entry: Entry, result: Result) -> None:
        twin = self.twin(shard)
        complaint = twin.apply(entry, result)
        if complaint:
            self.fail(f"shard {shard} at {entry.index}: {complaint}")
        for place in self.places.values():
            if place.shard == shard:
                self._require_agreement(twin, place)

    def _require_agreement(self, twin: ShardTwin, place: Place) -> None:
        """Node, edge and point of one name carry one value, whatever was done to them."""
        held = twin.graph(place.graph, twin.until)
        for name in NODES:
            vector = twin.point(place.collection, place.point(name), twin.until).vector
            node, edge = held.nodes.get(name), held.edges.get(f"of-{name}")
            value = None if node is None else node.properties["value"]
            found = [None if vector is None else value_of(vector)]
            if node is not None:
                found.append(None if node.vector is None else value_of(node.vector))
            if edge is not None:
                found.append(edge.properties["value"])
            if any(each != value for each in found):
                self.fail(f"{place.name} at {twin.until}: {name} is {value}, beside {found}")

    def _compare_memory(self, node: str, machine: Any, uid: int) -> None:
        loaded = machine.graphs.loaded(uid)
        if loaded is None or self.checked.get((node, uid)) is loaded.state:
            return
        if self.twin(machine.group - 1).gone(uid, machine.position()[0]):
            self.fail(f"{node}: graph {uid} was dropped, and is still in memory")
        self._compare(node, machine, uid, loaded.state)
        self.checked[node, uid] = loaded.state

    def _compare(self, where: str, machine: Any, uid: int, state: GraphState) -> None:
        try:
            state.validate()
        except AssertionError as error:
            self.fail(f"{where}: graph {uid} is none: {error}")
            return
        held = self.twin(machine.group - 1).graph(uid, machine.position()[0])
        if (state.version, *shown(state)) != (held.version, *_shown_of(held)):
            self.fail(f"{where}: graph {uid} is {shown(state)} instead of {held}")

    def _compare_points(self, node: str, machine: Any, place: Place) -> None:
        twin, until = self.twin(place.shard), machine.position()[0]
        ids = [place.point(name) for name in NODES]
        held = {each: twin.point(place.collection, each, until) for each in ids}
        rows = machine.retrieve(place.collection, ids, with_vector=True, with_payload=False)
        found = {row.id: (row.version, row.vector) for row in rows}
        if found != {each: tuple(row) for each, row in held.items() if row.vector is not None}:
            self.fail(f"{node}: the points of {place.name} are {found} instead of {held}")

    # -- what clients are told ----------------------------------------------------------------

    def saw(self, place: Place, question: Question, answer: GraphAnswer, floor: int) -> None:
        """An answer is that of its version, which is at least that of log index `floor`."""
        self.answers += 1
        twin = self.twin(place.shard)
        held = twin.at_version(place.graph, answer.version)
        oldest = twin.graph(place.graph, floor).version
        if held is None or answer.version < oldest:
            self.fail(f"{place.name} was read at {answer.version}, older than {oldest} or never so")
            return
        found, expected = _told(question, answer), _expected(question, held)
        if found != expected:
            self.fail(f"{place.name} at {answer.version}: {found} instead of {expected}")

    def saw_point(self, place: Place, name: str, record: Record | None, floor: int) -> None:
        """A point that was read is one that there was, and not older than `floor`."""
        self.answers += 1
        twin, record_id = self.twin(place.shard), place.point(name)
        oldest = twin.point(place.collection, record_id, floor)
        if record is None:
            versions = twin.points.get((place.collection, record_id), [])
            gone = [each.version for each in versions if each.vector is None]
            if oldest.vector is not None and not any(each > oldest.version for each in gone):
                self.fail(f"point {name} of {place.name} was read as absent after {oldest}")
            return
        assert record.vector is not None, "it was asked for with its vector"
        held = twin.point(place.collection, record_id, record.version)
        seen = PointHeld(record.version, record.vector.tobytes())
        if held != seen or seen.version < oldest.version:
            self.fail(f"point {name} of {place.name} was read as {record} after {oldest}")

    # -- at the end ---------------------------------------------------------------------------

    def check_fates(self) -> None:
        """What was acknowledged took effect, once and there; what was refused did not."""
        for request_id, fate in self.fates.items():
            took = self.twin(fate.shard).took.get(f"r/{request_id}")
            if fate.version and took != fate.version:
                self.fail(f"{request_id} was acknowledged at {fate.version}, but it was at {took}")
            if fate.refused and took is not None:
                self.fail(f"{request_id} ({fate.kind}) was refused, but took effect at {took}")

    def check_counters(self, counter: str) -> None:
        """A counter counts the requests that took effect: acknowledged ones, perhaps others."""
        for place in self.places.values():
            twin = self.twin(place.shard)
            held = twin.graph(place.graph, twin.until)
            count = held.nodes[counter].properties["count"]
            asked = {
                each: fate
                for each, fate in self.fates.items()
                if fate.kind == f"count {place.name}"
            }
            acked = sum(fate.version is not None for fate in asked.values())
            took = sum(f"r/{each}" in twin.took for each in asked)
            if not acked <= took == count <= len(asked):
                self.fail(f"{place.name} counted {count} of {took}; {acked} were acknowledged")


def point_number(name: str) -> int:
    """Return the id of the point that belongs to a node."""
    return 1 + ord(name) - ord("a")


def value_of(vector: bytes) -> int:
    """Return the value that a vector carries."""
    return int(np.frombuffer(vector, "<f4")[0])


def shown(state: GraphState) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return nodes and edges as they are in memory, by id."""
    nodes = {
        each.id: (each.labels, each.properties, each.version, each.has_vector)
        for each in state.nodes()
    }
    edges = {}
    for entry in state.edges():
        stored = state.stored_edge(entry)
        properties, expired = entry.edge.properties, stored.expired is not None
        edges[stored.id] = (stored.label, stored.members, properties, stored.version, expired)
    return nodes, edges


def _shown_of(held: GraphHeld) -> tuple[dict[str, Any], dict[str, Any]]:
    nodes = {name: (*node[:3], node.vector is not None) for name, node in held.nodes.items()}
    return nodes, {name: tuple(edge) for name, edge in held.edges.items()}


LINKS = "MATCH (x)-[r]->(y) RETURN r.hyperedge_id, x.id, y.id, x.value, r.value, y.value"
"""Asks for both sides of every edge."""


def _told(question: Question, answer: GraphAnswer) -> Any:
    """Return what an answer says, in a form that can be compared."""
    result = orjson.loads(answer.result)
    match question:
        case Cypher():
            return sorted(result["rows"]), result["truncated"]
        case KHop():
            return [set(each) for each in result["neighbours"]], result["truncated"]
        case Describe():
            return result
        case ElementsById(kind="nodes"):
            return [
                (each["id"], each["properties"], tuple(each["labels"]), _first(each))
                for each in result
            ]
        case _:
            return [
                (each["id"], each["properties"], each["members"], each["expired_at"] is not None)
                for each in result
            ]


def _expected(question: Question, held: GraphHeld) -> Any:
    match question:
        case Cypher():
            rows = [_link(held, *arc) for arc in held.arcs()]
            return sorted(rows), False
        case KHop(ids=ids, hops=hops):
            return [held.near(each, hops) for each in ids], False
        case Describe():
            sizes = {"nodes": len(held.nodes), "edges": len(held.edges)}
            return {**sizes, "version": held.version}
        case ElementsById(kind="nodes", ids=ids, with_vector=with_vector):
            nodes = {each: held.nodes[each] for each in ids if each in held.nodes}
            return [
                (name, node.properties, node.labels, _vector_value(node) if with_vector else None)
                for name, node in nodes.items()
            ]
        case ElementsById(ids=ids):
            edges = {each: held.edges[each] for each in ids if each in held.edges}
            return [
                (name, edge.properties, list(edge.members), edge.expired)
                for name, edge in edges.items()
            ]
        case _:
            raise AssertionError("a question that clients do not ask")


def _link(held: GraphHeld, edge: str, source: str, target: str) -> list[Any]:
    values = [
        held.nodes[source].properties.get("value"),
        held.edges[edge].properties.get("value"),
        held.nodes[target].properties.get("value"),
    ]
    return [edge, source, target, *values]


def _vector_value(node: NodeHeld) -> int | None:
    return None if node.vector is None else value_of(node.vector)


def _first(shape: dict[str, Any]) -> int | None:
    vector = shape.get("vector")
    return None if vector is None else int(vector[0])
