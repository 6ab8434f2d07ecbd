"""SQL text and its parameters, composed together so that their order cannot come apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Sql(NamedTuple):
    """A piece of SQL, and a value for each `?` in it, in order."""

    text: str
    parameters: tuple[Any, ...] = ()


def compose(template: str, *parts: Sql) -> Sql:
    """Put parts into the `{}` of a template of our own, from left to right."""
    pieces = template.split("{}")
    assert len(pieces) == len(parts) + 1, "a part for each place"
    text = [pieces[0]]
    parameters: list[Any] = []
    for part, piece in zip(parts, pieces[1:], strict=True):
        text += (part.text, piece)
        parameters += part.parameters
    return Sql("".join(text), tuple(parameters))


def value(parameter: Any) -> Sql:
    """Return a place for a parameter."""
    return Sql("?", (parameter,))


def join(separator: str, parts: Iterable[Sql]) -> Sql:
    """Return parts with a separator between them."""
    listed = list(parts)
    return compose(separator.join(["{}"] * len(listed)), *listed)
