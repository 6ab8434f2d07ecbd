"""Questions to graphs, and causal chains.

Answers come from the node that has the graph's shard as JSON, and are put into the envelope as they
are. Only what concerns several graphs is taken apart: the rows of one query over many graphs are
merged by its order, what they bring to mind by its use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import orjson

from cluster.api import graph_answer_shapes as shapes
from cluster.api.embedding import embed_text
from cluster.api.envelope import Answer
from cluster.api.graph_merging import merged_answers, merged_recall, merged_rows, read_answer
from cluster.api.graph_question_schema import (
    QUERY_BYTES_MAX,
    Algorithm,
    Chains,
    Counterfactual,
    Cypher,
    CypherOfMany,
    Export,
    KHop,
    LabelledQuestion,
    Question,
    Recall,
    RecallOfMany,
    Similar,
)
from cluster.api.graph_reading import (
    read_moment,
    stored_vector,
)
from cluster.api.graphs import find_graph, named_graph
from cluster.api.route import Call, Route
from cluster.api.schema import given
from cluster.api.vectors import check_vector
from cluster.errors import BadRequest, PayloadTooLarge
from cluster.graph_questions import Algorithm as AlgorithmQuestion
from cluster.graph_questions import Chains as ChainsQuestion
from cluster.graph_questions import Counterfactual as CounterfactualQuestion
from cluster.graph_questions import Cypher as CypherQuestion
from cluster.graph_questions import Export as ExportQuestion
from cluster.graph_questions import KHop as KHopQuestion
from cluster.graph_questions import Question as AnyQuestion
from cluster.graph_questions import Recall as RecallQuestion
from cluster.graph_questions import Similar as SimilarQuestion
from cluster.graph_router import Effort
from cluster.merge import more_is_better
from cluster.model import Graph

ROWS_DEFAULT: Final = 1_000
EXPANSIONS_DEFAULT: Final = 1_000_000
HOPS_DEFAULT: Final = 5
LIMIT_DEFAULT: Final = 10
NODES_DEFAULT: Final = 10_000


async def khop(call: Call, body: KHop) -> Answer:
    """Return the nodes within some hops of each start, the start left out."""
    question = KHopQuestion(
        ids=body.ids, hops=body.hops, direction=given(body.direction, "both"), **_which(body)
    )
    return await _answered(call, body, question)


async def causes(call: Call, body: Chains) -> Answer:
    """Return the surest causal chains that end in a node."""
    return await _answered(call, body, _chains(body, "causes"))


async def effects(call: Call, body: Chains) -> Answer:
    """Return the surest causal chains that start at a node."""
    return await _answered(call, body, _chains(body, "effects"))


async def similar(call: Call, body: Similar) -> Answer:
    """Return causal chains whose nodes have the types asked for."""
    types, ids = given(body.types, None), given(body.ids, None)
    if (types is None) == (ids is None):
        raise BadRequest("give either types or ids", field="types")
    question = SimilarQuestion(
        types=types or [],
        ids=ids or [],
        property=given(body.property, "type"),
        limit=given(body.limit, LIMIT_DEFAULT),
        **_which(body),
    )
    return await _answered(call, body, question)


async def counterfactual(call: Call, body: Counterfactual) -> Answer:
    """Return what becomes of a node's causes without an edge."""
    question = CounterfactualQuestion(
        edge=body.without,
        id=body.id,
        hops_max=given(body.max_hops, HOPS_DEFAULT),
        limit=given(body.limit, LIMIT_DEFAULT),
        **_which(body),
    )
    return await _answered(call, body, question)


async def cypher(call: Call, body: Cypher) -> Answer:
    """Run an openCypher query."""
    graph = await named_graph(call)
    query = await call.api.router.graphs.parsed(_text(body))
    question = await _cypher(call, body)
    if not query.writes or query.explain:
        return await _answered(call, body, question)
    options = call.write_options(str(graph.uid))
    done, ack = await call.api.router.graphs.run(graph, question, options, _effort(body))
    result = {**await read_answer(done.result), "version": done.version}
    return call.written(result, ack)


async def cypher_of_many(call: Call, body: CypherOfMany) -> Answer:
    """Run an openCypher query that reads on several graphs, each for itself."""
    query = await call.api.router.graphs.parsed(_text(body))
    if query.writes:
        raise BadRequest("a query over several graphs only reads", field="query")
    question = msgspec.structs.replace(await _cypher(call, body), merged=not query.explain)
    graphs = await _named(call, body.graphs)
    answers = await call.api.router.graphs.ask_all(graphs, question, call.options, _effort(body))
    names = [graph.name for graph in graphs]
    parameters = given(body.parameters, {})

    def merged(found: Sequence[Any]) -> Any:
        return merged_rows(query, parameters, names, found, question.rows_max)

    return Answer(orjson.Fragment(await merged_answers([each.result for each in answers], merged)))


async def recall(call: Call, body: Recall) -> Answer:
    """Return what resembles a text or a vector, and what is connected with that by cause."""
    graph = await named_graph(call)
    return await _answered(call, body, await _recall(call, graph, body))


async def recall_of_many(call: Call, body: RecallOfMany) -> Answer:
    """Recall from several graphs at once."""
    graphs = await _named(call, body.graphs)
    questions = [await _recall(call, graph, body) for graph in graphs]
    router = call.api.router.graphs
    answers = [
        (await router.ask(graph, question, call.options, _effort(body))).result
        for graph, question in zip(graphs, questions, strict=True)
    ]
    names = [graph.name for graph in graphs]

    def merged(found: Sequence[Any]) -> Any:
        return merged_recall(names, found, given(body.limit, LIMIT_DEFAULT))

    return Answer(orjson.Fragment(await merged_answers(answers, merged)))


async def algorithm(call: Call, body: Algorithm) -> Answer:
    """Run a graph algorithm."""
    question = AlgorithmQuestion(
        name=call.path["algorithm"],
        arguments=await _parameters(call, body),
        limit=given(body.limit, LIMIT_DEFAULT),
        as_of=read_moment(body.as_of, "as_of"),
        known_at=read_moment(body.known_at, "known_at"),
    )
    return await _answered(call, body, question)


async def export(call: Call, body: Export) -> Answer:
    """Return the graph, or a neighbourhood, as JSON, GraphML or a picture."""
    question = ExportQuestion(
        format=body.format,
        ids=given(body.around, []),
        hops=given(body.hops, 2),
        direction=given(body.direction, "both"),
        nodes_max=given(body.nodes_max, NODES_DEFAULT),
        projected=given(body.projected, default=False),
        **_which(body),
    )
    return await _answered(call, body, question)


async def _answered(call: Call, body: Question, question: AnyQuestion) -> Answer:
    graph = await named_graph(call)
    answer = await call.api.router.graphs.ask(graph, question, call.options, _effort(body))
    return Answer(orjson.Fragment(answer.result))


async def _named(call: Call, names: list[str]) -> list[Graph]:
    first = {name: at for at, name in reversed(list(enumerate(names)))}
    return [await find_graph(call, name, f"graphs[{first[name]}]") for name in dict.fromkeys(names)]


async def _recall(call: Call, graph: Graph, body: Recall) -> RecallQuestion:
    text, values = given(body.text, None), given(body.vector, None)
    if (text is None) == (values is None):
        raise BadRequest("give either text or vector", field="text")
    if not graph.dimension:
        raise BadRequest(f"graph '{graph.name}' has no vectors", field="vector")
    if values is not None:
        vector = check_vector(values, graph, "vector")
    else:
        assert text is not None, "one of the two is given"
        vector = await embed_text(call, text, graph, "text")
    return RecallQuestion(
        vector=stored_vector(graph, vector),
        kinds=tuple(dict.fromkeys(given(body.kinds, ("nodes", "edges")))),
        k=given(body.k, 12),
        hops_max=given(body.max_hops, 3),
        direction=given(body.direction, "both"),
        chains_max=given(body.chains, 5),
        limit=given(body.limit, LIMIT_DEFAULT),
        confidence_min=given(body.min_confidence, 0.6),
        descending=more_is_better(graph.distance),
        score_min=given(body.min_score, None),
        **_which(body),
    )


def _chains(body: Chains, direction: Any) -> ChainsQuestion:
    return ChainsQuestion(
        direction=direction,
        id=body.id,
        hops_max=given(body.max_hops, HOPS_DEFAULT),
        limit=given(body.limit, LIMIT_DEFAULT),
        far_type=given(body.type, None),
        far_id=given(body.to, None),
        **_which(body),
    )


async def _cypher(call: Call, body: Cypher) -> CypherQuestion:
    return CypherQuestion(
        query=body.query,
        parameters=await _parameters(call, body),
        rows_max=given(body.limit, ROWS_DEFAULT),
        as_of=read_moment(body.as_of, "as_of"),
        known_at=read_moment(body.known_at, "known_at"),
    )


def _text(body: Cypher) -> str:
    if len(body.query.encode()) > QUERY_BYTES_MAX:
        raise BadRequest(f"a query has at most {QUERY_BYTES_MAX} bytes", field="query")
    return body.query


def _which(body: LabelledQuestion) -> dict[str, Any]:
    labels = given(body.labels, None)
    return {
        "labels": None if labels is None else tuple(labels),
        "as_of": read_moment(body.as_of, "as_of"),
        "known_at": read_moment(body.known_at, "known_at"),
    }


def _effort(body: Question) -> Effort:
    expansions = given(body.expansions_max, EXPANSIONS_DEFAULT)
    return Effort(given(body.timeout_ms, None), expansions)


async def _parameters(call: Call, body: Cypher | Algorithm) -> bytes:
    """Return what a question is asked with, as JSON of no more than one log entry may hold."""
    try:
        raw: bytes = await call.computed(orjson.dumps, given(body.parameters, {}))
    except (TypeError, ValueError) as error:
        raise BadRequest(str(error), field="parameters") from None
    bytes_max = call.api.router.graphs.command_bytes_max
    if len(raw) > bytes_max:
        text = f"the parameters take {len(raw)} bytes, and {bytes_max} is the most"
        raise PayloadTooLarge(text, field="parameters")
    return raw


def _route(path: str, handler: Any, summary: str, body: Any, answer: Any) -> Route:
    place = f"/graph/{{graph_name}}/{path}"
    return Route("POST", place, handler, summary, body=body, answer=answer, errors=(404,))


ROUTES: Final = (
    Route(
        "POST",
        "/graph/cypher",
        cypher_of_many,
        "Run a query on several graphs",
        body=CypherOfMany,
        answer=shapes.RowsShape,
        errors=(404,),
    ),
    Route(
        "POST",
        "/graph/recall",
        recall_of_many,
        "Recall from several graphs",
        body=RecallOfMany,
        answer=shapes.RecallShape,
        errors=(404,),
    ),
    Route(
        "POST",
        "/graph/{graph_name}/cypher",
        cypher,
        "Run an openCypher query",
        body=Cypher,
        answer=shapes.RowsShape,
        writes=True,
        errors=(404, 409, 413),
    ),
    _route("khop", khop, "Return the nodes near each start", KHop, shapes.NeighboursShape),
    _route("causes", causes, "Return what led to a node", Chains, shapes.ChainsShape),
    _route("effects", effects, "Return what a node led to", Chains, shapes.ChainsShape),
    _route("similar", similar, "Return causal chains of a kind", Similar, shapes.ChainsShape),
    _route(
        "counterfactual",
        counterfactual,
        "Return a node's causes without an edge",
        Counterfactual,
        shapes.CounterfactualShape,
    ),
    _route("recall", recall, "Recall by meaning, then by cause", Recall, shapes.RecallShape),
    _route(
        "algorithms/{algorithm}",
        algorithm,
        "Run a graph algorithm",
        Algorithm,
        shapes.AlgorithmShape,
    ),
    _route("export", export, "Export or draw a graph", Export, shapes.ExportShape),
)
