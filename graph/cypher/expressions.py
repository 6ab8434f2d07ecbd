"""Expressions as closures: compiled once for an execution, called with each row.

Names become positions, parameters constants. A local variable (of reduce or a comprehension) is
one more position at the end of a copy of the row. A condition is true, false or null; anything
else in its place is an error of the query.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any, Final

from graph.cypher import tree
from graph.cypher.arithmetic import INTEGER_MAX, calculate, negate, spend_on_list
from graph.cypher.conditions import (
    TEXT_TESTS,
    VERDICTS,
    comparison,
    is_constant_list,
    membership,
    odd,
)
from graph.cypher.elements import labels_of, read_property
from graph.cypher.functions import function
from graph.cypher.runtime import Runtime
from graph.cypher.scope import Scope
from graph.cypher.tree_walks import is_aggregate
from graph.cypher.values import Evaluate, Row, kind
from graph.errors import BadQuery
from graph.model import Node

_CONDITIONS: Final = (
    tree.Compare,
    tree.HasLabels,
    tree.IsNull,
    tree.Junction,
    tree.Not,
    tree.Quantifier,
    tree.Test,
)


def condition(expr: tree.Expr, scope: Scope, run: Runtime) -> Evaluate:
    """Compile an expression whose value has to be true, false or null."""
    value = compiled(expr, scope, run)
    if isinstance(expr, _CONDITIONS):
        return value

    def evaluate(row: Row) -> bool | None:
        found = value(row)
        if found is None or isinstance(found, bool):
            return found
        raise BadQuery(f"a condition is true, false or null, not {kind(found)}")

    return evaluate


@singledispatch
def compiled(expr: tree.Expr, _scope: Scope, _run: Runtime) -> Evaluate:
    """Compile an expression."""
    raise AssertionError(f"{type(expr).__name__} can be compiled")


@compiled.register
def _(expr: tree.Constant, _scope: Scope, _run: Runtime) -> Evaluate:
    value = expr.value
    if type(value) is int and value > INTEGER_MAX:
        raise BadQuery(f"the number {value} has more than 64 bits")
    return lambda _row: value


@compiled.register
def _(expr: tree.Parameter, _scope: Scope, run: Runtime) -> Evaluate:
    value = parameter(expr.name, run)
    return lambda _row: value


def parameter(name: str, run: Runtime) -> Any:
    """Return a parameter's value."""
    parameters = run.context.parameters
    if name not in parameters:
        raise BadQuery(f"the parameter ${name} was not given", field=f"parameters.{name}")
    return parameters[name]


@compiled.register
def _(expr: tree.Variable, scope: Scope, _run: Runtime) -> Evaluate:
    position = scope.position(expr.name)
    return lambda row: row[position]


@compiled.register
def _(expr: tree.Property, scope: Scope, run: Runtime) -> Evaluate:
    base, key = compiled(expr.base, scope, run), expr.key
    if run.writes or key == "id":
        return lambda row: read_property(run, base(row), key)
    properties = run.properties

    def evaluate(row: Row) -> Any:
        value = base(row)
        if type(value) is Node:
            return properties(value).get(key)
        return read_property(run, value, key)

    return evaluate


@compiled.register
def _(expr: tree.HasLabels, scope: Scope, run: Runtime) -> Evaluate:
    base, labels = compiled(expr.base, scope, run), expr.labels

    def evaluate(row: Row) -> bool | None:
        value = base(row)
        if value is None:
            return None
        present = labels_of(run, value)
        return all(label in present for label in labels)

    return evaluate


@compiled.register
def _(expr: tree.Index, scope: Scope, run: Runtime) -> Evaluate:
    base, index = compiled(expr.base, scope, run), compiled(expr.index, scope, run)

    def evaluate(row: Row) -> Any:
        value, at = base(row), index(row)
        if value is None or at is None:
            return None
        if type(value) is not list:
            if type(at) is not str:
                raise BadQuery(f"{kind(at)} does not select from {kind(value)}")
            return read_property(run, value, at)
        if type(at) is not int:
            raise BadQuery(f"a list is indexed by an integer, not by {kind(at)}")
        return value[at] if -len(value) <= at < len(value) else None

    return evaluate


@compiled.register
def _(expr: tree.Slice, scope: Scope, run: Runtime) -> Evaluate:
    base = compiled(expr.base, scope, run)
    bounds = [
        None if bound is None else compiled(bound, scope, run) for bound in (expr.low, expr.high)
    ]

    def evaluate(row: Row) -> Any:
        value = base(row)
        given = [bound(row) for bound in bounds if bound is not None]
        if value is None or None in given:
            return None
        if type(value) is not list or any(type(each) is not int for each in given):
            raise BadQuery("[low..high] takes integers, and a part of a list")
        low, high = (None if bound is None else bound(row) for bound in bounds)
        spend_on_list(len(value), run.spend)
        return value[low:high]

    return evaluate


@compiled.register
def _(expr: tree.ListOf, scope: Scope, run: Runtime) -> Evaluate:
    items = [compiled(item, scope, run) for item in expr.items]
    if is_constant_list(expr):
        made = [item([]) for item in items]
        return lambda _row: made
    return lambda row: [item(row) for item in items]


@compiled.register
def _(expr: tree.MapOf, scope: Scope, run: Runtime) -> Evaluate:
    items = [(key, compiled(item, scope, run)) for key, item in expr.items]
    return lambda row: {key: item(row) for key, item in items}


@compiled.register
def _(expr: tree.Not, scope: Scope, run: Runtime) -> Evaluate:
    operand = condition(expr.operand, scope, run)

    def evaluate(row: Row) -> bool | None:
        value = operand(row)
        return None if value is None else not value

    return evaluate


@compiled.register
def _(expr: tree.Junction, scope: Scope, run: Runtime) -> Evaluate:
    operands = [condition(operand, scope, run) for operand in expr.operands]
    if expr.op == "XOR":
        return lambda row: odd([operand(row) for operand in operands])
    decisive = expr.op == "OR"

    def evaluate(row: Row) -> bool | None:
        unknown = False
        for operand in operands:
            value: bool | None = operand(row)
            if value is decisive:
                return value
            unknown = unknown or value is None
        return None if unknown else not decisive

    return evaluate


@compiled.register
def _(expr: tree.Compare, scope: Scope, run: Runtime) -> Evaluate:
    (op, right), *more = expr.rest
    first = comparison(op, compiled(expr.first, scope, run), compiled(right, scope, run), run)
    if not more:
        return first
    pairs = [first]
    for op, operand in more:
        left, right = right, operand
        pair = comparison(op, compiled(left, scope, run), compiled(right, scope, run), run)
        pairs.append(pair)

    def evaluate(row: Row) -> bool | None:
        values = [pair(row) for pair in pairs]
        return False if False in values else (None if None in values else True)

    return evaluate


@compiled.register
def _(expr: tree.Test, scope: Scope, run: Runtime) -> Evaluate:
    left, right = compiled(expr.left, scope, run), compiled(expr.right, scope, run)
    if expr.op == "IN":
        return membership(left, right, expr.right, run)
    test = TEXT_TESTS[expr.op]

    def evaluate(row: Row) -> bool | None:
        text, part = left(row), right(row)
        return test(text, part) if type(text) is str and type(part) is str else None

    return evaluate


@compiled.register
def _(expr: tree.IsNull, scope: Scope, run: Runtime) -> Evaluate:
    operand, negated = compiled(expr.operand, scope, run), expr.negated
    return lambda row: (operand(row) is None) is not negated


@compiled.register
def _(expr: tree.Arithmetic, scope: Scope, run: Runtime) -> Evaluate:
    first = compiled(expr.first, scope, run)
    rest = [(op, compiled(operand, scope, run)) for op, operand in expr.rest]
    spend = run.spend

    def evaluate(row: Row) -> Any:
        value = first(row)
        for op, operand in rest:
            value = calculate(op, value, operand(row), spend)
        return value

    return evaluate


@compiled.register
def _(expr: tree.Negative, scope: Scope, run: Runtime) -> Evaluate:
    operand = compiled(expr.operand, scope, run)
    return lambda row: negate(operand(row))


@compiled.register
def _(expr: tree.Case, scope: Scope, run: Runtime) -> Evaluate:
    otherwise = compiled(expr.otherwise or tree.constant(None), scope, run)
    values = [compiled(value, scope, run) for _, value in expr.branches]
    if expr.subject is None:
        tests = [condition(test, scope, run) for test, _ in expr.branches]
    else:
        subject = compiled(expr.subject, scope, run)
        tests = [
            comparison("=", subject, compiled(test, scope, run), run) for test, _ in expr.branches
        ]
    branches = list(zip(tests, values, strict=True))

    def evaluate(row: Row) -> Any:
        for test, value in branches:
            if test(row) is True:
                return value(row)
        return otherwise(row)

    return evaluate


@compiled.register
def _(expr: tree.Call, scope: Scope, run: Runtime) -> Evaluate:
    if is_aggregate(expr):
        raise BadQuery(f"{expr.name}() aggregates: it stands in RETURN or WITH, and not in itself")
    return function(expr.name, [compiled(each, scope, run) for each in expr.arguments], run)


@compiled.register
def _(expr: tree.Reduce, scope: Scope, run: Runtime) -> Evaluate:
    start, source = compiled(expr.start, scope, run), _source(expr.source, scope, run)
    body = compiled(expr.body, scope.extended((expr.accumulator, expr.name)), run)

    def evaluate(row: Row) -> Any:
        items = source(row)
        if items is None:
            return None
        inner = [*row, start(row), None]
        for item in items:
            run.spend(1)
            inner[-1] = item
            inner[-2] = body(inner)
        return inner[-2]

    return evaluate


@compiled.register
def _(expr: tree.Comprehension, scope: Scope, run: Runtime) -> Evaluate:
    source, inside = _source(expr.source, scope, run), scope.extended((expr.name,))
    where = condition(expr.where or tree.constant(value=True), inside, run)
    body = compiled(expr.body or tree.Variable(expr.name), inside, run)

    def evaluate(row: Row) -> Any:
        items = source(row)
        if items is None:
            return None
        inner, made = [*row, None], []
        for item in items:
            run.spend(1)
            inner[-1] = item
            if where(inner) is True:
                made.append(body(inner))
        return made

    return evaluate


@compiled.register
def _(expr: tree.Quantifier, scope: Scope, run: Runtime) -> Evaluate:
    source, inside = _source(expr.source, scope, run), scope.extended((expr.name,))
    where, verdict = condition(expr.where, inside, run), VERDICTS[expr.kind]

    def evaluate(row: Row) -> bool | None:
        items = source(row)
        if items is None:
            return None
        inner, answers = [*row, None], [0, 0, 0]
        for item in items:
            run.spend(1)
            inner[-1] = item
            answer = where(inner)
            answers[2 if answer is None else answer] += 1
        return verdict(*answers)

    return evaluate


def _source(expr: tree.Expr, scope: Scope, run: Runtime) -> Evaluate:
    value = compiled(expr, scope, run)

    def evaluate(row: Row) -> list[Any] | None:
        items = value(row)
        if items is None or type(items) is list:
            return items
        raise BadQuery(f"IN takes a list, not {kind(items)}")

    return evaluate
