"""The default beam width: as narrow as the queries that came allow, and no narrower."""

import numpy as np

from storage.beam_width import (
    DEFAULT_EF,
    GROWTH,
    NEIGHBOURS,
    ROWS_MIN,
    SAMPLE_EVERY,
    SAMPLES,
    TRUTH_WIDTH,
    WIDTHS,
    BeamWidth,
    is_enough,
)
from storage.ids import encode_id
from storage.vector_index import VectorIndex

QUERY = np.zeros(4, np.float32)


def filled(rows=ROWS_MIN):
    """Return a beam that has seen enough queries."""
    beam = BeamWidth()
    for _ in range(SAMPLES * SAMPLE_EVERY):
        beam.note(QUERY, rows)
    return beam


def finds(enough_at):
    """Return a search that finds all from a width on, and half of it below."""

    def search(_, width):
        count = NEIGHBOURS if width >= enough_at else NEIGHBOURS // 2
        return range(count)

    return search


def test_it_measures_once_there_are_enough_queries():
    """One query in so many is kept; a graph that is small, or was measured, is left alone."""
    beam = BeamWidth()
    due = [beam.note(QUERY, ROWS_MIN) for _ in range(SAMPLES * SAMPLE_EVERY)]

    assert due == [False] * (len(due) - 1) + [True]
    assert not beam.is_due(ROWS_MIN - 1)
    beam.measure(ROWS_MIN, finds(64))
    assert not beam.is_due(int(GROWTH * ROWS_MIN) - 1)
    assert beam.is_due(int(GROWTH * ROWS_MIN))


def test_the_narrowest_width_that_finds_enough_is_taken():
    """Easy data are searched quicker than by default, hard ones better."""
    for enough_at in (WIDTHS[0], 96, WIDTHS[-1]):
        beam = filled()
        assert beam.width == DEFAULT_EF
        beam.measure(ROWS_MIN, finds(enough_at))

        assert beam.width == enough_at


def test_when_nothing_is_enough_the_widest_is_taken():
    """There is an end to widening."""
    beam = filled()
    beam.measure(ROWS_MIN, finds(TRUTH_WIDTH))

    assert beam.width == WIDTHS[-1]


def test_where_nothing_is_left_to_find_nothing_is_learnt():
    """Rows that were all deleted meanwhile end no measurement with an error; it is made later."""
    beam = filled()
    beam.measure(ROWS_MIN, lambda _query, _width: [])

    assert beam.width == DEFAULT_EF
    assert beam.is_due(ROWS_MIN)


def test_a_sample_that_may_err_is_not_believed():
    """A mean above the target counts when it is by more than its error."""
    assert is_enough([1.0] * 60 + [0.9] * 4)
    assert not is_enough([1.0] * 62 + [0.1, 0.1])


def test_an_index_measures_itself_by_the_queries_that_come():
    """After enough searches of the default width an index is due once, and finds enough then."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(ROWS_MIN + 100, 8)).astype("<f4")
    index = VectorIndex(dimension=8, distance="Cosine", m=4, ef_construct=20, build_threads=2)
    index.upsert(0, [(n, 1, encode_id(n), row.tobytes()) for n, row in enumerate(rows)])
    while index.build(1000):
        pass
    queries = rng.normal(size=(SAMPLES * SAMPLE_EVERY, 8)).astype("<f4")
    assert not index.tune()
    index.search_many(queries[:-1], 10)
    index.search_many(queries, 10, ef=50)
    assert not index.tune()
    index.search_many(queries[-1:], 10)
    assert index.tune()
    assert not index.tune()

    found = index.search_many(queries[:200], 10)
    truth = index.search_many(queries[:200], 10, exact=True)
    recalls = [
        len({hit.seq for hit in some} & {hit.seq for hit in every}) / 10
        for some, every in zip(found, truth, strict=True)
    ]
    assert np.mean(recalls) > 0.95
