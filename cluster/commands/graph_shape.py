"""`recollect graph create|list|show|drop`: the graphs themselves."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final

import typer

from cluster.client import Client
from cluster.commands.graph_options import Name, graph_path
from cluster.commands.options import URL_DEFAULT, ApiKey, Json, Url, connect
from cluster.commands.output import show, show_json, table
from cluster.errors import CommandFailed

COSINE: Final = "Cosine"


def create(
    name: Name,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Size of the vectors.", show_default="that of the text embedding"),
    ] = None,
    distance: Annotated[
        str | None,
        typer.Option(help="Cosine, Euclid, Dot or Manhattan; with --size.", show_default=COSINE),
    ] = None,
    no_vectors: Annotated[
        bool, typer.Option("--no-vectors", help="Nodes and edges have no vectors.")
    ] = False,
    index: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL.PROPERTY",
            help="Index a property; may be repeated.",
            show_default="Event.timestamp, Event.type, Event.agentId",
        ),
    ] = None,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Create a graph; one that exists alike is left as it is.

    Without --size it takes texts, which the node embeds.

    Examples:

        recollect graph create incidents

        recollect graph create words --size 384 --distance Cosine --index Synset.pos
    """
    body = creation(size, distance, no_vectors=no_vectors, indexes=index)
    with connect(url, api_key) as client:
        made = client.put(graph_path(name), body)
    if as_json:
        show_json(made)
    else:
        show(f"Created graph {name}" if made["created"] else f"Graph {name} was there already")


def creation(
    size: int | None, distance: str | None, *, no_vectors: bool, indexes: list[str] | None
) -> dict[str, Any]:
    """Return the body that creates a graph. Raises BadParameter for options that contradict."""
    if no_vectors and (size is not None or distance is not None):
        raise typer.BadParameter("--no-vectors leaves no room for --size or --distance")
    if distance is not None and size is None:
        raise typer.BadParameter("--distance needs --size")
    body: dict[str, Any] = {}
    if no_vectors:
        body["vectors"] = None
    elif size is not None:
        body["vectors"] = {"size": size, "distance": distance or COSINE}
    if indexes:
        body["indexes"] = indexes
    return body


def list_graphs(url: Url = URL_DEFAULT, api_key: ApiKey = "", as_json: Json = False) -> None:
    """List the graphs, and how much each holds.

    Example:

        recollect graph list
    """
    with connect(url, api_key) as client:
        found = _described(client)
    if as_json:
        show_json(found)
    elif not found:
        show("There are no graphs")
    else:
        rows = [(g["name"], g["nodes"], g["edges"], _vectors(g), str(g["shard"])) for g in found]
        columns = ("Graph", "Nodes", "Edges", "Vectors", "Shard")
        show(table(columns, rows, unbroken=("Graph",)))


def show_graph(
    name: Name, url: Url = URL_DEFAULT, api_key: ApiKey = "", as_json: Json = False
) -> None:
    """Show what a graph holds, and how it was created.

    Example:

        recollect graph show incidents
    """
    with connect(url, api_key) as client:
        found = client.get(graph_path(name))
    if as_json:
        show_json(found)
        return
    rows = [
        ("Nodes", f"{found['nodes']:,}"),
        ("Edges", f"{found['edges']:,}"),
        ("Vectors", _vectors(found)),
        ("Embedding", found["embedding_space"]),
        ("Indexes", ", ".join(found["indexes"]) or None),
        ("Shard", str(found["shard"])),
        ("Version", f"{found['version']:,}"),
    ]
    show(table(("Graph", name), rows, unbroken=("Graph",)))


def drop(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Drop a graph with all it holds.

    Example:

        recollect graph drop incidents --yes
    """
    with connect(url, api_key) as client:
        if not yes:
            found = client.get(graph_path(name))
            holds = f"{found['nodes']:,} nodes and {found['edges']:,} edges"
            _confirm(f"Drop graph {name} with {holds}?")
        dropped = client.delete(graph_path(name))
    if as_json:
        show_json({"name": name, "dropped": dropped})
    else:
        show(f"Dropped graph {name}" if dropped else f"There was no graph {name}")


def _confirm(question: str) -> None:
    """Ask on stderr, as stdout is for results. Raises CommandFailed unless the answer is yes."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CommandFailed(
            "nothing was dropped", hint="--yes drops without asking", code="not_confirmed"
        )


def _described(client: Client) -> list[dict[str, Any]]:
    described = []
    for listed in client.get("/graph")["graphs"]:
        try:
            described.append(client.get(graph_path(listed["name"])))
        except CommandFailed as failure:
            if failure.code != "graph_not_found":
                raise  # else: dropped since it was listed
    return described


def _vectors(found: dict[str, Any]) -> str | None:
    vectors = found["vectors"]
    return f"{vectors['size']} x {vectors['distance']}" if vectors else None
