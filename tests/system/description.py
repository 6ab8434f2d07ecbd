"""Answers held against /openapi.json, as a client generated from it would read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Final

from tests.helpers import Response
from tests.system.exchange import send

Problems = Iterator[str]

_IS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
_NOTES: Final = frozenset({"title", "description", "default", "additionalProperties"})
"""Keywords that only explain, or are read with others."""


class Description:
    """The document, and whether a value is as one of its schemas says."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._paths = document["paths"]
        self._schemas = document["components"]["schemas"]

    def check(self, method: str, path: str, response: Response) -> None:
        """Fail unless the route describes this status with a schema that the body follows."""
        told = self._operation(path)[method.lower()]["responses"]
        assert str(response.status) in told, (method, path, response.status, response.body)
        schema = told[str(response.status)]["content"]["application/json"]["schema"]

        assert list(self.problems(schema, response.body)) == []

    def problems(self, schema: Mapping[str, Any], value: Any, place: str = "$") -> Problems:
        """Yield where a value is not as a schema says."""
        for keyword, told in schema.items():
            if keyword not in _NOTES:
                yield from _KEYWORDS[keyword](self, told, value, place)
        if isinstance(value, dict):
            yield from self._more(schema, value, place)

    def _operation(self, path: str) -> Any:
        parts = path.partition("?")[0].split("/")

        def unlike(template: str) -> int | None:
            told = template.split("/")
            if len(told) != len(parts):
                return None
            differing = [a for a, b in zip(told, parts, strict=True) if a != b]
            return len(differing) if all(part.startswith("{") for part in differing) else None

        found = {known: unlike(known) for known in self._paths}
        best = min((n, known) for known, n in found.items() if n is not None)
        return self._paths[best[1]]

    def _ref(self, told: str, value: Any, place: str) -> Problems:
        yield from self.problems(self._schemas[told.rpartition("/")[2]], value, place)

    def _type(self, told: str | list[str], value: Any, place: str) -> Problems:
        kinds = [told] if isinstance(told, str) else told
        if not any(_IS[kind](value) for kind in kinds):
            yield f"{place}: {value!r} is no {told}"

    def _const(self, told: Any, value: Any, place: str) -> Problems:
        if value != told:
            yield f"{place}: {value!r} is not {told!r}"

    def _enum(self, told: list[Any], value: Any, place: str) -> Problems:
        if value not in told:
            yield f"{place}: {value!r} is none of {told}"

    def _any_of(self, told: list[Any], value: Any, place: str) -> Problems:
        if all(any(self.problems(each, value, place)) for each in told):
            yield f"{place}: {value!r} is like none of its kinds"

    def _items(self, told: Any, value: Any, place: str) -> Problems:
        if isinstance(value, list):
            for at, item in enumerate(value):
                yield from self.problems(told, item, f"{place}[{at}]")

    def _required(self, told: list[str], value: Any, place: str) -> Problems:
        yield from (f"{place}.{name} is missing" for name in told if name not in value)

    def _properties(self, told: Mapping[str, Any], value: Any, place: str) -> Problems:
        for name, schema in told.items():
            if isinstance(value, dict) and name in value:
                yield from self.problems(schema, value[name], f"{place}.{name}")

    def _more(self, schema: Mapping[str, Any], value: Any, place: str) -> Problems:
        more = schema.get("additionalProperties", True)
        for name in value.keys() - schema.get("properties", {}).keys():
            if more is False:
                yield f"{place}.{name} is not described"
            elif isinstance(more, Mapping):
                yield from self.problems(more, value[name], f"{place}.{name}")


_KEYWORDS: Final[Mapping[str, Callable[[Description, Any, Any, str], Problems]]] = {
    "$ref": Description._ref,
    "type": Description._type,
    "const": Description._const,
    "enum": Description._enum,
    "anyOf": Description._any_of,
    "items": Description._items,
    "required": Description._required,
    "properties": Description._properties,
}


@cache
def description(url: str) -> Description:
    """Return what a node tells about its API."""
    return Description(send(url, "GET", "/openapi.json").body)
