"""The default beam width: as narrow as the queries that came allow, and no narrower."""

import itertools

import numpy as np

from storage.beam_width import (
    DEFAULT_EF,
    EARLY_ROUNDS,
    GROWTH,
    NEIGHBOURS,
    RECALL_MIN,
    ROUNDS,
    ROWS_MIN,
    SAMPLE_EVERY,
    SAMPLE_LATER_EVERY,
    SAMPLES,
    TRUTH_WIDTH,
    WIDTHS,
    BeamWidth,
    Recalls,
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


def for_each(search):
    """Return a search of several queries."""
    return lambda queries, width: [search(query, width) for query in queries]


def finds(enough_at):
    """Return a search that finds all from a width on, and half of it below."""

    def search(_, width):
        count = NEIGHBOURS if width >= enough_at else NEIGHBOURS // 2
        return range(count)

    return for_each(search)


def see(beam, rows):
    """Let a beam see the queries of a round, which are more in a later one; return what it said."""
    said = [beam.note(QUERY, rows) for _ in range(SAMPLES * SAMPLE_EVERY)]
    while len(said) < SAMPLES * SAMPLE_LATER_EVERY and not said[-1]:
        said.append(beam.note(QUERY, rows))
    return said


def test_it_measures_when_there_are_enough_queries():
    """One query in so many is kept; a graph that is small, or known well, is left alone."""
    beam = BeamWidth()
    assert not any(see(beam, ROWS_MIN - 1))
    for number in range(ROUNDS):
        due = see(beam, ROWS_MIN)
        assert due == [False] * (len(due) - 1) + [True]
        every = SAMPLE_EVERY if number < EARLY_ROUNDS else SAMPLE_LATER_EVERY
        assert len(due) == SAMPLES * every
        assert not beam.is_due(ROWS_MIN - 1)
        beam.measure(ROWS_MIN, finds(64))

    assert not any(see(beam, int(GROWTH * ROWS_MIN) - 1))
    assert see(beam, int(GROWTH * ROWS_MIN))[-1]


def test_a_graph_that_has_grown_is_measured_anew():
    """What was found in the smaller one counts no more, and the width may rise at once."""
    beam = filled()
    beam.measure(ROWS_MIN, finds(64))
    see(beam, 2 * ROWS_MIN)
    beam.measure(2 * ROWS_MIN, finds(WIDTHS[0]))
    assert beam.width == WIDTHS[0]
    see(beam, 4 * ROWS_MIN)
    beam.measure(4 * ROWS_MIN, finds(256))

    assert beam.width == 256


def test_rounds_add_up():
    """What one round could not tell for its error, several can."""
    asked = itertools.count(1)

    def search(_, width):
        """Find nothing for one query of 42 with a width of 64: a mean of 0.976."""
        if width < 64 or (width == 64 and next(asked) % 42 == 0):
            return []
        return range(NEIGHBOURS)

    beam = filled()
    beam.measure(ROWS_MIN, for_each(search))
    assert beam.width == 68
    for _ in range(ROUNDS - 1):
        see(beam, ROWS_MIN)
        beam.measure(ROWS_MIN, for_each(search))

    assert beam.width == 64


def test_queries_that_nobody_measures_are_not_kept():
    """Memory for samples is bounded, whatever the builder is busy with."""
    beam = BeamWidth()
    for _ in range(2):
        see(beam, ROWS_MIN)

    assert not beam.note(QUERY, ROWS_MIN)
    beam.measure(ROWS_MIN, finds(64))
    assert not beam.is_due(ROWS_MIN)


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
    beam.measure(ROWS_MIN, for_each(lambda _query, _width: []))

    assert beam.width == DEFAULT_EF
    assert see(beam, ROWS_MIN)[-1]


def test_a_sample_that_may_err_is_not_believed():
    """A mean above the target counts when it is by more than its error."""
    assert Recalls().plus([1.0] * 60 + [0.9] * 4).are_enough
    assert not Recalls().plus([1.0] * 62).plus([0.1, 0.1]).are_enough


def test_few_queries_have_to_find_more():
    """The first rounds look at many widths: one of these is lucky more often than each alone."""
    shares = [1.0] * 74 + [0.9] * 26
    few = Recalls().plus(shares * 3)
    assert few.mean > RECALL_MIN
    assert not few.are_enough

    assert few.plus(shares * 8).are_enough


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
    more = enumerate(rng.normal(size=(300, 8)).astype("<f4"), len(rows))
    index.upsert(0, [(n, 1, encode_id(n), row.tobytes()) for n, row in more])
    assert not index.tune(), "rows that pour in come first"
    while index.build(1000):
        pass
    assert index.tune()
    assert not index.tune()
    for _ in range(EARLY_ROUNDS - 1):
        index.search_many(queries, 10)
        assert index.tune()
    index.search_many(queries, 10)
    assert not index.tune(), "later rounds take more queries"

    found = index.search_many(queries[:200], 10)
    truth = index.search_many(queries[:200], 10, exact=True)
    recalls = [
        len({hit.seq for hit in some} & {hit.seq for hit in every}) / 10
        for some, every in zip(found, truth, strict=True)
    ]
    assert np.mean(recalls) > 0.95
