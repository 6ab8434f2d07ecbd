"""The indexes of a node: opened once, made equal to the store, built and saved behind its back."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import index_set
from storage.ids import encode_id
from storage.index_set import IndexSet
from tests.helpers import eventually

DIMENSION = 8


def vector(seq, version):
    """Return a unit vector that only this version of this row has."""
    values = np.random.default_rng((seq, version)).standard_normal(DIMENSION).astype(np.float32)
    return values / np.linalg.norm(values)


def row(seq, version=1):
    """Return a row as the store would give it."""
    return (seq, version, encode_id(seq), vector(seq, version).tobytes())


def opened(indexes, uid=1):
    """Open an index of this module's shape."""
    return indexes.open(uid, DIMENSION, "Cosine", 8, 64)


def stored(rows):
    """Return the arguments of `reconcile` that stand for a store with these rows."""
    versions = dict(rows)
    seqs = np.array(sorted(versions), dtype=np.int64)
    keys = (seqs, np.array([versions[seq] for seq in seqs.tolist()], dtype=np.int64))
    return keys, lambda wanted: [row(seq, versions[seq]) for seq in wanted if seq in versions]


def contents(index, shard):
    """Return {seq: version} of a shard."""
    seqs, versions = index.keys(shard)
    return dict(zip(seqs.tolist(), versions.tolist(), strict=True))


def test_open_is_idempotent():
    """An index is opened once; asking again gives the same one."""
    indexes = IndexSet(None)

    assert opened(indexes) is opened(indexes)
    assert indexes.get(1) is opened(indexes)
    assert indexes.get(2) is None
    assert indexes.uids() == [1]


def test_open_refuses_bad_parameters():
    """A shape that hnswlib could not bear is refused, and nothing stays behind."""
    indexes = IndexSet(None)

    for dimension, distance, m in ((0, "Cosine", 8), (4, "Hamming", 8), (4, "Cosine", 0)):
        with pytest.raises(ValueError, match=r"dimension|distance|m is"):
            indexes.open(1, dimension, distance, m, 64)
    assert indexes.uids() == []


versions_by_seq = st.dictionaries(st.integers(0, 600), st.integers(1, 4), max_size=12)


@settings(max_examples=60)
@given(versions_by_seq, versions_by_seq, versions_by_seq)
def test_reconcile_makes_equal(indexed, neighbour, store):
    """Whatever the index had, afterwards the shard has what the store has, and no other changed."""
    indexes = IndexSet(None)
    index = opened(indexes)
    index.upsert(3, [row(*item) for item in indexed.items()])
    index.upsert(4, [row(*item) for item in neighbour.items()])

    indexes.reconcile(1, 3, *stored(store.items()))

    assert contents(index, 3) == store
    assert contents(index, 4) == neighbour
    index.validate()
    assert indexes.reconcile(1, 3, *stored(store.items())) == 0


def test_reconcile_fetches_in_pieces():
    """A whole shard is fetched in pieces that fit in memory."""
    indexes = IndexSet(None)
    index = opened(indexes)
    keys, fetch = stored([(seq, 1) for seq in range(1300)])
    asked = []

    def fetch_piece(seqs):
        asked.append(len(seqs))
        return fetch(seqs)

    assert indexes.reconcile(1, 0, keys, fetch_piece) == 1300
    assert asked == [500, 500, 300]
    assert index.size == 1300


def test_reconcile_bears_rows_that_vanish():
    """A row that is gone when it is fetched is left out."""
    indexes = IndexSet(None)
    index = opened(indexes)
    keys, _ = stored([(1, 1), (2, 1)])

    indexes.reconcile(1, 0, keys, lambda seqs: [row(seq) for seq in seqs if seq == 2])

    assert contents(index, 0) == {2: 1}


def test_builder_empties_tails():
    """The builder moves all rows into graphs, those that come later too, and they stay findable."""
    indexes = IndexSet(None)
    first, second = opened(indexes, 1), opened(indexes, 2)
    first.upsert(0, [row(seq) for seq in range(600)])
    indexes.start()
    try:
        eventually(lambda: not first.tail_size)
        second.upsert(0, [row(seq) for seq in range(300)])
        eventually(lambda: not second.tail_size)
        first.upsert(1, [row(seq) for seq in range(700, 750)])
        first.remove(0, list(range(300)))
        eventually(lambda: not first.has_work)
    finally:
        indexes.stop()

    assert (first.size, second.size) == (350, 300)
    assert first.search(vector(720, 1), 1)[0].id == encode_id(720)
    first.validate()


def test_builder_survives_whatever_fails(monkeypatch, caplog):
    """An unexpected error in one turn is logged, and the next turn is taken."""
    indexes = IndexSet(None)
    index = opened(indexes)
    failures = [ValueError("unexpected")]
    build = index.build

    def failing(limit):
        if failures:
            raise failures.pop()
        return build(limit)

    monkeypatch.setattr(index, "build", failing)
    monkeypatch.setattr(index_set, "_RETRY_S", 0.01)
    index.upsert(0, [row(seq) for seq in range(10)])
    indexes.start()
    try:
        eventually(lambda: not index.tail_size)
    finally:
        indexes.stop()

    assert "unexpected" in caplog.text


def test_stop_and_start_again():
    """A stopped builder leaves rows searchable, and can be started again."""
    indexes = IndexSet(None)
    indexes.stop()
    indexes.start()
    indexes.stop()
    index = opened(indexes)
    index.upsert(0, [row(1)])

    assert [hit.seq for hit in index.search(vector(1, 1), 5)] == [1]
    assert index.tail_size == 1
    indexes.start()
    eventually(lambda: not index.tail_size)
    indexes.stop()


def test_saved_indexes_come_back(tmp_path):
    """What was built and saved is there again; what was in the tail is for reconciliation."""
    indexes = IndexSet(tmp_path)
    index = opened(indexes)
    index.upsert(0, [row(seq) for seq in range(100)])
    while index.build(1000):
        pass
    index.upsert(0, [row(200)])
    indexes.save_all()

    again = IndexSet(tmp_path)
    loaded = opened(again)

    assert contents(loaded, 0) == dict.fromkeys(range(100), 1)
    assert loaded.changes == 0
    assert again.reconcile(1, 0, *stored([(seq, 1) for seq in [*range(100), 200]])) == 1
    loaded.validate()


def test_unchanged_indexes_are_not_saved_again(tmp_path):
    """Saving costs as much as the graph is large, so only what changed is saved."""
    indexes = IndexSet(tmp_path)
    index = opened(indexes)
    index.upsert(0, [row(seq) for seq in range(20)])
    while index.build(1000):
        pass
    indexes.save_all()
    (first,) = (tmp_path / "1").iterdir()

    indexes.save_all()
    assert list((tmp_path / "1").iterdir()) == [first]
    index.remove(0, [3])
    indexes.save_all()
    assert [path.name for path in (tmp_path / "1").iterdir()] == [str(int(first.name) + 1)]


def test_builder_saves_after_much_building(tmp_path):
    """A crash after a bulk load does not cost the whole graph."""
    indexes = IndexSet(tmp_path)
    index = indexes.open(1, 2, "Euclid", 4, 16)
    angles = np.linspace(0, 6, 10_050)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype("<f4")
    rows = [(seq, 1, encode_id(seq), point.tobytes()) for seq, point in enumerate(points)]
    index.upsert(0, rows)
    indexes.start()
    try:
        eventually(lambda: index.changes <= 10_000, timeout_s=40)
    finally:
        indexes.stop()

    assert IndexSet(tmp_path).open(1, 2, "Euclid", 4, 16).size > 10_000


def test_builder_saves_while_it_builds(tmp_path, monkeypatch):
    """A crash in the middle of a long building costs a quarter of it at most."""
    monkeypatch.setattr(index_set, "_SAVE_CHANGES_MIN", 100)
    indexes = IndexSet(tmp_path, clock=None)
    index = opened(indexes)
    index.upsert(0, [row(seq) for seq in range(1_000)])

    indexes._build()

    assert [path.name for path in (tmp_path / "1").iterdir()] == ["3"]
    assert opened(IndexSet(tmp_path)).size == 3 * index_set.ROWS_PER_TURN


def test_rows_from_the_store_come_before_the_graph_is_built():
    """Rows that are read from the store wait for the graph until all of them are there."""
    indexes = IndexSet(None)
    index = opened(indexes)
    indexes.start()
    try:
        with indexes.filling():
            indexes.reconcile(1, 0, *stored([(seq, 1) for seq in range(50)]))
            indexes._build()
            waiting = index.tail_size
        eventually(lambda: index.tail_size == 0)
    finally:
        indexes.stop()

    assert waiting == 50


def test_unusable_files_are_replaced(tmp_path):
    """An index whose files are damaged opens empty, is filled again, and can be saved again."""
    indexes = IndexSet(tmp_path)
    index = opened(indexes)
    index.upsert(0, [row(seq) for seq in range(50)])
    while index.build(1000):
        pass
    indexes.save_all()
    (graph,) = tmp_path.glob("1/*/graph.bin")
    graph.write_bytes(graph.read_bytes()[:-1])

    again = IndexSet(tmp_path)
    empty = opened(again)

    assert empty.size == 0
    again.reconcile(1, 0, *stored([(seq, 1) for seq in range(50)]))
    while empty.build(1000):
        pass
    again.save_all()
    assert opened(IndexSet(tmp_path)).size == 50


def test_drop_forgets_files(tmp_path):
    """A dropped collection leaves nothing behind."""
    indexes = IndexSet(tmp_path)
    index = opened(indexes)
    index.upsert(0, [row(1)])
    while index.build(10):
        pass
    indexes.save_all()
    assert (tmp_path / "1").exists()

    indexes.drop(1)
    indexes.drop(7)

    assert not (tmp_path / "1").exists()
    assert indexes.get(1) is None


def test_a_save_that_fails_changes_nothing(tmp_path):
    """When files cannot be written the node goes on, and keeps what it has."""
    (tmp_path / "1").write_text("a file where the directory should be")
    indexes = IndexSet(tmp_path)
    index = opened(indexes)
    index.upsert(0, [row(1)])
    while index.build(10):
        pass

    indexes.save_all()

    assert index.changes
    assert [hit.seq for hit in index.search(vector(1, 1), 1)] == [1]


def test_many_threads_open_one_index():
    """Threads that open the same uid at the same time get the same index."""
    indexes = IndexSet(None)
    found = []
    threads = [threading.Thread(target=lambda: found.append(opened(indexes))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id(index) for index in found}) == 1


def test_a_hidden_index_is_not_searched_before_it_is_shown():
    """What was loaded may lack rows until every shard is reconciled."""
    indexes = IndexSet(None)
    made = indexes.open(7, 4, "Dot", 16, 100, hidden=True)
    assert indexes.get(7) is None
    assert indexes.open(7, 4, "Dot", 16, 100) is made
    assert indexes.get(7) is None
    indexes.show(7)
    assert indexes.get(7) is made


def test_memory_is_given_back_once_a_load_is_built(monkeypatch):
    """What thousands of rows leave behind goes when they are built; a few rows are no load."""
    monkeypatch.setattr(index_set, "_ROWS_UNTIDY", 200)
    given = []
    indexes, order = IndexSet(None, give_back=lambda: given.append(index.tail_size)), []
    indexes.before_giving_back = lambda: order.append(len(given))
    index = opened(indexes)
    indexes.start()
    try:
        index.upsert(1, [row(seq) for seq in range(100)])
        eventually(lambda: index.tail_size == 0)
        few = list(given)
        index.upsert(1, [row(seq) for seq in range(100, 300)])
        eventually(lambda: given)
    finally:
        indexes.stop()

    assert few == []
    assert given == [0]
    assert order == [0], "others let memory go first"
