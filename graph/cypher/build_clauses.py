"""Clauses of the tree, from what stands in them; see `builder`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from lark import Token
from msgspec import structs

from graph.cypher import tree
from graph.cypher.tree import Expr
from graph.errors import BadQuery

COLUMNS_MAX: Final = 1000
Assignments = tuple[tree.Assignment, ...]


def _query(explain: Token | None, *clauses: tree.Clause) -> tree.Query:
    for clause in clauses[:-1]:
        if isinstance(clause, tree.Projection) and clause.final:
            raise BadQuery("RETURN has to be the last clause")
    last = clauses[-1]
    returns = isinstance(last, tree.Projection) and last.final
    if not returns and not isinstance(last, tree.WRITES):
        raise BadQuery("a query ends with RETURN or with a clause that writes")
    return tree.Query(clauses, explain is not None)


def _match(optional: Token | None, parts: tuple[tree.Part, ...], where: Expr | None) -> tree.Match:
    return tree.Match(parts, where, optional is not None)


def _with(projection: tree.Projection, where: Expr | None) -> tree.Projection:
    for item in projection.items:
        if not item.aliased and not isinstance(item.expression, tree.Variable):
            raise BadQuery(f"WITH needs a name for {item.name}: write {item.name} AS name")
    return structs.replace(projection, where=where, final=False)


def _return(projection: tree.Projection) -> tree.Projection:
    return projection


def _projection(
    distinct: Token | None,
    items: tuple[bool, tuple[tree.Item, ...]],
    *rest: Any,
) -> tree.Projection:
    order, skip, limit = rest
    star, columns = items
    if len(columns) > COLUMNS_MAX:
        raise BadQuery(f"WITH and RETURN take at most {COLUMNS_MAX} columns")
    for name, count in Counter(item.name for item in columns).items():
        if count > 1:
            raise BadQuery(f"two columns are named {name}")
    return tree.Projection(
        columns, star, distinct is not None, order or (), skip, limit, None, final=True
    )


def _items(*items: tree.Item | Token) -> tuple[bool, tuple[tree.Item, ...]]:
    columns = tuple(item for item in items if isinstance(item, tree.Item))
    return len(columns) < len(items), columns


def _order(*keys: tree.Sort) -> tuple[tree.Sort, ...]:
    return keys


def _sort(expression: Expr, *directions: Token | None) -> tree.Sort:
    given = [each for each in directions if each is not None]
    return tree.Sort(expression, bool(given) and given[0].type == "DESCENDING")


def _create(parts: tuple[tree.Part, ...]) -> tree.Create:
    return tree.Create(parts)


def _merge(part: tree.Part, *actions: tuple[str, Assignments]) -> tree.Merge:
    chosen: dict[str, Assignments] = {"create": (), "match": ()}
    for outcome, assignments in actions:
        chosen[outcome] += assignments
    return tree.Merge(part, chosen["create"], chosen["match"])


def _on_create(*assignments: tree.Assignment) -> tuple[str, Assignments]:
    return "create", assignments


def _on_match(*assignments: tree.Assignment) -> tuple[str, Assignments]:
    return "match", assignments


def _assign(*assignments: tree.Assignment) -> tree.Assign:
    return tree.Assign(assignments)


def _delete(detach: Token | None, *targets: Expr) -> tree.Delete:
    return tree.Delete(targets, detach is not None)


def _set_all(name: str, value: Expr) -> tree.SetAll:
    return tree.SetAll(name, value, add=False)


def _set_more(name: str, value: Expr) -> tree.SetAll:
    return tree.SetAll(name, value, add=True)


def _remove_property(name: str, key: str) -> tree.SetProperty:
    return tree.SetProperty(name, key, tree.constant(None))


def _remove_labels(name: str, labels: tuple[str, ...]) -> tree.SetLabels:
    return tree.SetLabels(name, labels, remove=True)


CLAUSES: Final[dict[str, Callable[..., Any]]] = {
    "create": _create,
    "delete": _delete,
    "items": _items,
    "match": _match,
    "merge": _merge,
    "on_create": _on_create,
    "on_match": _on_match,
    "order": _order,
    "projection": _projection,
    "query": _query,
    "remove": _assign,
    "remove_labels": _remove_labels,
    "remove_property": _remove_property,
    "return": _return,
    "set": _assign,
    "set_all": _set_all,
    "set_labels": tree.SetLabels,
    "set_more": _set_more,
    "set_property": tree.SetProperty,
    "sort": _sort,
    "unwind": tree.Unwind,
    "with": _with,
}
