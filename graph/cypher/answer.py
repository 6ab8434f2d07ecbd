"""Values as plain JSON, for the answer.

A path is long, a list may hold the same path many times: what is answered is bounded as a whole.
"""

from __future__ import annotations

import math
from typing import Any, Final

from graph.cypher.runtime import Runtime
from graph.cypher.values import Path
from graph.errors import BadQuery
from graph.model import Arc, Node
from graph.shapes import arc_shape, edge_shape, node_shape
from graph.state import EdgeEntry

DEPTH_MAX: Final = 100
WEIGHT_MAX: Final = 400_000
"""Values in an answer; 256 bytes of text or properties count like one more."""


class TooHeavy(Exception):
    """The answer has reached its limit."""


class Answer:
    """Turns rows into JSON values until they become too many."""

    def __init__(self, run: Runtime) -> None:
        self._run = run
        self._room = WEIGHT_MAX

    def row(self, row: list[Any]) -> list[Any]:
        """Return a row's values; raises TooHeavy."""
        return [self._plain(value, 0) for value in row]

    def _plain(self, value: Any, depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise BadQuery(f"a value in an answer nests at most {DEPTH_MAX} deep")
        if type(value) is float:
            return value if math.isfinite(value) else None
        if type(value) is str:
            self._weigh(len(value) >> 8)
            return value
        if type(value) is list:
            self._weigh(len(value))
            return [self._plain(each, depth + 1) for each in value]
        if type(value) is dict:
            self._weigh(len(value))
            return {key: self._plain(each, depth + 1) for key, each in value.items()}
        return self._element(value)

    def _element(self, value: Any) -> Any:
        if isinstance(value, Path):
            return {
                "nodes": [self._element(node) for node in value.nodes],
                "relationships": [self._element(arc) for arc in value.arcs],
                "length": len(value.arcs),
            }
        value = self._run.current(value)
        if isinstance(value, Node):
            self._weigh(4 + (len(value.raw) >> 8))
            return node_shape(value)
        if isinstance(value, Arc):
            self._weigh(8 + (len(value.edge.raw) >> 8))
            return arc_shape(self._run.state, value)
        if isinstance(value, EdgeEntry):
            self._weigh(8 + len(value.edge.members) + (len(value.edge.raw) >> 8))
            return edge_shape(self._run.state, value)
        return value

    def _weigh(self, weight: int) -> None:
        self._room -= weight
        if self._room < 0:
            raise TooHeavy
