"""MATCH, OPTIONAL MATCH and UNWIND: the sources of rows.

Only a source ends early when the budget is used up. An OPTIONAL MATCH that is cut gives no row of
nulls: nothing was found is only true when all has been seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from graph.budget import Exhausted
from graph.cypher import tree
from graph.cypher.expressions import compiled, parameter
from graph.cypher.plan import Chain, Naming, plan
from graph.cypher.runtime import Runtime
from graph.cypher.scope import Scope
from graph.cypher.tree_walks import conjuncts
from graph.cypher.values import Row, kind
from graph.cypher.walk import stages
from graph.errors import BadQuery

NODES_MAX: Final = 100
Rows = Iterator[Row]
Operator = Callable[[Rows], Rows]


class Matcher:
    """Finds a pattern, given a row; `scope` is that of the rows it makes."""

    def __init__(
        self, chains: Sequence[Chain], conditions: Iterable[tree.Expr], scope: Scope, run: Runtime
    ) -> None:
        check_pattern(chains, scope)
        names = dict.fromkeys(name for chain in chains for name in chain.names())
        hidden = [each.each_name for chain in chains for each in chain.relationships]
        new = [name for name in (*names, *filter(None, hidden)) if name not in scope]
        self.scope = scope.extended(new)
        self._new = len(new)
        indexes = run.context.indexes
        steps = plan(
            chains,
            conditions,
            scope.names,
            lambda label, key: indexes is not None and (label, key) in indexes,
        )
        self._stages = stages(steps, self.scope, run)
        self._spend = run.context.budget.spend

    def rows(self, row: Row) -> Rows:
        """Yield the row once for each match, with what the match binds."""
        made = self.unmatched(row)
        flow: Iterator[None] = iter((None,))
        used: dict[object, None] = {}
        for stage in self._stages:
            flow = stage(flow, made, used)
        for _ in flow:
            self._spend()
            assert len(made) == self.scope.width, "a row has a place for each variable"
            yield made.copy()
        assert not used, "a finished walk has given all arcs back"

    def unmatched(self, row: Row) -> Row:
        """Return the row with nulls for what a match would bind."""
        return [*row, *((None,) * self._new)]


def match_clause(clause: tree.Match, scope: Scope, run: Runtime) -> tuple[Operator, Scope]:
    """Compile MATCH or OPTIONAL MATCH."""
    naming = Naming(lambda name: parameter(name, run))
    chains = [naming.chain(part) for part in clause.parts]
    matcher = Matcher(chains, [*naming.conditions, *conjuncts(clause.where)], scope, run)

    def operator(rows: Rows) -> Rows:
        try:
            for row in rows:
                found = False
                for made in matcher.rows(row):
                    found = True
                    yield made
                if clause.optional and not found:
                    yield matcher.unmatched(row)
        except Exhausted as error:
            run.stop(error.by)

    return operator, matcher.scope


def check_pattern(chains: Sequence[Chain], scope: Scope) -> None:
    """Refuse a pattern that cannot be looked for; planning takes the square of its nodes."""
    check_names(chains, scope)
    if sum(len(chain.nodes) + len(chain.fan) for chain in chains) > NODES_MAX:
        raise BadQuery(f"a pattern that is looked for has at most {NODES_MAX} nodes")


def check_names(chains: Sequence[Chain], scope: Scope) -> None:
    """Refuse a name that stands for two things."""
    nodes = {node.name: None for chain in chains for node in (*chain.nodes, *chain.fan)}
    others = [each.name for chain in chains for each in chain.relationships]
    paths = [chain.path for chain in chains if chain.path is not None]
    for name, count in Counter((*others, *paths)).items():
        if count > 1 or name in nodes:
            raise BadQuery(f"the variable {name} stands for two things in one pattern")
    for name in paths:
        if name in scope:
            raise BadQuery(f"the variable {name} is defined already")


def unwind_clause(clause: tree.Unwind, scope: Scope, run: Runtime) -> tuple[Operator, Scope]:
    """Compile UNWIND."""
    if clause.name in scope:
        raise BadQuery(f"the variable {clause.name} is defined already")
    source = compiled(clause.source, scope, run)

    def operator(rows: Rows) -> Rows:
        try:
            for row in rows:
                items = source(row)
                if items is not None and type(items) is not list:
                    raise BadQuery(f"UNWIND takes a list, not {kind(items)}")
                for item in items or ():
                    run.context.budget.spend()
                    yield [*row, item]
        except Exhausted as error:
            run.stop(error.by)

    return operator, scope.extended((clause.name,))
