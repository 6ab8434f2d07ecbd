"""What a shard's graphs must be, in dicts: a second, dumb machine that follows the same log.

It is told each entry once, in order, with the result that the first replica gave. It carries out
what that result says took effect, in its own way, and complains when it would have answered
otherwise. It keeps every version that there was, so that an answer can be compared with the very
state it is an answer from.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from cluster.command import (
    Delete,
    DropGraph,
    Result,
    Transaction,
    Upsert,
    decode_command,
    name_and_digest,
)
from cluster.state_machine import Entry
from graph.model import GraphChanges


class NodeHeld(NamedTuple):
    """A node."""

    labels: tuple[str, ...]
    properties: dict[str, Any]
    version: int
    vector: bytes | None


class EdgeHeld(NamedTuple):
    """An edge, which joins its members in a row."""

    label: str
    members: tuple[str, ...]
    properties: dict[str, Any]
    version: int
    expired: bool


class GraphHeld(NamedTuple):
    """A graph as of one version. Its dicts are never changed."""

    version: int
    nodes: dict[str, NodeHeld]
    edges: dict[str, EdgeHeld]

    def arcs(self) -> list[tuple[str, str, str]]:
        """Return (edge, source, target) of each step that edges which hold allow."""
        return [
            (name, source, target)
            for name, edge in self.edges.items()
            if not edge.expired
            for source, target in zip(edge.members, edge.members[1:], strict=False)
        ]

    def near(self, start: str, hops: int) -> set[str]:
        """Return the nodes within some hops of one, either way, without it."""
        seen = {start}
        for _ in range(hops):
            arcs = [(source, target) for _, source, target in self.arcs()]
            seen |= {b for a, b in arcs if a in seen} | {a for a, b in arcs if b in seen}
        return seen - {start}


NOTHING = GraphHeld(0, {}, {})


class PointHeld(NamedTuple):
    """A point as of one version; `vector` None: it was deleted."""

    version: int
    vector: bytes | None


class ShardTwin:
    """One shard."""

    def __init__(self) -> None:
        self.until = 1
        """The last entry that it was told."""
        self.graphs: dict[int, list[GraphHeld]] = {}
        self.dropped: dict[int, int] = {}
        """Graph -> index at which it was dropped."""
        self.points: dict[tuple[int, bytes], list[PointHeld]] = {}
        self.took: dict[str, int] = {}
        """Request id -> index at which its transaction took effect."""

    def graph(self, uid: int, until: int) -> GraphHeld:
        """Return a graph as a state at log index `until` has it."""
        versions = self.graphs.get(uid, [])
        if self.gone(uid, until):
            return NOTHING
        return next((each for each in reversed(versions) if each.version <= until), NOTHING)

    def gone(self, uid: int, until: int) -> bool:
        """Return whether a graph was dropped before a state at log index `until`."""
        return self.dropped.get(uid, until + 1) <= until

    def at_version(self, uid: int, version: int) -> GraphHeld | None:
        """Return a graph of exactly this version; None when it never was that."""
        held = self.graph(uid, version)
        return held if held.version == version else None

    def point(self, collection: int, record_id: bytes, until: int) -> PointHeld:
        """Return a point as a state at log index `until` has it."""
        versions = self.points.get((collection, record_id), [])
        found = (each for each in reversed(versions) if each.version <= until)
        return next(found, PointHeld(0, None))

    def apply(self, entry: Entry, result: Result) -> str:
        """Follow an entry; return what is wrong, or nothing."""
        assert entry.index == self.until + 1, "told of all entries in order"
        self.until = entry.index
        if not entry.command:
            return ""
        command = decode_command(entry.command)
        body, asked = command.body, name_and_digest(command.request_id)[0].partition(":")[0]
        if isinstance(body, DropGraph):
            self.dropped.setdefault(body.graph, entry.index)
        if not isinstance(body, Transaction):
            return ""
        if result.version != entry.index:
            known = result.error or self.took.get(asked) == result.version
            return "" if known else f"{asked} was recalled, but did not take effect before"
        expected = self._refusal(body)
        if result.error != expected:
            return f"{asked} gave {result.error} instead of {expected}"
        if expected is not None:
            return ""
        if asked in self.took:
            return f"{asked} took effect twice"
        self.took[asked] = entry.index
        self._carry_out(entry.index, body)
        return ""

    def _refusal(self, body: Transaction) -> str | None:
        """Return what the transaction is to be refused with."""
        if body.graph in self.dropped:
            return "collection_dropped"
        for each in body.points:
            for record_id, wanted in _conditions(each):
                held = self.point(each.collection, record_id, self.until)
                if (held.version if held.vector is not None else 0) != wanted:
                    return "version_conflict"
        held_graph = self.graph(body.graph, self.until)
        if body.if_version not in (None, held_graph.version):
            return "version_conflict"
        nodes, _, refusal = _removed(held_graph, body.changes)
        if refusal is not None:
            return refusal
        there = nodes.keys() | {node.id for node in body.changes.nodes}
        lacking = any(not there.issuperset(edge.members) for edge in body.changes.edges)
        return "node_missing" if lacking else None

    def _carry_out(self, version: int, body: Transaction) -> None:
        before, changes = self.graph(body.graph, self.until), body.changes
        nodes, edges, _ = _removed(before, changes)
        for name in changes.expire_edges:
            if name in edges and not edges[name].expired:
                edges[name] = edges[name]._replace(version=version, expired=True)
        for node in changes.nodes:
            properties = orjson.loads(node.properties)
            nodes[node.id] = NodeHeld(node.labels, properties, version, node.vector)
        for edge in changes.edges:
            properties = orjson.loads(edge.properties)
            edges[edge.id] = EdgeHeld(edge.label, edge.members, properties, version, False)
        if changes.nodes or changes.edges or (nodes, edges) != before[1:]:
            held = GraphHeld(version, nodes, edges)
            self.graphs.setdefault(body.graph, []).append(held)
        for each in body.points:
            for record_id, vector in _written(each):
                versions = self.points.setdefault((each.collection, record_id), [])
                if vector is not None or versions:
                    versions.append(PointHeld(version, vector))


def _removed(
    held: GraphHeld, changes: GraphChanges
) -> tuple[dict[str, NodeHeld], dict[str, EdgeHeld], str | None]:
    """Return what deleting leaves, and the refusal of a node that is in use."""
    nodes, edges = dict(held.nodes), dict(held.edges)
    for name in changes.delete_edges:
        edges.pop(name, None)
    for name in changes.delete_nodes:
        joined = [each for each, edge in edges.items() if name in edge.members]
        if name in nodes and joined and not changes.cascade:
            return nodes, edges, "node_in_use"
        if nodes.pop(name, None):
            edges = {each: edge for each, edge in edges.items() if each not in joined}
    return nodes, edges, None


def _conditions(body: Upsert | Delete) -> list[tuple[bytes, int]]:
    if isinstance(body, Delete):
        return [] if body.if_version is None else [(body.ids[0], body.if_version)]
    return [(each.id, each.if_version) for each in body.points if each.if_version is not None]


def _written(body: Upsert | Delete) -> list[tuple[bytes, bytes | None]]:
    if isinstance(body, Delete):
        return [(each, None) for each in body.ids]
    return [(each.id, each.vector) for each in body.points]
