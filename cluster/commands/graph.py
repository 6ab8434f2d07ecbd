"""`recollect graph ...`: the commands for graphs, and in which order they are shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import typer

from cluster.commands.graph_asking import algorithm, causes, cypher, effects, khop, recall
from cluster.commands.graph_chain import chain
from cluster.commands.graph_files import draw, export
from cluster.commands.graph_loading import import_stdlib, import_wordnet, load
from cluster.commands.graph_shape import create, drop, list_graphs, show_graph

_EPILOG: Final = (
    "Start here: `recollect graph import-stdlib python`, then "
    "`recollect graph draw python --around json.decoder --hops 1 -o json.svg`."
)

graph = typer.Typer(
    name="graph",
    help="Keep what led to what: graphs of nodes and hyperedges, and questions to them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    epilog=_EPILOG,
)

_PANELS: Final[dict[str, dict[str, Callable[..., None]]]] = {
    "Keep": {"create": create, "list": list_graphs, "show": show_graph, "drop": drop},
    "Fill": {
        "load": load,
        "chain": chain,
        "import-stdlib": import_stdlib,
        "import-wordnet": import_wordnet,
    },
    "Ask": {
        "causes": causes,
        "effects": effects,
        "khop": khop,
        "recall": recall,
        "cypher": cypher,
        "algorithm": algorithm,
    },
    "See": {"draw": draw, "export": export},
}

for _panel, _commands in _PANELS.items():
    for _name, _command in _commands.items():
        graph.command(_name, rich_help_panel=_panel)(_command)
