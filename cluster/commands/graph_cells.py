"""Nodes, arcs, paths and other values as the text of a cell.

A node is shown by its id, with the name that a reader knows it by when the id does not say it; a
path as `a → b → c`. Whatever is long is cut: `--json` has it whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

CELL_LENGTH_MAX: Final = 160
NAME_LENGTH_MAX: Final = 40
NAMES: Final = ("title", "name", "task", "type", "text")
"""Properties that name a node, the best first; pictures take them in the same order."""
ARROW: Final = " → "

Value = Mapping[str, Any]


def cell(value: Any) -> object:
    """Return a value of an answer as a table shows it; numbers stay numbers."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return cut(_text(value), CELL_LENGTH_MAX)


def caption(node: Value) -> str:
    """Return a node's id, and its name where the id does not contain it."""
    known = name_of(node)
    if not known or known in node["id"]:
        return str(node["id"])
    return f"{node['id']} ({cut(known, NAME_LENGTH_MAX)})"


def name_of(node: Value) -> str:
    """Return what a reader knows a node by; empty when no property says it."""
    for name in NAMES:
        value = node["properties"].get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""


def chain_text(nodes: Sequence[Value]) -> str:
    """Return a chain of nodes as one line."""
    return ARROW.join(caption(node) for node in nodes)


def cut(text: str, length: int) -> str:
    """Return a text on one line, its end left out when it is longer than that."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"[{', '.join(_text(each) for each in value)}]"
    if isinstance(value, dict):
        return _object_text(value)
    return orjson.dumps(value).decode()


def _object_text(value: Value) -> str:
    if value.keys() >= {"nodes", "relationships"}:
        return chain_text(value["nodes"])
    if value.keys() >= {"hyperedge_id", "source", "target"}:
        return f"{value['source']} -[{value['type']} {value['confidence']:.3g}]→ {value['target']}"
    if value.keys() >= {"id", "labels", "properties"}:
        return caption(value)
    return "{" + ", ".join(f"{name}: {_text(each)}" for name, each in value.items()) + "}"
