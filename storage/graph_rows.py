"""The rows of a shard's graphs, and how they change inside one transaction.

* An element is (graph, kind, id): a node or a hyperedge. `content` is its canonical form in bytes,
  which only its owner reads. `seq` is its row number, from the same sequence as records'.
* `graph_members` joins hyperedges to their nodes, by row number, so that a node's edges are found
  without reading any edge.
* An edge that expired stays, with the time at which it did; what is deleted leaves a tombstone.
* `graphs` counts what a graph has, and holds its version: the entry that last changed it.
* Elements and tombstones are part of the state hash, through the record writer's.

A graph has three collections of its own: `graph` itself for its elements and their tombstones,
`graph + 1` and `graph + 2` for the vectors of nodes and of edges, which are records like any other.
Callers validate; what arrives here is applied whole.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from storage.ids import EDGE_TAG, NODE_TAG
from storage.record_hash import SetHash, element_digest
from storage.records import RecordWriter, Stamp, is_dropped, select_in

GRAPH_SCHEMA: Final = """
CREATE TABLE graph_elements (
  seq INTEGER PRIMARY KEY, graph INTEGER NOT NULL, kind INTEGER NOT NULL, id TEXT NOT NULL,
  version INTEGER NOT NULL, created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL,
  expired_ms INTEGER, content BLOB NOT NULL, members BLOB NOT NULL, digest BLOB NOT NULL
);
CREATE UNIQUE INDEX graph_elements_by_id ON graph_elements (graph, kind, id);
CREATE INDEX graph_elements_by_version ON graph_elements (graph, version);
CREATE TABLE graph_members (
  node INTEGER NOT NULL, edge INTEGER NOT NULL, PRIMARY KEY (node, edge)
) WITHOUT ROWID;
CREATE TABLE graphs (
  graph INTEGER PRIMARY KEY, version INTEGER NOT NULL, nodes INTEGER NOT NULL,
  edges INTEGER NOT NULL
);
"""


class Kind(IntEnum):
    """What an element is; the value is stored, and is the tag of its identity in bytes."""

    NODE = NODE_TAG
    EDGE = EDGE_TAG


VECTORS: Final = {Kind.NODE: 1, Kind.EDGE: 2}
"""How far above a graph's number the collection of an element kind's vectors is."""
GRAPH_UIDS: Final = 3

_NO_MEMBERS: Final = b""
_PUT: Final = """
INSERT INTO graph_elements
  (seq, graph, kind, id, version, created_ms, updated_ms, expired_ms, content, members, digest)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (seq) DO UPDATE SET version = excluded.version, updated_ms = excluded.updated_ms,
  expired_ms = excluded.expired_ms, content = excluded.content, members = excluded.members,
  digest = excluded.digest
"""
_FIND: Final = """
SELECT id, seq, created_ms, expired_ms, content, members, digest FROM graph_elements
WHERE graph = ? AND kind = {kind} AND id IN ({{places}})
"""
_FIND_SEQ: Final = """
SELECT id, seq FROM graph_elements WHERE graph = ? AND kind = {kind} AND id IN ({{places}})
"""
_COUNTS: Final = """
INSERT INTO graphs VALUES (?, ?, ?, ?)
ON CONFLICT (graph) DO UPDATE SET version = excluded.version,
  nodes = nodes + excluded.nodes, edges = edges + excluded.edges
"""


class Element(NamedTuple):
    """An element to be written; `members`: the row numbers of an edge's nodes."""

    id: str
    content: bytes
    members: Sequence[int] = ()


class StoredElement(NamedTuple):
    """An element as it is kept."""

    seq: int
    created_ms: int
    expired_ms: int | None
    content: bytes
    members: tuple[int, ...]
    digest: bytes


class ElementRow(NamedTuple):
    """An element as it is read back."""

    id: str
    version: int
    created_ms: int
    updated_ms: int
    expired_ms: int | None
    content: bytes


class GraphCounts(NamedTuple):
    """A graph's version, 0 before it was ever written, and what it has."""

    version: int = 0
    nodes: int = 0
    edges: int = 0


def element_id(kind: Kind, name: str) -> bytes:
    """Return an element's identity in bytes: in tombstones, and as a record that holds a vector."""
    return bytes((kind,)) + name.encode()


def element_name(raw: bytes) -> str:
    """Return the id of an element's identity in bytes."""
    assert raw[0] in tuple(Kind), "the identity of an element"
    return raw[1:].decode()


class GraphWriter:
    """Changes graphs within one open transaction of `records`."""

    def __init__(self, connection: sqlite3.Connection, records: RecordWriter) -> None:
        self._connection = connection
        self._records = records

    def counts(self, graph: int) -> GraphCounts:
        """Return a graph's version and sizes."""
        return graph_counts(self._connection, graph)

    def find(self, graph: int, kind: Kind, ids: Sequence[str]) -> dict[str, StoredElement]:
        """Return those elements that exist; each id once."""
        rows = select_in(self._connection, _FIND.format(kind=int(kind)), graph, ids)
        return {
            name: StoredElement(seq, created, expired, content, members_of(members), digest)
            for name, seq, created, expired, content, members, digest in rows
        }

    def seqs(self, graph: int, kind: Kind, ids: Sequence[str]) -> dict[str, int]:
        """Return the row numbers of those elements that exist; the index alone is read."""
        return dict(select_in(self._connection, _FIND_SEQ.format(kind=int(kind)), graph, ids))

    def edges_of(self, node: int) -> list[int]:
        """Return the row numbers of the edges that join a node."""
        query = "SELECT edge FROM graph_members WHERE node = ?"
        return [edge for (edge,) in self._connection.execute(query, (node,))]

    def names(self, edges: Sequence[int]) -> list[str]:
        """Return the ids of edges by row number, in the order of the numbers given."""
        query = "SELECT id FROM graph_elements WHERE seq = ?"
        return [self._connection.execute(query, (seq,)).fetchone()[0] for seq in edges]

    def put(
        self,
        graph: int,
        kind: Kind,
        stamp: Stamp,
        elements: Sequence[Element],
        stored: Mapping[str, StoredElement],
    ) -> dict[str, tuple[int, int]]:
        """Insert or replace elements; return (row number, creation time) by id.

        `stored` are those among them that exist: they keep their number and creation time.
        """
        old = [stored[each.id] for each in elements if each.id in stored]
        self._records.hash.remove(each.digest for each in old)
        self._unjoin(old)
        born = [each.id for each in elements if each.id not in stored]
        self._records.unbury(graph, [element_id(kind, name) for name in born])
        rows, places = [], {}
        for each in elements:
            seq, created = self._place(stored.get(each.id), stamp)
            places[each.id] = (seq, created)
            row = (graph, kind, each.id, *_times(stamp, created), None, each.content)
            rows.append((seq, *row, packed_members(each.members), element_digest(*row)))
        self._write(rows)
        self._join((node, places[each.id][0]) for each in elements for node in each.members)
        self._count(graph, kind, stamp, len(born))
        return places

    def expire(self, graph: int, stamp: Stamp, edges: Mapping[str, StoredElement]) -> None:
        """Mark edges, which are current, as no longer held to be true."""
        self._records.hash.remove(each.digest for each in edges.values())
        rows = []
        for name, each in edges.items():
            times = (*_times(stamp, each.created_ms), stamp.now_ms)
            row = (graph, Kind.EDGE, name, *times, each.content)
            rows.append((each.seq, *row, packed_members(each.members), element_digest(*row)))
        self._write(rows)
        self._count(graph, Kind.EDGE, stamp, 0)

    def delete(
        self, graph: int, kind: Kind, stamp: Stamp, elements: Mapping[str, StoredElement]
    ) -> None:
        """Delete elements, and leave a tombstone for each."""
        seqs = [(each.seq,) for each in elements.values()]
        self._connection.executemany("DELETE FROM graph_elements WHERE seq = ?", seqs)
        self._unjoin(elements.values())
        self._records.hash.remove(each.digest for each in elements.values())
        self._records.bury(graph, stamp, [element_id(kind, name) for name in elements])
        self._count(graph, kind, stamp, -len(elements))

    def drop(self, graph: int) -> None:
        """Forget a graph's elements and vectors; its numbers are never used again."""
        query = self._connection.execute
        key = (graph,)
        digests = query("SELECT digest FROM graph_elements WHERE graph = ?", key)
        self._records.hash.remove(digest for (digest,) in digests)
        query(
            "DELETE FROM graph_members WHERE edge IN "
            "(SELECT seq FROM graph_elements WHERE graph = ?)",
            key,
        )
        query("DELETE FROM graph_elements WHERE graph = ?", key)
        query("DELETE FROM graphs WHERE graph = ?", key)
        for uid in range(graph, graph + GRAPH_UIDS):
            self._records.drop(uid)

    def _place(self, stored: StoredElement | None, stamp: Stamp) -> tuple[int, int]:
        if stored is None:
            return self._records.take_seq(), stamp.now_ms
        return stored.seq, stored.created_ms

    def _write(self, rows: Sequence[tuple[object, ...]]) -> None:
        self._records.hash.add(row[-1] for row in rows if isinstance(row[-1], bytes))
        self._connection.executemany(_PUT, rows)

    def _join(self, pairs: Iterable[tuple[int, int]]) -> None:
        self._connection.executemany("INSERT OR IGNORE INTO graph_members VALUES (?, ?)", pairs)

    def _unjoin(self, edges: Iterable[StoredElement]) -> None:
        pairs = [(node, each.seq) for each in edges for node in each.members]
        if pairs:
            query = "DELETE FROM graph_members WHERE node = ? AND edge = ?"
            self._connection.executemany(query, pairs)

    def _count(self, graph: int, kind: Kind, stamp: Stamp, more: int) -> None:
        nodes, edges = (more, 0) if kind is Kind.NODE else (0, more)
        self._connection.execute(_COUNTS, (graph, stamp.version, nodes, edges))


def graph_counts(connection: sqlite3.Connection, graph: int) -> GraphCounts:
    """Return a graph's version and sizes."""
    query = "SELECT version, nodes, edges FROM graphs WHERE graph = ?"
    row = connection.execute(query, (graph,)).fetchone()
    return GraphCounts(*row) if row else GraphCounts()


def graph_elements(connection: sqlite3.Connection, graph: int, kind: Kind) -> Iterator[ElementRow]:
    """Yield a graph's elements in the order in which they were made."""
    query = (
        "SELECT id, version, created_ms, updated_ms, expired_ms, content FROM graph_elements "
        "WHERE graph = ? AND kind = ? ORDER BY seq"
    )
    for row in connection.execute(query, (graph, kind)):
        yield ElementRow(*row)


def graphs_of(connection: sqlite3.Connection) -> list[int]:
    """Return the graphs that were ever written here and not dropped, ascending."""
    rows = connection.execute("SELECT graph FROM graphs ORDER BY graph")
    return [graph for (graph,) in rows if not is_dropped(connection, graph)]


def add_elements_to(total: SetHash, connection: sqlite3.Connection) -> None:
    """Add every element to a hash, from its content and not from its kept digest."""
    query = "SELECT graph, kind, id, version, created_ms, updated_ms, expired_ms, content"
    rows = connection.execute(f"{query} FROM graph_elements")
    total.add(element_digest(*row) for row in rows)


def _times(stamp: Stamp, created_ms: int) -> tuple[int, int, int]:
    return stamp.version, created_ms, stamp.now_ms


def packed_members(seqs: Sequence[int]) -> bytes:
    """Return the column `members` for row numbers."""
    return struct.pack(f"<{len(seqs)}q", *seqs) if seqs else _NO_MEMBERS


def members_of(raw: bytes) -> tuple[int, ...]:
    """Return the row numbers in a column `members`."""
    return struct.unpack(f"<{len(raw) // 8}q", raw)
