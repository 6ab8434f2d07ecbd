"""`recollect graph load|import-stdlib|import-wordnet`: fills graphs.

An import creates its graph when there is none. All of them may be repeated: nodes and edges that
are there are replaced by themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cluster.client import Client
from cluster.commands.graph_lines import GraphLines
from cluster.commands.graph_options import Name, connect, graph_path
from cluster.commands.graph_sending import Element, Kind, send
from cluster.commands.options import URL_DEFAULT, ApiKey, Json, Url
from cluster.commands.output import notice, progress, show, show_json
from cluster.errors import CommandFailed

Elements = Mapping[Kind, tuple[int, Iterable[Element]]]
"""Nodes and edges, and how many there are of each."""

STDLIB_INDEXES: Final = tuple(f"{label}.name" for label in ("Module", "Class", "Function"))
WORDNET_INDEXES: Final = ("Synset.name", "Synset.pos")
LOAD_TIMEOUT_MS: Final = 60_000
"""Texts of a batch may have to be embedded by a server that does other work, too."""


def load(
    name: Name,
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="Lines of JSON, each a node or an edge as the HTTP API takes them.",
            show_default=False,
        ),
    ],
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Load nodes and edges from a file into a graph that exists.

    A line is {"node": {...}} or {"edge": {...}}, in any order. An edge without an id gets a new one
    each time.

    Example:

        recollect graph load incidents incidents.jsonl
    """
    lines = GraphLines(file)
    with connect(url, api_key) as client:
        client.get(graph_path(name))
    elements: Elements = {
        "nodes": (lines.counts["nodes"], lines.elements("nodes")),
        "edges": (lines.counts["edges"], lines.elements("edges")),
    }
    _fill(name, elements, lambda: connect(url, api_key, LOAD_TIMEOUT_MS), as_json=as_json)


def import_stdlib(
    name: Name,
    folder: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Another folder of Python sources.",
            show_default="the standard library of this Python",
        ),
    ] = None,
    no_vectors: Annotated[
        bool, typer.Option("--no-vectors", help="Do not embed the summaries; quicker.")
    ] = False,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Make a graph of Python's standard library: its modules, classes and functions.

    The sources are read, never run. What resembles a text is found by the docstrings' first lines.

    Examples:

        recollect graph import-stdlib python

        recollect graph draw python --around json.decoder --hops 1 -o json.svg
    """
    from cluster.demo_corpus import standard_library
    from cluster.standard_library import read_library

    root = folder or standard_library()
    with connect(url, api_key) as client:
        _create(client, name, None if no_vectors else {}, STDLIB_INDEXES)
    if not as_json:
        notice(f"Reading {root}")
    library = read_library(root, with_texts=not no_vectors)
    elements: Elements = {
        "nodes": (len(library.nodes), library.nodes),
        "edges": (len(library.edges), library.edges),
    }
    _fill(name, elements, lambda: connect(url, api_key, LOAD_TIMEOUT_MS), as_json=as_json)


def import_wordnet(
    name: Name,
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Has docs.jsonl.gz, vectors.f16.npy and edges.jsonl.gz.",
            show_default=False,
        ),
    ],
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Make a graph of WordNet: meanings of words, and how they are related.

    Example:

        recollect graph import-wordnet wordnet ./wordnet-minilm
    """
    from cluster.wordnet import WordNet

    wordnet = WordNet(folder)
    vectors = {"size": wordnet.dimension, "distance": "Cosine"}
    with connect(url, api_key) as client:
        _create(client, name, vectors, WORDNET_INDEXES)
    elements: Elements = {
        "nodes": (wordnet.node_count, wordnet.nodes()),
        "edges": (wordnet.edge_count, wordnet.edges()),
    }
    _fill(name, elements, lambda: connect(url, api_key, LOAD_TIMEOUT_MS), as_json=as_json)


def _create(
    client: Client, name: str, vectors: dict[str, Any] | None, indexes: Iterable[str]
) -> None:
    """Create a graph; `vectors` {}: those of the node's own embedding, None: without any."""
    body: dict[str, Any] = {"indexes": list(indexes)}
    if vectors is None or vectors:
        body["vectors"] = vectors
    client.put(graph_path(name), body)


def _fill(
    name: str, elements: Elements, new_client: Callable[[], Client], *, as_json: bool
) -> None:
    """Write the nodes, then the edges, and tell how many and how fast."""
    told: dict[str, Any] = {"name": name}
    parts: list[str] = []
    for kind, (total, found) in elements.items():
        start_s = time.monotonic()
        try:
            with progress(kind.capitalize(), total) as advance:
                told[kind] = send(name, kind, found, new_client, advance)
        except CommandFailed as failure:
            failure.message += f", after {parts[0]}" if parts else ""
            raise
        seconds = time.monotonic() - start_s
        told[f"{kind}_seconds"] = round(seconds, 3)
        parts.append(f"{told[kind]:,} {kind} in {seconds:.1f} s{_rate(told[kind], seconds)}")
    if as_json:
        show_json(told)
    else:
        show(f"Loaded {' and '.join(parts)}")


def _rate(count: int, seconds: float) -> str:
    """Return how many that is in a second, when it took long enough to tell."""
    return f" ({count / seconds:,.0f}/s)" if seconds >= 1 else ""
