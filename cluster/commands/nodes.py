"""`recollect nodes`: who is up, and what each node carries."""

from __future__ import annotations

from cluster.commands.options import URL_DEFAULT, ApiKey, Json, Url, connect
from cluster.commands.output import show, show_json, table


def nodes(url: Url = URL_DEFAULT, api_key: ApiKey = "", as_json: Json = False) -> None:
    """List the nodes: whether each answers, how many shards it leads and holds.

    Example:

        recollect nodes --url http://127.0.0.1:5002
    """
    with connect(url, api_key) as client:
        found = client.get("/cluster")["nodes"]
    if as_json:
        show_json(found)
        return
    rows = [
        (
            node["name"],
            "up" if node["alive"] else "DOWN",
            node.get("http"),
            node.get("peer"),
            node["leads"],
            node["replicas"],
        )
        for node in found
    ]
    show(table(("Node", "State", "HTTP", "Peers", "Leads", "Replicas"), rows))
