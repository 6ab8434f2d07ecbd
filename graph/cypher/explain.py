"""EXPLAIN: what a query would do, operator by operator, the outermost last."""

from __future__ import annotations

from typing import assert_never

from graph.cypher import tree
from graph.cypher.match import check_pattern
from graph.cypher.plan import Access, Fan, Hop, Naming, Start, Step, plan
from graph.cypher.printed import node_text, printed, relationship_text
from graph.cypher.projection import columns
from graph.cypher.scope import HIDDEN, Scope
from graph.cypher.tree_walks import aggregates, conjuncts
from graph.property_index import PropertyIndexes
from graph.state import GraphState

Line = dict[str, str]
_ACCESSES = {
    "bound": "Argument",
    "relationship": "NodeOfRelationship",
    "id": "NodeById",
    "index": "NodeIndexSeek",
    "range": "NodeIndexRange",
    "label": "NodeByLabelScan",
    "all": "AllNodesScan",
}


def explain(query: tree.Query, state: GraphState, indexes: PropertyIndexes | None) -> list[Line]:
    """Return {"operator", "details"} for each operator, in the order in which rows pass them."""
    lines: list[Line] = []
    scope = Scope()
    for clause in query.clauses:
        added, scope = _clause(clause, scope, state, indexes)
        lines += added
    return lines


def _line(operator: str, details: str) -> Line:
    return {"operator": operator, "details": details}


def _clause(
    clause: tree.Clause, scope: Scope, state: GraphState, indexes: PropertyIndexes | None
) -> tuple[list[Line], Scope]:
    match clause:
        case tree.Match():
            lines, scope = _match(clause.parts, clause.where, scope, state, indexes)
            return ([*lines, _line("Optional", "")] if clause.optional else lines), scope
        case tree.Unwind():
            line = _line("Unwind", f"{printed(clause.source)} AS {clause.name}")
            return [line], scope.extended((clause.name,))
        case tree.Projection():
            return _projection(clause, scope)
        case tree.Create():
            naming = Naming(lambda _: {})
            names = [name for part in clause.parts for name in naming.chain(part).names()]
            new = [name for name in dict.fromkeys(names) if name not in scope]
            return [_line("Create", _listed(new))], scope.extended(new)
        case tree.Merge():
            lines, scope = _match((clause.part,), None, scope, state, indexes)
            return [*lines, _line("Merge", _listed(scope.visible()))], scope
        case tree.Assign():
            names = [item.name for item in clause.assignments]
            return [_line("SetProperties", _listed(list(dict.fromkeys(names))))], scope
        case tree.Delete():
            operator = "DetachDelete" if clause.detach else "Delete"
            return [_line(operator, _listed([printed(each) for each in clause.targets]))], scope
    assert_never(clause)


def _listed(names: list[str]) -> str:
    return ", ".join(name for name in names if not name.startswith(HIDDEN))


def _match(
    parts: tuple[tree.Part, ...],
    where: tree.Expr | None,
    scope: Scope,
    state: GraphState,
    indexes: PropertyIndexes | None,
) -> tuple[list[Line], Scope]:
    naming = Naming(lambda _: {})
    chains = [naming.chain(part) for part in parts]
    check_pattern(chains, scope)
    conditions = [*naming.conditions, *conjuncts(where)]
    steps = plan(
        chains,
        conditions,
        scope.names,
        lambda label, key: indexes is not None and (label, key) in indexes,
    )
    names = dict.fromkeys(name for chain in chains for name in chain.names())
    lines: list[Line] = []
    for step in steps:
        lines.append(_step(step, state))
        if step.checks:
            checks = " AND ".join(printed(check) for check in step.checks)
            lines.append(_line("Filter", checks))
    return lines, scope.extended([name for name in names if name not in scope])


def _step(step: Step, state: GraphState) -> Line:
    if isinstance(step, Start):
        details = f"({node_text(step.node)})" + _access(step.access, state)
        return _line(_ACCESSES[step.access.kind], details)
    if isinstance(step, Hop):
        pattern = step.relationship.pattern
        operator = "Expand" if pattern.hops is None else "VarLengthExpand"
        if step.far_bound:
            operator += "Into"
        text = relationship_text(pattern, forward=step.forward)
        return _line(operator, f"({_shown(step.near)}){text}({node_text(step.far)})")
    if isinstance(step, Fan):
        targets = ", ".join(node_text(node) for node in step.targets)
        text = relationship_text(step.relationship.pattern, forward=True)
        return _line("ExpandHyperedge", f"({node_text(step.source)}){text}({targets})")
    return _line("Path", str(step.chain.path))


def _shown(name: str) -> str:
    return "" if name.startswith(HIDDEN) else name


def _access(access: Access, state: GraphState) -> str:
    if access.kind in ("label", "all"):
        return f" of {state.node_count} nodes"
    if access.values is not None:
        word = "IN" if access.many else "="
        return f" {access.key} {word} {printed(access.values)}"
    bounds = [f">= {printed(access.low)}"] if access.low is not None else []
    bounds += [f"<= {printed(access.high)}"] if access.high is not None else []
    return f" {access.key} " + " and ".join(bounds) if bounds else ""


def _projection(clause: tree.Projection, scope: Scope) -> tuple[list[Line], Scope]:
    items = columns(clause, scope)
    grouped = any(aggregates(item.expression) for item in items)
    names = ", ".join(
        printed(item.expression) + (f" AS {item.name}" if item.aliased else "") for item in items
    )
    lines = [_line("Aggregate" if grouped else "Project", names)]
    if clause.distinct:
        lines.append(_line("Distinct", ""))
    if clause.order:
        keys = [
            printed(each.expression) + (" DESC" if each.descending else "") for each in clause.order
        ]
        lines.append(_line("Sort" if clause.limit is None else "Top", ", ".join(keys)))
    if clause.skip is not None:
        lines.append(_line("Skip", printed(clause.skip)))
    if clause.limit is not None:
        lines.append(_line("Limit", printed(clause.limit)))
    if clause.where is not None:
        lines.append(_line("Filter", printed(clause.where)))
    if clause.final:
        lines.append(_line("Return", ", ".join(item.name for item in items)))
    return lines, Scope([item.name for item in items])
