"""Comparisons, IN, and the verdicts of all, any, none and single, compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from graph.cypher import tree
from graph.cypher.runtime import Runtime
from graph.cypher.values import ORDERINGS, Evaluate, Row, equal, group_key, is_in, kind, ordered
from graph.errors import BadQuery

_PLAIN: Final = (str, int, float, bool)
TEXT_TESTS: Final[dict[str, Callable[[str, str], bool]]] = {
    "STARTS WITH": str.startswith,
    "ENDS WITH": str.endswith,
    "CONTAINS": str.__contains__,
}


def comparison(op: str, left: Evaluate, right: Evaluate, run: Runtime) -> Evaluate:
    """Compile `left op right`."""
    spend = run.spend
    if op in ORDERINGS:
        return lambda row: ordered(op, left(row), right(row), spend)
    wanted = op == "="

    def evaluate(row: Row) -> bool | None:
        one, other = left(row), right(row)
        if type(one) is str and type(other) is str:
            return (one == other) is wanted
        same = equal(one, other, spend)
        return None if same is None else same is wanted

    return evaluate


def membership(left: Evaluate, right: Evaluate, source: tree.Expr, run: Runtime) -> Evaluate:
    """Compile `left IN right`; `source` is what `right` was compiled from."""
    if isinstance(source, tree.Parameter) or is_constant_list(source):
        items = right([])
        if type(items) is list and all(type(item) in _PLAIN for item in items):
            return _plain_membership(left, items, run)

    def evaluate(row: Row) -> bool | None:
        value, items = left(row), right(row)
        if items is None:
            return None
        if type(items) is not list:
            raise BadQuery(f"IN takes a list, not {kind(items)}")
        return is_in(value, items, run.spend)

    return evaluate


def is_constant_list(expr: tree.Expr) -> bool:
    """Return whether an expression is a list of constants."""
    return isinstance(expr, tree.ListOf) and all(
        isinstance(item, tree.Constant) for item in expr.items
    )


def _plain_membership(left: Evaluate, items: list[Any], run: Runtime) -> Evaluate:
    """A given list without null, list or map is looked up, not walked."""
    keys = {group_key(item, run.spend): None for item in items}

    def evaluate(row: Row) -> bool | None:
        value = left(row)
        if value is None:
            return None if items else False
        return value == value and group_key(value, run.spend) in keys

    return evaluate


def odd(values: list[bool | None]) -> bool | None:
    """Return the XOR of all."""
    return None if None in values else values.count(True) % 2 == 1


def _all(false: int, _true: int, unknown: int) -> bool | None:
    return False if false else (None if unknown else True)


def _any(_false: int, true: int, unknown: int) -> bool | None:
    return True if true else (None if unknown else False)


def _none(_false: int, true: int, unknown: int) -> bool | None:
    return False if true else (None if unknown else True)


def _single(_false: int, true: int, unknown: int) -> bool | None:
    return False if true > 1 else (None if unknown else true == 1)


VERDICTS: Final = {"all": _all, "any": _any, "none": _none, "single": _single}
"""From how many items a condition was false, true and null for."""
