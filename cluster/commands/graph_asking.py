"""`recollect graph causes|effects|khop|recall|cypher|algorithm`: questions to a graph.

An answer that a limit cut short says so on stderr, so that it is seen and no pipe gets it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from cluster.client import Client
from cluster.commands.graph_cells import ARROW, NAME_LENGTH_MAX, cell, chain_text, cut, name_of
from cluster.commands.graph_options import (
    AsOf,
    Labels,
    Name,
    NodeId,
    Parameters,
    TimeoutMs,
    connect,
    graph_path,
    parsed_parameters,
    without_nothing,
)
from cluster.commands.options import URL_DEFAULT, ApiKey, Json, Url
from cluster.commands.output import notice, show, show_json, table

MaxHops = Annotated[int, typer.Option("--max-hops", min=1, max=32, help="Longest chain.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")]

IDS_LENGTH_MAX: Final = 100

_LIMITS: Final = {
    "rows": "there are more rows: raise --limit",
    "expansions": "the search was larger than a query may be: narrow it",
    "time": "the time was over: narrow the query, or raise --timeout-ms",
}


def causes(
    name: Name,
    node: NodeId,
    max_hops: MaxHops = 5,
    limit: Limit = 10,
    label: Labels = None,
    as_of: AsOf = None,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Show what led to a node: the surest chains first.

    Example:

        recollect graph causes incidents down
    """
    body = without_nothing(id=node, max_hops=max_hops, limit=limit, labels=label, as_of=as_of)
    with connect(url, api_key) as client:
        _show_chains(_ask(client, name, "causes", body), node, "causes", as_json=as_json)


def effects(
    name: Name,
    node: NodeId,
    max_hops: MaxHops = 5,
    limit: Limit = 10,
    label: Labels = None,
    as_of: AsOf = None,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Show what a node led to: the surest chains first.

    Example:

        recollect graph effects incidents leak --max-hops 3
    """
    body = without_nothing(id=node, max_hops=max_hops, limit=limit, labels=label, as_of=as_of)
    with connect(url, api_key) as client:
        _show_chains(_ask(client, name, "effects", body), node, "effects", as_json=as_json)


def khop(
    name: Name,
    node: NodeId,
    hops: Annotated[int, typer.Option(min=1, max=32, help="How far.")] = 1,
    direction: Annotated[
        str, typer.Option(help="out, in, both, or shared: by any common hyperedge.")
    ] = "both",
    label: Labels = None,
    as_of: AsOf = None,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """List the nodes within some hops, the nearest first, one id a line.

    Example:

        recollect graph khop incidents leak --hops 2 --direction out
    """
    body = without_nothing(ids=[node], hops=hops, direction=direction, labels=label, as_of=as_of)
    with connect(url, api_key) as client:
        found = _ask(client, name, "khop", body)
    if as_json:
        show_json(found)
        return
    (neighbours,) = found["neighbours"]
    if neighbours:
        show(*neighbours)
    hop = "hop" if hops == 1 else "hops"
    many = "node is" if len(neighbours) == 1 else "nodes are"
    notice(f"{len(neighbours):,} {many} within {hops} {hop} of {node}")
    _tell_if_cut(found)


def recall(
    name: Name,
    text: Annotated[str, typer.Argument(help="What to think of, in your own words.")],
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many to show.")] = 10,
    max_hops: Annotated[
        int, typer.Option("--max-hops", min=0, max=32, help="How far causes are followed.")
    ] = 3,
    label: Labels = None,
    as_of: AsOf = None,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Find what resembles a text, and what led to that or came of it; and say why.

    Example:

        recollect graph recall incidents "no space left on the device" -k 5
    """
    body = without_nothing(text=text, limit=k, max_hops=max_hops, labels=label, as_of=as_of)
    with connect(url, api_key) as client:
        found = _ask(client, name, "recall", body)
    if as_json:
        show_json(found)
    elif not found["results"]:
        show("Nothing was found")
    else:
        rows = [
            (each["utility"], each["node"]["id"], _known_by(each["node"]), _reason(each["why"]))
            for each in found["results"]
        ]
        show(table(("Utility", "Node", "Name", "Why"), rows, unbroken=("Node",)))
        _tell_if_cut(found)


def cypher(
    name: Name,
    query: Annotated[str, typer.Argument(help="An openCypher query.", show_default=False)],
    param: Parameters = None,
    limit: Annotated[int | None, typer.Option(min=1, max=10_000, help="Most rows.")] = None,
    timeout_ms: TimeoutMs = None,
    as_of: AsOf = None,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Run an openCypher query; one that writes is carried out. EXPLAIN in front shows its plan.

    Example:

        recollect graph cypher incidents 'MATCH (a)-[r]->(b {id: $id}) RETURN a, r.confidence' --param id=down
    """  # noqa: E501 - an example is one line
    parameters = parsed_parameters(param)
    body = without_nothing(query=query, limit=limit, timeout_ms=timeout_ms, as_of=as_of)
    if parameters:
        body["parameters"] = parameters
    with connect(url, api_key, timeout_ms) as client:
        found = _ask(client, name, "cypher", body)
    if as_json:
        show_json(found)
        return
    _show_rows(found)
    if found["truncated"]:
        notice(f"Cut short: {_LIMITS.get(found['truncated_by'], 'a limit was reached')}")


def algorithm(
    name: Name,
    algorithm: Annotated[
        str, typer.Argument(help="Such as pagerank; a wrong name lists all.", show_default=False)
    ],
    param: Parameters = None,
    limit: Limit = 10,
    timeout_ms: TimeoutMs = None,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Run a graph algorithm.

    Examples:

        recollect graph algorithm python pagerank

        recollect graph algorithm python shortest_path --param source=json --param target=re
    """
    parameters = parsed_parameters(param)
    body = without_nothing(limit=limit, timeout_ms=timeout_ms)
    if parameters:
        body["parameters"] = parameters
    with connect(url, api_key, timeout_ms) as client:
        found = client.post(graph_path(name, "algorithms", algorithm), body)
    if as_json:
        show_json(found)
        return
    results = found["results"]
    if results:
        columns = list(results[0])
        rows = [[_result_cell(column, each[column]) for column in columns] for each in results]
        show(table([_heading(column) for column in columns], rows))
    else:
        show("Nothing was found")
    shown = f"{len(results):,} of {found['count']:,} results"
    notice(f"{shown}; {found['nodes']:,} nodes and {found['arcs']:,} arcs were looked at")


def _ask(client: Client, name: str, what: str, body: dict[str, Any]) -> Any:
    return client.post(graph_path(name, what), body)


def _show_chains(found: dict[str, Any], node: str, what: str, *, as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    if not found["paths"]:
        show(f"No {what} of {node} are known")
        notice("Without --label only CAUSED_BY, LEADS_TO and CAUSES are followed")
    else:
        rows = [
            (path["chain_confidence"], chain_text(path["nodes"]), _by(path["edges"]))
            for path in found["paths"]
        ]
        show(table(("Confidence", "Chain", "By"), rows))
    _tell_if_cut(found)


def _show_rows(found: dict[str, Any]) -> None:
    plan = found.get("plan")
    if plan is not None:
        rows = [(step["operator"], step["details"]) for step in plan]
        show(table(("Operator", "Details"), rows, unbroken=("Operator",)))
        return
    if found["columns"]:
        values = [[cell(value) for value in row] for row in found["rows"]]
        show(table(found["columns"], values) if values else "No rows")
    changed = {name: count for name, count in found.get("stats", {}).items() if count}
    if changed:
        told = (f"{name.replace('_', ' ')}: {count:,}" for name, count in changed.items())
        notice(", ".join(told).capitalize())
    elif not found["columns"]:
        notice("Nothing was changed")


def _tell_if_cut(found: dict[str, Any]) -> None:
    if found["truncated"]:
        notice("Cut short: a limit ended the search, there may be more")


def _by(edges: list[dict[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(edge["type"] for edge in edges))


def _known_by(node: dict[str, Any]) -> str | None:
    return cut(name_of(node), NAME_LENGTH_MAX) or None


def _reason(why: dict[str, Any]) -> str:
    """Say why a node came to mind: what resembles the text, and the chain from there."""
    alike = f"{why['similarity']:.2f} alike"
    if why["direction"] == "match":
        return alike if why["kind"] == "node" else f"in {why['matched']}, {alike}"
    chain = ARROW.join(why["path"])
    return f"{why['direction']}: {chain} ({why['chain_confidence']:.2f} sure), {alike}"


def _heading(column: str) -> str:
    return column.replace("_", " ").capitalize()


def _result_cell(column: str, value: Any) -> object:
    if column == "nodes":
        return chain_text(value)
    if column == "edges":
        return _by(value)
    if column == "ids":
        return cut(", ".join(value), IDS_LENGTH_MAX)
    return cell(value)
