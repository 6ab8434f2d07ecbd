"""Request schemas of graphs: what they hold, and how it changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

from msgspec import UNSET, Meta, UnsetType

from cluster.api.collection_schema import VectorParams
from cluster.api.schema import NULL, VECTOR_SCHEMA, Name, RequestBody, VectorIn
from graph.model import ID_BYTES_MAX, LABELS_MAX, MEMBERS_MAX

ELEMENTS_MAX: Final = 10_000
"""Nodes, edges or ids in one request."""
INDEXES_MAX: Final = 64
INDEX_LENGTH_MAX: Final = 511
"""Characters of a label, a dot and the name of a property."""

ElementId = Annotated[str, Meta(min_length=1, max_length=ID_BYTES_MAX)]
ElementIds = Annotated[list[ElementId], Meta(min_length=1, max_length=ELEMENTS_MAX)]
Confidence = Annotated[float, Meta(ge=0, le=1)]
Moment = Annotated[str, Meta(max_length=64)] | int
"""RFC 3339, or milliseconds since 1970."""
Properties = dict[str, Any]
Text = Annotated[str, Meta(min_length=1)]

_Index = Annotated[str, Meta(pattern=r"^[^.]+\..+$", max_length=INDEX_LENGTH_MAX)]
_VECTOR_OR_NULL: Final = {"anyOf": [VECTOR_SCHEMA, NULL]}


class CreateGraph(RequestBody):
    """Body of `PUT /graph/{name}`; without any the graph takes vectors of this server's embedding.

    `vectors` null: no vectors. `indexes` name properties as `Label.property`.
    """

    vectors: VectorParams | UnsetType | None = UNSET
    embedding_space: Name | UnsetType | None = UNSET
    indexes: Annotated[list[_Index], Meta(max_length=INDEXES_MAX)] | UnsetType = UNSET


class NodeIn(RequestBody, gc=False):
    """A node to write, whole. `text` is embedded to be its vector."""

    described: ClassVar[Mapping[str, Any]] = {"vector": _VECTOR_OR_NULL}

    id: ElementId
    labels: Annotated[list[Name], Meta(max_length=LABELS_MAX)] | UnsetType = UNSET
    properties: Properties | UnsetType | None = UNSET
    vector: VectorIn | UnsetType | None = UNSET
    text: Text | UnsetType | None = UNSET


class EdgeIn(RequestBody, gc=False):
    """A hyperedge to write, whole: its `members` in order, or grouped by role, the sources first.

    `arc_confidences` are those of the steps from member to member.
    """

    one_of: ClassVar[tuple[str, ...]] = ("members", "roles")
    described: ClassVar[Mapping[str, Any]] = {"vector": _VECTOR_OR_NULL}

    label: Name
    id: ElementId | UnsetType | None = UNSET
    members: Annotated[list[ElementId], Meta(min_length=2, max_length=MEMBERS_MAX)] | UnsetType = (
        UNSET
    )
    roles: Annotated[dict[Name, list[ElementId]], Meta(min_length=2)] | UnsetType = UNSET
    properties: Properties | UnsetType | None = UNSET
    confidence: Confidence | UnsetType | None = UNSET
    arc_confidences: list[Confidence] | UnsetType | None = UNSET
    valid_at: Moment | UnsetType | None = UNSET
    invalid_at: Moment | UnsetType | None = UNSET
    vector: VectorIn | UnsetType | None = UNSET
    text: Text | UnsetType | None = UNSET


class PutNodes(RequestBody):
    """Body of `POST /graph/{name}/nodes`."""

    nodes: Annotated[list[NodeIn], Meta(min_length=1, max_length=ELEMENTS_MAX)]


class PutEdges(RequestBody):
    """Body of `POST /graph/{name}/edges`."""

    edges: Annotated[list[EdgeIn], Meta(min_length=1, max_length=ELEMENTS_MAX)]


class DeleteNodes(RequestBody):
    """Body of `POST /graph/{name}/nodes/delete`; `cascade` takes their edges along."""

    ids: ElementIds
    cascade: bool | UnsetType = UNSET


class DeleteEdges(RequestBody):
    """Body of `POST /graph/{name}/edges/delete`.

    `expire` keeps them, as what was held to be true until now.
    """

    ids: ElementIds
    expire: bool | UnsetType = UNSET


class GetElements(RequestBody):
    """Body of `POST /graph/{name}/nodes/get` and `.../edges/get`."""

    ids: ElementIds
    with_vector: bool | UnsetType = UNSET


class EventIn(RequestBody, gc=False):
    """An event of a causal chain. `type`, `timestamp`, `agentId` and `data` are kept as properties.

    One that exists keeps what is not said anew. `text` is embedded to be its vector.
    """

    id: ElementId
    type: Text | UnsetType | None = UNSET
    timestamp: Moment | UnsetType | None = UNSET
    agentId: Text | UnsetType | None = UNSET  # noqa: N815 - the wire's spelling
    data: Any = UNSET
    labels: Annotated[list[Name], Meta(max_length=LABELS_MAX)] | UnsetType = UNSET
    properties: Properties | UnsetType | None = UNSET
    vector: VectorIn | UnsetType | None = UNSET
    text: Text | UnsetType | None = UNSET


class AddChain(RequestBody):
    """Body of `POST /graph/{name}/chain`: events, the first cause first."""

    events: Annotated[list[EventIn], Meta(min_length=2, max_length=MEMBERS_MAX)]
    confidences: list[Confidence] | UnsetType | None = UNSET
    label: Name | UnsetType = UNSET
    id: ElementId | UnsetType | None = UNSET
    valid_at: Moment | UnsetType | None = UNSET
