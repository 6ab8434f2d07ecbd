"""Searches that share a call of the graph: each gets its own hits, with its own scores."""

import numpy as np
import pytest

from storage import index_search
from storage.filter_parse import parse_filter
from storage.ids import encode_id
from storage.payload_index.fields import FieldIndex
from storage.payload_index.selection import ByPayload
from storage.vector_index import VectorIndex

COUNT, DIMENSION, LIMIT = 4000, 6, 5
RNG = np.random.default_rng(17)
VECTORS = RNG.normal(size=(COUNT, DIMENSION)).astype("<f4") * 20
NUMBERS = RNG.integers(0, 100, COUNT)
QUERIES = (RNG.normal(size=(7, DIMENSION)) * (10.0 ** np.arange(-3, 4))[:, None]).astype("<f4")
SHARED = 3
"""Of so many rows each two have the same vector."""


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("<f4")


DISTANCES = ["Cosine", "Dot", "Euclid"]


def made(distance):
    """Return an index that has all in its graph, its rows, and queries that suit it."""
    index = VectorIndex(dimension=DIMENSION, distance=distance)
    index.payloads.set_fields([FieldIndex("n", "integer")], lambda *_: ())
    vectors, queries = VECTORS.copy(), QUERIES
    vectors[-SHARED:] = vectors[:SHARED]
    if distance == "Cosine":
        vectors, queries = unit(vectors), unit(queries)
    rows = [(n, 1, encode_id(n), vectors[n].tobytes()) for n in range(COUNT)]
    index.defer(0, rows, (), [b'{"n":%d}' % n for n in NUMBERS])
    while index.build(COUNT):
        pass
    return index, vectors, queries


@pytest.fixture(scope="module", params=DISTANCES)
def filled(request):
    return made(request.param)


def scores(distance, vectors, query):
    if distance == "Euclid":
        return np.linalg.norm(vectors.astype("f8") - query.astype("f8"), axis=1)
    return vectors.astype("f8") @ query.astype("f8")


def check(found, filled, passing):
    index, vectors, queries = filled
    distance = index.shape.distance
    for hits, query in zip(found, queries, strict=True):
        truth = scores(distance, vectors, query)
        seqs = [hit.seq for hit in hits]
        assert len(set(seqs)) == LIMIT
        assert passing[seqs].all()
        size = max(1e-3, float(np.linalg.norm(query)))
        assert [hit.score for hit in hits] == pytest.approx(truth[seqs], rel=1e-3, abs=1e-3 * size)
        order = np.argsort(truth if distance == "Euclid" else -truth)
        best = [n for n in order.tolist() if passing[n]][:LIMIT]
        assert len(set(best) & set(seqs)) >= LIMIT - 1


def test_a_call_answers_each_of_its_searches(filled, monkeypatch):
    """Nobody is asked for a second time."""
    index, _, queries = filled
    monkeypatch.delattr(index_search, "search")
    found = index.search_many(queries, LIMIT, unit=True)

    check(found, filled, np.ones(COUNT, dtype=np.bool_))


@pytest.mark.parametrize("below", [50, 90])
def test_a_call_answers_each_of_its_searches_within_a_filter(filled, below, monkeypatch):
    """What passes is looked for among the hits of each query."""
    index, _, queries = filled
    where = parse_filter({"must": {"key": "n", "range": {"lt": below}}})
    rows = ByPayload(index._state.payloads, where, None)
    monkeypatch.delattr(index_search, "search")
    found = index.filtered.many(queries, LIMIT, rows, unit=True)

    check(found, filled, below > NUMBERS)


@pytest.mark.parametrize("distance", DISTANCES)
def test_what_died_is_in_no_answer(distance):
    """A row that is gone makes room for the next one, for those that share a call, too."""
    filled = index, _, queries = made(distance)
    first = [hits[0] for hits in index.search_many(queries, LIMIT, unit=True)]
    passing = np.ones(COUNT, dtype=np.bool_)
    passing[[hit.seq for hit in first]] = False
    index.remove(0, sorted({hit.seq for hit in first}))

    check(index.search_many(queries, LIMIT, unit=True), filled, passing)
