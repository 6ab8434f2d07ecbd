"""A node's shards in a cluster that was formed from a checkpoint: made before they are opened.

The cluster's first command says which checkpoint, and of each shard where it stood in its log and
the hash of what it held. So all nodes make the same, whenever they do. Three steps a shard, each of
them durable before the next one:

1. the state, in a folder beside, from rows that are proved by that hash;
2. in this node's log, the place at which the group begins: base and term are the state's. None
   begins at the root, so a node with an empty disk is refilled by a snapshot, not fed with a log
   that lacks its beginning;
3. the state's file, moved to its own name.

The third one decides: a state that is there is never made again, and as long as it is not there,
whatever a crash left is done again. A place in the log without a state harms nobody, since a
group that is not opened neither votes nor answers. The other way round a crash would leave a state
that the log knows nothing of. That is how a lost log looks, and it is refused.

When a node has all its shards it says so in the metadata group's log, and opens them only then. Who
has said so and lacks a shard has lost its disk, and with it what it voted and acknowledged. It must
not begin at the checkpoint like a node that never did either: with its vote, a replica could lead
that lacks what was acknowledged since. So it begins empty, without a vote until its log is as far
as the leader was when asked (`GroupLog.hold_until`), and the leader refills it. No Postgres is
needed for that. A group of two has no leader without it; there it does begin at the checkpoint,
which is safe because nothing was ever committed that the other one lacks. In a group of one, what
was written since the checkpoint is gone with the disk.

Otherwise nobody opens a shard empty: without a database, or with a damaged one, a node is not
ready, says why, and tries again.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cluster.errors import RecollectError
from cluster.metadata import ClusterView
from cluster.origin import Origin, ShardOrigin
from cluster.raft.log import GroupState
from storage.checkpoint.database import Database
from storage.checkpoint.errors import CheckpointDamaged, CheckpointError, DatabaseRefused
from storage.checkpoint.model import Checkpoint, Manifest
from storage.checkpoint.reading import checkpoint
from storage.checkpoint.restoring import restore_shard
from storage.connections import out_of_space
from storage.state_layout import StateLayout, publish

if TYPE_CHECKING:
    from cluster.node import Node

log = logging.getLogger("recollect.restoring")

DRAFT: Final = "restoring"
ASK_S: Final = 5.0
PATIENCE_S: Final = 5.0
RETRY_FIRST_S: Final = 0.5
RETRY_MAX_S: Final = 30.0
VOTERS_WITHOUT: Final = 3
"""The smallest group that has a leader without one of its members."""


class RestoredShards:
    """See the module. Used by one task, before the shards are opened."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._doing = ""
        self._failed = ""
        self._rows = self._rows_wanted = 0
        self._pause_s = RETRY_FIRST_S

    @property
    def problem(self) -> str:
        """What the node does, or why it could not; empty when nothing is to be made."""
        if self._failed:
            return self._failed
        rows = f", {self._rows:,} of {self._rows_wanted:,} rows" if self._rows_wanted else ""
        return self._doing + rows

    async def ready(self, view: ClusterView) -> bool:
        """Return whether this node's shards may be opened: what lacks is made first.

        False: it could not be made now; the call has waited for a while, and may be repeated.
        """
        if view.origin is None or not view.origin.shards:
            return True
        try:
            await self._complete(view)
        except (CheckpointError, RecollectError) as error:
            await self._wait_after(error)
        except (OSError, sqlite3.Error) as error:
            if not out_of_space(error):
                raise
            await self._wait_after(error)
        else:
            self._doing = self._failed = ""
            return True
        return False

    async def _wait_after(self, error: Exception) -> None:
        self._failed = f"{self._doing}: {error}; it is tried again"
        log.warning("%s", self._failed)
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, RETRY_MAX_S)

    async def _complete(self, view: ClusterView) -> None:
        await self._clear_draft()
        lacking = await asyncio.to_thread(self._lacking, view)
        if lacking:
            self._do("looking for what this node had")
            view = await self._current_view()
            assert view.origin is not None, "where a cluster comes from stays as it is"
            if self._node.config.node_id in view.origin.settled:
                lacking = await self._begin_empty(view, lacking)
            await self._make(view, view.origin, lacking)
        assert view.origin is not None, "where a cluster comes from stays as it is"
        if self._node.config.node_id not in view.origin.settled:
            self._do("telling the metadata group that this node has its shards")
            await self._node.router.shards_restored(self._until_s())

    def _do(self, what: str) -> None:
        """Say what is done; what failed stays the node's problem until something gets on."""
        self._doing = what
        self._rows = self._rows_wanted = 0

    def _got_on(self) -> None:
        self._failed, self._pause_s = "", RETRY_FIRST_S

    @property
    def _draft(self) -> Path:
        return self._node.config.data_dir / DRAFT

    async def _clear_draft(self) -> None:
        await asyncio.to_thread(shutil.rmtree, self._draft, ignore_errors=True)

    def _until_s(self) -> float:
        return self._node.surroundings.clock() + ASK_S

    def _mine(self, view: ClusterView) -> list[int]:
        me = self._node.config.node_id
        return [shard for shard, members in enumerate(view.shard_map) if me in members]

    def _lacking(self, view: ClusterView) -> list[int]:
        """Return the shards of this node whose state's file is not there."""
        return [shard for shard in self._mine(view) if not self._layout(shard).current()]

    def _layout(self, shard: int) -> StateLayout:
        return StateLayout(self._node.config.shard_path(shard))

    async def _current_view(self) -> ClusterView:
        """Return a view that knows all that this node ever said; raises RecollectError."""
        await self._node.router.refresh_view(self._until_s())
        view = self._node.view()
        assert view is not None, "the cluster is formed"
        return view

    async def _begin_empty(self, view: ClusterView, lacking: Sequence[int]) -> list[int]:
        """Let groups begin without state and without a vote, to be refilled by their leaders.

        Returns the shards that have no leader unless this node has them.
        """
        for shard in lacking:
            if len(view.shard_map[shard]) < VOTERS_WITHOUT:
                continue
            self._do(f"waiting for the leader of shard {shard}, which refills it")
            index = await self._node.router.read_index(shard, self._until_s())
            await self._node.driver.begin(shard + 1, GroupState(hold=index))
            self._got_on()
        return [shard for shard in lacking if len(view.shard_map[shard]) < VOTERS_WITHOUT]

    async def _make(self, view: ClusterView, origin: Origin, lacking: Sequence[int]) -> None:
        if not lacking:
            return
        total = len(self._mine(view))
        self._tell_progress(total - len(lacking), total, origin)
        url = self._node.config.checkpoint_url
        if not url:
            raise DatabaseRefused("RECOLLECT_CHECKPOINT_URL is not set")
        async with Database.opened(url, connections=1, patience_s=PATIENCE_S) as database:
            found = await checkpoint(database, origin.checkpoint)
            for done, shard in enumerate(lacking, total - len(lacking)):
                self._tell_progress(done, total, origin)
                await self._make_shard(database, agreed(found, shard, origin.shards[shard]))
                self._got_on()
        log.info("%d shards are restored from checkpoint %d", len(lacking), origin.checkpoint)

    def _tell_progress(self, done: int, total: int, origin: Origin) -> None:
        self._do(f"restoring shard {done + 1} of {total} from checkpoint {origin.checkpoint}")

    async def _make_shard(self, database: Database, manifest: Manifest) -> None:
        """Do the three steps; raises CheckpointError, or OSError."""
        draft = self._draft / f"shard-{manifest.shard:04d}"
        self._rows_wanted = manifest.counts.rows
        begin = GroupState(term=manifest.term, base=(manifest.applied_index, manifest.term))
        try:
            await restore_shard(database, manifest, draft, advance=self._advance)
            await self._node.driver.begin(manifest.shard + 1, begin)
            await asyncio.to_thread(self._move, draft, manifest.shard)
        finally:
            await self._clear_draft()

    def _advance(self, rows: int) -> None:
        self._rows += rows

    def _move(self, draft: Path, shard: int) -> None:
        layout = self._layout(shard)
        assert not layout.current(), "a state that is there is never made again"
        publish(StateLayout(draft).file(1), layout.file(1))


def agreed(found: Checkpoint, shard: int, origin: ShardOrigin) -> Manifest:
    """Return a shard's manifest; raises CheckpointDamaged unless the cluster was formed with it."""
    manifest = next((each for each in found.manifests if each.shard == shard), None)
    if manifest is None or ShardOrigin.of(manifest) != origin:
        raise CheckpointDamaged(
            f"shard {shard} of checkpoint {found.id} is not what the cluster was formed with"
        )
    return manifest
