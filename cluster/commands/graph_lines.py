"""Nodes and edges as lines of JSON: `{"node": {...}}` and `{"edge": {...}}`, in any order.

A file is read three times, never kept: first all lines are checked for what needs no server, so
that broken JSON in line 900 writes nothing; then the nodes are taken, and then the edges, whose
nodes are there by then. Of lines with the same id the last one counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from cluster.commands.graph_sending import Element, Kind
from cluster.errors import CommandFailed

WORDS: Final[dict[str, Kind]] = {"node": "nodes", "edge": "edges"}


class GraphLines:
    """A checked file. `counts`: how many nodes and edges it has."""

    def __init__(self, file: Path) -> None:
        """Read and check all lines; raises CommandFailed naming the first bad one."""
        self._file = file
        self._last: dict[Kind, dict[str, int]] = {"nodes": {}, "edges": {}}
        nameless = 0
        for number, kind, element in self._lines():
            name = element.get("id")
            if isinstance(name, str):
                self._last[kind][name] = number
            elif kind == "nodes":
                raise _bad_line(number, "is a node without an id")
            else:
                nameless += 1
        self.counts: dict[Kind, int] = {
            "nodes": len(self._last["nodes"]),
            "edges": len(self._last["edges"]) + nameless,
        }

    def elements(self, wanted: Kind) -> Iterator[Element]:
        """Yield the nodes, or the edges, in the order of their lines."""
        last = self._last[wanted]
        for number, kind, element in self._lines():
            if kind == wanted and last.get(str(element.get("id")), number) == number:
                yield element

    def _lines(self) -> Iterator[tuple[int, Kind, Element]]:
        with self._file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, *_parsed(number, line)


def _parsed(number: int, line: bytes) -> tuple[Kind, Element]:
    try:
        value: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _bad_line(number, f"is not JSON ({error.msg})") from None
    if isinstance(value, dict) and len(value) == 1:
        ((word, element),) = value.items()
        if word in WORDS and isinstance(element, dict):
            return WORDS[word], element
    raise _bad_line(number, "is neither a node nor an edge")


def _bad_line(number: int, what: str) -> CommandFailed:
    return CommandFailed(
        f"line {number} {what}; nothing was written",
        hint='lines are such as {"node": {"id": "a"}} and '
        '{"edge": {"label": "CAUSED_BY", "members": ["a", "b"]}}',
        code="bad_line",
    )
