"""What nodes ask each other for checkpoints: one to write a shard, the coordinator to begin one."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from cluster.peer import Method


class WriteShard(msgspec.Struct, array_like=True, frozen=True):
    """Write a shard of a checkpoint; `cluster` is this cluster's number in Postgres, `base_index`
    what the shard's last manifest has applied."""

    checkpoint: int
    cluster: int
    shard: int
    epoch: int
    base_index: int


class ShardWritten(msgspec.Struct, array_like=True, frozen=True):
    """What of a shard is in a checkpoint now; `rows_written` were new or had changed."""

    shard: int
    node: str
    applied_index: int
    state_hash: str
    records: int
    tombstones: int
    nodes: int
    hyperedges: int
    rows_written: int


class BeginCheckpoint(msgspec.Struct, array_like=True, frozen=True):
    """Begin a checkpoint, unless one is under way."""


class AskCheckpoint(msgspec.Struct, array_like=True, frozen=True):
    """Tell how the `run`-th checkpoint of this coordinator stands."""

    run: int


class CheckpointState(msgspec.Struct, frozen=True, kw_only=True):
    """How a checkpoint stands. `run` counts the coordinator's; `id` 0: it has no number yet."""

    run: int
    id: int = 0
    state: Literal["running", "finished", "failed"] = "running"
    shards: tuple[ShardWritten, ...] = ()
    seconds: float = 0.0
    problem: str = ""


WRITE_SHARD: Final = Method("write_shard", WriteShard, ShardWritten)
BEGIN_CHECKPOINT: Final = Method("begin_checkpoint", BeginCheckpoint, CheckpointState)
ASK_CHECKPOINT: Final = Method("ask_checkpoint", AskCheckpoint, CheckpointState)
