"""The nouns that the API, the router and the shards share. Values only: no behaviour, no IO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
import numpy as np

from storage.ids import PointId, ShardKey
from storage.payload_index.fields import FieldIndex

SEEN_METADATA: Final = -1
"""The metadata group's place among the shards of a session."""

Distance = Literal["Cosine", "Euclid", "Dot", "Manhattan"]
Vector = np.ndarray[tuple[int], np.dtype[np.float32]]


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """A collection as the metadata group holds it. `uid` is never reused."""

    uid: int
    name: str
    dimension: int
    distance: Distance
    hnsw_m: int = 16
    hnsw_ef_construct: int = 200
    embedding_space: str | None = None
    """Identity of the embedding space its vectors come from; None: the caller's own."""
    state: Literal["live", "dropping"] = "live"
    custom_sharding: bool = False
    """Whether points are written under keys; see `cluster.scope`."""
    payload_indexes: tuple[FieldIndex, ...] = ()
    """The indexes on fields of its payloads, in the order of their creation."""


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """A named hypergraph as the metadata group holds it.

    `uid` and the two numbers after it are never reused: they are those of its elements, and of the
    collections in which the vectors of its nodes and of its edges lie. `dimension` 0: it has no
    vectors. `indexes` are the properties that are looked up by value, `Label.property` each.
    """

    uid: int
    name: str
    dimension: int = 0
    distance: Distance = "Cosine"
    embedding_space: str | None = None
    indexes: tuple[str, ...] = ()
    state: Literal["live", "dropping"] = "live"


class Point(msgspec.Struct, frozen=True):
    """A point to be written: a validated finite float32 vector and a payload object.

    `if_version` is its condition: None, there is none; 0, the point must not exist; N, its version
    must be N.
    """

    id: PointId
    vector: Vector
    payload: Mapping[str, Any] = {}
    if_version: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A stored point as it is read back; `vector` and `payload` are None when not asked for."""

    id: PointId
    version: int
    vector: Vector | None = None
    payload: dict[str, Any] | None = None
    created_ms: int = 0
    updated_ms: int = 0
    shard_key: ShardKey | None = None
    """What it was written under, in a collection with custom sharding."""


class Hit(msgspec.Struct, frozen=True):
    """One search result. `score` has the collection's own sense: for Cosine and Dot more is
    better, for Euclid and Manhattan less is."""

    id: PointId
    version: int
    score: float
    vector: Vector | None = None
    payload: dict[str, Any] | None = None
    shard_key: ShardKey | None = None


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """The best hits, and which shards they reflect. `partial` is true when a shard is missing."""

    hits: list[Hit]
    shards_ok: tuple[int, ...]
    shards_failed: tuple[int, ...] = ()

    @property
    def partial(self) -> bool:
        """Whether some shard did not answer."""
        return bool(self.shards_failed)


@dataclass(frozen=True, slots=True)
class Session:
    """What a client has seen: shard -> log index; SEEN_METADATA -> that of the metadata group."""

    indexes: Mapping[int, int] = field(default_factory=dict)

    def encode(self) -> str:
        """Return the header form `m:index,shard:index`, in shard order."""
        return ",".join(
            f"{'m' if shard == SEEN_METADATA else shard}:{index}"
            for shard, index in sorted(self.indexes.items())
        )

    def merged(self, indexes: Mapping[int, int]) -> Session:
        """Return the session that has seen these indexes, too."""
        if not self.indexes:
            return Session(indexes)
        newer = {shard: max(self.indexes.get(shard, 0), seen) for shard, seen in indexes.items()}
        return Session({**self.indexes, **newer})


@dataclass(frozen=True, slots=True)
class WriteAck:
    """A write that is in the fsynced log of a majority of every shard it touched."""

    session: Session
    version: int
    """The highest record version that the write produced (a shard's log index)."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a request wants to be served. `deadline_s` is on the node's monotonic clock."""

    deadline_s: float
    request_id: str = ""
    """Idempotency key; equal keys are applied once per shard. Empty: the router makes one."""
    request_digest: str = ""
    """What the key was given for: a shard that remembers it for something else refuses."""
    strong: bool = False
    session: Session = field(default_factory=Session)
    allow_partial: bool = False
    max_staleness_ms: int | None = None
    """How old a replica's knowledge may be for a read; None: what the node is configured to."""
    reflected: dict[int, int] = field(default_factory=dict, compare=False)
    """Filled by reads: shard -> log index up to which their answers may reflect it."""
    shard_keys: tuple[ShardKey, ...] | None = None
    """The keys whose points the request is about; None: it does not say. See `cluster.scope`."""


class SearchRequest(msgspec.Struct, frozen=True):
    """A validated search: `filter` is the parsed tree of `storage.filters`, or None."""

    vector: Vector
    limit: int
    offset: int = 0
    filter: Any = None
    exact: bool = False
    ef: int | None = None
    score_threshold: float | None = None
    with_payload: bool = False
    with_vector: bool = False
