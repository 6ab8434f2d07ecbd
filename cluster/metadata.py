"""Group 0's state machine: what the cluster is, and which collections and graphs there are.

State is a table of small documents, (kind, name) -> bytes: one of kind `cluster`, a second one
where the cluster comes from a checkpoint, one of kind `collection` or `graph` per uid, and whatever
`PutDocument` brings under other kinds (API keys, manifests, aliases). After every apply the machine
publishes an immutable `ClusterView`, which nodes outside the group get as bytes.

* The first `Init` forms the cluster; until then every other command fails with `not_ready`.
* A uid is never reused. Dropping a collection frees its name at once; the collection stays in
  the view as `dropping` until every shard has forgotten its rows and `PurgeCollection` follows.
  So do graphs, which take three uids each.
* Commands can be repeated: by request id, as in a shard, and creating what is there is no error.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final, assert_never

import msgspec

from cluster.command import Result, keep_result, kept_result, kept_version, name_and_digest
from cluster.metadata_command import (
    CLUSTER_KIND,
    COLLECTION_KIND,
    GRAPH_KIND,
    ORIGIN_NAME,
    ClusterDocument,
    ClusterView,
    CreateCollection,
    CreateGraph,
    DropCollection,
    DropFieldIndex,
    DropGraph,
    GraphBody,
    IndexBody,
    Init,
    MetadataBody,
    MetadataCommand,
    PurgeCollection,
    PurgeGraph,
    PutDocument,
    PutFieldIndex,
    ShardsRestored,
    collection_of,
    decode_metadata,
    decode_view,
    encode_metadata,
    encode_view,
    graph_of,
    indexes_after,
    uid_name,
)
from cluster.model import Collection, Graph
from cluster.origin import Origin
from cluster.state_machine import Entry, FileMachine
from storage.documents import DOCUMENTS_SCHEMA, Documents, recompute_document_hash
from storage.graph_rows import GRAPH_UIDS
from storage.payload_index.fields import FIELDS_MAX
from storage.requests import REQUESTS_SCHEMA, RequestMemory, recompute_request_hash
from storage.state_file import StateFile

__all__ = [
    "ClusterView",
    "CreateCollection",
    "CreateGraph",
    "DropCollection",
    "DropFieldIndex",
    "DropGraph",
    "Init",
    "MetadataBody",
    "MetadataCommand",
    "MetadataMachine",
    "PurgeCollection",
    "PurgeGraph",
    "PutDocument",
    "PutFieldIndex",
    "ShardsRestored",
    "decode_metadata",
    "decode_view",
    "encode_metadata",
    "encode_view",
]


NAME_CONFLICT: Final = "collection_exists"

_cluster_decoder = msgspec.msgpack.Decoder(ClusterDocument)
_collection_decoder = msgspec.msgpack.Decoder(Collection)
_origin_decoder = msgspec.msgpack.Decoder(Origin)
_graph_decoder = msgspec.msgpack.Decoder(Graph)
_encoder = msgspec.msgpack.Encoder()


class MetadataMachine(FileMachine["_MetadataBatch"]):
    """The cluster's metadata, in the state file `path`, or in memory without one.

    `request_id_ttl_ms` counts while the cluster has no value of its own. Raises CorruptState when
    the file cannot be used.
    """

    view: ClusterView | None
    """The cluster as of the last apply, swapped whole; None before `Init`. Any thread."""

    def __init__(self, path: Path | None, *, request_id_ttl_ms: int) -> None:
        assert request_id_ttl_ms > 0, "request ids are remembered for some time"
        self._request_id_ttl_ms = request_id_ttl_ms
        state = StateFile(path, DOCUMENTS_SCHEMA + REQUESTS_SCHEMA)
        super().__init__(state, self._batch, self._committed)

    def document(self, kind: str, name: str) -> bytes | None:
        """Return a document that `PutDocument` set, or None."""
        with self._state.reader() as connection:
            return Documents(connection).get(kind, name)

    def documents(self, kind: str) -> dict[str, bytes]:
        """Return all documents of a kind by name, ascending."""
        with self._state.reader() as connection:
            return Documents(connection).of_kind(kind)

    def next_uid(self) -> int:
        """Return the number that the next collection or graph gets; 0 before `Init`."""
        value = self.document(CLUSTER_KIND, "")
        return 0 if value is None else _cluster_decoder.decode(value).next_uid

    def recompute_hash(self) -> bytes:
        """Return the state hash computed from all documents."""
        with self._state.reader() as connection:
            return recompute_document_hash(connection)

    def request_hash(self) -> bytes:
        """Return the 16-byte hash over the remembered requests."""
        with self._state.reader() as connection:
            return recompute_request_hash(connection)

    def _batch(self, connection: sqlite3.Connection) -> _MetadataBatch:
        return _MetadataBatch(connection, self._request_id_ttl_ms)

    def _committed(self, batch: _MetadataBatch) -> None:
        self.view = batch.view(self.position()[0])


class _MetadataBatch:
    """One transaction of entries."""

    def __init__(self, connection: sqlite3.Connection, request_id_ttl_ms: int) -> None:
        self._documents = Documents(connection)
        self._cluster = self._stored_cluster()
        agreed_ms = self._cluster.request_id_ttl_ms if self._cluster else 0
        ttl_ms = agreed_ms or request_id_ttl_ms
        self._requests = RequestMemory(connection, ttl_ms, kept_version)

    def execute(self, entry: Entry) -> Result:
        """Apply one command, whole or not at all."""
        try:
            command = decode_metadata(entry.command)
        except ValueError:
            return Result(version=entry.index, error="bad_command")
        return self._once(command, entry.index)

    def finish(self, index: int) -> None:
        """Write what is kept once per transaction, whose last entry is `index`."""
        self._documents.finish()
        self._requests.finish(index)

    def state_hash(self) -> bytes:
        """Return the hash over all documents."""
        return self._documents.state_hash()

    def view(self, applied_index: int) -> ClusterView | None:
        """Return the cluster as it stands, or None before it was formed."""
        cluster = self._cluster
        if cluster is None:
            return None
        collections = self._collections()
        live = {each.name: each for each in collections if each.state == "live"}
        graphs = self._graphs()
        return ClusterView(
            cluster_id=cluster.cluster_id,
            epoch=cluster.epoch,
            shards=cluster.shards,
            replication=cluster.replication,
            shard_map=cluster.shard_map,
            nodes=cluster.nodes,
            collections=live,
            dropping=[each for each in collections if each.state == "dropping"],
            applied_index=applied_index,
            request_id_ttl_ms=cluster.request_id_ttl_ms,
            command_bytes_max=cluster.command_bytes_max,
            graphs={each.name: each for each in graphs if each.state == "live"},
            dropping_graphs=[each for each in graphs if each.state == "dropping"],
            origin=self._origin(),
        )

    def _once(self, command: MetadataCommand, index: int) -> Result:
        now_ms = self._requests.now_ms(command.now_ms)
        name, digest = name_and_digest(command.request_id)
        kept = self._requests.recall(name, now_ms, index)
        if kept is not None:
            return kept_result(kept, digest, index)
        if self._cluster is None and not isinstance(command.body, Init):
            return Result(version=index, error="not_ready")
        affected = self._change(command.body)
        if isinstance(affected, str):
            return Result(version=index, error=affected)
        result = Result(version=index, affected=affected)
        self._requests.remember(name, keep_result(result, digest), now_ms)
        return result

    def _change(self, body: MetadataBody) -> int | str:
        """Change the documents; return how many things that were, or why that cannot be."""
        match body:
            case Init():
                return self._init(body)
            case ShardsRestored():
                return self._settle(body.node)
            case CreateCollection():
                return self._create(body)
            case DropCollection():
                return self._drop(body.name)
            case PurgeCollection():
                return self._purge(body.uid)
            case PutFieldIndex() | DropFieldIndex():
                return self._change_index(body)
            case PutDocument():
                return self._put(body)
            case CreateGraph() | DropGraph() | PurgeGraph():
                return self._change_graph(body)
            case _:
                assert_never(body)

    def _change_graph(self, body: GraphBody) -> int | str:
        match body:
            case CreateGraph():
                return self._create_graph(body)
            case DropGraph():
                return self._drop_graph(body.name)
            case PurgeGraph():
                return self._purge_graph(body.uid)
            case _:
                assert_never(body)

    def _init(self, body: Init) -> int:
        if self._cluster is not None:
            return 0
        restored = body.restored
        self._store_cluster(
            ClusterDocument(
                cluster_id=body.cluster_id,
                epoch=restored.epoch if restored else 1,
                shards=body.shards,
                replication=body.replication,
                shard_map=body.shard_map,
                nodes=body.nodes,
                next_uid=restored.next_uid if restored else 1,
                request_id_ttl_ms=body.request_id_ttl_ms,
                command_bytes_max=body.command_bytes_max,
            )
        )
        self._requests.ttl_ms = body.request_id_ttl_ms or self._requests.ttl_ms
        for collection in body.collections:
            created = self._create(collection)
            assert created == 1, "names were checked to differ"
        if restored is not None:
            self._store_origin(restored.origin)
            for each in restored.collections:
                self._store(each)
            for graph in restored.graphs:
                self._store_graph(graph)
        return 1

    def _settle(self, node: str) -> int:
        assert self._cluster is not None, "the cluster is formed"
        origin = self._origin()
        if origin is None or node in origin.settled or node not in self._cluster.nodes:
            return 0
        self._store_origin(msgspec.structs.replace(origin, settled=(*origin.settled, node)))
        return 1

    def _origin(self) -> Origin | None:
        value = self._documents.get(CLUSTER_KIND, ORIGIN_NAME)
        return None if value is None else _origin_decoder.decode(value)

    def _store_origin(self, origin: Origin) -> None:
        self._documents.put(CLUSTER_KIND, ORIGIN_NAME, _encoder.encode(origin))

    def _create(self, body: CreateCollection) -> int | str:
        assert self._cluster is not None, "the cluster is formed"
        existing = self._live(body.name)
        if existing is not None:
            bare = msgspec.structs.replace(existing, payload_indexes=())
            return 0 if bare == collection_of(body, existing.uid) else NAME_CONFLICT
        self._store(collection_of(body, self._take_uids(1)))
        return 1

    def _change_index(self, body: IndexBody) -> int | str:
        found = (each for each in self._collections() if each.uid == body.uid)
        collection = next((each for each in found if each.state == "live"), None)
        if collection is None:
            return "collection_dropped"
        indexes = indexes_after(collection.payload_indexes, body)
        if len(indexes) > FIELDS_MAX:
            return "too_many_indexes"
        self._store(msgspec.structs.replace(collection, payload_indexes=indexes))
        return int(indexes != collection.payload_indexes)

    def _take_uids(self, count: int) -> int:
        """Return the first of so many numbers that were never given before."""
        assert self._cluster is not None, "the cluster is formed"
        uid = self._cluster.next_uid
        self._store_cluster(msgspec.structs.replace(self._cluster, next_uid=uid + count))
        return uid

    def _create_graph(self, body: CreateGraph) -> int | str:
        existing = self._live_graph(body.name)
        if existing is not None:
            return 0 if existing == graph_of(body, existing.uid) else NAME_CONFLICT
        self._store_graph(graph_of(body, self._take_uids(GRAPH_UIDS)))
        return 1

    def _drop_graph(self, name: str) -> int:
        existing = self._live_graph(name)
        if existing is None:
            return 0
        self._store_graph(msgspec.structs.replace(existing, state="dropping"))
        return 1

    def _purge_graph(self, uid: int) -> int:
        dropping = [each for each in self._graphs() if each.state == "dropping"]
        if all(each.uid != uid for each in dropping):
            return 0
        return int(self._documents.remove(GRAPH_KIND, uid_name(uid)))

    def _live_graph(self, name: str) -> Graph | None:
        live = (each for each in self._graphs() if each.state == "live")
        return next((each for each in live if each.name == name), None)

    def _graphs(self) -> list[Graph]:
        stored = self._documents.of_kind(GRAPH_KIND)
        return [_graph_decoder.decode(value) for value in stored.values()]

    def _store_graph(self, graph: Graph) -> None:
        self._documents.put(GRAPH_KIND, uid_name(graph.uid), _encoder.encode(graph))

    def _drop(self, name: str) -> int:
        existing = self._live(name)
        if existing is None:
            return 0
        self._store(msgspec.structs.replace(existing, state="dropping"))
        return 1

    def _purge(self, uid: int) -> int:
        dropping = [each for each in self._collections() if each.state == "dropping"]
        if all(each.uid != uid for each in dropping):
            return 0
        return int(self._documents.remove(COLLECTION_KIND, uid_name(uid)))

    def _put(self, body: PutDocument) -> int:
        if body.value is None:
            return int(self._documents.remove(body.kind, body.name))
        self._documents.put(body.kind, body.name, body.value)
        return 1

    def _live(self, name: str) -> Collection | None:
        live = (each for each in self._collections() if each.state == "live")
        return next((each for each in live if each.name == name), None)

    def _collections(self) -> list[Collection]:
        stored = self._documents.of_kind(COLLECTION_KIND)
        return [_collection_decoder.decode(value) for value in stored.values()]

    def _store(self, collection: Collection) -> None:
        name = uid_name(collection.uid)
        self._documents.put(COLLECTION_KIND, name, _encoder.encode(collection))

    def _stored_cluster(self) -> ClusterDocument | None:
        value = self._documents.get(CLUSTER_KIND, "")
        return None if value is None else _cluster_decoder.decode(value)

    def _store_cluster(self, cluster: ClusterDocument) -> None:
        self._cluster = cluster
        self._documents.put(CLUSTER_KIND, "", _encoder.encode(cluster))
