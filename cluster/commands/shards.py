"""`recollect shards`: leader, term and replicas of each shard, and whether the replicas agree.

Replicas are compared at equal applied index only: a replica that is behind is not in conflict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.commands.options import URL_DEFAULT, ApiKey, Json, Url, connect
from cluster.commands.output import show, show_json, table


def shards(url: Url = URL_DEFAULT, api_key: ApiKey = "", as_json: Json = False) -> None:
    """List the shards: leader, term, how far each replica has applied, whether they agree.

    Example:

        recollect shards --json
    """
    with connect(url, api_key) as client:
        found = client.get("/cluster")["shards"]
    if as_json:
        show_json(found)
        return
    rows = [
        (
            str(shard["shard"]),
            shard["leader"],
            shard["term"],
            ", ".join(f"{r['node']}@{_index(r)}" for r in shard["replicas"]),
            agreement(shard["replicas"]),
        )
        for shard in found
    ]
    show(table(("Shard", "Leader", "Term", "Replicas@applied index", "State"), rows))


def agreement(replicas: Sequence[Mapping[str, Any]]) -> str:
    """Say how the replicas' state hashes compare: equal, catching up, missing or DIFFERENT."""
    hashes: dict[int, set[str]] = {}
    for replica in replicas:
        if replica["state_hash"] is not None:
            hashes.setdefault(replica["applied_index"], set()).add(replica["state_hash"])
    if any(len(found) > 1 for found in hashes.values()):
        return "DIFFERENT"
    if any(replica["applied_index"] is None for replica in replicas):
        return "missing"
    # A replica that is busy applying tells its index, but no hash that would belong to it.
    busy = any(replica["state_hash"] is None for replica in replicas)
    return "catching up" if busy or len(hashes) > 1 else "equal"


def _index(replica: Mapping[str, Any]) -> str:
    index = replica["applied_index"]
    return "?" if index is None else str(index)
