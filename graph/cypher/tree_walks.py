"""Walks through the tree of a query: what is inside, what it needs, and exchanging parts of it.

How deep a text nests is measured without recursion and bounded before anything else walks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec import structs

from graph.cypher.tree import (
    AGGREGATES,
    Call,
    Comprehension,
    Expr,
    Junction,
    Quantifier,
    Reduce,
    Tree,
    Variable,
)


def depth(root: Tree) -> int:
    """Return how deep expressions nest, without recursion."""
    deepest, waiting = 0, [(root, 0)]
    while waiting:
        tree, above = waiting.pop()
        level = above + isinstance(tree, Expr)
        deepest = max(deepest, level)
        waiting += [(child, level) for child in children(tree)]
    return deepest


def children(tree: Tree) -> Iterator[Tree]:
    """Yield what is directly inside."""
    for field in tree.__struct_fields__:
        yield from _trees(getattr(tree, field))


def _trees(value: object) -> Iterator[Tree]:
    if isinstance(value, Tree):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _trees(each)


def replaced(expr: Expr, change: Callable[[Expr], Expr | None]) -> Expr:
    """Return the expression with subexpressions exchanged, from the outside in, for what `change`
    returns; None keeps them and goes on inside."""
    new = change(expr)
    if new is not None:
        return new
    fields = {field: _replaced(getattr(expr, field), change) for field in expr.__struct_fields__}
    return structs.replace(expr, **fields)


def _replaced(value: Any, change: Callable[[Expr], Expr | None]) -> Any:
    if isinstance(value, Expr):
        return replaced(value, change)
    if isinstance(value, tuple):
        return tuple(_replaced(each, change) for each in value)
    return value


def is_aggregate(expr: Tree) -> bool:
    """Return whether the expression is a call of an aggregating function."""
    return isinstance(expr, Call) and expr.name in AGGREGATES


def aggregates(tree: Tree) -> bool:
    """Return whether an aggregating function is called anywhere inside."""
    return is_aggregate(tree) or any(aggregates(child) for child in children(tree))


def free_names(tree: Tree, bound: Sequence[str] = ()) -> dict[str, None]:
    """Return the variables that an expression needs, in the order of their appearance."""
    if isinstance(tree, Variable):
        return {} if tree.name in bound else {tree.name: None}
    names: dict[str, None] = {}
    inner: Sequence[str] = bound
    outside: tuple[Tree, ...] = ()
    if isinstance(tree, Reduce):
        inner, outside = (*bound, tree.accumulator, tree.name), (tree.start, tree.source)
    elif isinstance(tree, Comprehension | Quantifier):
        inner, outside = (*bound, tree.name), (tree.source,)
    for child in children(tree):
        scope = bound if any(child is each for each in outside) else inner
        names |= free_names(child, scope)
    return names


def conjuncts(expr: Expr | None) -> list[Expr]:
    """Return the conditions that all have to hold."""
    if isinstance(expr, Junction) and expr.op == "AND":
        return [each for operand in expr.operands for each in conjuncts(operand)]
    return [] if expr is None else [expr]
