"""What goes through the metadata group's log, and the view of the cluster that comes out of it.

Encoded like a shard's commands, as tagged msgpack arrays. `decode_metadata` validates fully: what
it returns can be applied.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, assert_never

import msgspec

from cluster.model import Collection, Distance, Graph
from cluster.origin import Origin, Restored
from storage.payload_index.fields import FieldIndex
from storage.requests import TIME_MS_MAX

CLUSTER_KIND: Final = "cluster"
COLLECTION_KIND: Final = "collection"
GRAPH_KIND: Final = "graph"
"""Kinds of documents that only the machine itself writes."""
ORIGIN_NAME: Final = "origin"
"""The document of kind `cluster`, beside the nameless one, that says where it comes from."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}")
_KIND: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")


class CreateCollection(msgspec.Struct, array_like=True, frozen=True, tag="create"):
    """Create a collection. One of the same name and parameters is left as it is; a different
    one gives `collection_exists`."""

    name: str
    dimension: int
    distance: Distance
    hnsw_m: int = 16
    hnsw_ef_construct: int = 200
    embedding_space: str | None = None
    custom_sharding: bool = False


class Init(msgspec.Struct, array_like=True, frozen=True, tag="init"):
    """Form the cluster. The first one wins; later ones change nothing and affect 0.

    `shard_map` lists each shard's nodes by name, its preferred leader first. `request_id_ttl_ms`
    and `command_bytes_max` decide what a repeated request comes to, so all nodes take these values
    instead of their own settings; 0 leaves it to the settings. `restored` is what a cluster begins
    with that is formed from a checkpoint, instead of `collections`.
    """

    cluster_id: str
    shards: int
    replication: int
    shard_map: Sequence[Sequence[str]]
    nodes: Sequence[str]
    collections: Sequence[CreateCollection] = ()
    request_id_ttl_ms: int = 0
    command_bytes_max: int = 0
    restored: Restored | None = None


class ShardsRestored(msgspec.Struct, array_like=True, frozen=True, tag="shards_restored"):
    """A node has all of its shards as the cluster's checkpoint has them; affects 0 the second time.

    From then on it may vote on them and acknowledge. Should it ever lack one again, its disk was
    lost: see `cluster.restored_shards`.
    """

    node: str


class DropCollection(msgspec.Struct, array_like=True, frozen=True, tag="drop"):
    """Take a live collection's name away; affects 0 when there is none."""

    name: str


class PurgeCollection(msgspec.Struct, array_like=True, frozen=True, tag="purge"):
    """Forget a dropping collection, once no shard holds rows of it."""

    uid: int


class PutFieldIndex(msgspec.Struct, array_like=True, frozen=True, tag="put_field_index"):
    """Have an index on a field of a live collection's payloads, of this type and no other.

    Affects 0 when there is just that; `collection_dropped` when the collection is gone,
    `too_many_indexes` when it has as many as may be.
    """

    uid: int
    field: FieldIndex


class DropFieldIndex(msgspec.Struct, array_like=True, frozen=True, tag="drop_field_index"):
    """Have no index on this field; affects 0 when there is none."""

    uid: int
    name: str


class CreateGraph(msgspec.Struct, array_like=True, frozen=True, tag="create_graph"):
    """Create a graph, as a collection is created."""

    name: str
    dimension: int
    distance: Distance
    embedding_space: str | None
    indexes: tuple[str, ...]


class DropGraph(msgspec.Struct, array_like=True, frozen=True, tag="drop_graph"):
    """Take a live graph's name away; affects 0 when there is none."""

    name: str


class PurgeGraph(msgspec.Struct, array_like=True, frozen=True, tag="purge_graph"):
    """Forget a dropping graph, once its shard holds nothing of it."""

    uid: int


class PutDocument(msgspec.Struct, array_like=True, frozen=True, tag="document"):
    """Set a document, or delete it when `value` is None."""

    kind: str
    name: str
    value: bytes | None


GraphBody = CreateGraph | DropGraph | PurgeGraph
IndexBody = PutFieldIndex | DropFieldIndex
CollectionBody = CreateCollection | DropCollection | PurgeCollection | IndexBody
MetadataBody = Init | ShardsRestored | CollectionBody | PutDocument | GraphBody


class MetadataCommand(msgspec.Struct, array_like=True, frozen=True):
    """A body with its request id and the leader's clock."""

    request_id: str
    now_ms: int
    body: MetadataBody


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster as of `applied_index`. `epoch` counts the shard maps there have been."""

    cluster_id: str
    epoch: int
    shards: int
    replication: int
    shard_map: Sequence[Sequence[str]]
    nodes: Sequence[str]
    collections: Mapping[str, Collection]
    """Live collections by name, in the order of their creation."""
    dropping: Sequence[Collection]
    applied_index: int
    request_id_ttl_ms: int = 0
    command_bytes_max: int = 0
    """See `Init`."""
    graphs: Mapping[str, Graph] = {}
    """Live graphs by name, in the order of their creation."""
    dropping_graphs: Sequence[Graph] = []
    origin: Origin | None = None
    """Where the cluster comes from; None: it began empty."""

    @property
    def restoring(self) -> bool:
        """Whether some shard has yet to be made by a majority of its nodes, of those that the
        cluster was formed with. A node that never comes back keeps nobody waiting."""
        return any(
            2 * sum(self.awaits(node) for node in members) >= len(members)
            for members in self.shard_map
        )

    def awaits(self, node: str) -> bool:
        """Whether a node has not had the shards yet that the cluster was formed with."""
        origin = self.origin
        return origin is not None and bool(origin.shards) and node not in origin.settled


class ClusterDocument(msgspec.Struct, frozen=True):
    """What the metadata group's state says of the cluster itself."""

    cluster_id: str
    epoch: int
    shards: int
    replication: int
    shard_map: Sequence[Sequence[str]]
    nodes: Sequence[str]
    next_uid: int
    request_id_ttl_ms: int = 0
    command_bytes_max: int = 0


_command_decoder = msgspec.msgpack.Decoder(MetadataCommand)
_view_decoder = msgspec.msgpack.Decoder(ClusterView)
_encoder = msgspec.msgpack.Encoder()


def encode_metadata(body: MetadataBody, *, request_id: str = "", now_ms: int = 0) -> bytes:
    """Return a command's bytes for the log; without a request id it is applied every time."""
    return _encoder.encode(MetadataCommand(request_id, now_ms, body))


def decode_metadata(raw: bytes) -> MetadataCommand:
    """Read a command back.

    Raises:
        ValueError: foreign bytes, or a command that no correct leader proposes.
    """
    command = _command_decoder.decode(raw)
    _require(0 <= command.now_ms <= TIME_MS_MAX, "now_ms")
    _require("\0" not in command.request_id, "request_id")
    _check(command.body)
    return command


def indexes_after(
    indexes: tuple[FieldIndex, ...], body: PutFieldIndex | DropFieldIndex
) -> tuple[FieldIndex, ...]:
    """Return a collection's indexes after a command: one for each name, a new one last."""
    if isinstance(body, DropFieldIndex):
        return tuple(each for each in indexes if each.name != body.name)
    if body.field in indexes:
        return indexes
    return (*(each for each in indexes if each.name != body.field.name), body.field)


def collection_of(body: CreateCollection, uid: int) -> Collection:
    """Return the collection that a command creates under a number."""
    return Collection(
        uid=uid,
        name=body.name,
        dimension=body.dimension,
        distance=body.distance,
        hnsw_m=body.hnsw_m,
        hnsw_ef_construct=body.hnsw_ef_construct,
        embedding_space=body.embedding_space,
        custom_sharding=body.custom_sharding,
    )


def graph_of(body: CreateGraph, uid: int) -> Graph:
    """Return the graph that a command creates under a number."""
    return Graph(
        uid=uid,
        name=body.name,
        dimension=body.dimension,
        distance=body.distance,
        embedding_space=body.embedding_space,
        indexes=body.indexes,
    )


def encode_view(view: ClusterView) -> bytes:
    """Return a view's bytes, for nodes outside the metadata group."""
    return _encoder.encode(view)


def uid_name(uid: int) -> str:
    """Return the name of a collection's or graph's document; in the order of their creation."""
    return f"{uid:020d}"


def decode_view(raw: bytes) -> ClusterView:
    """Read a view back; raises msgspec.MsgspecError on foreign bytes."""
    return _view_decoder.decode(raw)


def _check(body: MetadataBody) -> None:
    match body:
        case Init():
            _check_init(body)
        case CreateCollection():
            _check_create(body)
        case PutDocument(kind=kind, name=name):
            reserved = kind in (CLUSTER_KIND, COLLECTION_KIND, GRAPH_KIND)
            _require(_KIND.fullmatch(kind) is not None and not reserved, "kind")
            _require("\0" not in name, "name")
        case CreateGraph():
            _require(_NAME.fullmatch(body.name) is not None, "name")
            _require(body.dimension >= 0, "dimension")
        case PutFieldIndex(field=field):
            field.path()
        case DropCollection() | PurgeCollection() | DropFieldIndex() | ShardsRestored():
            pass
        case DropGraph() | PurgeGraph():
            pass
        case _:
            assert_never(body)


def _check_init(body: Init) -> None:
    _require(bool(body.cluster_id), "cluster_id")
    _require(body.shards == len(body.shard_map) > 0, "shards")
    _require(1 <= body.replication <= len(body.nodes) == len(set(body.nodes)), "nodes")
    for replicas in body.shard_map:
        _require(0 < len(replicas) == len(set(replicas)), "shard_map")
        _require(set(replicas) <= set(body.nodes), "shard_map")
    _require(0 <= body.request_id_ttl_ms <= TIME_MS_MAX, "request_id_ttl_ms")
    _require(body.command_bytes_max >= 0, "command_bytes_max")
    _require(len({each.name for each in body.collections}) == len(body.collections), "collections")
    for collection in body.collections:
        _check_create(collection)
    if body.restored is not None:
        _require(not body.collections, "collections")
        _check_restored(body.restored, body.shards)


def _check_restored(restored: Restored, shards: int) -> None:
    _require(len(restored.origin.shards) == shards, "restored shards")
    _require(all(shard.applied_index > 0 for shard in restored.origin.shards), "restored shards")
    _require(bool(restored.origin.ancestors) and not restored.origin.settled, "origin")
    uids = [each.uid for each in restored.collections] + [each.uid for each in restored.graphs]
    _require(len(uids) == len(dict.fromkeys(uids)), "restored uid")
    _require(all(0 < uid < restored.next_uid for uid in uids), "restored uid")


def _check_create(body: CreateCollection) -> None:
    _require(_NAME.fullmatch(body.name) is not None, "name")
    _require(min(body.dimension, body.hnsw_m, body.hnsw_ef_construct) > 0, "parameters")


def _require(holds: bool, field: str) -> None:  # noqa: FBT001
    if not holds:
        raise ValueError(f"bad {field}")
