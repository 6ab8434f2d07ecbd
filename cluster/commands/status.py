"""`recollect status`: can the cluster serve, and what does it hold."""

from __future__ import annotations

from typing import Any

from cluster.client import Client, segment
from cluster.commands.options import URL_DEFAULT, ApiKey, Json, Url, connect
from cluster.commands.output import show, show_json, table
from cluster.errors import CommandFailed


def status(url: Url = URL_DEFAULT, api_key: ApiKey = "", as_json: Json = False) -> None:
    """Say whether this node is ready, who is up, and what each collection holds.

    Exit code 1 when the node cannot serve.

    Examples:

        recollect status

        recollect status --json
    """
    with connect(url, api_key) as client:
        found = _gather(client)
    if as_json:
        show_json(found)
        return
    show(*_described(found))


def _gather(client: Client) -> dict[str, Any]:
    client.get("/readyz")
    cluster = client.get("/cluster")
    return {
        "url": client.url,
        "cluster_id": cluster.get("cluster_id"),
        "nodes": {node["name"]: "up" if node["alive"] else "down" for node in cluster["nodes"]},
        "shards": len(cluster["shards"]),
        "shards_without_leader": [s["shard"] for s in cluster["shards"] if not s["leader"]],
        "collections": _collections(client),
    }


def _collections(client: Client) -> list[dict[str, Any]]:
    rows = []
    for listed in client.get("/collections")["collections"]:
        try:
            info = client.get(f"/collections/{segment(listed['name'])}")
        except CommandFailed as failure:
            if failure.code == "collection_not_found":
                continue  # dropped since it was listed
            raise
        vectors = info["config"]["params"]["vectors"]
        rows.append(
            {
                "name": listed["name"],
                "status": info["status"],
                "points": info["points_count"],
                "size": vectors["size"],
                "distance": vectors["distance"],
            }
        )
    return rows


def _described(found: dict[str, Any]) -> list[object]:
    up = [name for name, state in found["nodes"].items() if state == "up"]
    leaderless = found["shards_without_leader"]
    parts: list[object] = [
        f"{found['url']} is ready",
        f"Nodes: {len(up)} of {len(found['nodes'])} up",
        f"Shards: {found['shards']}"
        + (f", without a leader: {', '.join(map(str, leaderless))}" if leaderless else ""),
    ]
    rows = [
        (row["name"], row["points"], f"{row['size']} x {row['distance']}", row["status"])
        for row in found["collections"]
    ]
    if rows:
        parts.append(table(("Collection", "Points", "Vectors", "Index"), rows))
    return parts
