"""Expressions of the tree; see `builder`.

What the grammar lets through and openCypher does not is refused here: numbers that do not fit,
broken escapes, a comprehension without its variable.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from lark import Token

from graph.cypher import tree
from graph.cypher.tree import Expr
from graph.errors import BadQuery, UnsupportedClause
from graph.model import NAME_BYTES_MAX

_INTEGER_LIMIT: Final = 2**63
"""One more than the largest: it is written for the smallest, with a minus sign."""
_DIGITS_MAX: Final = 64
_SHOWN_MAX: Final = 40
_QUANTIFIERS: Final = ("all", "any", "none", "single")
_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)


def integer_of(digits: str, base: int) -> int:
    """Return the number that digits are."""
    value = int(digits, base) if len(digits) <= _DIGITS_MAX else _INTEGER_LIMIT + 1
    if value > _INTEGER_LIMIT:
        raise BadQuery(f"the number {digits[:_SHOWN_MAX]} has more than 64 bits")
    return value


def _junction(op: str, *operands: Expr) -> Expr:
    return tree.Junction(op, operands)


def _compare(first: Expr, *rest: Any) -> Expr:
    return tree.Compare(first, _pairs(rest))


def _arithmetic(first: Expr, *rest: Any) -> Expr:
    return tree.Arithmetic(first, _pairs(rest))


def _pairs(flat: tuple[Any, ...]) -> tuple[tuple[str, Expr], ...]:
    return tuple((str(op), operand) for op, operand in zip(flat[::2], flat[1::2], strict=True))


def _negative(operand: Expr) -> Expr:
    if isinstance(operand, tree.Constant) and type(operand.value) in (int, float):
        return tree.constant(-operand.value)
    return tree.Negative(operand)


def _positive(operand: Expr) -> Expr:
    return operand


def _integer(token: Token) -> Expr:
    return tree.constant(integer_of(token, 10))


def _based(token: Token) -> Expr:
    return tree.constant(integer_of(token[2:], 16 if token[1] in "xX" else 8))


def _float(token: Token) -> Expr:
    value = float(token)
    if value == float("inf"):
        raise BadQuery(f"the number {token[:_SHOWN_MAX]} is too large")
    return tree.constant(value)


def _string(token: Token) -> Expr:
    text = token[1:-1]
    try:
        plain = _ESCAPE.sub(_unescaped, text)
        return tree.constant(plain.encode("utf-16", "surrogatepass").decode("utf-16"))
    except (ValueError, OverflowError):
        shown = text[:_SHOWN_MAX]
        raise BadQuery(f"the string '{shown}' holds what is not a character") from None


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "uU" and len(code) > 1:
        return chr(int(code[1:], 16))
    return _ESCAPES.get(code, code)


def _parameter(token: Token) -> Expr:
    return tree.Parameter(token[1:].strip("`"))


def _name(token: Token) -> str:
    name = token[1:-1] if token.type == "QUOTED" else str(token)
    if len(name.encode()) > NAME_BYTES_MAX:
        shown = name[:_SHOWN_MAX]
        raise BadQuery(f"the name {shown}... is longer than {NAME_BYTES_MAX} bytes")
    return name


def _arguments(*items: Expr) -> tuple[Expr, ...]:
    return items


def _call(name: str, distinct: Token | None, items: tuple[Expr, ...] | None) -> Expr:
    lower = name.lower()
    if distinct is not None and lower not in tree.AGGREGATES:
        raise BadQuery(f"DISTINCT does not go with {name}()")
    if lower in _QUANTIFIERS:
        raise BadQuery(f"{name}() is written {name}(x IN list WHERE condition)")
    if lower in ("shortestpath", "allshortestpaths"):
        raise UnsupportedClause(f"{name} is not supported")
    return tree.Call(lower, items or (), distinct is not None)


def _call_star(name: str, _star: Token) -> Expr:
    if name.lower() != "count":
        raise BadQuery(f"{name}(*) does not exist; count(*) does")
    return tree.Call("count", (), star=True)


def _quantifier(name: str, source: Expr, where: Expr) -> Expr:
    if name.lower() not in _QUANTIFIERS:
        raise BadQuery(f"{name}() takes no WHERE; all, any, none and single do")
    return tree.Quantifier(name.lower(), *_taken_apart(source), where)


def _list(items: tuple[Expr, ...] | None) -> Expr:
    items = items or ()
    if len(items) == 1 and _binds(items[0]):
        return tree.Comprehension(*_taken_apart(items[0]), None, None)
    return tree.ListOf(items)


def _comprehension(source: Expr, where: Expr, body: Expr | None) -> Expr:
    return tree.Comprehension(*_taken_apart(source), where, body)


def _extraction(source: Expr, body: Expr) -> Expr:
    return tree.Comprehension(*_taken_apart(source), None, body)


def _binds(expr: Expr) -> bool:
    return isinstance(expr, tree.Test) and expr.op == "IN" and isinstance(expr.left, tree.Variable)


def _taken_apart(expr: Expr) -> tuple[str, Expr]:
    """Return the variable and the list of what was read as the condition `variable IN list`."""
    if not isinstance(expr, tree.Test) or not _binds(expr):
        raise BadQuery("a comprehension begins with: variable IN list")
    assert isinstance(expr.left, tree.Variable), "binds"
    return expr.left.name, expr.right


def _map(*entries: tuple[str, Expr] | None) -> Expr:
    given = [entry for entry in entries if entry is not None]
    return tree.MapOf(tuple(dict(given).items()))


def _pair(*pair: Any) -> tuple[Any, ...]:
    return pair


def _case(subject: Expr | None, *rest: Any) -> Expr:
    *branches, otherwise = rest
    assert otherwise is None or isinstance(otherwise, Expr), "ELSE comes last"
    return tree.Case(subject, tuple(branches), otherwise)


EXPRESSIONS: Final[dict[str, Callable[..., Any]]] = {
    "and_": partial(_junction, "AND"),
    "arguments": _arguments,
    "arithmetic": _arithmetic,
    "based": _based,
    "branch": _pair,
    "call": _call,
    "call_star": _call_star,
    "case": _case,
    "compare": _compare,
    "comprehension": _comprehension,
    "contains": partial(tree.Test, "CONTAINS"),
    "ends_with": partial(tree.Test, "ENDS WITH"),
    "entry": _pair,
    "equals": str,
    "extraction": _extraction,
    "false": partial(tree.constant, value=False),
    "float": _float,
    "has_labels": tree.HasLabels,
    "in_": partial(tree.Test, "IN"),
    "index": tree.Index,
    "integer": _integer,
    "is_not_null": partial(tree.IsNull, negated=True),
    "is_null": partial(tree.IsNull, negated=False),
    "less": str,
    "list_": _list,
    "map": _map,
    "more": str,
    "name": _name,
    "negative": _negative,
    "not_": tree.Not,
    "null": partial(tree.constant, None),
    "or_": partial(_junction, "OR"),
    "parameter": _parameter,
    "plus_or_minus": str,
    "positive": _positive,
    "property": tree.Property,
    "quantifier": _quantifier,
    "raised": str,
    "reduce": tree.Reduce,
    "slice": tree.Slice,
    "starts_with": partial(tree.Test, "STARTS WITH"),
    "string": _string,
    "times": str,
    "true": partial(tree.constant, value=True),
    "variable": tree.Variable,
    "xor_": partial(_junction, "XOR"),
}
