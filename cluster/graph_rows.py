"""A graph's part of a transaction: checked against the rows, carried out, and told as a delta.

First everything is looked up and checked, then everything is done, so a transaction that cannot
be carried out has changed nothing: `GraphRefusal` says why. The delta is what the graph in memory
has to learn, the last state of each element.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple, TypeVar

import msgspec

from cluster.command import VersionFound
from graph.model import (
    EdgeWrite,
    GraphChanges,
    GraphDelta,
    NodeWrite,
    Role,
    StoredEdge,
    StoredNode,
    edge_confidence,
    stored_edge,
)
from storage.graph_rows import (
    VECTORS,
    Element,
    ElementRow,
    GraphWriter,
    Kind,
    StoredElement,
    element_id,
    graph_counts,
    graph_elements,
)
from storage.payloads import EMPTY_PAYLOAD, canonical_payload
from storage.records import RecordWriter, Stamp, Written

RowType = TypeVar("RowType")
Rows = dict[str, StoredElement]
AnyWrite = NodeWrite | EdgeWrite


class NodeContent(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How a node is kept; `properties` is JSON."""

    labels: tuple[str, ...]
    properties: bytes
    has_vector: bool


class EdgeContent(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How a hyperedge is kept; `properties` is JSON, times are in milliseconds."""

    label: str
    members: tuple[str, ...]
    roles: tuple[Role, ...]
    properties: bytes
    confidence: float
    arc_confidences: tuple[float, ...]
    valid_at: int | None
    invalid_at: int | None
    has_vector: bool


_CHUNK_ROWS: Final = 500

_encode = msgspec.msgpack.Encoder().encode
decode_node = msgspec.msgpack.Decoder(NodeContent).decode
decode_edge = msgspec.msgpack.Decoder(EdgeContent).decode


class GraphRefusal(Exception):
    """A transaction that cannot be carried out: a stable code, and what stood in its way."""

    def __init__(self, code: str, found: VersionFound) -> None:
        super().__init__(code)
        self.code = code
        self.found = found


class Applied(NamedTuple):
    """What a transaction did to a graph: the delta, how many elements it was, and the vectors.

    `first`: the graph was never written before.
    """

    first: bool
    delta: GraphDelta
    affected: int
    vectors: list[tuple[int, Sequence[Written]]]
    """(collection, rows) for the vector index."""


class _Plan(NamedTuple):
    """What is to be done, all of it checked; rows by id."""

    first: bool
    gone_edges: Rows
    expired: Rows
    gone_nodes: Rows
    nodes: Rows
    edges: Rows
    members: dict[str, int]
    """Row numbers of the nodes that edges join and that exist before."""


class GraphChange:
    """One transaction's changes of one graph; `check`, then `carry_out`."""

    def __init__(
        self, writer: GraphWriter, records: RecordWriter, uid: int, changes: GraphChanges
    ) -> None:
        self._writer, self._records, self._uid = writer, records, uid
        self._nodes = {node.id: _canonical_node(node) for node in changes.nodes}
        self._edges = {edge.id: _canonical_edge(edge) for edge in changes.edges}
        self._changes = changes

    def check(self, if_version: int | None) -> _Plan:
        """Return what is to be done; raises GraphRefusal, or ValueError for bad properties."""
        version = self._writer.counts(self._uid).version
        if if_version is not None and if_version != version:
            raise GraphRefusal("version_conflict", VersionFound(b"", version))
        changes, find = self._changes, self._writer.find
        members = dict.fromkeys(each for edge in self._edges.values() for each in edge.members)
        seqs = self._writer.seqs(self._uid, Kind.NODE, list(members))
        ids = dict.fromkeys([*self._nodes, *changes.delete_nodes])
        nodes = find(self._uid, Kind.NODE, list(ids))
        ids = dict.fromkeys([*self._edges, *changes.delete_edges, *changes.expire_edges])
        edges = find(self._uid, Kind.EDGE, list(ids))
        gone_nodes = _among(nodes, changes.delete_nodes)
        gone_edges = _among(edges, changes.delete_edges)
        gone_edges |= self._cascaded(gone_nodes, gone_edges)
        nodes = _without(nodes, gone_nodes)
        edges = _without(edges, gone_edges)
        for name in gone_nodes:
            seqs.pop(name, None)
        self._require_members(members, seqs)
        expired = _among(edges, changes.expire_edges)
        current = {name: row for name, row in expired.items() if row.expired_ms is None}
        return _Plan(version == 0, gone_edges, current, gone_nodes, nodes, edges, seqs)

    def carry_out(self, plan: _Plan, stamp: Stamp) -> Applied:
        """Change the rows."""
        writer, uid = self._writer, self._uid
        vectors = []
        if plan.gone_edges:
            writer.delete(uid, Kind.EDGE, stamp, plan.gone_edges)
        expired = _without(plan.expired, self._edges)
        if expired:
            writer.expire(uid, stamp, expired)
        if plan.gone_nodes:
            writer.delete(uid, Kind.NODE, stamp, plan.gone_nodes)
        elements = [Element(node.id, _node_content(node)) for node in self._nodes.values()]
        born = writer.put(uid, Kind.NODE, stamp, elements, plan.nodes) if elements else {}
        seqs = plan.members
        seqs.update((name, seq) for name, (seq, _) in born.items())
        edge_elements = [
            Element(edge.id, _edge_content(edge), [seqs[each] for each in edge.members])
            for edge in self._edges.values()
        ]
        joined = (
            writer.put(uid, Kind.EDGE, stamp, edge_elements, plan.edges) if edge_elements else {}
        )
        vectors.append(self._vectors(Kind.NODE, stamp, self._nodes.values(), plan.gone_nodes))
        vectors.append(self._vectors(Kind.EDGE, stamp, self._edges.values(), plan.gone_edges))
        delta = GraphDelta(
            stamp.version,
            [_stored_node(node, stamp, born[node.id][1]) for node in self._nodes.values()],
            [
                *(_expired_edge(name, row, stamp) for name, row in expired.items()),
                *(_stored_edge(edge, stamp, joined[edge.id][1]) for edge in self._edges.values()),
            ],
            [name for name in plan.gone_nodes if name not in self._nodes],
            list(plan.gone_edges),
        )
        affected = len(plan.gone_edges) + len(expired) + len(plan.gone_nodes)
        affected += len(born) + len(joined)
        return Applied(plan.first, delta, affected, vectors)

    def _cascaded(self, nodes: Rows, gone_edges: Rows) -> Rows:
        """Return the further edges that go with nodes; raises GraphRefusal unless they may."""
        going = {row.seq for row in gone_edges.values()}
        found: dict[int, None] = {}
        for name, row in nodes.items():
            left = [edge for edge in self._writer.edges_of(row.seq) if edge not in going]
            if left and not self._changes.cascade:
                raise GraphRefusal(
                    "node_in_use", VersionFound(element_id(Kind.NODE, name), len(left))
                )
            found.update(dict.fromkeys(left))
        return self._writer.find(self._uid, Kind.EDGE, self._writer.names(list(found)))

    def _require_members(self, members: Iterable[str], seqs: Mapping[str, int]) -> None:
        for member in members:
            if member not in seqs and member not in self._nodes:
                raise GraphRefusal("node_missing", VersionFound(element_id(Kind.NODE, member), 0))

    def _vectors(
        self,
        kind: Kind,
        stamp: Stamp,
        written: Iterable[NodeWrite | EdgeWrite],
        gone: Iterable[str],
    ) -> tuple[int, Sequence[Written]]:
        """Write and delete the vectors of elements: records of the kind's own collection."""
        collection = self._uid + VECTORS[kind]
        points, without = {}, [element_id(kind, name) for name in gone]
        for each in written:
            if each.vector is None:
                without.append(element_id(kind, each.id))
            else:
                points[element_id(kind, each.id)] = (each.vector, EMPTY_PAYLOAD)
        rows: list[Written] = []
        if without:
            keys = [each for each in dict.fromkeys(without) if each not in points]
            rows += self._records.delete(collection, stamp, keys)
        if points:
            rows += self._records.upsert(collection, stamp, points)
        return collection, rows


def stored_nodes(connection: sqlite3.Connection, uid: int) -> Iterable[StoredNode]:
    """Yield a graph's nodes as the memory takes them."""
    for row in graph_elements(connection, uid, Kind.NODE):
        content = decode_node(row.content)
        yield StoredNode(
            row.id,
            content.labels,
            content.properties,
            row.version,
            row.created_ms,
            row.updated_ms,
            content.has_vector,
        )


def stored_edges(connection: sqlite3.Connection, uid: int) -> Iterable[StoredEdge]:
    """Yield a graph's hyperedges as the memory takes them."""
    for row in graph_elements(connection, uid, Kind.EDGE):
        yield _read_edge(row)


def chunks(rows: Iterable[RowType]) -> Iterator[list[RowType]]:
    """Yield rows some at a time."""
    rest = iter(rows)
    while chunk := list(islice(rest, _CHUNK_ROWS)):
        yield chunk


def graph_version(connection: sqlite3.Connection, uid: int) -> int:
    """Return the index of the entry that last changed a graph; 0: it was never changed."""
    return graph_counts(connection, uid).version


def _canonical_node(node: NodeWrite) -> NodeWrite:
    if node.properties == EMPTY_PAYLOAD:
        return node
    return msgspec.structs.replace(node, properties=canonical_payload(node.properties))


def _canonical_edge(edge: EdgeWrite) -> EdgeWrite:
    if edge.properties == EMPTY_PAYLOAD:
        return edge
    return msgspec.structs.replace(edge, properties=canonical_payload(edge.properties))


def _node_content(node: NodeWrite) -> bytes:
    return _encode(NodeContent(node.labels, node.properties, node.vector is not None))


def _edge_content(edge: EdgeWrite) -> bytes:
    return _encode(
        EdgeContent(
            edge.label,
            edge.members,
            edge.roles,
            edge.properties,
            edge_confidence(edge),
            edge.arc_confidences,
            edge.valid_at,
            edge.invalid_at,
            edge.vector is not None,
        )
    )


def _stored_node(node: NodeWrite, stamp: Stamp, created: int) -> StoredNode:
    version, now_ms = stamp
    has_vector = node.vector is not None
    return StoredNode(node.id, node.labels, node.properties, version, created, now_ms, has_vector)


def _stored_edge(edge: EdgeWrite, stamp: Stamp, created: int) -> StoredEdge:
    version, now_ms = stamp
    has_vector = edge.vector is not None
    return stored_edge(
        edge, version=version, created=created, updated=now_ms, has_vector=has_vector
    )


def _expired_edge(name: str, row: StoredElement, stamp: Stamp) -> StoredEdge:
    times = (stamp.version, row.created_ms, stamp.now_ms, stamp.now_ms)
    return _read_edge(ElementRow(name, *times, row.content))


def _read_edge(row: ElementRow) -> StoredEdge:
    content = decode_edge(row.content)
    return StoredEdge(
        row.id,
        content.label,
        content.members,
        content.roles,
        content.properties,
        content.confidence,
        content.arc_confidences,
        content.valid_at,
        content.invalid_at,
        row.version,
        row.created_ms,
        row.updated_ms,
        row.expired_ms,
        content.has_vector,
    )


def _among(rows: Rows, names: Iterable[str]) -> Rows:
    return {name: rows[name] for name in dict.fromkeys(names) if name in rows}


def _without(rows: Rows, gone: Iterable[str]) -> Rows:
    left = dict(rows)
    for name in gone:
        left.pop(name, None)
    return left
