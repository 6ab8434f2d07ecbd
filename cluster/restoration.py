"""A cluster of any size from a checkpoint: the folders that `recollect up` then resumes.

It is another cluster, with an identity of its own, that begins with the shards of the old one:
their rows, versions and places in the log. Collections and graphs keep their numbers. Shards are
dealt to the nodes as when a cluster is formed; all replicas of a shard begin equal.

Everything is made in a folder beside, and moved to its place when all of it is proved and on disk;
`recollect.json`, without which there is no cluster, comes last. What fails leaves nothing behind.
What is killed leaves that folder: while it is there and `recollect.json` is not, `recollect up`
refuses the place, and the next restoration begins with clearing it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.checkpoint_catalog import Catalog, read_catalog
from cluster.checkpoint_choice import origin_of
from cluster.config import Config
from cluster.data_folder import DRAFT, LOCK_FILE, PARAMETERS_FILE, DataFolder, Parameters
from cluster.errors import CommandFailed
from cluster.formation import METADATA
from cluster.metadata_command import ClusterDocument
from cluster.placement import ShardMap, plan
from cluster.restored_nodes import (
    METADATA_POSITION,
    Position,
    copy_state,
    take_possession,
    write_log,
    write_metadata,
)
from storage.checkpoint.database import Database
from storage.checkpoint.model import Checkpoint, Manifest
from storage.checkpoint.restoring import restore_shard
from storage.state_layout import sync_path

_NODE: Final = re.compile(r"node[0-9]+")


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """What is to be made: `nodes` nodes of a checkpoint, for a cluster called `cluster_id`.

    `config` has what a node's settings say of placement and of the log.
    """

    database: Database
    checkpoint: Checkpoint
    nodes: int
    cluster_id: str
    config: Config

    @property
    def names(self) -> list[str]:
        """Return the nodes' names."""
        return [f"node{number}" for number in range(1, self.nodes + 1)]

    async def carry_out(self, folder: DataFolder, advance: Callable[[int], None]) -> None:
        """Fill a folder that holds nothing; `advance` is told how many rows came.

        Raises:
            CommandFailed: the folder holds something, or the catalog cannot be read.
            CheckpointError: the rows cannot be read, or are not those that were written.
        """
        catalog = read_catalog(self.checkpoint.catalog)
        require_empty(folder.path)
        draft = folder.path / DRAFT
        _clear(folder.path)
        draft.mkdir(mode=0o700)
        try:
            shard_map = self._plan(catalog)
            await self._write_shards(draft, shard_map, advance)
            self._write_nodes(draft, catalog, shard_map)
            for name in self.names:
                (draft / name).chmod(0o700)
                (draft / name).rename(folder.path / name)
            sync_path(folder.path)
            folder.save(Parameters.drawn(self.nodes, catalog.shards))
        except BaseException:
            _clear(folder.path)
            raise
        shutil.rmtree(draft, ignore_errors=True)

    def _plan(self, catalog: Catalog) -> ShardMap:
        replication = min(self.config.replication, self.nodes)
        return plan(self.names, catalog.shards, replication, self.config.virtual_nodes)

    async def _write_shards(
        self, draft: Path, shard_map: ShardMap, advance: Callable[[int], None]
    ) -> None:
        for manifest in self.checkpoint.manifests:
            name = f"shard-{manifest.shard:04d}"
            made = draft / "shards" / name
            await restore_shard(self.database, manifest, made, advance=advance)
            for node in shard_map[manifest.shard]:
                copy_state(made, _groups(draft, node) / name)
            shutil.rmtree(made.parent)

    def _write_nodes(self, draft: Path, catalog: Catalog, shard_map: ShardMap) -> None:
        members = self.names[: self.config.metadata_members_max]
        cluster = self._document(catalog, shard_map)
        for node in self.names:
            positions: dict[int, Position] = {
                manifest.shard + 1: _position(manifest)
                for manifest in self.checkpoint.manifests
                if node in shard_map[manifest.shard]
            }
            if node in members:
                path = _groups(draft, node) / "metadata"
                write_metadata(path, cluster, origin_of(self.checkpoint), catalog)
                positions[METADATA] = METADATA_POSITION
            data = draft / node / "data"
            write_log(data / "log", positions, self.config.segment_bytes)
            take_possession(data, node, members)

    def _document(self, catalog: Catalog, shard_map: ShardMap) -> ClusterDocument:
        return ClusterDocument(
            cluster_id=self.cluster_id,
            epoch=catalog.epoch + 1,
            shards=catalog.shards,
            replication=min(self.config.replication, self.nodes),
            shard_map=shard_map,
            nodes=self.names,
            next_uid=catalog.next_uid,
            request_id_ttl_ms=catalog.request_id_ttl_ms,
            command_bytes_max=catalog.command_bytes_max,
        )


def require_empty(folder: Path) -> None:
    """Raise CommandFailed when a folder holds anything but what a killed restoration left."""
    if not folder.exists():
        return
    names = {each.name for each in folder.iterdir()}
    left = _left_behind(names)
    found = sorted(names - left - {LOCK_FILE})
    if found:
        raise CommandFailed(
            f"{folder} is not empty: it holds {found[0]}",
            hint="restore into a folder that does not exist yet",
            code="folder_not_empty",
        )


def _left_behind(names: AbstractSet[str]) -> set[str]:
    """Return what in a folder is the work of a restoration that was killed.

    Only an empty folder gets a draft, and nobody starts a cluster beside one: nodes that are there
    without `recollect.json` were moved to their place by the restoration.
    """
    if DRAFT not in names or PARAMETERS_FILE in names:
        return set()
    return {name for name in names if name == DRAFT or _NODE.fullmatch(name)}


def _clear(folder: Path) -> None:
    """Remove what a restoration left; the draft, which tells whose the rest is, goes last."""
    left = _left_behind({each.name for each in folder.iterdir()})
    for name in sorted(left, key=lambda each: (each == DRAFT, each)):
        shutil.rmtree(folder / name)


def _groups(draft: Path, node: str) -> Path:
    return draft / node / "data" / "groups"


def _position(manifest: Manifest) -> Position:
    return manifest.applied_index, manifest.term
