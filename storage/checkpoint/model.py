"""What checkpoints are made of: values that writing, reading and restoring share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

FORMAT_VERSION: Final = 1
"""Of what the tables mean; a checkpoint of another one is refused."""
NOT_WRITTEN: Final = 0
"""The index before a shard's first checkpoint: every row is newer."""


class NodeFacts(NamedTuple):
    """What people want to see of a node; `properties` is JSON."""

    labels: Sequence[str]
    properties: bytes


class EdgeFacts(NamedTuple):
    """What people want to see of a hyperedge; `properties` is JSON, times are in milliseconds."""

    label: str
    members: Sequence[str]
    confidence: float
    properties: bytes
    valid_at_ms: int | None
    invalid_at_ms: int | None


class ElementReader(Protocol):
    """Reads what a graph's owner keeps of its elements."""

    def node(self, content: bytes) -> NodeFacts:
        """Return what a node's content says."""
        ...

    def edge(self, content: bytes) -> EdgeFacts:
        """Return what a hyperedge's content says."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much a shard holds; `collections`: records by number of their collection."""

    records: int
    tombstones: int
    nodes: int
    hyperedges: int
    collections: Mapping[int, int]

    @property
    def rows(self) -> int:
        """How many rows that is."""
        return self.records + self.tombstones + self.nodes + self.hyperedges


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A shard as of a checkpoint: where in its log it stood, and what it held."""

    checkpoint: int
    shard: int
    epoch: int
    applied_index: int
    term: int
    state_hash: bytes
    counts: Counts
    rows_written: int
    next_row: int
    clock_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint of a cluster; `finished_at` None: not whole."""

    id: int
    cluster_id: str
    started_at: datetime
    finished_at: datetime | None
    shards: int
    catalog: Any
    manifests: tuple[Manifest, ...] = ()


class Begun(NamedTuple):
    """A checkpoint that was begun: its number, that of its cluster in Postgres, and how far the
    shards were in their last manifests."""

    checkpoint: int
    cluster: int
    bases: Mapping[int, int]

    def task(self, shard: int, epoch: int) -> Task:
        """Return what there is to do for a shard."""
        return Task(
            checkpoint=self.checkpoint,
            cluster=self.cluster,
            shard=shard,
            epoch=epoch,
            base_index=self.bases.get(shard, NOT_WRITTEN),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One shard's part of a checkpoint that was begun.

    `cluster` is the cluster's number in Postgres, `base_index` what the shard's last manifest has
    applied.
    """

    checkpoint: int
    cluster: int
    shard: int
    epoch: int
    base_index: int

    @property
    def is_first(self) -> bool:
        """Whether the shard is in no checkpoint yet."""
        return self.base_index == NOT_WRITTEN
