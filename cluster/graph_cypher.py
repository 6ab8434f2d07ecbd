"""Cypher queries, those that read and those that write. Blocks: called on a thread."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec
import orjson

from cluster.errors import PayloadTooLarge
from cluster.graph_circumstances import Asked, Circumstances, retold
from cluster.graph_memory import GraphInMemory
from cluster.graph_questions import Cypher, GraphRead
from graph import cypher
from graph.errors import TooLarge
from graph.model import EdgeWrite, GraphChanges, NodeWrite
from graph.validation import check_changes

SHORT: Final = 512
"""Characters of a query that is parsed in no time."""
_MIDDLING: Final = 4096


class Write(msgspec.Struct, frozen=True):
    """What a query that writes comes to: its rows as JSON, and what is to be changed of a graph of
    this version; None when nothing is."""

    result: bytes
    changes: GraphChanges | None
    version: int


def parsed(text: str) -> cypher.Query:
    """Return a query, from memory if it was asked lately. Raises graph.errors.BadQuery.

    A query's tree takes a hundred times the memory of its text, so few long ones are kept, and the
    longest not at all.
    """
    if len(text) <= SHORT:
        return _short(text)
    return _middling(text) if len(text) <= _MIDDLING else cypher.parse(text)


_short = lru_cache(maxsize=256)(cypher.parse)
_middling = lru_cache(maxsize=32)(cypher.parse)


def run_write(graph: GraphInMemory, read: GraphRead, around: Circumstances) -> Write:
    """Run a query that writes on the newest state; raises BadRequest, UnsupportedFeature or, when
    it changes too much, PayloadTooLarge."""
    question = read.question
    assert isinstance(question, Cypher), "only queries write"
    asked = Asked(graph, graph.state, read, around, around.budget(read.expansions_max))
    with retold():
        try:
            outcome = cypher.run(parsed(question.query), asked.state, _context(asked, question))
        except TooLarge as error:
            raise PayloadTooLarge(error.message, field=error.field) from None
        check_changes(outcome.changes)
    result = {**_rows(outcome), "stats": outcome.counts}
    changes = _with_vectors(outcome, around) if outcome.changes else None
    return Write(orjson.dumps(result), changes, asked.state.version)


def answer_cypher(asked: Asked, question: Cypher) -> bytes:
    """Return the rows of a query that reads, or the plan of one that is to be explained."""
    query = parsed(question.query)
    if query.explain:
        plan = cypher.explain(query, asked.state, asked.graph.indexes(asked.read.indexes))
        shape: dict[str, Any] = {"columns": [], "rows": [], "truncated": False}
        return orjson.dumps({**shape, "truncated_by": None, "plan": plan})
    outcome = cypher.run(query, asked.state, _context(asked, question))
    shape = _rows(outcome)
    if question.merged:
        shape["order_keys"] = outcome.order_keys
    return orjson.dumps(shape)


def _context(asked: Asked, question: Cypher) -> cypher.RunContext:
    return cypher.RunContext(
        parameters=orjson.loads(question.parameters),
        budget=asked.budget,
        rows_max=question.rows_max,
        now_ms=asked.around.wall_ms,
        new_id=asked.around.identifier,
        as_of=question.as_of,
        known_at=question.known_at,
        indexes=asked.graph.indexes(asked.read.indexes),
        unsliced=question.merged,
        changes_bytes_max=asked.around.changes_bytes_max,
    )


def _rows(outcome: cypher.Outcome) -> dict[str, Any]:
    return {
        "columns": outcome.columns,
        "rows": outcome.rows,
        "truncated": outcome.cut is not None,
        "truncated_by": outcome.cut,
    }


def _with_vectors(outcome: cypher.Outcome, around: Circumstances) -> GraphChanges:
    """Return the changes with the vectors of elements that keep theirs."""
    changes = outcome.changes
    node_ids, edge_ids = outcome.vectors_kept
    of_nodes = around.vectors("nodes", node_ids) if node_ids else {}
    of_edges = around.vectors("edges", edge_ids) if edge_ids else {}
    nodes: list[NodeWrite] = [
        msgspec.structs.replace(node, vector=of_nodes.get(node.id)) for node in changes.nodes
    ]
    edges: list[EdgeWrite] = [
        msgspec.structs.replace(edge, vector=of_edges.get(edge.id)) for edge in changes.edges
    ]
    return msgspec.structs.replace(changes, nodes=nodes, edges=edges)
