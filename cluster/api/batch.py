"""One transaction over points and a graph that lie under the same name.

A graph's name is hashed as a shard key is, so points that are written under that key, in a
collection of custom sharding, are in its shard. What a batch changes is one entry of that shard's
log: all of it, or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

from msgspec import UNSET, Meta, UnsetType

from cluster.api import graph_answer_shapes as shapes
from cluster.api.conditions import placed
from cluster.api.envelope import Answer
from cluster.api.graph_reading import read_edges, read_ids, read_nodes
from cluster.api.graph_schema import ELEMENTS_MAX, EdgeIn, ElementId, NodeIn
from cluster.api.graphs import find_graph
from cluster.api.identity import collection_name, point_ids
from cluster.api.point_schema import PointIn
from cluster.api.points import read_list
from cluster.api.route import Call, Route
from cluster.api.schema import IDS_SCHEMA, IdList, Name, RequestBody, given
from cluster.command import Delete, Upsert
from cluster.errors import BadRequest, VersionConflict
from cluster.model import Collection, Graph, Options, Point
from cluster.write_commands import canonical_ids, point_writes
from graph.model import GraphChanges
from storage.ids import key_bytes, keyed_id

_Ids = Annotated[list[ElementId], Meta(max_length=ELEMENTS_MAX)] | UnsetType


class BatchDeletes(RequestBody):
    """What a batch deletes, before it writes. `expire_edges` are kept as history instead."""

    described: ClassVar[Mapping[str, Any]] = {"points": IDS_SCHEMA}

    points: Annotated[IdList, Meta(max_length=ELEMENTS_MAX)] | UnsetType = UNSET
    nodes: _Ids = UNSET
    edges: _Ids = UNSET
    expire_edges: _Ids = UNSET
    cascade: bool | UnsetType = UNSET


class Batch(RequestBody):
    """Body of `POST /batch`. `shard_key` is the name of the graph, and the key of the points in
    `collection`."""

    shard_key: Name
    collection: Name | UnsetType | None = UNSET
    points: Annotated[list[PointIn], Meta(max_length=ELEMENTS_MAX)] | UnsetType = UNSET
    nodes: Annotated[list[NodeIn], Meta(max_length=ELEMENTS_MAX)] | UnsetType = UNSET
    edges: Annotated[list[EdgeIn], Meta(max_length=ELEMENTS_MAX)] | UnsetType = UNSET
    deletes: BatchDeletes | UnsetType = UNSET


async def batch(call: Call, body: Batch) -> Answer:
    """Change points and a graph, all or nothing."""
    deletes = given(body.deletes, BatchDeletes())
    graph = await _graph(call, body, deletes)
    collection = await _collection(call, body, deletes)
    # A key is good for what these names stand for now, not for what is made under them later.
    uids = (graph.uid if graph else 0, collection.uid if collection else 0)
    options = call.write_options("{}/{}".format(*uids))
    changes = GraphChanges() if graph is None else await _changes(call, graph, body, options)
    points: list[Point] = []
    commands: list[Upsert | Delete] = []
    if collection is not None:
        points = await call.computed(read_list, given(body.points, []), collection, call.api.config)
        commands = await call.computed(_commands, call, body.shard_key, collection, points, deletes)
    if not changes and not commands:
        raise BadRequest("the batch changes nothing", field="points")
    try:
        ack = await call.api.router.graphs.write(body.shard_key, graph, changes, options, commands)
    except VersionConflict as conflict:
        raise placed(conflict, points) from None
    edges = [edge.id for edge in changes.edges]
    return call.written({"version": ack.version, "edges": edges}, ack)


async def _graph(call: Call, body: Batch, deletes: BatchDeletes) -> Graph | None:
    """Return the graph that is changed; None when only points are."""
    named = (body.nodes, body.edges, deletes.nodes, deletes.edges, deletes.expire_edges)
    if not any(given(each, None) for each in named):
        return None
    return await find_graph(call, body.shard_key, "shard_key")


async def _changes(call: Call, graph: Graph, body: Batch, options: Options) -> GraphChanges:
    deletes = given(body.deletes, BatchDeletes())
    return GraphChanges(
        await read_nodes(call, graph, given(body.nodes, [])),
        await read_edges(call, graph, given(body.edges, []), options.request_id),
        read_ids(given(deletes.nodes, []), "deletes.nodes"),
        read_ids(given(deletes.edges, []), "deletes.edges"),
        read_ids(given(deletes.expire_edges, []), "deletes.expire_edges"),
        given(deletes.cascade, default=False),
    )


async def _collection(call: Call, body: Batch, deletes: BatchDeletes) -> Collection | None:
    """Return the collection whose points are changed; None when none are.

    Raises BadRequest unless its points have keys.
    """
    if not given(body.points, None) and not given(deletes.points, None):
        return None
    name = given(body.collection, None)
    if name is None:
        raise BadRequest("points need a collection", field="collection")
    name = collection_name(name, "collection")
    collection = await call.api.router.collection(name, call.options)
    if not collection.custom_sharding:
        text = f"collection '{name}' has no shard keys: it was not created with custom sharding"
        raise BadRequest(text, field="collection")
    return collection


def _commands(
    call: Call, name: str, collection: Collection, points: list[Point], deletes: BatchDeletes
) -> list[Upsert | Delete]:
    try:
        key = key_bytes(name)
    except ValueError as error:
        raise BadRequest(str(error), field="shard_key") from None
    commands: list[Upsert | Delete] = []
    gone = point_ids(given(deletes.points, []), "deletes.points")
    if gone:
        ids = [keyed_id(each, key) for each in canonical_ids(gone, "deletes.points")]
        commands.append(Delete(collection.uid, ids))
    if points:
        bytes_max = call.api.router.graphs.command_bytes_max
        writes = point_writes(collection, points, key, bytes_max=bytes_max)
        commands.append(Upsert(collection.uid, collection.dimension, writes))
    return commands


ROUTES: Final = (
    Route(
        "POST",
        "/batch",
        batch,
        "Change points and a graph in one transaction",
        body=Batch,
        answer=shapes.BatchWritten,
        writes=True,
        errors=(404, 409, 413),
    ),
)
