"""`recollect restore`: a cluster from a checkpoint, into as many nodes as you like."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.commands.checkpoint_options import From, Number, with_database
from cluster.commands.options import Json
from cluster.commands.output import progress, show, show_json

if TYPE_CHECKING:
    from storage.checkpoint.database import Database


def restore(
    database_url: From = "",
    number: Number = None,
    into: Annotated[int, typer.Option(min=1, max=100, help="Number of nodes.")] = 3,
    data: Annotated[
        Path, typer.Option(help="Folder of the new cluster; must be empty, or not exist.")
    ] = Path("recollect-data"),
    as_json: Json = False,
) -> None:
    """Make the folder of a new cluster from a checkpoint in Postgres.

    The new cluster may have more or fewer nodes than the old one. Each shard is proved by its hash
    before anything is in place. Start it with `recollect up --data DIR`.

    Examples:

        recollect restore --into 5 --data ./restored

        recollect restore --from postgresql://user@host/db --checkpoint 7 --data ./as-of-monday
    """

    async def work(database: Database) -> dict[str, Any]:
        return await _restore(database, number, into, data)

    found = with_database(database_url, work)
    if as_json:
        show_json(found)
        return
    show(
        f"Restored checkpoint {found['checkpoint']} of cluster {found['from_cluster']}: "
        f"{found['records']:,} records, {found['nodes']:,} nodes and {found['hyperedges']:,} "
        f"hyperedges of graphs, in {found['shards']} shards, all proved",
        f"Start it with `recollect up --data {data}`",
    )


async def _restore(database: Database, number: int | None, into: int, data: Path) -> dict[str, Any]:
    from cluster.checkpoint_choice import LATEST, wanted_checkpoint
    from cluster.config import Config
    from cluster.data_folder import open_folder
    from cluster.restoration import Restoration, require_empty

    require_empty(data)
    found = await wanted_checkpoint(database, LATEST if number is None else str(number))
    counts = [manifest.counts for manifest in found.manifests]
    rows = sum(each.rows for each in counts)
    restoration = Restoration(
        database=database,
        checkpoint=found,
        nodes=into,
        cluster_id=uuid.uuid4().hex,
        config=Config.from_env(os.environ, node_id="node1", cluster_nodes="node1=127.0.0.1:1"),
    )
    with open_folder(data) as folder, progress("Restoring", rows) as advance:
        await restoration.carry_out(folder, advance)
    return {
        "checkpoint": found.id,
        "from_cluster": found.cluster_id,
        "cluster_id": restoration.cluster_id,
        "into": into,
        "shards": found.shards,
        "records": sum(each.records for each in counts),
        "tombstones": sum(each.tombstones for each in counts),
        "nodes": sum(each.nodes for each in counts),
        "hyperedges": sum(each.hyperedges for each in counts),
        "data": str(data),
    }
