"""Where a cluster comes from that did not begin empty: a checkpoint, and the clusters before it.

A cluster that is *formed* from a checkpoint has all of this in its first command, so that every
node makes the same shards of it, whenever it does. One that `recollect restore` made has its shards
already, and says only whose checkpoint it was.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cluster.model import Collection, Graph
from storage.checkpoint.model import Manifest


class ShardOrigin(msgspec.Struct, array_like=True, frozen=True):
    """What a shard of a checkpoint is: where it stood in its log, the hash of what it held, and
    what its state file says beside that."""

    applied_index: int
    term: int
    state_hash: bytes
    next_row: int
    clock_ms: int

    @classmethod
    def of(cls, manifest: Manifest) -> ShardOrigin:
        """Return that of a manifest."""
        return cls(
            manifest.applied_index,
            manifest.term,
            manifest.state_hash,
            manifest.next_row,
            manifest.clock_ms,
        )


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Which checkpoint a cluster was made from.

    `ancestors` are the clusters whose memory it goes on with, oldest first. `shards` are what its
    nodes have to make, by number; empty when they have it already. `settled` are the nodes that had
    all of theirs once.
    """

    checkpoint: int
    ancestors: tuple[str, ...]
    shards: tuple[ShardOrigin, ...] = ()
    settled: tuple[str, ...] = ()


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a cluster that is formed from a checkpoint begins with. `next_uid` is above every number
    that was ever given to a collection or graph."""

    origin: Origin
    epoch: int
    next_uid: int
    collections: Sequence[Collection]
    graphs: Sequence[Graph]
