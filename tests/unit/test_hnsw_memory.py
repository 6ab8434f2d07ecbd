"""hnswlib's memory: what is read there is what hnswlib gives; elsewhere nothing is read."""

import hnswlib
import numpy as np
import pytest

from storage import hnsw
from storage.hnsw_memory import Layout, locate
from storage.ids import encode_id
from storage.metric import Metric
from storage.vector_index import VectorIndex

RANDOM = np.random.default_rng(3)


def graph_of(rows, slots, *, m=5, distance="Cosine", threads=1):
    made = hnsw.Hnsw(Metric(distance, rows.shape[1]), m=m, ef_construct=20, seed=1)
    for start in range(0, len(rows), 700):
        made.add(rows[start : start + 700], slots[start : start + 700], threads=threads)
    return made


def unit(count, dimension):
    rows = RANDOM.normal(size=(count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(params=["in place", "copied"])
def way(request, monkeypatch):
    """Both ways to read rows, whatever this platform has."""
    if request.param == "copied":
        monkeypatch.setattr(hnsw, "locate", lambda *_: None)
    return request.param


@pytest.mark.parametrize(("dimension", "m"), [(1, 2), (3, 16), (8, 5), (384, 16)])
def test_rows_are_read_in_place(dimension, m):
    """Through growth, and with several threads that add in any order, a slot's row is its own."""
    rows, slots = unit(3000, dimension), RANDOM.permutation(9000)[:3000].astype(np.int64)
    made = graph_of(rows, slots, m=m, threads=2)

    assert made.reads_in_place
    assert np.array_equal(made.rows(slots), rows)
    some = RANDOM.permutation(3000)[:600]
    assert np.allclose(made.keys(slots[some], rows[0]), -(rows[some] @ rows[0]), atol=1e-6)


def test_a_loaded_graph_is_read_in_place(tmp_path):
    """A graph from a file has its rows elsewhere, and they are found there."""
    rows, slots = unit(500, 8), np.arange(500)
    graph_of(rows, slots).save(tmp_path / "graph")
    loaded = hnsw.Hnsw(Metric("Cosine", 8), m=5, ef_construct=20, seed=1)
    loaded.load(tmp_path / "graph", 500)

    assert loaded.reads_in_place
    assert np.array_equal(loaded.rows(slots[::-1].copy()), rows[::-1])


@pytest.mark.parametrize("layout", [Layout(44, 36), Layout(48, 32), Layout(44, 28), Layout(0, 32)])
def test_another_layout_is_not_read(layout):
    """Where a size is not as expected there is no view."""
    index = hnswlib.Index(space="ip", dim=8)
    index.init_index(100, M=5, ef_construction=20, random_seed=1)
    index.add_items(unit(50, 8))

    assert locate(index, Layout(44, 32)) is not None
    assert locate(index, layout) is None


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid"])
def test_searches_are_the_same_either_way(way, distance):
    """Exact, unrestricted and restricted searches find what a scan of all rows finds."""
    rows = unit(1200, 8) * 3
    index = VectorIndex(dimension=8, distance=distance, m=5, ef_construct=60)
    index.upsert(1, [(n, 1, encode_id(n), rows[n].tobytes()) for n in range(1200)])
    while index.build(400):
        pass
    query = rows[7] + 0.1
    against = rows / np.linalg.norm(rows, axis=1, keepdims=True) if distance == "Cosine" else rows
    keys = np.linalg.norm(rows - query, axis=1) if distance == "Euclid" else -(against @ query)
    order = np.argsort(keys).tolist()

    def found(**choices):
        return [hit.seq for hit in index.search(query, 10, **choices)]

    graph = index._state.graph
    assert graph is not None
    assert graph.reads_in_place is (way == "in place")
    assert found(exact=True) == order[:10]
    for part in (3, 20, 400, 1000):
        some = np.sort(RANDOM.permutation(1200)[:part])
        expected = [n for n in order if n in set(some.tolist())][:10]
        assert found(allowed={1: some}, exact=True) == expected
        assert len(found(allowed={1: some})) == min(10, part)
