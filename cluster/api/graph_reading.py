"""What comes in for a graph, checked and turned into what goes into its log.

The schema has seen to types and sizes; here: times, properties, roles, vectors and texts. A batch
is read whole before anything is written, and the first bad element is named. Unknown ids of edges
are made here; those of a request with an idempotency key follow from the key, so that a repeated
request writes the same edges.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson
from msgspec import UnsetType

from cluster.api.embedding import embed_texts
from cluster.api.graph_schema import EdgeIn, Moment, NodeIn
from cluster.api.payloads import check_payload
from cluster.api.route import Call
from cluster.api.schema import given
from cluster.api.vectors import check_vectors
from cluster.errors import BadRequest
from cluster.graph_circumstances import retold
from cluster.model import Graph, Vector
from cluster.write_commands import unit_vectors
from graph.model import EdgeWrite, NodeWrite
from graph.validation import check_ids
from storage.filter_time import read_time
from storage.payloads import EMPTY_PAYLOAD, canonical_payload

TIME_MS_MAX: Final = 2**53


async def read_nodes(
    call: Call, graph: Graph, items: Sequence[NodeIn], field: str = "nodes"
) -> list[NodeWrite]:
    """Return the nodes to write. Raises BadRequest naming the first bad one."""
    vectors = await read_vectors(call, graph, items, field)
    return await call.computed(_nodes, call, items, vectors, field)


async def read_edges(
    call: Call, graph: Graph, items: Sequence[EdgeIn], request_id: str, field: str = "edges"
) -> list[EdgeWrite]:
    """Return the edges to write. Raises BadRequest naming the first bad one."""
    vectors = await read_vectors(call, graph, items, field)
    return await call.computed(_edges, call, items, vectors, request_id, field)


def read_ids(ids: list[str], field: str) -> list[str]:
    """Return ids that are named to be deleted; raises BadRequest naming the first bad one."""
    with retold():
        check_ids(ids, field)
    return ids


def new_element_id(call: Call, request_id: str, at: int) -> str:
    """Return the id of an element that came without one, the `at`-th of a request."""
    if request_id:
        return str(uuid.uuid5(uuid.UUID(hex=request_id), str(at)))
    return call.api.new_id()


def read_moment(value: Moment | UnsetType | None, field: str) -> int | None:
    """Return a time in milliseconds since 1970; raises BadRequest."""
    if isinstance(value, UnsetType) or value is None:
        return None
    if isinstance(value, str):
        micros = read_time(value)
        if micros is None:
            raise BadRequest("a time is RFC 3339, or milliseconds since 1970", field=field)
        return micros // 1000
    if abs(value) > TIME_MS_MAX:
        raise BadRequest("a time is within 2^53 milliseconds of 1970", field=field)
    return value


def read_properties(call: Call, value: dict[str, Any], field: str) -> bytes:
    """Return properties in their canonical form; raises BadRequest."""
    if not value:
        return EMPTY_PAYLOAD
    check_payload(value, call.api.config.payload_bytes_max, field)
    try:
        return canonical_payload(orjson.dumps(value))
    except (ValueError, TypeError) as error:
        raise BadRequest(str(error), field=field) from None


async def read_vectors(
    call: Call, graph: Graph, items: Sequence[Any], field: str
) -> list[bytes | None]:
    """Return the vector of each element, as float32 bytes, given or embedded from its text.

    Raises BadRequest for both at once, for a vector that does not fit, or a graph without vectors.
    """
    vectors: list[bytes | None] = [None] * len(items)
    own = [at for at, item in enumerate(items) if isinstance(item.vector, list)]
    texts = [at for at, item in enumerate(items) if isinstance(item.text, str)]
    for at in texts:
        if isinstance(items[at].vector, list):
            raise BadRequest("give either vector or text", field=f"{field}[{at}].text")
    if (own or texts) and not graph.dimension:
        place = f"{field}[{min(own + texts)}].vector"
        raise BadRequest(f"graph '{graph.name}' has no vectors", field=place)
    if own:
        rows = await call.computed(_matrix, graph, [items[at].vector for at in own], own, field)
        for at, row in zip(own, rows, strict=True):
            vectors[at] = row
    if texts:
        names = [f"{field}[{at}].text" for at in texts]
        found = await embed_texts(call, [items[at].text for at in texts], graph, names)
        rows = await call.computed(_stacked, graph, found)
        for at, row in zip(texts, rows, strict=True):
            vectors[at] = row
    return vectors


def stored_vector(graph: Graph, vector: Any) -> bytes:
    """Return one vector as it is stored and searched: of length 1 under Cosine."""
    return _stored(graph, vector.reshape(1, -1))[0]


def _matrix(
    graph: Graph, rows: Sequence[Sequence[float]], places: Sequence[int], field: str
) -> list[bytes]:
    return _stored(graph, check_vectors(rows, graph, lambda at: f"{field}[{places[at]}].vector"))


def _stacked(graph: Graph, vectors: Sequence[Vector]) -> list[bytes]:
    return _stored(graph, np.stack(vectors))


def _stored(graph: Graph, matrix: Any) -> list[bytes]:
    if graph.distance == "Cosine":
        matrix = unit_vectors(matrix)
    return [row.tobytes() for row in matrix.astype("<f4", copy=False)]


def _nodes(
    call: Call, items: Sequence[NodeIn], vectors: Sequence[bytes | None], field: str
) -> list[NodeWrite]:
    return [
        NodeWrite(
            item.id,
            tuple(given(item.labels, ())),
            read_properties(
                call,
                own_properties(item.id, given(item.properties, {}), f"{field}[{at}]"),
                f"{field}[{at}].properties",
            ),
            vector,
        )
        for at, (item, vector) in enumerate(zip(items, vectors, strict=True))
    ]


def own_properties(node_id: str, properties: dict[str, Any], field: str) -> dict[str, Any]:
    """Return a node's properties without its id, which is no property. Raises BadRequest."""
    if "id" not in properties:
        return properties
    if properties["id"] != node_id:
        raise BadRequest("a property 'id' is the node's id, or absent", field=f"{field}.properties")
    return {name: value for name, value in properties.items() if name != "id"}


def _edges(
    call: Call,
    items: Sequence[EdgeIn],
    vectors: Sequence[bytes | None],
    request_id: str,
    field: str,
) -> list[EdgeWrite]:
    return [
        _edge(call, item, vector, (request_id, at), f"{field}[{at}]")
        for at, (item, vector) in enumerate(zip(items, vectors, strict=True))
    ]


def _edge(
    call: Call, item: EdgeIn, vector: bytes | None, place: tuple[str, int], field: str
) -> EdgeWrite:
    members, roles = _members(item, field)
    chosen = given(item.id, None)
    return EdgeWrite(
        new_element_id(call, *place) if chosen is None else chosen,
        item.label,
        members,
        roles,
        read_properties(call, given(item.properties, {}), f"{field}.properties"),
        given(item.confidence, 1.0),
        tuple(given(item.arc_confidences, ())),
        read_moment(item.valid_at, f"{field}.valid_at"),
        read_moment(item.invalid_at, f"{field}.invalid_at"),
        vector,
    )


def _members(item: EdgeIn, field: str) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
    if isinstance(item.members, list) == isinstance(item.roles, dict):
        raise BadRequest("give either members or roles", field=f"{field}.members")
    if isinstance(item.members, list):
        return tuple(item.members), ()
    assert isinstance(item.roles, dict), "one of the two is given"
    members = tuple(member for ids in item.roles.values() for member in ids)
    return members, tuple((name, len(ids)) for name, ids in item.roles.items())
