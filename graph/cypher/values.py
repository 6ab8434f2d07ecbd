"""What values are, when they are equal, and how they are ordered.

A value is null, a boolean, a number, a string, a list, a map, a node, a relationship (an arc; or a
whole hyperedge, in a pattern that fans out) or a path. Comparing knows three answers: true, false
and null, which is unknown. Two orders exist beside each other: `<` compares what is alike and is
null otherwise; ORDER BY has a place for everything. Sort keys are plain JSON values, so that rows
of several graphs can be merged elsewhere.

Lists can be long and can share parts, so whoever walks into one spends from the query's budget.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import cmp_to_key
from typing import Any, Final, NamedTuple

from graph.model import Arc, Node
from graph.state import EdgeEntry

Spend = Callable[[int], None]
Row = list[Any]
Evaluate = Callable[[Row], Any]


class Path(NamedTuple):
    """Nodes, and the arcs between each two of them."""

    nodes: tuple[Node, ...]
    arcs: tuple[Arc, ...]


ORDERINGS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NAN_RANK: Final = 8
_NULL_RANK: Final = 9
_PACE: Final = 256
_KINDS: Final[dict[type, tuple[int, str]]] = {
    dict: (0, "a map"),
    Node: (1, "a node"),
    Arc: (2, "a relationship"),
    EdgeEntry: (2, "a relationship"),
    list: (3, "a list"),
    Path: (4, "a path"),
    str: (5, "a string"),
    bool: (6, "a boolean"),
    int: (7, "a number"),
    float: (7, "a number"),
    type(None): (_NULL_RANK, "null"),
}
"""Rank in ORDER BY, and what a kind of value is called."""


def kind(value: Any) -> str:
    """Return what a value is, in words."""
    return _KINDS[type(value)][1]


def is_number(value: Any) -> bool:
    """Return whether a value is an integer or a float."""
    return type(value) in (int, float)


def equal(left: Any, right: Any, spend: Spend) -> bool | None:
    """Return `left = right`, None when that is unknown."""
    if left is None or right is None:
        return None
    if type(left) is list and type(right) is list:
        return _all_equal(left, right, spend)
    if type(left) is dict and type(right) is dict:
        if left.keys() != right.keys():
            return False
        return _all_equal(list(left.values()), [right[key] for key in left], spend)
    if _KINDS[type(left)][0] != _KINDS[type(right)][0]:
        return False
    if is_number(left) or type(left) in (str, bool):
        return bool(left == right)
    return bool(group_key(left, spend) == group_key(right, spend))


def _all_equal(left: Sequence[Any], right: Sequence[Any], spend: Spend) -> bool | None:
    if len(left) != len(right):
        return False
    unknown = False
    for one, other in zip(_paced(left, spend), right, strict=True):
        same = equal(one, other, spend)
        if same is False:
            return False
        unknown = unknown or same is None
    return None if unknown else True


def _paced(items: Sequence[Any], spend: Spend) -> Iterator[Any]:
    """Yield the items, and spend for them in passing: the clock is looked at on the way."""
    for start in range(0, len(items), _PACE):
        part = items[start : start + _PACE]
        spend(len(part))
        yield from part


def is_in(value: Any, items: Sequence[Any], spend: Spend) -> bool | None:
    """Return `value IN items`."""
    unknown = False
    for item in _paced(items, spend):
        same = equal(value, item, spend)
        if same:
            return True
        unknown = unknown or same is None
    return None if unknown else False


def ordered(op: str, left: Any, right: Any, spend: Spend) -> bool | None:
    """Return `left op right` for an op of ORDERINGS; None when that is unknown."""
    compare: Callable[[Any, Any], bool] = ORDERINGS[op]
    if is_number(left) and is_number(right):
        return compare(left, right)
    if type(left) is type(right) and type(left) in (str, bool):
        return compare(left, right)
    if type(left) is list and type(right) is list:
        for one, other in zip(left, right, strict=False):
            spend(1)
            same = equal(one, other, spend)
            if same is None:
                return None
            if not same:
                return ordered(op, one, other, spend)
        return compare(len(left), len(right))
    return None


def sort_key(value: Any, spend: Spend) -> list[Any]:
    """Return [rank, comparable] for ORDER BY: a JSON value; all of them can be compared."""
    rank = _KINDS[type(value)][0]
    if rank == _NULL_RANK:
        return [rank, 0]
    if type(value) is float and math.isnan(value):
        return [_NAN_RANK, 0]
    if type(value) is float and math.isinf(value):
        return [rank, math.copysign(1.7976931348623157e308, value)]
    if rank > _KINDS[Path][0]:
        return [rank, value]
    if type(value) is list:
        return [rank, [sort_key(each, spend) for each in _paced(value, spend)]]
    if type(value) is dict:
        spend(len(value))
        return [rank, [[key, sort_key(value[key], spend)] for key in sorted(value)]]
    if isinstance(value, Path):
        spend(len(value.nodes))
    return [rank, _identity(value)]


def _identity(value: Any) -> Any:
    if isinstance(value, Node):
        return value.id
    if isinstance(value, Arc):
        return [value.edge.id, value.position]
    if isinstance(value, EdgeEntry):
        return [value.edge.id, -1]
    assert isinstance(value, Path), "all kinds have been seen"
    return [[node.id for node in value.nodes], [_identity(arc) for arc in value.arcs]]


def group_key(value: Any, spend: Spend) -> Any:
    """Return what is equal for values that DISTINCT and grouping take for the same: null is null
    and 1 is 1.0, but true is not 1."""
    kind_of = type(value)
    if kind_of is str or kind_of is int or value is None:
        return value
    if kind_of is bool:
        return (bool, value)
    if kind_of is float:
        return (float,) if math.isnan(value) else value
    if kind_of is list:
        return (list, *(group_key(each, spend) for each in _paced(value, spend)))
    if kind_of is dict:
        spend(len(value))
        return (dict, *((key, group_key(value[key], spend)) for key in sorted(value)))
    if kind_of is Node:
        return (Node, value.slot)
    if kind_of is Arc:
        return (Arc, value.edge.slot, value.position)
    if kind_of is EdgeEntry:
        return (EdgeEntry, value.edge.slot)
    assert kind_of is Path, "all kinds have been seen"
    spend(len(value.nodes))
    nodes = tuple(node.slot for node in value.nodes)
    return (Path, nodes, tuple((arc.edge.slot, arc.position) for arc in value.arcs))


def _backwards(left: Any, right: Any) -> int:
    return int(left < right) - int(right < left)


_descending: Final = cmp_to_key(_backwards)


def merge_key(order_keys: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """Return what `sorted` compares rows by; `order_keys` [[rank, value, descending], ...] are
    those of one row."""
    return tuple(
        _descending([rank, value]) if descending else [rank, value]
        for rank, value, descending in order_keys
    )
