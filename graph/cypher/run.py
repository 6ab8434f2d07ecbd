"""Runs a query: its clauses become one pipeline of rows, and what comes out becomes the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, assert_never

from graph.budget import Cut
from graph.cypher import tree
from graph.cypher.answer import Answer, TooHeavy
from graph.cypher.assign import assign_clause, delete_clause
from graph.cypher.create import create_clause, merge_clause
from graph.cypher.explain import explain
from graph.cypher.match import Operator, Rows, match_clause, unwind_clause
from graph.cypher.projection import Made, OrderKeys, Projection, row_count
from graph.cypher.runtime import Overrun, RunContext, Runtime
from graph.cypher.scope import Scope
from graph.cypher.writer import COUNTED, Writer
from graph.errors import BadQuery
from graph.model import GraphChanges
from graph.state import GraphState


class Outcome(NamedTuple):
    """What a query gave.

    `order_keys`: for each row the keys of its ORDER BY, for `merge_key`; None without one. `cut`:
    the limit that ended a query which only reads. `changes`: the net effect, for the log, and
    `counts` what it consists of. `vectors_kept`: ids of nodes and of edges that `changes` writes
    anew without their vector, which has to be put back.
    """

    columns: list[str]
    rows: list[list[Any]]
    order_keys: list[OrderKeys] | None
    cut: Cut | None
    changes: GraphChanges
    counts: dict[str, int]
    vectors_kept: tuple[list[str], list[str]]


def run(query: tree.Query, state: GraphState, context: RunContext) -> Outcome:
    """Run a query on one state of a graph, which stays as it is.

    Raises:
        BadQuery: the query cannot be answered.
        NodeInUse: it deletes a node that still has edges.
        WriteCutShort: it writes and reached a limit.
    """
    if query.explain:
        lines = explain(query, state, context.indexes)
        return _explained([[line["operator"], line["details"]] for line in lines])
    try:
        return _Execution(query, state, context).outcome()
    except RecursionError:
        raise BadQuery("the query makes values that nest too deep") from None


def final_slice(
    query: tree.Query, parameters: Mapping[str, Any] | None = None
) -> tuple[int, int | None]:
    """Return SKIP and LIMIT of a query's RETURN; no LIMIT is None."""
    last = query.clauses[-1]
    if not isinstance(last, tree.Projection):
        return 0, None
    given = parameters or {}
    return row_count("SKIP", last.skip, given) or 0, row_count("LIMIT", last.limit, given)


def _explained(rows: list[list[Any]]) -> Outcome:
    counts = dict.fromkeys(COUNTED, 0)
    return Outcome(["operator", "details"], rows, None, None, GraphChanges(), counts, ([], []))


class _Execution:
    def __init__(self, query: tree.Query, state: GraphState, context: RunContext) -> None:
        self._run = Runtime(state, context, writes=query.writes)
        self._writer = Writer(self._run)
        self._answer = Answer(self._run)
        self._final: Projection | None = None
        assert query.clauses, "a query has a clause"
        rows: Rows = iter(([],))
        scope = Scope()
        for clause in query.clauses:
            rows, scope = self._piped(clause, rows, scope)
        self._rows = rows

    def outcome(self) -> Outcome:
        rows: list[list[Any]] = []
        keys: list[OrderKeys] = []
        for made in self._made():
            try:
                rows.append(self._answer.row(made.row))
            except TooHeavy:
                self._run.stop("rows")
                break
            if made.keys is not None:
                keys.append(made.keys)
        changes, kept = self._writer.changes()
        assert self._run.writes or not changes, "a query that reads changes nothing"
        assert not keys or len(keys) == len(rows), "a row has its keys"
        ordered = self._final is not None and self._final.ordered
        return Outcome(
            [] if self._final is None else list(self._final.scope.names),
            rows,
            keys if ordered else None,
            self._run.cut,
            changes,
            self._writer.counts,
            kept,
        )

    def _made(self) -> Iterator[Made]:
        """Yield the rows of RETURN, if there is one, until a limit is reached."""
        try:
            if self._final is None:
                for _ in self._rows:
                    pass
                return
            for count, made in enumerate(self._final.made(self._rows)):
                if count == self._run.context.rows_max:
                    self._run.stop("rows")
                    return
                yield made
        except Overrun:
            return

    def _piped(self, clause: tree.Clause, rows: Rows, scope: Scope) -> tuple[Rows, Scope]:
        if isinstance(clause, tree.Projection):
            projection = Projection(clause, scope, self._run)
            if clause.final:
                self._final = projection
                return rows, projection.scope
            return projection.operator(rows), projection.scope
        operator, scope = self._compiled(clause, scope)
        return operator(rows), scope

    def _compiled(self, clause: tree.Clause, scope: Scope) -> tuple[Operator, Scope]:
        run, writer = self._run, self._writer
        match clause:
            case tree.Match():
                return match_clause(clause, scope, run)
            case tree.Unwind():
                return unwind_clause(clause, scope, run)
            case tree.Create():
                return create_clause(clause, scope, run, writer)
            case tree.Merge():
                return merge_clause(clause, scope, run, writer)
            case tree.Assign():
                return assign_clause(clause, scope, run, writer)
            case tree.Delete():
                return delete_clause(clause, scope, run, writer)
            case tree.Projection():
                raise AssertionError("projections have been seen")
        assert_never(clause)
