"""The shapes of what graphs answer, for the API description; tests hold answers against them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from cluster.api.answers import Shape, VectorsShape


class GraphName(Shape):
    """One listed graph."""

    name: str


class GraphList(Shape):
    """All graphs."""

    graphs: list[GraphName]


class GraphCreated(Shape):
    """A graph that is there now; `created` false: it was there before."""

    name: str
    created: bool


class GraphShape(Shape):
    """A graph. `version` is that of its last change; `edges` counts expired ones, too."""

    name: str
    vectors: VectorsShape | None
    embedding_space: str | None
    indexes: list[str]
    shard: int
    nodes: int
    edges: int
    version: int


class GraphWritten(Shape):
    """A finished write: what was named or written, in the order given."""

    ids: list[str]
    version: int


class BatchWritten(Shape):
    """A finished transaction."""

    version: int
    edges: list[str]
    """Ids of the edges that were written, in the order given."""


class NodeShape(Shape):
    """A node."""

    id: str
    labels: list[str]
    properties: dict[str, Any]
    vector: list[float] | UnsetType | None = UNSET


class TimesShape(Shape):
    """When a relation held in the world, and when the store held it to be true."""

    valid_at: str | None
    invalid_at: str | None
    created_at: str | None
    expired_at: str | None


class EdgeShape(TimesShape, kw_only=True):
    """A hyperedge: `members` in order, or `roles` by name."""

    id: str
    label: str
    members: list[str] | UnsetType = UNSET
    roles: dict[str, list[str]] | UnsetType = UNSET
    arc_confidences: list[float] | UnsetType = UNSET
    confidence: float
    properties: dict[str, Any]
    vector: list[float] | UnsetType | None = UNSET


class ArcShape(TimesShape):
    """One step through a hyperedge."""

    hyperedge_id: str
    type: str
    position: int
    source: str
    target: str
    confidence: float
    properties: dict[str, Any]


class ChainShape(Shape):
    """A causal chain, the first cause first."""

    nodes: list[NodeShape]
    edges: list[ArcShape]
    chain_confidence: float


class ChainsShape(Shape):
    """Chains, the most confident first; `truncated`: a limit ended the search."""

    paths: list[ChainShape]
    truncated: bool


class ChainAdded(Shape):
    """A chain that was stored."""

    edge: str
    events: list[str]
    chain_confidence: float
    version: int


class NeighboursShape(Shape):
    """The nodes near each start, nearest first."""

    neighbours: list[list[str]]
    truncated: bool


class WeakenedShape(msgspec.Struct, forbid_unknown_fields=True, rename={"with_": "with"}):
    """A cause whose best chain is less sure without an edge."""

    id: str
    with_: float
    without: float


class CounterfactualShape(Shape):
    """A node's causes with and without an edge."""

    confidence_with: float
    confidence_without: float
    delta: float
    paths_lost: list[ChainShape]
    remaining: list[ChainShape]
    causes_lost: list[str]
    causes_weakened: list[WeakenedShape]
    truncated: bool


class RowsShape(Shape):
    """Rows of a query; `truncated` says that a limit cut it short, `truncated_by` which one.

    `stats` counts what a query that writes has changed; `plan` answers EXPLAIN.
    """

    columns: list[str]
    rows: list[list[Any]]
    truncated: bool
    truncated_by: Literal["rows", "expansions", "time"] | None
    stats: dict[str, int] | UnsetType = UNSET
    plan: list[dict[str, str]] | UnsetType = UNSET
    version: int | UnsetType = UNSET


class MatchShape(Shape):
    """An element that was found by meaning."""

    id: str
    kind: Literal["node", "edge"]
    score: float
    node: NodeShape | UnsetType = UNSET
    edge: EdgeShape | UnsetType = UNSET


class WhyShape(Shape):
    """Why a node is in the answer: what it was found by, and along which chain."""

    matched: str
    kind: Literal["node", "edge"]
    direction: Literal["match", "cause", "effect"]
    similarity: float
    chain_confidence: float
    uplift: float
    latency_ms: float
    path: list[str]
    edges: list[str]


class RecalledShape(Shape):
    """A node that a question brings to mind."""

    node: NodeShape
    utility: float
    why: WhyShape
    graph: str | UnsetType = UNSET


class RecallShape(Shape):
    """What a question brings to mind, best first; `matches` is what was found by meaning alone."""

    results: list[RecalledShape]
    matches: list[MatchShape]
    truncated: bool


class AlgorithmShape(Shape):
    """What an algorithm gave, best first; what a result is depends on the algorithm.

    `nodes` and `arcs` say how much of the graph it was given, `count` how many results there were.
    """

    algorithm: str
    nodes: int
    arcs: int
    count: int
    results: list[dict[str, Any]]
    truncated: bool


class ExportShape(Shape):
    """A graph, or a part of it, in another form: text, or an object for JSON."""

    format: Literal["json", "graphml", "svg"]
    content: Any
    truncated: bool
