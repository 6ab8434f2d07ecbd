"""Expressions and patterns as text, for EXPLAIN."""

from __future__ import annotations

from functools import singledispatch

from graph.cypher import tree
from graph.cypher.plan import Node
from graph.cypher.scope import HIDDEN


def node_text(node: Node) -> str:
    """Return a node of a pattern without its parentheses."""
    name = "" if node.name.startswith(HIDDEN) else node.name
    return name + "".join(f":{label}" for label in node.labels)


def relationship_text(pattern: tree.RelationshipPattern, *, forward: bool) -> str:
    """Return a relationship as it is walked."""
    types = ":" + "|".join(pattern.types) if pattern.types else ""
    hops = ""
    if pattern.hops is not None:
        low, high = pattern.hops
        hops = f"*{low}.." + ("" if high is None else str(high))
    inside = f"-[{pattern.name or ''}{types}{hops}]-"
    if pattern.direction == "both":
        return inside
    return inside + ">" if (pattern.direction == "out") == forward else "<" + inside


@singledispatch
def printed(expr: tree.Tree) -> str:
    """Return an expression as text."""
    raise AssertionError(f"{type(expr).__name__} can be printed")


@printed.register
def _(expr: tree.Constant) -> str:
    if expr.value is None or isinstance(expr.value, bool):
        return {None: "null", True: "true", False: "false"}[expr.value]
    return repr(expr.value)


@printed.register
def _(expr: tree.Parameter) -> str:
    return f"${expr.name}"


@printed.register
def _(expr: tree.Variable) -> str:
    return "_" if expr.name.startswith(HIDDEN) else expr.name


@printed.register
def _(expr: tree.Property) -> str:
    return f"{printed(expr.base)}.{expr.key}"


@printed.register
def _(expr: tree.HasLabels) -> str:
    return printed(expr.base) + "".join(f":{label}" for label in expr.labels)


@printed.register
def _(expr: tree.Index) -> str:
    return f"{printed(expr.base)}[{printed(expr.index)}]"


@printed.register
def _(expr: tree.Slice) -> str:
    low, high = ("" if each is None else printed(each) for each in (expr.low, expr.high))
    return f"{printed(expr.base)}[{low}..{high}]"


@printed.register
def _(expr: tree.ListOf) -> str:
    return "[" + ", ".join(printed(item) for item in expr.items) + "]"


@printed.register
def _(expr: tree.MapOf) -> str:
    return "{" + ", ".join(f"{key}: {printed(item)}" for key, item in expr.items) + "}"


@printed.register
def _(expr: tree.Not) -> str:
    return f"NOT {printed(expr.operand)}"


@printed.register
def _(expr: tree.Junction) -> str:
    return "(" + f" {expr.op} ".join(printed(operand) for operand in expr.operands) + ")"


@printed.register(tree.Compare)
@printed.register(tree.Arithmetic)
def _(expr: tree.Compare | tree.Arithmetic) -> str:
    rest = "".join(f" {op} {printed(operand)}" for op, operand in expr.rest)
    return (
        printed(expr.first) + rest
        if isinstance(expr, tree.Compare)
        else f"({printed(expr.first)}{rest})"
    )


@printed.register
def _(expr: tree.Test) -> str:
    return f"{printed(expr.left)} {expr.op} {printed(expr.right)}"


@printed.register
def _(expr: tree.IsNull) -> str:
    return printed(expr.operand) + (" IS NOT NULL" if expr.negated else " IS NULL")


@printed.register
def _(expr: tree.Negative) -> str:
    return f"-{printed(expr.operand)}"


@printed.register
def _(expr: tree.Case) -> str:
    subject = "" if expr.subject is None else " " + printed(expr.subject)
    branches = "".join(
        f" WHEN {printed(test)} THEN {printed(value)}" for test, value in expr.branches
    )
    otherwise = "" if expr.otherwise is None else f" ELSE {printed(expr.otherwise)}"
    return f"CASE{subject}{branches}{otherwise} END"


@printed.register
def _(expr: tree.Call) -> str:
    inside = "*" if expr.star else ", ".join(printed(each) for each in expr.arguments)
    return f"{expr.name}({'DISTINCT ' if expr.distinct else ''}{inside})"


@printed.register
def _(expr: tree.Reduce) -> str:
    start, source, body = (printed(each) for each in (expr.start, expr.source, expr.body))
    return f"reduce({expr.accumulator} = {start}, {expr.name} IN {source} | {body})"


@printed.register
def _(expr: tree.Comprehension) -> str:
    where = "" if expr.where is None else f" WHERE {printed(expr.where)}"
    body = "" if expr.body is None else f" | {printed(expr.body)}"
    return f"[{expr.name} IN {printed(expr.source)}{where}{body}]"


@printed.register
def _(expr: tree.Quantifier) -> str:
    return f"{expr.kind}({expr.name} IN {printed(expr.source)} WHERE {printed(expr.where)})"
