"""Which checkpoint is meant by `latest`, and what a cluster that is formed from one begins with.

A database may hold checkpoints of several clusters. Where they are a line, each one restored from
a checkpoint of the one before, the newest checkpoint of the newest cluster has all that is
remembered. Where they are not, nobody but their owner knows whose memory is wanted, and the newest
checkpoint may well be a stranger's: it must be named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cluster.checkpoint_catalog import read_catalog
from cluster.errors import CommandFailed
from cluster.origin import Origin, Restored, ShardOrigin
from storage.checkpoint.database import Database
from storage.checkpoint.errors import CheckpointDamaged, CheckpointMissing
from storage.checkpoint.model import Checkpoint
from storage.checkpoint.reading import checkpoint, checkpoints

LATEST: Final = "latest"


async def wanted_checkpoint(database: Database, wanted: str) -> Checkpoint:
    """Return the checkpoint that is called `wanted`: its id, or LATEST.

    Raises CheckpointError when there is none or it cannot be read, CommandFailed when it is not
    clear which one is meant.
    """
    if wanted == LATEST:
        return newest(await checkpoints(database))
    return await checkpoint(database, int(wanted))


def newest(found: Sequence[Checkpoint]) -> Checkpoint:
    """Return the newest of some checkpoints, which are given newest first.

    Raises CheckpointMissing when there is none, CommandFailed unless all other clusters are
    ancestors of its own.
    """
    if not found:
        raise CheckpointMissing("the database has no finished checkpoint")
    line = (found[0].cluster_id, *read_catalog(found[0].catalog).ancestors)
    newest_of: dict[str, int] = {}
    for each in found:
        newest_of.setdefault(each.cluster_id, each.id)
    if any(cluster not in line for cluster in newest_of):
        listed = ", ".join(f"{number} of {cluster}" for cluster, number in newest_of.items())
        raise CommandFailed(
            "the database has checkpoints of several clusters, none of which goes on with all "
            f"others; the newest ones are {listed}",
            hint="name one by its id",
            code="checkpoint_ambiguous",
        )
    return found[0]


def origin_of(found: Checkpoint) -> Origin:
    """Return where a cluster comes from that is made from a checkpoint, and has its shards."""
    ancestors = (*read_catalog(found.catalog).ancestors, found.cluster_id)
    return Origin(checkpoint=found.id, ancestors=ancestors)


def restored_from(found: Checkpoint) -> Restored:
    """Return what a cluster begins with that is formed from a checkpoint, to make its shards.

    Raises:
        CommandFailed: the catalog cannot be read.
        CheckpointDamaged: a shard lacks.
    """
    catalog, origin = read_catalog(found.catalog), origin_of(found)
    if [each.shard for each in found.manifests] != list(range(catalog.shards)):
        raise CheckpointDamaged(f"checkpoint {found.id} lacks some of its shards")
    shards = tuple(ShardOrigin.of(manifest) for manifest in found.manifests)
    return Restored(
        origin=Origin(checkpoint=found.id, ancestors=origin.ancestors, shards=shards),
        epoch=catalog.epoch + 1,
        next_uid=catalog.next_uid,
        collections=catalog.collections,
        graphs=catalog.graphs,
    )
