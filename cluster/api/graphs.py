"""Graphs: create, describe, list, drop; nodes and hyperedges: write, read, delete.

Creating a graph that exists with the same parameters is no error, so a program may begin with it.
A batch of nodes or edges is one log entry: all of it is written, or nothing.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from cluster.api import graph_answer_shapes as shapes
from cluster.api.collection_schema import VectorParams
from cluster.api.collections import DEFAULT_SPACE
from cluster.api.envelope import Answer
from cluster.api.graph_reading import read_edges, read_ids, read_nodes
from cluster.api.graph_schema import (
    CreateGraph,
    DeleteEdges,
    DeleteNodes,
    GetElements,
    PutEdges,
    PutNodes,
)
from cluster.api.identity import graph_name
from cluster.api.route import Call, Route
from cluster.api.schema import given
from cluster.api.strict_json import refuse_lacking
from cluster.errors import BadRequest, GraphNotFound, UnsupportedFeature
from cluster.graph_questions import Describe, ElementKind, ElementsById
from cluster.graph_router import Effort
from cluster.metadata import CreateGraph as Creation
from cluster.model import Graph, WriteAck
from graph.model import GraphChanges

INDEXES_DEFAULT: Final = ("Event.timestamp", "Event.type", "Event.agentId")
USUAL: Final = Effort()


async def named_graph(call: Call) -> Graph:
    """Return the path's graph; raises GraphNotFound."""
    return await find_graph(call, call.path["graph_name"], "name")


async def find_graph(call: Call, text: str, field: str) -> Graph:
    """Return the graph that a request names in some field. Raises BadRequest or GraphNotFound."""
    name = graph_name(text, field)
    try:
        return await call.api.router.graphs.graph(name, call.options)
    except GraphNotFound as error:
        raise GraphNotFound(error.message, field=field) from None


async def create_graph(call: Call, body: CreateGraph) -> Answer:
    """Create a graph; 409 when one of that name has other parameters."""
    name = graph_name(call.path["graph_name"])
    created = await call.api.router.graphs.create(
        _creation(call, name, body), call.write_options(name)
    )
    session = call.api.router.session(call.options.session)
    return Answer({"name": name, "created": created}, session=session)


async def drop_graph(call: Call) -> Answer:
    """Drop a graph; the result is false when there was none."""
    name = graph_name(call.path["graph_name"])
    dropped = await call.api.router.graphs.drop(name, call.write_options(name))
    return Answer(dropped, session=call.api.router.session(call.options.session))


async def list_graphs(call: Call) -> Answer:
    """Return the names of all graphs."""
    await call.api.router.catch_up(call.options)
    names = sorted(graph.name for graph in call.api.router.graphs.graphs())
    session = call.api.router.session(call.options.session)
    return Answer({"graphs": [{"name": name} for name in names]}, session=session)


async def describe_graph(call: Call) -> Answer:
    """Return a graph's parameters and sizes."""
    graph = await named_graph(call)
    answer = await call.api.router.graphs.ask(graph, Describe(), call.options, USUAL)
    vectors = {"size": graph.dimension, "distance": graph.distance} if graph.dimension else None
    described = {
        "name": graph.name,
        "vectors": vectors,
        "embedding_space": graph.embedding_space,
        "indexes": list(graph.indexes),
        "shard": call.api.router.graphs.shard(graph.name),
        **orjson.loads(answer.result),
    }
    return Answer(described)


async def put_nodes(call: Call, body: PutNodes) -> Answer:
    """Insert or replace nodes."""
    graph = await named_graph(call)
    nodes = await read_nodes(call, graph, body.nodes)
    return await _changed(call, graph, GraphChanges(nodes=nodes), [node.id for node in nodes])


async def put_edges(call: Call, body: PutEdges) -> Answer:
    """Insert or replace hyperedges; the nodes that they join must exist."""
    graph = await named_graph(call)
    options = call.write_options(str(graph.uid))
    edges = await read_edges(call, graph, body.edges, options.request_id)
    return await _changed(call, graph, GraphChanges(edges=edges), [edge.id for edge in edges])


async def delete_nodes(call: Call, body: DeleteNodes) -> Answer:
    """Delete nodes; one that edges join is refused, unless they go with it."""
    cascade = given(body.cascade, default=False)
    changes = GraphChanges(delete_nodes=read_ids(body.ids, "ids"), cascade=cascade)
    return await _changed(call, await named_graph(call), changes, body.ids)


async def delete_edges(call: Call, body: DeleteEdges) -> Answer:
    """Delete hyperedges, or let them expire."""
    ids = read_ids(body.ids, "ids")
    if given(body.expire, default=False):
        changes = GraphChanges(expire_edges=ids)
    else:
        changes = GraphChanges(delete_edges=ids)
    return await _changed(call, await named_graph(call), changes, ids)


async def get_nodes(call: Call, body: GetElements) -> Answer:
    """Return nodes by id, in the order asked."""
    return await _elements(call, body, "nodes")


async def get_edges(call: Call, body: GetElements) -> Answer:
    """Return hyperedges by id, in the order asked, expired ones included."""
    return await _elements(call, body, "edges")


def written(call: Call, ids: list[str], ack: WriteAck) -> Answer:
    """Return the answer of a write."""
    return call.written({"ids": ids, "version": ack.version}, ack)


async def _changed(call: Call, graph: Graph, changes: GraphChanges, ids: list[str]) -> Answer:
    options = call.write_options(str(graph.uid))
    ack = await call.api.router.graphs.write(graph.name, graph, changes, options)
    return written(call, ids, ack)


async def _elements(call: Call, body: GetElements, kind: ElementKind) -> Answer:
    with_vector = given(body.with_vector, default=False)
    question = ElementsById(kind=kind, ids=body.ids, with_vector=with_vector)
    answer = await call.api.router.graphs.ask(
        await named_graph(call), question, call.options, USUAL
    )
    return Answer(orjson.Fragment(answer.result))


def _creation(call: Call, name: str, body: CreateGraph) -> Creation:
    """Return what to create. Raises BadRequest or UnsupportedFeature naming the field."""
    indexes = tuple(dict.fromkeys(given(body.indexes, INDEXES_DEFAULT)))
    embedder = call.api.embedder
    space: Any = given(body.embedding_space, None)
    if body.vectors is None:
        if space is not None:
            raise BadRequest("a graph without vectors has no space", field="embedding_space")
        return Creation(name, 0, "Cosine", None, indexes)
    if not isinstance(body.vectors, VectorParams):
        if space not in (None, DEFAULT_SPACE, embedder.space):
            raise BadRequest("the vectors' size is needed", field="vectors")
        return Creation(name, embedder.dimension, "Cosine", embedder.space, indexes)
    vectors = body.vectors
    _check_vectors(vectors, call.api.config.dimension_max)
    if space == DEFAULT_SPACE:
        space = embedder.space
    if space == embedder.space and vectors.size != embedder.dimension:
        text = f"this server's text embedding has {embedder.dimension} dimensions"
        raise BadRequest(text, field="vectors.size")
    return Creation(name, vectors.size, vectors.distance, space, indexes)


def _check_vectors(vectors: VectorParams, dimension_max: int) -> None:
    refuse_lacking(vectors, "vectors.")
    if vectors.size > dimension_max:
        raise BadRequest(f"size is outside 1..{dimension_max}", field="vectors.size")
    if given(vectors.datatype, "float32") != "float32":
        raise UnsupportedFeature("vectors are stored as float32", field="vectors.datatype")


_GRAPH = "/graph/{graph_name}"

ROUTES: Final = (
    Route("GET", "/graph", list_graphs, "List graphs", answer=shapes.GraphList),
    Route(
        "PUT",
        _GRAPH,
        create_graph,
        "Create a graph",
        body=CreateGraph,
        body_optional=True,
        answer=shapes.GraphCreated,
        writes=True,
        errors=(409,),
    ),
    Route(
        "GET",
        _GRAPH,
        describe_graph,
        "Describe a graph",
        answer=shapes.GraphShape,
        errors=(404,),
    ),
    Route("DELETE", _GRAPH, drop_graph, "Drop a graph", answer=bool, writes=True),
    *(
        Route(
            "POST",
            f"{_GRAPH}/{path}",
            handler,
            summary,
            body=body,
            answer=shapes.GraphWritten,
            writes=True,
            errors=(404, 409, 413),
        )
        for path, handler, summary, body in (
            ("nodes", put_nodes, "Insert or replace nodes", PutNodes),
            ("edges", put_edges, "Insert or replace hyperedges", PutEdges),
            ("nodes/delete", delete_nodes, "Delete nodes", DeleteNodes),
            ("edges/delete", delete_edges, "Delete hyperedges, or let them expire", DeleteEdges),
        )
    ),
    Route(
        "POST",
        f"{_GRAPH}/nodes/get",
        get_nodes,
        "Return nodes by id",
        body=GetElements,
        answer=list[shapes.NodeShape],
        errors=(404,),
    ),
    Route(
        "POST",
        f"{_GRAPH}/edges/get",
        get_edges,
        "Return hyperedges by id",
        body=GetElements,
        answer=list[shapes.EdgeShape],
        errors=(404,),
    ),
)
