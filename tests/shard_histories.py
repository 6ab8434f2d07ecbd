"""Histories of a shard in which everything happens that can be in a checkpoint."""

import uuid
from typing import Any

from hypothesis import strategies as st

from cluster.command import (
    Command,
    Delete,
    DropCollection,
    DropGraph,
    PointWrite,
    SetPayload,
    Transaction,
    Upsert,
    encode_command,
)
from graph.model import EdgeWrite, GraphChanges, NodeWrite
from storage.ids import encode_id, key_bytes, keyed_id
from tests.shard_commands import DIMENSION, vector

GRAPH = 10
OTHER_GRAPH = 20
_PLAIN = [encode_id(number) for number in (0, 1, 2, 2**64 - 1)]
_UUIDS = [encode_id(str(uuid.UUID(int=number))) for number in (5, 6)]
_KEYED = [
    keyed_id(record_id, key_bytes(key)) for record_id in _PLAIN[:2] for key in (7, "Zürich", "a/b")
]
IDS = st.sampled_from([*_PLAIN, *_UUIDS, *_KEYED])
COLLECTIONS = st.sampled_from([1, 1, 2, 3])
PAYLOADS = st.sampled_from(
    [b"{}", b'{"a":1}', b'{"a":1.0,"b":[1e300,-0.0]}', '{"ü":"\\"\\u001f 🜁"}'.encode()]
)
VECTORS = st.sampled_from([vector(1.0, 0.5), vector(-0.0, 1e-40), vector(3.4e38, 2.0)])
NODES = st.sampled_from(["a", "b", "c", "é", "e1"])
EDGES = st.sampled_from(["e1", "e2", "e3"])
GRAPHS = st.sampled_from([GRAPH, GRAPH, OTHER_GRAPH])
MAYBE_VECTORS = st.one_of(st.none(), VECTORS)


@st.composite
def _upserts(draw: Any) -> Upsert:
    ids = draw(st.lists(IDS, min_size=1, max_size=4))
    points = [PointWrite(each, draw(VECTORS), draw(PAYLOADS)) for each in ids]
    return Upsert(draw(COLLECTIONS), DIMENSION, points)


@st.composite
def _changes(draw: Any) -> Transaction:
    """Draw a change of a graph; the nodes that its edges join come with it."""
    members = draw(st.lists(NODES, min_size=2, max_size=3))
    nodes = [
        NodeWrite(each, ("L",), draw(PAYLOADS), draw(MAYBE_VECTORS))
        for each in dict.fromkeys(members)
    ]
    edge = EdgeWrite(
        draw(EDGES),
        "LEADS_TO",
        tuple(members),
        properties=draw(PAYLOADS),
        confidence=draw(st.sampled_from([0.5, 1.0])),
        valid_at=draw(st.sampled_from([None, -5, 2**53])),
        vector=draw(MAYBE_VECTORS),
    )
    return Transaction([], draw(GRAPHS), GraphChanges(nodes=nodes, edges=[edge]), DIMENSION)


def _removals(kind: str, names: st.SearchStrategy[str]) -> st.SearchStrategy[Transaction]:
    def made(graph: int, name: str) -> Transaction:
        changes: dict[str, Any] = {kind: [name], "cascade": True}
        return Transaction([], graph, GraphChanges(**changes), DIMENSION)

    return st.builds(made, GRAPHS, names)


_DELETES = st.builds(lambda uid, each: Delete(uid, [each]), COLLECTIONS, IDS)
_PAYLOADS = st.builds(lambda uid, each: SetPayload(uid, [each], "merge", b'{"z":0}'),
                      COLLECTIONS, IDS)  # fmt: skip
BODIES = st.one_of(
    _upserts(),
    _upserts(),
    _changes(),
    _changes(),
    _DELETES,
    _PAYLOADS,
    _removals("delete_nodes", NODES),
    _removals("delete_edges", EDGES),
    _removals("expire_edges", EDGES),
    st.sampled_from([DropCollection(3), DropGraph(OTHER_GRAPH)]),
)
COMMANDS = st.builds(
    lambda body, now_ms: encode_command(Command("", now_ms, body)),
    BODIES,
    st.integers(1000, 1010),
)
CHAPTERS = st.lists(st.lists(COMMANDS, max_size=8), min_size=1, max_size=4)
"""What happens between one checkpoint and the next."""
