"""What nodes ask each other on behalf of requests: one structure per request and per answer.

Every read of shards travels in the same envelope. `ShardRead` says which shards are meant, from
which log index on each must be read (what a session token or a ReadIndex demands), and the time
that is left; `ShardAnswer` gives the answer over the shards that the node could serve, and names
those it refused, so that the caller can ask another replica for exactly these.

`timeout_ms` is what is left of the caller's deadline.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

import msgspec

from cluster.command import Result
from cluster.metadata_command import ClusterView
from cluster.peer import Method
from storage.changes import Changes, Place
from storage.filters import Filter

QueryType = TypeVar("QueryType")
FoundType = TypeVar("FoundType")


class ShardRead(msgspec.Struct, Generic[QueryType], array_like=True, frozen=True):
    """A query over some shards, none of which may be read before its index in `required`.

    `max_staleness_ms` None: what the answering node is configured to.
    """

    shards: list[int]
    required: dict[int, int]
    timeout_ms: int
    query: QueryType
    max_staleness_ms: int | None = None


class ShardAnswer(msgspec.Struct, Generic[FoundType], array_like=True, frozen=True):
    """What was found in the shards not refused; None when all were. `refused`: shard -> why.

    `reflected`: shard -> the log index up to which the answer may reflect it.
    """

    refused: dict[int, str]
    found: FoundType | None = None
    reflected: dict[int, int] = {}


class Nearest(msgspec.Struct, array_like=True, frozen=True):
    """The `limit` points nearest to a vector, given as little-endian float32 bytes."""

    collection: int
    vector: bytes
    limit: int
    ef: int | None = None
    exact: bool = False
    filter: Filter | None = None


class FoundHit(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A point found by `Nearest`: canonical id, version, score, and the shard it is in."""

    id: bytes
    version: int
    score: float
    shard: int


class Page(msgspec.Struct, array_like=True, frozen=True):
    """The first `limit` canonical ids in ascending order, from `start` on (it
    included), that pass a filter."""

    collection: int
    limit: int
    start: bytes | None = None
    filter: Filter | None = None


class FoundId(msgspec.Struct, array_like=True, frozen=True, gc=False, order=True):
    """An id of a page, and the shard it is in."""

    id: bytes
    shard: int


class Count(msgspec.Struct, array_like=True, frozen=True):
    """How many points there are, or pass a filter."""

    collection: int
    filter: Filter | None = None


class Fetch(msgspec.Struct, array_like=True, frozen=True):
    """The rows of some ids, by shard."""

    collection: int
    ids: dict[int, list[bytes]]
    with_vector: bool = False
    with_payload: bool = False


class FetchedRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A row: float32 vector bytes and JSON payload bytes when asked for."""

    id: bytes
    version: int
    vector: bytes | None
    payload: bytes | None
    created_ms: int
    updated_ms: int


class Fetched(msgspec.Struct, array_like=True, frozen=True):
    """The rows that exist. `rest`: ids that did not fit into one answer; ask for them again."""

    rows: list[FetchedRow]
    rest: dict[int, list[bytes]]


class ReadChanges(msgspec.Struct, array_like=True, frozen=True):
    """What changed in each shard behind a place, but in the collections of `skip`."""

    places: dict[int, Place]
    skip: list[int]
    with_payload: bool
    with_vector: bool


class Moved(msgspec.Struct, array_like=True, frozen=True):
    """How far a node's replicas are, told once one of them is beyond its index in `seen`."""

    seen: dict[int, int]
    timeout_ms: int


class Propose(msgspec.Struct, array_like=True, frozen=True):
    """Put a command into a group's log; `body` is encoded, the node that leads stamps the time."""

    group: int
    request_id: str
    body: bytes
    timeout_ms: int


class Proposed(msgspec.Struct, array_like=True, frozen=True):
    """What a command gave, and the term of the entry at the result's version (0: not known).

    Who has that entry in its log knows by this that it is committed.
    """

    result: Result
    term: int


class ReadIndex(msgspec.Struct, array_like=True, frozen=True):
    """The commit index of a group, confirmed by a majority after the question was asked."""

    group: int
    timeout_ms: int


class FetchView(msgspec.Struct, array_like=True, frozen=True):
    """The cluster's view: of `index` or later, or, with 0, no older than the question."""

    timeout_ms: int
    index: int = 0


class IndexState(msgspec.Struct, array_like=True, frozen=True):
    """How far a node's index of a collection is: how many points wait for the search graph.

    `fresh`: every replica on the node has applied what its leader is known to have committed.
    `indexed`: for each payload index and shard, how many points are in it.
    """

    waiting: int
    fresh: bool
    indexed: dict[str, dict[int, int]] = {}


class DescribeIndex(msgspec.Struct, array_like=True, frozen=True):
    """The state of a node's index of a collection."""

    collection: int


class ReplicaState(msgspec.Struct, array_like=True, frozen=True):
    """One replica: whom it takes for the leader, how far it is, and its state hash there.

    `state_hash` is 32 hexadecimal digits; None while the replica is too busy to give both at one
    point.
    """

    leader: str | None
    term: int
    applied_index: int
    state_hash: str | None


class DescribeNode(msgspec.Struct, array_like=True, frozen=True):
    """The state of every replica on a node."""


class NodeFull(msgspec.Struct, array_like=True, frozen=True):
    """Told, not asked: this node must not grow. Counts for some seconds."""

    node: str


class NodeState(msgspec.Struct, array_like=True, frozen=True):
    """A node's replicas by group."""

    replicas: dict[int, ReplicaState]


SEARCH: Final = Method("router/search", ShardRead[Nearest], ShardAnswer[list[FoundHit]])
PAGE: Final = Method("router/page", ShardRead[Page], ShardAnswer[list[FoundId]])
COUNT: Final = Method("router/count", ShardRead[Count], ShardAnswer[int])
FETCH: Final = Method("router/fetch", ShardRead[Fetch], ShardAnswer[Fetched])
CHANGES: Final = Method("router/changes", ShardRead[ReadChanges], ShardAnswer[dict[int, Changes]])
MOVED: Final = Method("router/moved", Moved, dict[int, int])
PROPOSE: Final = Method("router/propose", Propose, Proposed)
READ_INDEX: Final = Method("router/read_index", ReadIndex, int)
FETCH_VIEW: Final = Method("router/view", FetchView, ClusterView)
DESCRIBE_INDEX: Final = Method("router/index_state", DescribeIndex, IndexState)
DESCRIBE_NODE: Final = Method("router/node_state", DescribeNode, NodeState)
MEMORY_FULL: Final = Method("memory/full", NodeFull, bool)
DISK_FULL: Final = Method("disk/full", NodeFull, bool)
