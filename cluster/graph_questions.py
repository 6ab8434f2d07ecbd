"""What can be asked of a graph, as it travels between nodes, and the answer: JSON bytes.

A graph lies in one shard, so a question goes whole to one replica of it and the answer comes back
as it will be shown; nothing is decoded on the way. Moments are milliseconds since 1970. `as_of`
None: whenever an edge held in the world; `known_at` None: what the store holds to be true now.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from cluster.peer import Method
from cluster.peer_methods import ShardAnswer, ShardRead

Direction = Literal["out", "in", "both", "shared"]
ExportFormat = Literal["json", "graphml", "svg"]
ElementKind = Literal["nodes", "edges"]


class _Question(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    as_of: int | None = None
    known_at: int | None = None
    labels: tuple[str, ...] | None = None
    """Labels of edges that are walked; None: the question's default."""


class Describe(_Question, frozen=True, tag="describe"):
    """How many nodes and edges there are, and the version."""


class ElementsById(_Question, frozen=True, tag="elements"):
    """Nodes or edges by id, in the order asked; what does not exist is left out."""

    kind: ElementKind
    ids: list[str]
    with_vector: bool = False


class KHop(_Question, frozen=True, tag="khop"):
    """The nodes within some hops of each start."""

    ids: list[str]
    hops: int
    direction: Direction


class Chains(_Question, frozen=True, tag="chains"):
    """The best causal chains that end in a node, or start at it, or lead from one to another."""

    direction: Literal["causes", "effects"]
    id: str
    hops_max: int
    limit: int
    far_type: str | None = None
    """Only chains whose other end has this `type`."""
    far_id: str | None = None
    """Only chains whose other end is this node."""


class Similar(_Question, frozen=True, tag="similar"):
    """Chains whose nodes have these values of a property; by example, those of the nodes `ids`."""

    types: list[str]
    ids: list[str]
    property: str
    limit: int


class Counterfactual(_Question, frozen=True, tag="counterfactual"):
    """What is left of a node's causes without an edge."""

    edge: str
    id: str
    hops_max: int
    limit: int


class Cypher(_Question, frozen=True, tag="cypher"):
    """A query that only reads. `parameters` is a JSON object.

    `merged`: its rows will be merged with other graphs': sort keys come along, nothing is skipped.
    """

    query: str
    parameters: bytes
    rows_max: int
    merged: bool = False


class Recall(_Question, frozen=True, tag="recall"):
    """The elements nearest to a vector, and what is connected with them by cause."""

    vector: bytes
    kinds: tuple[ElementKind, ...]
    k: int
    hops_max: int
    direction: Literal["causes", "effects", "both"]
    chains_max: int
    limit: int
    confidence_min: float
    descending: bool
    """Whether a larger score is nearer."""
    score_min: float | None = None


class Algorithm(_Question, frozen=True, tag="algorithm"):
    """An algorithm of networkx over the whole graph; `arguments` is a JSON object."""

    name: str
    arguments: bytes
    limit: int


class Export(_Question, frozen=True, tag="export"):
    """A neighbourhood, or with no `ids` the whole graph, for other programs or for eyes."""

    format: ExportFormat
    ids: list[str]
    hops: int
    direction: Direction
    nodes_max: int
    projected: bool = False


Question = (
    Describe
    | ElementsById
    | KHop
    | Chains
    | Similar
    | Counterfactual
    | Cypher
    | Recall
    | Algorithm
    | Export
)

WHOLE: Final = (Algorithm, Export)
"""Questions that may take long and cannot be stopped half-way."""
HEAVY: Final = (Cypher, *WHOLE)
"""Questions that may take long; they have threads of their own."""


class GraphRead(msgspec.Struct, array_like=True, frozen=True):
    """A question to a graph. `timeout_ms`: how long the answer may take to be found."""

    graph: int
    indexes: tuple[str, ...]
    question: Question
    timeout_ms: int
    expansions_max: int


class GraphAnswer(msgspec.Struct, array_like=True, frozen=True):
    """The answer as JSON, or as text for an export; `version` is the graph's."""

    result: bytes
    version: int


class CypherWrite(msgspec.Struct, array_like=True, frozen=True):
    """A query that writes, for the leader of the graph's shard.

    `dimension` is that of the graph's vectors; `request_id` as it goes into the log, without the
    number of the attempt.
    """

    group: int
    read: GraphRead
    dimension: int
    request_id: str
    request_digest: str


class CypherWritten(msgspec.Struct, array_like=True, frozen=True):
    """What a query that writes gave; `version` is the shard's index at which it took effect, 0 when
    there was nothing to change. `term` is that of the entry. `seen`: the index that the answer
    reflects."""

    result: bytes
    version: int
    term: int
    seen: int = 0


GRAPH: Final = Method("router/graph", ShardRead[GraphRead], ShardAnswer[GraphAnswer])
CYPHER_WRITE: Final = Method("router/cypher_write", CypherWrite, CypherWritten)
