"""`recollect verify`: is a checkpoint what was written, and does a cluster still hold the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.commands.checkpoint_options import From, Number, with_database
from cluster.commands.options import ApiKey, Json, connect
from cluster.commands.output import progress, show, show_json, table
from cluster.errors import CommandFailed

if TYPE_CHECKING:
    from storage.checkpoint.database import Database
    from storage.checkpoint.model import Checkpoint, Manifest

Live = Annotated[
    str, typer.Option("--url", help="HTTP address of a node whose cluster is compared.")
]


def verify(
    database_url: From = "",
    number: Number = None,
    url: Live = "",
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Read a whole checkpoint and prove hash and counts of each shard.

    With --url the shards of a running cluster are compared with it: with its own newest
    checkpoint, or with another one that is named, as that which it was restored from. Exit code 1
    when anything is wrong.

    Examples:

        recollect verify

        recollect verify --checkpoint 7 --url http://127.0.0.1:5001
    """

    live: Mapping[str, Any] = {}
    if url:
        with connect(url, api_key) as client:
            live = client.get("/cluster")
    cluster_id = live["cluster_id"] if live and number is None else None

    async def work(database: Database) -> tuple[Checkpoint, list[dict[str, Any]]]:
        return await _prove(database, number, cluster_id)

    checkpoint, shards = with_database(database_url, work)
    if live:
        _compare(shards, checkpoint.manifests, live["shards"])
    bad = [str(shard["shard"]) for shard in shards if _is_bad(shard)]
    if as_json:
        found = {"checkpoint": checkpoint.id, "cluster_id": checkpoint.cluster_id}
        show_json({**found, "proved": not bad, "shards": shards})
        raise typer.Exit(1 if bad else 0)
    rows = [tuple(shard.values()) for shard in shards]
    show(table([name.capitalize().replace("_", " ") for name in shards[0]], rows))
    if bad:
        raise CommandFailed(
            f"checkpoint {checkpoint.id}: shards {', '.join(bad)} are not as they were written",
            hint="choose another checkpoint: `recollect checkpoint --list`",
            code="checkpoint_damaged",
        )


async def _prove(
    database: Database, number: int | None, cluster_id: str | None
) -> tuple[Checkpoint, list[dict[str, Any]]]:
    from storage.checkpoint.contents import verify_shard
    from storage.checkpoint.errors import CheckpointDamaged
    from storage.checkpoint.reading import checkpoint

    found = await checkpoint(database, number, cluster_id)
    rows = sum(each.counts.rows for each in found.manifests)
    shards = []
    with progress("Verifying", rows) as advance:
        for manifest in found.manifests:
            state = "proved"
            try:
                await verify_shard(database, manifest, advance=advance)
            except CheckpointDamaged as damage:
                state = f"DAMAGED: {damage}"
            shards.append(_described(manifest, state))
    return found, shards


def _described(manifest: Manifest, state: str) -> dict[str, Any]:
    return {
        "shard": manifest.shard,
        "applied_index": manifest.applied_index,
        "records": manifest.counts.records,
        "tombstones": manifest.counts.tombstones,
        "nodes": manifest.counts.nodes,
        "hyperedges": manifest.counts.hyperedges,
        "state_hash": manifest.state_hash.hex(),
        "state": state,
    }


def _compare(
    shards: Sequence[dict[str, Any]],
    manifests: Sequence[Manifest],
    live: Sequence[Mapping[str, Any]],
) -> None:
    if len(live) != len(manifests):
        raise CommandFailed(f"the cluster has {len(live)} shards, not {len(manifests)}")
    for shard, manifest, running in zip(shards, manifests, live, strict=True):
        shard["live"] = _agreement(manifest, running["replicas"])


def _agreement(manifest: Manifest, replicas: Sequence[Mapping[str, Any]]) -> str:
    """Say how a shard's replicas stand to a manifest; content that changed since is no fault."""
    answering = [each for each in replicas if each["state_hash"] is not None]
    if not answering:
        return "no answer"
    known = manifest.state_hash.hex()
    if all(each["state_hash"] == known for each in answering):
        return "equal"
    same_place = [each for each in answering if each["applied_index"] == manifest.applied_index]
    if any(each["state_hash"] != known for each in same_place):
        return "DIFFERENT"
    return "changed since"


def _is_bad(shard: Mapping[str, Any]) -> bool:
    return shard["state"] != "proved" or shard.get("live") == "DIFFERENT"
