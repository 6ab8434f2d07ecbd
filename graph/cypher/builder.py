"""Makes the tree of a query while lark reads it: one function for each rule of the grammar, called
from the leaves upwards with what has become of the rule's parts. There is no recursion, for a text
may nest deeper than Python's stack.

A column without AS is named as it is written. What lark hands over does not say where it stood, so
the token that is being read and the one before are remembered; each thread reads one text at a
time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from lark import Lark, Token, Transformer, UnexpectedToken

from graph.cypher import tree
from graph.cypher.build_clauses import CLAUSES
from graph.cypher.build_expressions import EXPRESSIONS
from graph.cypher.build_patterns import PATTERNS
from graph.cypher.grammar import GRAMMAR

Rules = dict[str, Callable[..., Any]]


class _Place(threading.local):
    """Where a thread is in its text."""

    text = ""
    start = 0
    """Where the token that is being read begins."""
    last_end = 0
    """Where the one before it ends."""
    end = 0


_place: Final = _Place()


def built(text: str) -> tree.Query:
    """Return the query that a text is. Raises lark.UnexpectedInput, or BadQuery."""
    _place.text, _place.start, _place.last_end, _place.end = text, 0, 0, 0
    reading: Any = parser().parse_interactive(text)
    try:
        token: Any = None
        for token in reading.iter_parse():
            _pass(token.start_pos, token.end_pos)
        _pass(len(text), len(text))
        query = reading.feed_eof(token)
    except UnexpectedToken as error:
        error.interactive_parser = reading
        raise
    assert isinstance(query, tree.Query), "the grammar begins with a query"
    return query


@cache
def parser() -> Lark:
    """Return what reads a text and calls the functions of the rules."""
    rules: Rules = {**CLAUSES, **PATTERNS, **EXPRESSIONS, "begin": _begin, "item": _item}
    building: Transformer[Token, tree.Query] = Transformer()
    for name, function in rules.items():
        setattr(building, name, _called(function))
    return Lark(GRAMMAR, start="query", parser="lalr", transformer=building)


def _called(function: Callable[..., Any]) -> Callable[[list[Any]], Any]:
    return lambda parts: function(*parts)


def _pass(start: int, end: int) -> None:
    _place.last_end, _place.start, _place.end = _place.end, start, end


def _begin() -> int:
    return _place.start


def _item(begin: int, expression: tree.Expr, alias: str | None) -> tree.Item:
    if isinstance(expression, tree.Variable):
        written = expression.name
    else:
        written = _place.text[begin : _place.last_end]
    return tree.Item(expression, alias or written, alias is not None)
