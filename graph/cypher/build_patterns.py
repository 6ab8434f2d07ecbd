"""Patterns of the tree; see `builder`. A relationship that fans out in a place where it cannot is
refused here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from lark import Token

from graph.cypher import tree
from graph.cypher.build_expressions import integer_of
from graph.cypher.tree import Expr
from graph.errors import BadQuery

HOPS_MAX: Final = 1_000_000
Names = tuple[str, ...]
Group = tuple[tree.NodePattern, ...]


def _patterns(*parts: tree.Part) -> tuple[tree.Part, ...]:
    return parts


def _part(path: str | None, *chain: Any) -> tree.Part:
    groups = cast("tuple[Group, ...]", chain[0::2])
    relationships = cast("tuple[tree.RelationshipPattern, ...]", chain[1::2])
    if any(len(group) > 1 for group in groups[:-1]):
        raise BadQuery("only the last relationship of a pattern can lead to several nodes")
    if len(groups[-1]) == 1:
        return tree.Part(path, tuple(group[0] for group in groups), relationships)
    if not relationships:
        raise BadQuery("several nodes in parentheses need a relationship that leads to them")
    last = relationships[-1]
    if last.direction != "out" or last.hops is not None or path is not None:
        raise BadQuery(
            "a relationship to several nodes is written (a)-[r:TYPE]->(b, c): it points to "
            "the right, has no length and is not part of a path variable"
        )
    nodes = tuple(group[0] for group in groups[:-1])
    names = [node.name for node in (nodes[-1], *groups[-1]) if node.name is not None]
    if len(dict.fromkeys(names)) < len(names):
        raise BadQuery("a relationship to several nodes joins different nodes")
    return tree.Part(None, nodes, relationships, groups[-1])


def _nodes(*nodes: tree.NodePattern) -> Group:
    return nodes


def _node(name: str | None, labels: Names | None, properties: Expr | None) -> tree.NodePattern:
    return tree.NodePattern(name, labels or (), properties)


def _relationship(
    left: Token | None, detail: tuple[Any, ...] | None, right: Token | None
) -> tree.RelationshipPattern:
    name, types, hops, properties = detail or (None, None, None, None)
    direction: tree.Direction = "both"
    if (left is None) != (right is None):
        direction = "in" if left is not None else "out"
    return tree.RelationshipPattern(name, types or (), direction, hops, properties)


def _detail(*parts: Any) -> tuple[Any, ...]:
    return parts


def _names(*names: str) -> Names:
    return tuple(dict.fromkeys(names))


def _hops(
    _star: Token, low: Token | None, upto: tuple[int | None] | None
) -> tuple[int, int | None]:
    if upto is None:
        return (1, None) if low is None else (_hop_count(low), _hop_count(low))
    return (1 if low is None else _hop_count(low)), upto[0]


def _upto(high: Token | None) -> tuple[int | None]:
    return (None if high is None else _hop_count(high),)


def _hop_count(token: Token) -> int:
    return min(integer_of(token, 10), HOPS_MAX)


PATTERNS: Final[dict[str, Callable[..., Any]]] = {
    "detail": _detail,
    "hops": _hops,
    "labels": _names,
    "node": _node,
    "nodes": _nodes,
    "part": _part,
    "patterns": _patterns,
    "relationship": _relationship,
    "types": _names,
    "upto": _upto,
}
