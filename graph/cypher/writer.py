"""Carries out a query's writes on a fork of the graph, and keeps their net effect.

Later clauses see the fork. What goes into the log is the last form of each element that was
written and the ids of those that are gone: an element made and deleted again leaves no trace. An
element that was deleted and made anew under its id is both, and deleting comes first.

A node that still has edges cannot go. It waits until the query's end, as its edges may be deleted
by a later clause.

What is kept for the log is counted in bytes, roughly as the log will hold it, so that a query that
changes too much ends early and not when the memory is full.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from graph.cypher.runtime import Runtime
from graph.errors import BadQuery, NodeInUse, TooLarge
from graph.model import (
    EdgeWrite,
    GraphChanges,
    GraphDelta,
    Node,
    NodeWrite,
    StoredEdge,
    StoredNode,
    confidences_of,
    stored_edge,
)
from graph.state import EdgeEntry
from graph.validation import check_edge, check_id, check_node

COUNTED: Final = (
    "nodes_created",
    "nodes_deleted",
    "relationships_created",
    "relationships_deleted",
    "properties_set",
    "labels_added",
    "labels_removed",
)
_COST: Final = 8
_FIELD: Final = "query"
_OVERHEAD: Final = 8
"""Bytes that an element or an id takes in the log beside its own."""


class Writer:
    """See the module. One for each execution."""

    def __init__(self, run: Runtime) -> None:
        self._run = run
        self.counts = dict.fromkeys(COUNTED, 0)
        self._nodes: dict[str, StoredNode] = {}
        self._edges: dict[str, StoredEdge] = {}
        self._gone_nodes: dict[str, None] = {}
        self._gone_edges: dict[str, None] = {}
        self._doomed: dict[str, None] = {}
        self._bytes = 0

    # -- nodes --------------------------------------------------------------------------------

    def create_node(self, given_id: Any, labels: tuple[str, ...], properties: bytes) -> Node:
        """Make a node; `given_id` None: under a new id."""
        name = self._id_for_new(given_id)
        if self._run.state.find_node(name) is not None:
            raise BadQuery(f"a node {name} exists already")
        self._put_node(self._stored(name, labels, properties))
        self.counts["nodes_created"] += 1
        self.counts["labels_added"] += len(labels)
        return self._node(name)

    def rewrite_node(self, node: Node, labels: tuple[str, ...], properties: bytes) -> None:
        """Give a node other labels and properties."""
        stored = self._stored(node.id, labels, properties)
        self._put_node(
            msgspec.structs.replace(stored, created=node.created, has_vector=node.has_vector)
        )

    def delete_node(self, node: Node, *, detach: bool) -> None:
        """Delete a node as soon as no edge joins it; see `settle`. With `detach` its edges go."""
        if detach:
            vertex = self._run.state.vertex(node.slot)
            edges = dict.fromkeys(arc.edge.id for arc in (*vertex.out, *vertex.into))
            for edge_id in edges:
                self.delete_edge(edge_id)
        self._doomed[node.id] = None

    def settle(self) -> None:
        """Let those nodes go that wait for it and have no edges left."""
        for name in list(self._doomed):
            node = self._node(name)
            vertex = self._run.state.vertex(node.slot)
            if vertex.out or vertex.into:
                continue
            del self._doomed[name]
            self._apply(GraphDelta(self._version(), gone_nodes=(name,)))
            self._count(-_size(self._nodes.pop(name, None)))
            if self._run.base.find_node(name) is not None:
                self._add_gone(name, self._gone_nodes)
            self.counts["nodes_deleted"] += 1

    # -- edges --------------------------------------------------------------------------------

    def create_edge(self, given_id: Any, edge: EdgeWrite) -> EdgeEntry:
        """Make a hyperedge; its own id is replaced."""
        name = self._id_for_new(given_id)
        if self._run.state.find_edge(name) is not None:
            raise BadQuery(f"a relationship {name} exists already")
        now = self._run.context.now_ms
        made = self._put_edge(msgspec.structs.replace(edge, id=name), now, has_vector=False)
        self.counts["relationships_created"] += 1
        return made

    def rewrite_edge(self, entry: EdgeEntry, **fields: Any) -> None:
        """Give a hyperedge other values of these fields of EdgeWrite."""
        stored = self._run.state.stored_edge(entry)
        if stored.expired is not None:
            raise BadQuery(f"{stored.id} has expired and is kept as it was")
        edge = msgspec.structs.replace(_as_given(_edge_write(stored)), **fields)
        self._put_edge(edge, stored.created, has_vector=stored.has_vector)

    def delete_edge(self, edge_id: str) -> None:
        """Delete a hyperedge unless it is gone already."""
        if self._run.state.find_edge(edge_id) is None:
            return
        self._apply(GraphDelta(self._version(), gone_edges=(edge_id,)))
        self._count(-_size(self._edges.pop(edge_id, None)))
        if self._run.base.find_edge(edge_id) is not None:
            self._add_gone(edge_id, self._gone_edges)
        self.counts["relationships_deleted"] += 1

    # -- the end ------------------------------------------------------------------------------

    def changes(self) -> tuple[GraphChanges, tuple[list[str], list[str]]]:
        """Return the net effect, and ids of nodes and edges whose vectors are to be kept.

        Raises:
            NodeInUse: a node was to be deleted and still has edges.
        """
        for name in self._doomed:
            raise NodeInUse(
                f"the node {name} still has relationships; DETACH DELETE takes them too"
            )
        changes = GraphChanges(
            nodes=[
                NodeWrite(each.id, each.labels, each.properties) for each in self._nodes.values()
            ],
            edges=[_edge_write(each) for each in self._edges.values()],
            delete_nodes=list(self._gone_nodes),
            delete_edges=list(self._gone_edges),
        )
        assert not any(each.expired for each in self._edges.values()), "history is not written"
        kept = (
            [each.id for each in self._nodes.values() if each.has_vector],
            [each.id for each in self._edges.values() if each.has_vector],
        )
        return changes, kept

    # -- parts --------------------------------------------------------------------------------

    def _id_for_new(self, given: Any) -> str:
        if given is None:
            return self._run.context.new_id()
        if type(given) is not str:
            raise BadQuery("an id is a string")
        check_id(given, _FIELD)
        return given

    def _stored(self, name: str, labels: tuple[str, ...], properties: bytes) -> StoredNode:
        now = self._run.context.now_ms
        return StoredNode(name, labels, properties, self._version(), now, now)

    def _put_node(self, stored: StoredNode) -> None:
        check_node(NodeWrite(stored.id, stored.labels), _FIELD)
        self._count(_size(stored) - _size(self._nodes.get(stored.id)))
        self._apply(GraphDelta(self._version(), nodes=(stored,)))
        self._nodes[stored.id] = stored
        self._run.written.note(self._node(stored.id).slot)

    def _put_edge(self, edge: EdgeWrite, created: int, *, has_vector: bool) -> EdgeEntry:
        check_edge(edge, _FIELD)
        now = self._run.context.now_ms
        stored = stored_edge(
            edge, version=self._version(), created=created, updated=now, has_vector=has_vector
        )
        self._count(_size(stored) - _size(self._edges.get(edge.id)))
        self._apply(GraphDelta(self._version(), edges=(stored,)))
        self._edges[edge.id] = stored
        entry = self._run.state.find_edge(edge.id)
        assert entry is not None, "what was written is there"
        return entry

    def _add_gone(self, name: str, gone: dict[str, None]) -> None:
        if name not in gone:
            self._count(len(name) + _OVERHEAD)
            gone[name] = None

    def _count(self, size: int) -> None:
        """Count bytes that are kept from now on, or no more."""
        self._bytes += size
        assert self._bytes >= 0, "what is no more kept was kept"
        bytes_max = self._run.context.changes_bytes_max
        if self._bytes > bytes_max:
            raise TooLarge(f"the query changes more than {bytes_max} bytes at once", field=_FIELD)

    def _apply(self, delta: GraphDelta) -> None:
        run = self._run
        assert run.writes, "only a query that writes changes its state"
        run.spend(_COST)
        if run.state is run.base:
            run.state = run.base.fork()
        run.state = run.state.apply(delta)

    def _version(self) -> int:
        return self._run.state.version

    def _node(self, name: str) -> Node:
        node = self._run.state.find_node(name)
        assert node is not None, "what was written is there"
        return node


def _size(stored: StoredNode | StoredEdge | None) -> int:
    """Return about how many bytes an element takes in the log, without its vector."""
    if stored is None:
        return 0
    names = stored.labels if isinstance(stored, StoredNode) else (stored.label, *stored.members)
    texts = sum(map(len, names)) + len(names)
    return _OVERHEAD + len(stored.id) + texts + len(stored.properties)


def _as_given(edge: EdgeWrite) -> EdgeWrite:
    """Return an edge with the confidences of its arcs only if they do not follow from its own."""
    derived = msgspec.structs.replace(edge, arc_confidences=())
    return derived if confidences_of(derived) == edge.arc_confidences else edge


def _edge_write(stored: StoredEdge) -> EdgeWrite:
    return EdgeWrite(
        stored.id,
        stored.label,
        stored.members,
        stored.roles,
        stored.properties,
        stored.confidence,
        stored.arc_confidences,
        stored.valid_at,
        stored.invalid_at,
    )
