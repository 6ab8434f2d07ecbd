"""Request schemas of questions to graphs."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from cluster.api.graph_schema import (
    ElementId,
    ElementIds,
    Moment,
    Properties,
    Text,
)
from cluster.api.schema import Limit, Name, RequestBody, VectorIn
from cluster.graph_questions import Direction, ElementKind, ExportFormat
from graph.model import MEMBERS_MAX

HOPS_MAX: Final = 32
QUERY_BYTES_MAX: Final = 16 * 1024

Hops = Annotated[int, Meta(ge=1, le=HOPS_MAX)]
EdgeLabels = Annotated[list[Name], Meta(min_length=1, max_length=64)]
GraphNames = Annotated[list[Name], Meta(min_length=1, max_length=64)]
Timeout = Annotated[int, Meta(ge=1, le=3_600_000)]
Expansions = Annotated[int, Meta(ge=1, le=10_000_000)]


class Question(RequestBody):
    """What every question may say.

    `as_of`: only edges that held in the world then. `known_at`: what the store held to be true
    then. `expansions_max`: how many steps may be looked at.
    """

    as_of: Moment | UnsetType | None = UNSET
    known_at: Moment | UnsetType | None = UNSET
    timeout_ms: Timeout | UnsetType | None = UNSET
    expansions_max: Expansions | UnsetType | None = UNSET


class LabelledQuestion(Question):
    """A question that walks edges of some labels."""

    labels: EdgeLabels | UnsetType | None = UNSET


class KHop(LabelledQuestion, kw_only=True):
    """Body of `POST /graph/{name}/khop`: the nodes within some hops of each start."""

    ids: ElementIds
    hops: Hops
    direction: Direction | UnsetType = UNSET


class Chains(LabelledQuestion, kw_only=True):
    """Body of `POST /graph/{name}/causes` and `.../effects`.

    `type`: only chains whose other end is of it; `to`: only chains whose other end is this node.
    """

    id: ElementId
    max_hops: Hops | UnsetType = UNSET
    limit: Limit | UnsetType = UNSET
    type: Text | UnsetType | None = UNSET
    to: ElementId | UnsetType | None = UNSET


class Similar(LabelledQuestion, kw_only=True):
    """Body of `POST /graph/{name}/similar`: chains of these types, `*` for any; or those like the
    chain of the nodes `ids`. `property` holds the type."""

    types: Annotated[list[Text], Meta(min_length=2, max_length=HOPS_MAX)] | UnsetType | None = UNSET
    ids: Annotated[list[ElementId], Meta(min_length=2, max_length=HOPS_MAX)] | UnsetType | None = (
        UNSET
    )
    property: Name | UnsetType = UNSET
    limit: Limit | UnsetType = UNSET


class Counterfactual(LabelledQuestion, kw_only=True):
    """Body of `POST /graph/{name}/counterfactual`: a node's causes without an edge."""

    id: ElementId
    without: ElementId
    max_hops: Hops | UnsetType = UNSET
    limit: Limit | UnsetType = UNSET


class Cypher(Question, kw_only=True):
    """Body of `POST /graph/{name}/cypher`; `limit` is the most rows that are answered."""

    query: Annotated[str, Meta(min_length=1, max_length=QUERY_BYTES_MAX)]
    parameters: Properties | UnsetType | None = UNSET
    limit: Limit | UnsetType | None = UNSET


class CypherOfMany(Cypher, kw_only=True):
    """Body of `POST /graph/cypher`: one query for several graphs."""

    graphs: GraphNames


class Recall(LabelledQuestion, kw_only=True):
    """Body of `POST /graph/{name}/recall`: by meaning, then by cause.

    `k`: how many elements are found by meaning; `max_hops`: how far causes and effects of these are
    followed, along chains of at least `min_confidence`.
    """

    text: Text | UnsetType | None = UNSET
    vector: VectorIn | UnsetType | None = UNSET
    k: Limit | UnsetType = UNSET
    kinds: Annotated[list[ElementKind], Meta(min_length=1, max_length=2)] | UnsetType = UNSET
    direction: Literal["causes", "effects", "both"] | UnsetType = UNSET
    max_hops: Annotated[int, Meta(ge=0, le=HOPS_MAX)] | UnsetType = UNSET
    chains: Limit | UnsetType = UNSET
    limit: Limit | UnsetType = UNSET
    min_confidence: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    min_score: float | UnsetType | None = UNSET


class RecallOfMany(Recall, kw_only=True):
    """Body of `POST /graph/recall`: one question for several graphs."""

    graphs: GraphNames


class Algorithm(Question, kw_only=True):
    """Body of `POST /graph/{name}/algorithms/{algorithm}`."""

    parameters: Properties | UnsetType | None = UNSET
    limit: Limit | UnsetType | None = UNSET


class Export(LabelledQuestion, kw_only=True):
    """Body of `POST /graph/{name}/export`: the graph, or what is `around` some nodes.

    `projected`: for GraphML, arcs between nodes instead of hyperedges as nodes of their own.
    """

    format: ExportFormat
    around: Annotated[list[ElementId], Meta(max_length=MEMBERS_MAX)] | UnsetType = UNSET
    hops: Hops | UnsetType = UNSET
    direction: Direction | UnsetType = UNSET
    nodes_max: Annotated[int, Meta(ge=1, le=1_000_000)] | UnsetType | None = UNSET
    projected: bool | UnsetType = UNSET
