"""The nouns of the hypergraph: nodes, hyperedges, and the arcs that an edge is seen as.

A hyperedge joins two or more members. An *ordered* one (no roles) is a chain: it is seen as the
arcs member[i] -> member[i + 1]. One with *roles* has its members grouped by role, and the first
role holds the sources: it is seen as the arcs source -> each member of the other roles. Both are
walked, and matched by Cypher, through these arcs; `position` counts the arcs of an edge from 0.

Confidence lies on arcs. An ordered edge's confidence is the product of its arcs'; when only the
edge's is given, each of its k - 1 arcs gets confidence ** (1 / (k - 1)), so that multiplying along
the chain gives back what was stated. Each arc of an edge with roles carries the edge's confidence:
a path takes one of them.

Time is kept twice. `valid_at` and `invalid_at` say when a relation held in the world, from the
first on and up to but without the second; None leaves that side open. `created` and `expired` say
when the store held it to be true. All are milliseconds since 1970, UTC.

What is written (`NodeWrite`, `EdgeWrite`, `GraphChanges`) names members by id and goes through
the log as it is; what is walked (`Node`, `Edge`, `Arc`) refers to nodes by slot, a small integer
that `graph.state` gives out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec
import orjson

MEMBERS_MAX: Final = 256
"""Members of one hyperedge."""
ID_BYTES_MAX: Final = 512
LABELS_MAX: Final = 32
NAME_BYTES_MAX: Final = 255
"""Bytes of a label, a role or an edge's label."""
PROPERTIES_BYTES_MAX: Final = 65_536
"""Bytes of the canonical JSON of an element's properties."""

TIME_MS_MIN: Final = -62_135_596_800_000
TIME_MS_MAX: Final = 253_402_300_799_999
"""Moments lie within the years 1 to 9999, which every calendar and RFC 3339 can write."""

Role = tuple[str, int]
"""A role's name, and how many of the members, in order, play it."""


class NodeWrite(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A node as a user wants it: the whole node, replacing one of the same id.

    `properties` is a canonical JSON object in bytes; `vector` little-endian float32 bytes.
    """

    id: str
    labels: tuple[str, ...] = ()
    properties: bytes = b"{}"
    vector: bytes | None = None


class EdgeWrite(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A hyperedge as a user wants it: the whole edge, replacing one of the same id.

    `roles` () makes it ordered, else their counts add up to the members, the sources first.
    `arc_confidences` are those of an ordered edge's arcs; () derives them from `confidence`.
    """

    id: str
    label: str
    members: tuple[str, ...]
    roles: tuple[Role, ...] = ()
    properties: bytes = b"{}"
    confidence: float = 1.0
    arc_confidences: tuple[float, ...] = ()
    valid_at: int | None = None
    invalid_at: int | None = None
    vector: bytes | None = None


class GraphChanges(msgspec.Struct, array_like=True, frozen=True):
    """What one transaction does to one graph, in this order: edges are deleted and expired, nodes
    are deleted, nodes are written, edges are written.

    Deleting what does not exist is no error. A node that still has edges is deleted only with
    `cascade`, which takes its edges along. An edge may only join nodes that exist afterwards.
    """

    nodes: list[NodeWrite] = []
    edges: list[EdgeWrite] = []
    delete_nodes: list[str] = []
    delete_edges: list[str] = []
    expire_edges: list[str] = []
    cascade: bool = False

    def __bool__(self) -> bool:
        return any((self.nodes, self.edges, self.delete_nodes, self.delete_edges)) or bool(
            self.expire_edges
        )


class StoredNode(msgspec.Struct, frozen=True, gc=False):
    """A node as the store holds it."""

    id: str
    labels: tuple[str, ...]
    properties: bytes
    version: int
    created: int
    updated: int
    has_vector: bool = False


class StoredEdge(msgspec.Struct, frozen=True, gc=False):
    """A hyperedge as the store holds it; `expired` None: it is current."""

    id: str
    label: str
    members: tuple[str, ...]
    roles: tuple[Role, ...]
    properties: bytes
    confidence: float
    arc_confidences: tuple[float, ...]
    valid_at: int | None
    invalid_at: int | None
    version: int
    created: int
    updated: int
    expired: int | None = None
    has_vector: bool = False


class GraphDelta(msgspec.Struct, frozen=True):
    """The last state of each element that a transaction touched, and what is gone.

    `version`: the graph's version afterwards, the log index of the entry that made it.
    """

    version: int
    nodes: Sequence[StoredNode] = ()
    edges: Sequence[StoredEdge] = ()
    gone_nodes: Sequence[str] = ()
    gone_edges: Sequence[str] = ()


class Node(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A node in memory. Its slot never becomes another id's."""

    slot: int
    id: str
    labels: tuple[str, ...]
    raw: bytes
    """Properties as canonical JSON."""
    version: int
    created: int
    updated: int
    has_vector: bool = False

    @property
    def properties(self) -> dict[str, Any]:
        """The properties, decoded anew each time: in bytes they take a fifth of the memory."""
        return _object(self.raw)


class Edge(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A hyperedge in memory; `members` are node slots."""

    slot: int
    id: str
    label: str
    members: tuple[int, ...]
    roles: tuple[Role, ...]
    raw: bytes
    confidence: float
    valid_at: int | None
    invalid_at: int | None
    version: int
    created: int
    updated: int
    expired: int | None = None
    has_vector: bool = False

    @property
    def properties(self) -> dict[str, Any]:
        """The properties, decoded anew each time: in bytes they take a fifth of the memory."""
        return _object(self.raw)

    def holds(self, as_of: int | None, known_at: int | None = None) -> bool:
        """Return whether the edge counts.

        `as_of`: it held in the world then; None: whenever. `known_at`: the store held it to be
        true then; None: now.
        """
        if known_at is None:
            if self.expired is not None:
                return False
        elif self.created > known_at or (self.expired is not None and self.expired <= known_at):
            return False
        if as_of is None:
            return True
        begun = self.valid_at is None or self.valid_at <= as_of
        return begun and (self.invalid_at is None or as_of < self.invalid_at)


class Arc(msgspec.Struct, frozen=True, gc=False, eq=False):
    """One step that an edge allows, from node slot to node slot."""

    edge: Edge
    position: int
    source: int
    target: int
    confidence: float


def arcs_of(edge: Edge, arc_confidences: Sequence[float]) -> list[Arc]:
    """Return an edge's arcs in the order of their positions.

    `arc_confidences` has one for each; see `confidences_of`.
    """
    members = edge.members
    if len(members) == 2:  # by far the most
        return [Arc(edge, 0, members[0], members[1], arc_confidences[0])]
    pairs = list(arc_pairs(members, edge.roles))
    assert len(pairs) == len(arc_confidences), "an arc has a confidence"
    return [
        Arc(edge, position, source, target, confidence)
        for position, ((source, target), confidence) in enumerate(
            zip(pairs, arc_confidences, strict=True)
        )
    ]


def arc_pairs(members: Sequence[int], roles: Sequence[Role]) -> Iterator[tuple[int, int]]:
    """Yield (source, target) of each arc."""
    if not roles:
        yield from pairwise(members)
        return
    sources = roles[0][1]
    for source in members[:sources]:
        for target in members[sources:]:
            yield source, target


def arc_count(members: int, roles: Sequence[Role]) -> int:
    """Return how many arcs an edge of so many members has."""
    return roles[0][1] * (members - roles[0][1]) if roles else members - 1


def confidences_of(write: EdgeWrite | StoredEdge) -> tuple[float, ...]:
    """Return the confidence of each arc of an edge; see the module."""
    count = arc_count(len(write.members), write.roles)
    assert count > 0, "an edge has an arc"
    if write.roles:
        return (write.confidence,) * count
    if write.arc_confidences:
        assert len(write.arc_confidences) == count, "an arc has a confidence"
        return write.arc_confidences
    return (write.confidence ** (1 / count),) * count


def edge_confidence(write: EdgeWrite) -> float:
    """Return an edge's confidence: the product of its arcs' when those are given."""
    return math.prod(write.arc_confidences) if write.arc_confidences else write.confidence


def stored_edge(
    write: EdgeWrite, *, version: int, created: int, updated: int, has_vector: bool
) -> StoredEdge:
    """Return a current edge as it is stored; `created` and `updated` in ms since 1970."""
    return StoredEdge(
        write.id,
        write.label,
        write.members,
        write.roles,
        write.properties,
        edge_confidence(write),
        write.arc_confidences,
        write.valid_at,
        write.invalid_at,
        version,
        created,
        updated,
        None,
        has_vector,
    )


def _object(raw: bytes) -> dict[str, Any]:
    value = orjson.loads(raw)
    assert isinstance(value, dict), "properties are an object"
    return value
