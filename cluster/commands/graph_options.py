"""What the commands for graphs take alike, and how it becomes a path and a client."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final

import orjson
import typer

from cluster.client import Client, segment
from cluster.commands.options import COMMAND_TIMEOUT_S

Name = Annotated[str, typer.Argument(help="Name of the graph.", show_default=False)]
NodeId = Annotated[str, typer.Argument(metavar="ID", help="A node's id.", show_default=False)]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", help="Only along edges of this label; may be repeated."),
]
AsOf = Annotated[
    str | None,
    typer.Option("--as-of", help="Only edges that held then, such as 2026-01-31T00:00:00Z."),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="NAME=VALUE",
        help="A parameter; the value is JSON, or else text. May be repeated.",
    ),
]
TimeoutMs = Annotated[
    int | None,
    typer.Option("--timeout-ms", min=1, max=3_600_000, help="When the node is to give up."),
]

_MARGIN_S: Final = 2.0
"""What an answer may take on its way beside the time of the question itself."""


def graph_path(name: str, *parts: str) -> str:
    """Return the path of a graph, or of something of it."""
    return "/".join(["/graph", segment(name), *(segment(part) for part in parts)])


def connect(url: str, api_key: str, timeout_ms: int | None = None) -> Client:
    """Return a client that waits as long as the node may take."""
    wanted_s = 0.0 if timeout_ms is None else timeout_ms / 1000 + _MARGIN_S
    return Client(url, api_key=api_key, timeout_s=max(COMMAND_TIMEOUT_S, wanted_s))


def parsed_parameters(given: Sequence[str] | None) -> dict[str, Any]:
    """Return `name=value` pairs as an object. Raises BadParameter."""
    values: dict[str, Any] = {}
    for text in given or ():
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise typer.BadParameter(f"'{text}' is not NAME=VALUE")
        if name in values:
            raise typer.BadParameter(f"--param {name} is given twice")
        values[name] = _value(value)
    return values


def without_nothing(**fields: Any) -> dict[str, Any]:
    """Return the fields of a request that were given; an empty list was not."""
    return {name: value for name, value in fields.items() if value is not None and value != []}


def _value(text: str) -> Any:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    assert not isinstance(value, float) or math.isfinite(value), "JSON has no other numbers"
    return value
