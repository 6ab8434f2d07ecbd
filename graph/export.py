"""A part of a graph, cut out to be drawn, handed to networkx or written to a file.

A part is some nodes and the hyperedges among them. An edge belongs to it when all its members do;
one that has an arc within the part and further members outside is *partial*: counted, shown in
pictures, walked through by the arcs inside, but never written as if it were whole.

Nodes are found breadth first, those behind the most confident arcs first. So what a limit leaves
out is what matters least, and equal graphs give equal parts whatever their history was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final, Literal

import msgspec
import networkx as nx
import orjson

from graph.budget import Budget, Cut, Exhausted
from graph.edge_filter import EdgeFilter
from graph.errors import NodeMissing, TooLarge
from graph.khop import Direction
from graph.model import Arc, Edge, Node
from graph.shapes import edge_shape, moment, node_shape
from graph.state import EdgeEntry, GraphState

GRAPHML_ELEMENTS_MAX: Final = 10_000
JSON_ELEMENTS_MAX: Final = 50_000
"""Nodes and hyperedges of a part that become such a file in a few seconds: nothing can stop that
half-way."""

TITLES: Final = ("title", "name", "task", "type", "text")
"""Properties that may name a node to a reader, the best first."""


class Part(msgspec.Struct, frozen=True):
    """See the module. `nodes` are slots in the order in which they were found.

    `beyond` counts the nodes that were found but are over the limit; `cut` names the limit that
    ended the search.
    """

    nodes: tuple[int, ...]
    edges: tuple[EdgeEntry, ...]
    partial: tuple[EdgeEntry, ...] = ()
    beyond: int = 0
    cut: Cut | Literal["nodes"] | None = None

    def first(self, nodes_max: int) -> Part:
        """Return the part that has only the first nodes of this one."""
        if len(self.nodes) <= nodes_max:
            return self
        nodes = self.nodes[:nodes_max]
        edges, partial = _sorted_out(dict.fromkeys(nodes), (*self.edges, *self.partial))
        beyond = self.beyond + len(self.nodes) - nodes_max
        return Part(nodes, edges, partial, beyond, self.cut or "nodes")

    def within(self, elements_max: int) -> Part:
        """Return this part, or one of its first nodes with so many nodes and edges at most.

        Raises TooLarge when the first node alone has more.
        """
        size = len(self.nodes) + len(self.edges)
        if size <= elements_max:
            return self
        if len(self.nodes) == 1:
            raise TooLarge(f"{size:,} nodes and edges; at most {elements_max:,} are taken.")
        return self.first(max(1, len(self.nodes) * elements_max // size)).within(elements_max)


def neighbourhood(  # noqa: PLR0913 - what is wanted, and how much of it at most
    state: GraphState,
    starts: Sequence[str],
    hops: int,
    *,
    direction: Direction = "both",
    labels: Collection[str] | None = None,
    as_of: int | None = None,
    known_at: int | None = None,
    nodes_max: int = 10_000,
    budget: Budget,
) -> Part:
    """Return what lies within so many hops of some nodes, given by id."""
    search = _Search(state, EdgeFilter(labels, as_of, known_at), nodes_max, budget)
    for node_id in starts:
        slot = state.slot_of(node_id)
        if slot is None:
            raise NodeMissing(f"There is no node {node_id!r}.", field="starts")
        search.find(slot, 0)
    search.run(hops, direction)
    return search.part()


def whole(
    state: GraphState,
    *,
    labels: Collection[str] | None = None,
    as_of: int | None = None,
    known_at: int | None = None,
    nodes_max: int = 10_000,
    budget: Budget,
) -> Part:
    """Return the whole graph, or what the first nodes by id have among them."""
    search = _Search(state, EdgeFilter(labels, as_of, known_at), nodes_max, budget)
    for node in sorted(state.nodes(), key=lambda node: node.id):
        search.find(node.slot, 0)
    search.run(0, "out")
    return search.part()


class _Search:
    """A breadth-first search in progress."""

    def __init__(
        self, state: GraphState, wanted: EdgeFilter, nodes_max: int, budget: Budget
    ) -> None:
        assert nodes_max > 0, "a part has room for a node"
        self._state, self._wanted = state, wanted
        self._nodes_max, self._budget = nodes_max, budget
        self._depths: dict[int, int] = {}
        self._beyond: dict[int, None] = {}
        self._queue: deque[int] = deque()
        self._edges: dict[int, EdgeEntry] = {}
        self._cut: Cut | Literal["nodes"] | None = None

    def find(self, slot: int, depth: int) -> None:
        if slot in self._depths:
            return
        if len(self._depths) >= self._nodes_max:
            self._beyond[slot] = None
            return
        self._depths[slot] = depth
        self._queue.append(slot)

    def run(self, hops: int, direction: Direction) -> None:
        """Follow the arcs of all nodes, also of the last: they may join two that are found."""
        try:
            while self._queue:
                slot = self._queue.popleft()
                depth = self._depths[slot] + 1
                for arc, other in self._arcs(slot, direction):
                    fresh = self._keep(arc.edge)
                    if depth > hops:
                        continue
                    if direction != "shared":
                        self.find(other, depth)
                    elif fresh:
                        for member in arc.edge.members:
                            self.find(member, depth)
        except Exhausted as exhausted:
            self._cut = exhausted.by

    def part(self) -> Part:
        edges, partial = _sorted_out(self._depths, self._edges.values())
        cut = self._cut or ("nodes" if self._beyond else None)
        return Part(tuple(self._depths), edges, partial, len(self._beyond), cut)

    def _arcs(self, slot: int, direction: Direction) -> list[tuple[Arc, int]]:
        vertex = self._state.vertex(slot)
        found = [(arc, arc.target) for arc in vertex.out] if direction != "in" else []
        if direction != "out":
            found += [(arc, arc.source) for arc in vertex.into]
        self._budget.spend(len(found))
        counting = [pair for pair in found if self._wanted.counts(pair[0].edge)]
        return sorted(counting, key=_strongest_first)

    def _keep(self, edge: Edge) -> bool:
        """Remember an edge; return whether it is met for the first time."""
        if edge.slot in self._edges:
            return False
        entry = self._state.find_edge(edge.id)
        assert entry is not None, "an arc's edge exists"
        self._edges[edge.slot] = entry
        return True


def _strongest_first(pair: tuple[Arc, int]) -> tuple[float, str, int]:
    arc = pair[0]
    return -arc.confidence, arc.edge.id, arc.position


def _sorted_out(
    nodes: Collection[int], entries: Iterable[EdgeEntry]
) -> tuple[tuple[EdgeEntry, ...], tuple[EdgeEntry, ...]]:
    """Return the edges within some nodes, and the partial ones, each by id."""
    edges: list[EdgeEntry] = []
    partial: list[EdgeEntry] = []
    for entry in sorted(entries, key=lambda entry: entry.edge.id):
        if all(member in nodes for member in entry.edge.members):
            edges.append(entry)
        elif any(arc.source in nodes and arc.target in nodes for arc in entry.arcs):
            partial.append(entry)
    return tuple(edges), tuple(partial)


def arcs_within(part: Part) -> Iterator[Arc]:
    """Yield the arcs of all edges of a part, also of partial ones, that join two of its nodes."""
    for entry in part.edges:
        yield from entry.arcs
    nodes = dict.fromkeys(part.nodes)
    for entry in part.partial:
        yield from (arc for arc in entry.arcs if arc.source in nodes and arc.target in nodes)


def title_of(node: Node) -> str:
    """Return what names a node to a reader: a property that does so, else its id."""
    properties = node.properties
    for name in TITLES:
        value = properties.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return node.id


# -- networkx -------------------------------------------------------------------------------------


def bipartite(state: GraphState, part: Part) -> nx.DiGraph:
    """Return a part without loss: nodes `n:<id>` on one side, hyperedges `e:<id>` on the other.

    A link leads from each source (of an ordered edge: its first member) to the edge, and from the
    edge to each other member; `positions` say where that member stands, `roles` what it plays.
    """
    graph = nx.DiGraph()
    for slot in part.nodes:
        node = state.node(slot)
        graph.add_node(f"n:{node.id}", bipartite=0, **_node_attributes(node))
    for entry in part.edges:
        edge = entry.edge
        name = f"e:{edge.id}"
        graph.add_node(name, bipartite=1, **_edge_attributes(entry))
        sources = edge.roles[0][1] if edge.roles else 1
        roles = [role for role, count in edge.roles for _ in range(count)]
        for position, slot in enumerate(edge.members):
            member = f"n:{state.node(slot).id}"
            ends = (member, name) if position < sources else (name, member)
            link = graph.get_edge_data(*ends, {"positions": (), "roles": ()})
            graph.add_edge(
                *ends,
                positions=(*link["positions"], position),
                roles=(*link["roles"], *roles[position : position + 1]),
            )
    return graph


def projected(state: GraphState, part: Part) -> nx.MultiDiGraph:
    """Return a part's arcs among its nodes, those of partial edges too; an arc's key is
    `<hyperedge id>:<position>`."""
    graph = nx.MultiDiGraph()
    for slot in part.nodes:
        node = state.node(slot)
        graph.add_node(node.id, **_node_attributes(node))
    for arc in arcs_within(part):
        graph.add_edge(
            state.node(arc.source).id,
            state.node(arc.target).id,
            f"{arc.edge.id}:{arc.position}",
            hyperedge_id=arc.edge.id,
            position=arc.position,
            label=arc.edge.label,
            confidence=arc.confidence,
        )
    return graph


def _node_attributes(node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "label": title_of(node),
        "labels": node.labels,
        "properties": node.properties,
    }


def _edge_attributes(entry: EdgeEntry) -> dict[str, Any]:
    edge = entry.edge
    return {
        "id": edge.id,
        "label": edge.label,
        "ordered": not edge.roles,
        "confidence": edge.confidence,
        "arc_confidences": () if edge.roles else tuple(arc.confidence for arc in entry.arcs),
        "valid_at": moment(edge.valid_at),
        "invalid_at": moment(edge.invalid_at),
        "created_at": moment(edge.created),
        "expired_at": moment(edge.expired),
        "properties": edge.properties,
    }


# -- files ----------------------------------------------------------------------------------------


def json_shape(state: GraphState, part: Part) -> dict[str, Any]:
    """Return a part as plain JSON values, nodes and edges as in any answer."""
    return {
        "nodes": [node_shape(state.node(slot)) for slot in part.nodes],
        "edges": [edge_shape(state, entry) for entry in part.edges],
        "partial_edges": len(part.partial),
        "nodes_beyond": part.beyond,
        "truncated": part.cut is not None,
    }


def graphml(graph: nx.Graph) -> str:
    """Return a graph of `bipartite` or `projected` as GraphML.

    Each property is an attribute `property.<name>`. GraphML knows no lists or objects: such a
    value is written as JSON text.
    """
    plain = type(graph)()
    plain.add_nodes_from((_xml_text(name), _flat(data)) for name, data in graph.nodes(data=True))
    if graph.is_multigraph():
        for source, target, key, data in graph.edges(keys=True, data=True):
            plain.add_edge(_xml_text(source), _xml_text(target), _xml_text(key), **_flat(data))
    else:
        for source, target, data in graph.edges(data=True):
            plain.add_edge(_xml_text(source), _xml_text(target), **_flat(data))
    return "\n".join(nx.generate_graphml(plain))


def _flat(attributes: dict[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in attributes.items() if name != "properties"}
    for name, value in attributes.get("properties", {}).items():
        flat[f"property.{_xml_text(name)}"] = value
    return {name: _scalar(value) for name, value in flat.items() if value not in (None, ())}


def _scalar(value: Any) -> bool | int | float | str:
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, str):
        return _xml_text(value)
    return _xml_text(orjson.dumps(value).decode())


def _xml_text(text: str) -> str:
    """Return a text with a visible sign in place of each character that XML 1.0 cannot hold."""
    return text.translate(_SIGNS)


_SIGNS: Final = {
    **{code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n\r"},
    0xFFFE: "\N{REPLACEMENT CHARACTER}",
    0xFFFF: "\N{REPLACEMENT CHARACTER}",
}
"""Control characters by their pictures, which are as different as they are."""
