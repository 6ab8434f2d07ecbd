"""`recollect graph draw|export`: a graph, or what is around some nodes, as a file.

What is written is chosen by the name of the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer

from cluster.commands.graph_options import (
    AsOf,
    Labels,
    Name,
    TimeoutMs,
    connect,
    graph_path,
    without_nothing,
)
from cluster.commands.options import URL_DEFAULT, ApiKey, Json, Url
from cluster.commands.output import notice, show, show_json

FORMATS: Final = {".svg": "svg", ".graphml": "graphml", ".json": "json"}

Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        dir_okay=False,
        help="The file, by its ending: .svg, .graphml or .json.",
        show_default=False,
    ),
]
NodesMax = Annotated[
    int | None,
    typer.Option("--nodes-max", min=1, max=1_000_000, help="Most nodes.", show_default="10000"),
]
Projected = Annotated[
    bool,
    typer.Option("--projected", help="GraphML: arcs from node to node, instead of hyperedges."),
]


def draw(
    name: Name,
    around: Annotated[
        list[str],
        typer.Option(metavar="ID", help="A node to begin at; may be repeated.", show_default=False),
    ],
    output: Output,
    hops: Annotated[int, typer.Option(min=1, max=32, help="How far.")] = 2,
    direction: Annotated[
        str, typer.Option(help="out, in, both, or shared: by any common hyperedge.")
    ] = "both",
    label: Labels = None,
    nodes_max: NodesMax = None,
    projected: Projected = False,
    as_of: AsOf = None,
    timeout_ms: TimeoutMs = None,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Draw what is around some nodes, as a picture or for another program.

    Examples:

        recollect graph draw incidents --around down --hops 2 -o out.svg

        recollect graph draw incidents --around down --around leak -o out.graphml
    """
    body = without_nothing(
        around=around,
        hops=hops,
        direction=direction,
        labels=label,
        nodes_max=nodes_max,
        projected=projected or None,
        as_of=as_of,
        timeout_ms=timeout_ms,
    )
    _write(name, body, output, (url, api_key, timeout_ms), as_json=as_json)


def export(
    name: Name,
    output: Output,
    label: Labels = None,
    nodes_max: NodesMax = None,
    projected: Projected = False,
    as_of: AsOf = None,
    timeout_ms: TimeoutMs = None,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Export a whole graph, for networkx, Gephi and other programs, or as a picture.

    Example:

        recollect graph export incidents -o incidents.graphml
    """
    body = without_nothing(
        labels=label,
        nodes_max=nodes_max,
        projected=projected or None,
        as_of=as_of,
        timeout_ms=timeout_ms,
    )
    _write(name, body, output, (url, api_key, timeout_ms), as_json=as_json)


def _write(
    name: str,
    body: dict[str, Any],
    output: Path,
    place: tuple[str, str, int | None],
    *,
    as_json: bool,
) -> None:
    kind = FORMATS.get(output.suffix.lower())
    if kind is None:
        known = ", ".join(FORMATS)
        raise typer.BadParameter(f"'{output}' does not end in one of {known}")
    with connect(*place) as client:
        found = client.post(graph_path(name, "export"), {"format": kind, **body})
    content = found["content"]
    raw = content.encode() if isinstance(content, str) else orjson.dumps(content)
    output.write_bytes(raw)
    if as_json:
        told = {"file": str(output), "format": kind, "bytes": len(raw)}
        show_json({**told, "truncated": found["truncated"]})
        return
    show(f"Wrote {output} ({max(1, len(raw) // 1024):,} KiB)")
    if found["truncated"]:
        notice("Cut short: it is only a part; --nodes-max says how much may be in it")
