"""The files of nodes that begin with a state: groups that stand somewhere, and logs that say so.

A node that starts finds what it would find after a restart whose log was cut just behind its state:
each group's base is where its state stands, and its term the base's. No group stands at the root,
not even the metadata group's: a node that later comes with an empty disk is then refilled by a
snapshot, not fed with a log that lacks the beginning.

Everything is synced, and a node's folder belongs to it (`cluster.data_lock`) from then on.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from cluster.checkpoint_catalog import Catalog
from cluster.data_lock import claim
from cluster.metadata_command import (
    CLUSTER_KIND,
    COLLECTION_KIND,
    GRAPH_KIND,
    ORIGIN_NAME,
    ClusterDocument,
    uid_name,
)
from cluster.origin import Origin
from cluster.raft.disk import FolderDisk
from cluster.raft.wal import Wal
from storage.documents import DOCUMENTS_SCHEMA, Documents
from storage.requests import REQUESTS_SCHEMA
from storage.state_file import StateFile
from storage.state_layout import StateLayout, sync_path

METADATA_POSITION: Final = (2, 1)
Position = tuple[int, int]
"""Index and term."""

_encode = msgspec.msgpack.Encoder().encode


def write_metadata(path: Path, cluster: ClusterDocument, origin: Origin, catalog: Catalog) -> None:
    """Make the state of a metadata group that knows these."""
    with closing(StateFile(path, DOCUMENTS_SCHEMA + REQUESTS_SCHEMA)) as state:
        with state.transaction() as connection:
            documents = Documents(connection)
            documents.put(CLUSTER_KIND, "", _encode(cluster))
            documents.put(CLUSTER_KIND, ORIGIN_NAME, _encode(origin))
            for collection in catalog.collections:
                documents.put(COLLECTION_KIND, uid_name(collection.uid), _encode(collection))
            for graph in catalog.graphs:
                documents.put(GRAPH_KIND, uid_name(graph.uid), _encode(graph))
            documents.finish()
            state.set_position(*METADATA_POSITION)
        state.make_durable()


def copy_state(source: Path, target: Path) -> None:
    """Make a closed state file the first generation of the state `target`, durably."""
    file = StateLayout(target).file(1)
    shutil.copyfile(StateLayout(source).file(1), file)
    sync_path(file)
    sync_path(file.parent)


def write_log(folder: Path, positions: Mapping[int, Position], segment_bytes: int) -> None:
    """Make the write-ahead log of a node whose groups stand at these positions."""
    disk = FolderDisk(folder)
    wal = Wal(disk, segment_bytes, lambda: secrets.randbits(32))
    wal.open()
    for group, (index, term) in sorted(positions.items()):
        records = wal.records(group)
        records.meta(term, None)
        records.base(index, term)
    while (batch := wal.take()) is not None:
        wal.write(batch)
    disk.close()


def take_possession(folder: Path, node: str, metadata_members: Sequence[str]) -> None:
    """Say whose folder it is."""
    os.close(claim(folder, node, metadata_members))
