"""Whether the cluster still has everything: equal replicas, and every acknowledged write."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from cluster.client import Client
from cluster.commands.shards import agreement
from cluster.demo_load import POINTS_PATH, Payload, patiently

BATCH_IDS: Final = 500


def busiest_leader(cluster: Mapping[str, Any]) -> str:
    """Return the node that leads the most shards, the first by name among equals."""
    leads: dict[str, int] = {node["name"]: node["leads"] for node in cluster["nodes"]}
    return min(leads, key=lambda name: (-leads[name], name))


def differing_shards(cluster: Mapping[str, Any]) -> list[int]:
    """Return the shards whose replicas are not all known to be equal: same index, same hash."""
    return [s["shard"] for s in cluster["shards"] if agreement(s["replicas"]) != "equal"]


def lost(client: Client, acknowledged: Mapping[int, Payload]) -> list[int]:
    """Return the acknowledged ids that a node does not have, or has with other content."""
    ids = sorted(acknowledged)
    missing = []
    for start in range(0, len(ids), BATCH_IDS):
        asked = ids[start : start + BATCH_IDS]
        found = patiently(partial(_payloads, client, asked))
        missing += [number for number in asked if found.get(number) != acknowledged[number]]
    return missing


def _payloads(client: Client, ids: list[int]) -> dict[int, Payload]:
    rows = client.post(POINTS_PATH, {"ids": ids, "with_payload": True, "with_vector": False})
    return {row["id"]: row["payload"] for row in rows}
