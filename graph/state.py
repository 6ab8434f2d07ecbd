"""A graph in memory: an immutable state per version, which shares what did not change.

Readers take the current state and may walk it for as long as they like: it never changes, so no
edge they meet lacks a node, and no lock is held. A writer makes the next state and publishes it by
one assignment. What makes that cheap is the form: vertices lie in chunks of 256 by slot, a new
state copies the list of chunks and those chunks it touches.

A vertex is a node with its arcs: `out` those that leave it, `into` those that arrive. All arcs are
there, also of expired edges: `Edge.holds` says which count.

Slots are given to ids once and for all. The dictionaries from ids to slots are shared by all
states and only grow; an id that a state does not have leads to an empty vertex, or beyond the
end. When most slots are empty, the graph is better made anew: see `sparse`. A state that somebody
wants to change on trial, beside the one writer, has to be a `fork`, which has dictionaries of its
own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

from graph.model import (
    Arc,
    Edge,
    GraphDelta,
    Node,
    StoredEdge,
    StoredNode,
    arcs_of,
    confidences_of,
)

CHUNK_BITS: Final = 8
CHUNK: Final = 1 << CHUNK_BITS
MASK: Final = CHUNK - 1
_SPARE_SLOTS: Final = 10_000

Arcs = tuple[Arc, ...]


class Vertex(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A node, None when there is none in this slot, and its arcs in no particular order."""

    node: Node | None = None
    out: Arcs = ()
    into: Arcs = ()


EMPTY: Final = Vertex()


class EdgeEntry(msgspec.Struct, frozen=True, gc=False, eq=False):
    """An edge and its arcs, in the order of their positions."""

    edge: Edge
    arcs: Arcs


class _Names(NamedTuple):
    nodes: dict[str, int]
    edges: dict[str, int]


class GraphState:
    """See the module. `version` is that of the last change, a log index; `node_count` and
    `edge_count` are of what exists, expired edges included."""

    __slots__ = (
        "_names",
        "_trial",
        "chunks",
        "edge_chunks",
        "edge_count",
        "node_count",
        "serial",
        "shared",
        "slots",
        "touched",
        "version",
    )

    def __init__(self) -> None:
        self.version = 0
        self.serial = 0
        """How many changes led here."""
        self.shared = 0
        """The serial of the last state on the way here that others have, too: a fork's origin."""
        self._trial = False
        self.touched: tuple[int, ...] = ()
        """Slots of the vertices that the last change changed."""
        self.node_count = 0
        self.edge_count = 0
        self.slots = 0
        """One more than the highest slot that a vertex may have here."""
        self.chunks: list[list[Vertex]] = []
        self.edge_chunks: list[list[EdgeEntry | None]] = []
        self._names = _Names({}, {})

    # -- reading ------------------------------------------------------------------------------

    def vertex(self, slot: int) -> Vertex:
        """Return the vertex of a slot below `slots`."""
        return self.chunks[slot >> CHUNK_BITS][slot & MASK]

    def node(self, slot: int) -> Node:
        """Return the node of a slot that an arc of this state leads to."""
        node = self.chunks[slot >> CHUNK_BITS][slot & MASK].node
        assert node is not None, "an edge joins nodes that exist"
        return node

    def slot_of(self, node_id: str) -> int | None:
        """Return the slot of a node, or None when there is no such node."""
        slot = self._names.nodes.get(node_id)
        if slot is None or slot >= self.slots or self.vertex(slot).node is None:
            return None
        return slot

    def node_ids(self, slots: Iterable[int]) -> list[str]:
        """Return the ids of nodes that exist, in order."""
        chunks = self.chunks
        return [chunks[slot >> CHUNK_BITS][slot & MASK].node.id for slot in slots]  # type: ignore[union-attr]  # asked of nodes that exist

    def find_node(self, node_id: str) -> Node | None:
        """Return a node by id, or None."""
        slot = self.slot_of(node_id)
        return None if slot is None else self.vertex(slot).node

    def find_edge(self, edge_id: str) -> EdgeEntry | None:
        """Return an edge by id, expired or not, or None."""
        slot = self._names.edges.get(edge_id)
        if slot is None or slot >> CHUNK_BITS >= len(self.edge_chunks):
            return None
        return self.edge_chunks[slot >> CHUNK_BITS][slot & MASK]

    def nodes(self) -> Iterator[Node]:
        """Yield all nodes by ascending slot."""
        for chunk in self.chunks:
            for vertex in chunk:
                if vertex.node is not None:
                    yield vertex.node

    def edges(self) -> Iterator[EdgeEntry]:
        """Yield all edges, expired ones included, by ascending slot."""
        for chunk in self.edge_chunks:
            for entry in chunk:
                if entry is not None:
                    yield entry

    # -- changing -----------------------------------------------------------------------------

    def apply(self, delta: GraphDelta) -> GraphState:
        """Return the state after a transaction. Of all states that share this one's names only
        the newest may be changed, by one thread."""
        edit = _Edit(self)
        for edge_id in delta.gone_edges:
            edit.remove_edge(edge_id)
        for node in delta.nodes:
            edit.put_node(node)
        for edge in delta.edges:
            edit.put_edge(edge)
        for node_id in delta.gone_nodes:
            edit.remove_node(node_id)
        return edit.finished(delta.version)

    def fork(self) -> GraphState:
        """Return an equal state that may be changed on trial."""
        forked = self._copy()
        forked._trial = True  # noqa: SLF001
        forked._names = _Names(dict(self._names.nodes), dict(self._names.edges))  # noqa: SLF001
        return forked

    def sparse(self) -> bool:
        """Return whether most slots are those of nodes and edges that are gone."""
        slots = len(self._names.nodes) + len(self._names.edges)
        return slots > 2 * (self.node_count + self.edge_count) + _SPARE_SLOTS

    def stored_edge(self, entry: EdgeEntry) -> StoredEdge:
        """Return an edge as the store holds it, its members by id."""
        edge = entry.edge
        return StoredEdge(
            edge.id,
            edge.label,
            tuple(self.node(slot).id for slot in edge.members),
            edge.roles,
            edge.raw,
            edge.confidence,
            () if edge.roles else tuple(arc.confidence for arc in entry.arcs),
            edge.valid_at,
            edge.invalid_at,
            edge.version,
            edge.created,
            edge.updated,
            edge.expired,
            edge.has_vector,
        )

    def validate(self) -> None:
        """Assert that counts, members and arcs agree; reads everything."""
        nodes = list(self.nodes())
        entries = list(self.edges())
        assert len(nodes) == self.node_count, "nodes are counted"
        assert len(entries) == self.edge_count, "edges are counted"
        arcs = [arc for entry in entries for arc in entry.arcs]
        for arc in arcs:
            assert self.node(arc.source).slot == arc.source, "a source exists"
            assert self.node(arc.target).slot == arc.target, "a target exists"
            assert arc in self.vertex(arc.source).out, "a source knows its arcs"
            assert arc in self.vertex(arc.target).into, "a target knows its arcs"
        for side in ("out", "into"):
            total = sum(len(getattr(self.vertex(node.slot), side)) for node in nodes)
            assert total == len(arcs), "vertices know no other arcs"

    def _copy(self) -> GraphState:
        copy = GraphState.__new__(GraphState)
        for name in self.__slots__:
            setattr(copy, name, getattr(self, name))
        return copy


class _Edit:
    """The next state in the making."""

    def __init__(self, base: GraphState) -> None:
        self._state = state = base._copy()  # noqa: SLF001
        state.chunks = list(base.chunks)
        state.edge_chunks = list(base.edge_chunks)
        self._touched: dict[int, None] = {}
        self._fresh: dict[int, list[Vertex]] = {}
        self._fresh_edges: dict[int, list[EdgeEntry | None]] = {}
        self._added: dict[int, tuple[list[Arc], list[Arc]]] = {}
        self._dropped: dict[int, dict[int, None]] = {}
        """Vertex slot -> slots of edges whose arcs, as the base has them, go."""
        self._put_edges: dict[int, None] = {}
        """Slots of edges whose arcs are among the added."""

    def put_node(self, row: StoredNode) -> None:
        names = self._state._names.nodes  # noqa: SLF001
        slot = names.setdefault(row.id, len(names))
        vertex = self._vertex(slot)
        self._state.node_count += vertex.node is None
        node = Node(
            slot,
            row.id,
            row.labels,
            row.properties,
            row.version,
            row.created,
            row.updated,
            row.has_vector,
        )
        self._put_vertex(slot, Vertex(node, vertex.out, vertex.into))

    def put_edge(self, row: StoredEdge) -> None:
        self.remove_edge(row.id)
        state, names = self._state, self._state._names  # noqa: SLF001
        slot = names.edges.setdefault(row.id, len(names.edges))
        members = tuple(map(names.nodes.__getitem__, row.members))
        edge = Edge(
            slot,
            row.id,
            row.label,
            members,
            row.roles,
            row.properties,
            row.confidence,
            row.valid_at,
            row.invalid_at,
            row.version,
            row.created,
            row.updated,
            row.expired,
            row.has_vector,
        )
        arcs = tuple(arcs_of(edge, confidences_of(row)))
        self._put_entry(slot, EdgeEntry(edge, arcs))
        state.edge_count += 1
        self._put_edges[slot] = None
        for arc in arcs:
            self._additions(arc.source)[0].append(arc)
            self._additions(arc.target)[1].append(arc)

    def remove_edge(self, edge_id: str) -> None:
        entry = self._state.find_edge(edge_id)
        if entry is None:
            return
        slot = entry.edge.slot
        self._put_entry(slot, None)
        self._state.edge_count -= 1
        # Else the edges of one node, each written again, would take the square of their number.
        was_added = slot in self._put_edges
        self._put_edges.pop(slot, None)
        for member in dict.fromkeys(entry.edge.members):
            out, into = self._additions(member)
            if was_added:
                out[:] = [arc for arc in out if arc.edge.slot != slot]
                into[:] = [arc for arc in into if arc.edge.slot != slot]
            self._dropped.setdefault(member, {})[slot] = None

    def remove_node(self, node_id: str) -> None:
        slot = self._state._names.nodes.get(node_id)  # noqa: SLF001
        if slot is None or self._vertex(slot).node is None:
            return
        vertex = self._vertex(slot)
        self._put_vertex(slot, Vertex(None, vertex.out, vertex.into))
        self._state.node_count -= 1

    def finished(self, version: int) -> GraphState:
        for slot, (out, into) in self._added.items():
            vertex = self._vertex(slot)
            gone = self._dropped.get(slot, {})
            renewed = Vertex(
                vertex.node, _joined(vertex.out, gone, out), _joined(vertex.into, gone, into)
            )
            assert renewed.node or not (renewed.out or renewed.into), "no edge lacks a node"
            self._put_vertex(slot, renewed)
        assert version >= self._state.version, "a graph never goes back"
        self._state.version = version
        self._state.serial += 1
        if not self._state._trial:  # noqa: SLF001
            self._state.shared = self._state.serial
        self._state.touched = tuple(self._touched)
        return self._state

    def _additions(self, slot: int) -> tuple[list[Arc], list[Arc]]:
        return self._added.setdefault(slot, ([], []))

    def _vertex(self, slot: int) -> Vertex:
        return self._state.vertex(slot) if slot < self._state.slots else EMPTY

    def _put_vertex(self, slot: int, vertex: Vertex) -> None:
        at, chunks = slot >> CHUNK_BITS, self._state.chunks
        if at not in self._fresh:
            while at >= len(chunks):
                chunks.append([EMPTY] * CHUNK)
            self._fresh[at] = chunks[at] = list(chunks[at])
        self._fresh[at][slot & MASK] = vertex
        self._touched[slot] = None
        self._state.slots = max(self._state.slots, slot + 1)

    def _put_entry(self, slot: int, entry: EdgeEntry | None) -> None:
        at, chunks = slot >> CHUNK_BITS, self._state.edge_chunks
        if at not in self._fresh_edges:
            while at >= len(chunks):
                chunks.append([None] * CHUNK)
            self._fresh_edges[at] = chunks[at] = list(chunks[at])
        self._fresh_edges[at][slot & MASK] = entry


def _joined(old: Arcs, gone: dict[int, None], new: Iterable[Arc]) -> Arcs:
    kept = [arc for arc in old if arc.edge.slot not in gone] if gone else old
    return (*kept, *new)
