"""Segments of the fresh tail: when they are made, and that searches are never wrong for them."""

import random
import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import segments
from storage.fresh_tail import FreshTail, tail_keys
from storage.hnsw import Hnsw
from storage.index_state import IndexState, Shape
from storage.metric import Metric
from storage.row_intake import Arrival, take_in
from storage.segments import MERGED, ROWS_MAX, ROWS_MIN, Draft, Segment, next_stretch
from tests.unit.test_vector_index import (
    AgainstBruteForce,
    build,
    draw_vectors,
    make,
    row,
)


@pytest.fixture
def small(monkeypatch):
    """Let eight rows be enough for a segment."""
    monkeypatch.setattr(segments, "ROWS_MIN", 8)
    monkeypatch.setattr(segments, "_ROWS_PER_CALL", 5)


class WithSegments(AgainstBruteForce):
    """Any sequence of changes, with segments of a few rows."""

    def __init__(self):
        super().__init__()
        self.patched = pytest.MonkeyPatch()
        self.patched.setattr(segments, "ROWS_MIN", 8)
        self.patched.setattr(segments, "_ROWS_PER_CALL", 5)

    def teardown(self):  # type: ignore[explicit-override]
        """Give the sizes back."""
        self.patched.undo()


class WithSegmentsEuclid(WithSegments):
    """The same, in hnswlib's other space."""

    distance = "Euclid"


for machine in (WithSegments, WithSegmentsEuclid):
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)

TestWithSegments = WithSegments.TestCase
TestWithSegmentsEuclid = WithSegmentsEuclid.TestCase


def segments_of(*sizes, first=0):
    """Return segments side by side, without rows."""
    graph = Hnsw(Metric("Cosine", 2), m=8, ef_construct=60, seed=1)
    ends = np.cumsum([first, *sizes]).tolist()
    return [Segment(start, stop, graph, {}) for start, stop in pairwise(ends)]


@given(st.integers(0, 10**6))
def test_rows_that_nothing_covers_become_a_segment_first(bare):
    """When they are many, and not too many at once."""
    covered = segments_of(*[ROWS_MIN] * MERGED)
    end = covered[-1].last
    expected = (end, end + min(bare, ROWS_MAX)) if bare >= ROWS_MIN else (0, end)

    assert next_stretch(0, end + bare, covered) == expected
    assert next_stretch(end, end + bare, []) == (expected if bare >= ROWS_MIN else None)


@pytest.mark.parametrize(
    ("sizes", "merged"),
    [
        ([ROWS_MIN] * (MERGED - 1), None),
        ([ROWS_MIN] * MERGED, (0, MERGED)),
        ([ROWS_MAX] + [ROWS_MIN] * MERGED, (1, MERGED + 1)),
        ([ROWS_MAX] * 9 + [ROWS_MIN] * (MERGED - 1), None),
        ([ROWS_MIN] * (MERGED - 1) + [ROWS_MAX, ROWS_MIN], None),
    ],
)
def test_small_segments_side_by_side_become_one(sizes, merged):
    """Each costs every search a call; large ones stay as they are."""
    covered = segments_of(*sizes)
    expected = merged and (covered[merged[0]].first, covered[merged[1] - 1].last)

    assert next_stretch(0, covered[-1].last, covered) == expected


def test_rows_that_moved_are_not_taken_into_a_new_segment():
    """Nor do segments with a gap between them become one."""
    covered = segments_of(*[ROWS_MIN] * MERGED)
    used = covered[-1].last
    apart = [*covered[:-1], *segments_of(ROWS_MIN, first=used)]

    assert next_stretch(100, used, covered) == (100, used)
    assert next_stretch(0, used + ROWS_MIN, apart) is None


def test_a_segment_finds_its_living_rows_and_all_copies():
    """Equal vectors share a row of its graph; those that were dead are left out."""
    vectors = draw_vectors(200, seed=1)
    vectors[50:80] = vectors[7]
    alive = np.ones(200, dtype=np.bool_)
    alive[100:120] = False
    metric = Metric("Cosine", vectors.shape[1])
    draft = Draft(Hnsw(metric, m=8, ef_construct=60, seed=1), [vectors], alive, first=1000)
    assert draft.segment() is None
    while draft.step(64):
        pass
    segment = draft.segment()
    assert segment is not None

    assert (segment.first, segment.last, segment.graph.count) == (1000, 1200, 150)
    segment.validate(np.concatenate([np.zeros(1000, dtype=np.bool_), alive]))
    nearest = segment.graph.query(vectors[7], 1)
    assert nearest is not None
    slots, keys = segment.expand(*nearest)
    assert sorted(slots.tolist()) == [1007, *range(1050, 1080)]
    assert len(keys) == len(slots)


def covered(vectors, *, built=100):
    """Return an index whose first rows are in the graph, and the others in segments."""
    index = make(dimension=vectors.shape[1])
    index.upsert(0, [row(n, vectors[n]) for n in range(built)])
    while index.build(64):
        pass
    index.upsert(0, [row(n, vectors[n]) for n in range(built, len(vectors))])
    while index._state.segment_due:
        index.build(64)
    assert index._state.segments
    return index


@pytest.mark.usefixtures("small")
def test_a_segments_graph_has_room_from_the_start(monkeypatch):
    """To grow would stop every thread for as long as it takes."""
    monkeypatch.setattr(segments, "ROWS_MIN", 1100)
    vectors = draw_vectors(1100)
    state = IndexState(Shape(vectors.shape[1], "Cosine", 8, 60, 1))
    take_in(state, [Arrival(0, [row(seq, each) for seq, each in enumerate(vectors)])])

    draft = state.new_segment()
    assert draft is not None
    room = draft._graph._index.get_max_elements()
    draft.step(1100)
    segment = draft.segment()

    assert segment is not None
    assert segment.graph._index.get_max_elements() == room == 1100


def test_searches_find_the_rows_of_segments(monkeypatch):
    """As many of the true neighbours as without, and nothing is compared that a segment covers."""
    monkeypatch.setattr(segments, "ROWS_MIN", 500)
    vectors = draw_vectors(4000, dimension=24, seed=2)
    index = covered(vectors, built=2000)
    assert len(index._state.tail) - index._state.covered < 500
    queries = draw_vectors(100, dimension=24, seed=3)
    found = [index.search(query, 10) for query in queries]
    for size in (1, 7, 100):
        for start in range(0, 100, size):
            together = index.search_many(queries[start : start + size], 10)
            alone = found[start : start + size]
            assert [[hit.seq for hit in hits] for hits in together] == [
                [hit.seq for hit in hits] for hits in alone
            ]

    truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    true = sum(
        len({hit.seq for hit in hits} & set(nearest))
        for hits, nearest in zip(found, truth.tolist(), strict=True)
    )
    assert true / 1000 >= 0.95
    build(index)
    assert not index._state.segments


@pytest.mark.usefixtures("small")
def test_a_segment_with_many_of_the_nearest_is_searched_as_wide_as_the_graph(monkeypatch):
    """A narrow search would miss some where all that is near came lately."""
    monkeypatch.setattr(segments, "ROWS_MIN", 2000)
    vectors = draw_vectors(2100, dimension=24, seed=4)
    near = draw_vectors(1, dimension=24, seed=5)[0]
    vectors[100:] = vectors[100:] * 0.6 + near
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = covered(vectors.astype("<f4"))
    queries = draw_vectors(50, dimension=24, seed=6) * 0.6 + near
    truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :10].tolist()

    found = [{hit.seq for hit in index.search(query, 10)} for query in queries]

    assert sum(len(f & set(t)) for f, t in zip(found, truth, strict=True)) >= 480


@pytest.mark.usefixtures("small")
def test_dead_rows_of_segments_never_hide_living_ones():
    """Where nearly all that a segment finds is dead, its rows are compared."""
    vectors = draw_vectors(400, seed=7)
    index = covered(vectors)
    order = np.argsort(-(vectors @ vectors[0]))
    dead = [seq for seq in order[:300].tolist() if seq != 399]
    index.remove(0, dead)
    left = [seq for seq in order.tolist() if seq not in set(dead)]

    assert [hit.seq for hit in index.search(vectors[0], 5)] == left[:5]
    assert len(index.search(vectors[0], 500)) == len(left)
    index.drop_shard(0)
    assert index.search(vectors[0], 5) == []
    build(index)


@pytest.mark.usefixtures("small")
def test_a_rebuild_keeps_segments():
    """Slots get other numbers; what was built for the tail's rows is not built again."""
    vectors = draw_vectors(400, seed=8)
    index = covered(vectors, built=370)
    before = index._state.segments
    index.remove(0, range(160))
    while not index._builder.rebuilding:
        assert index.build(20)
    while index._builder.rebuilding:
        index.build(20)
    after = index._state.segments

    assert [each.graph for each in after] == [each.graph for each in before]
    assert after[0].first == index._state.built
    index.validate()
    assert len(index.search(vectors[5], 500)) == 240
    build(index)


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid", "Manhattan"])
def test_rows_are_compared_with_many_queries_as_with_one(monkeypatch, distance):
    """In pieces of whatever size, over blocks of the tail or parts of these."""
    monkeypatch.setattr("storage.metric._PRODUCT_BYTES", 4 * 6 * 7)
    monkeypatch.setattr("storage.metric._CACHED_BYTES", 4 * 6 * 5)
    monkeypatch.setattr("storage.fresh_tail._BLOCK_ROWS_MAX", 30)
    vectors, queries = draw_vectors(100, "Dot", seed=1), draw_vectors(4, "Dot", seed=2)
    metric, tail = Metric(distance, vectors.shape[1]), FreshTail(vectors.shape[1])
    tail.append(vectors)
    tail.drop(8)
    for first, last in ((0, 92), (0, 0), (22, 52), (23, 24), (30, 91)):
        views = tail.views(first, last)
        rows = vectors[8 + first : 8 + last]
        assert np.array_equal(np.concatenate([vectors[:0], *views]), rows)
        together = tail_keys(metric, views, queries)
        for query, keys in zip(queries, together, strict=True):
            alone = tail_keys(metric, views, query.reshape(1, -1))[0]
            np.testing.assert_allclose(keys, alone, rtol=1e-5, atol=1e-6)
            expected = np.empty(len(rows), dtype=np.float32)
            for at in range(len(rows)):
                metric.keys(rows[at : at + 1], query, expected[at : at + 1])
            np.testing.assert_allclose(keys, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("small")
def test_filters_and_exact_searches_compare_the_tail():
    """What is not a search of everything knows nothing of segments."""
    vectors = draw_vectors(300, seed=9)
    index = covered(vectors)
    order = np.argsort(-(vectors @ vectors[0])).tolist()

    assert [hit.seq for hit in index.search(vectors[0], 20, exact=True)] == order[:20]
    odd = [seq for seq in order if seq % 2]
    hits = index.search(vectors[0], 20, allowed={0: np.array(odd)})
    assert [hit.seq for hit in hits] == odd[:20]
    assert index.search(vectors[0], 20, shards=[1]) == []
    assert [hit.seq for hit in index.search(vectors[0], 300, shards=[0])] == order


@pytest.mark.usefixtures("small")
def test_searches_while_segments_come_and_go():
    """Searches beside writes, segments, moves into the graph and rebuilds see every stable row."""
    clock = iter(range(10**9))
    index = make(clock=lambda: next(clock) * 1e-6)
    stable = draw_vectors(600, seed=22)
    moving = draw_vectors(600, seed=23)
    failures: list[str] = []
    done = threading.Event()
    index.upsert(0, [row(n, stable[n]) for n in range(300)])

    def search(seed):
        chance = random.Random(seed)
        while not done.is_set():
            target = chance.randrange(300)
            try:
                for hits in (index.search(stable[target], 5), *index.search_many(stable[:3], 5)):
                    rows = [(hit.shard, hit.seq) for hit in hits]
                    assert len(rows) == len(set(rows)) == 5
                assert index.search(stable[target], 1)[0][:2] == (0, target)
            except Exception as error:  # noqa: BLE001
                failures.append(repr(error))
                return

    def build_all():
        while not done.is_set():
            index.build(16)

    workers = [threading.Thread(target=search, args=(n,)) for n in range(3)]
    workers.append(threading.Thread(target=build_all))
    for worker in workers:
        worker.start()
    for version in range(2, 25):
        seqs = range(version % 3, 600, version)
        index.upsert(1, [row(n, moving[n], version) for n in seqs])
        index.remove(1, range(0, 600, version + 1))
    done.set()
    for worker in workers:
        worker.join()

    assert failures == []
    index.validate()
    build(index)


@pytest.mark.usefixtures("small")
def test_nobody_searches_and_no_segment_is_made():
    """Then rows go straight into the graph; a segment that was begun is given up."""
    now = [0.0]
    index = make(clock=lambda: now[0])
    vectors = draw_vectors(100, seed=10)
    index.upsert(0, [row(n, vectors[n]) for n in range(100)])
    index.search(vectors[0], 1)
    index.build(5)
    assert index._builder._drafts

    now[0] += 2.0
    index.build(8)
    assert index._builder._drafts, "somebody may search again soon"
    index.build(8)

    assert not index._builder._drafts, "the graph has its first rows"
    assert index.stats().graph > 0
    assert not index._state.segments
    build(index)


def until_covered(index):
    """Build until there is a segment."""
    while not index._state.segments:
        index.build(10)


@pytest.mark.usefixtures("small")
def test_a_segment_that_could_not_grow_is_begun_anew(monkeypatch):
    """Rows that it lacks would be found by nobody."""
    real, failures = Hnsw.add, [MemoryError("the graph could not grow")]

    def add(graph, rows, slots, *, threads=1):
        if slots[0] >= 30 and failures:
            raise failures.pop()
        real(graph, rows, slots, threads=threads)

    monkeypatch.setattr(Hnsw, "add", add)
    index = make(clock=lambda: 0.0)
    vectors = draw_vectors(100, seed=12)
    index.upsert(0, [row(n, vectors[n]) for n in range(100)])
    index.search(vectors[0], 1)
    with pytest.raises(MemoryError):
        until_covered(index)
    until_covered(index)

    index.validate()
    assert all(index.search(vectors[n], 1)[0].seq == n for n in range(100))


def test_segments_have_a_bounded_share_of_memory():
    """Rows beyond are compared; what has moved into the large graph makes room again."""
    covered = segments_of(ROWS_MAX, ROWS_MIN)
    used = covered[-1].last + 10 * ROWS_MAX
    most = ROWS_MAX + 3 * ROWS_MIN

    assert next_stretch(0, used, covered, most) == (
        covered[-1].last,
        covered[-1].last + 2 * ROWS_MIN,
    )
    assert next_stretch(0, used, covered, ROWS_MAX + 2 * ROWS_MIN - 1) is None
    assert next_stretch(ROWS_MAX, used, covered, ROWS_MAX) is not None


@pytest.mark.usefixtures("small")
def test_rows_that_all_died_are_not_compared(monkeypatch):
    """Nor does a segment that has lost many of its rows fall back to comparing the rest."""
    index = make(clock=lambda: 0.0)
    vectors = draw_vectors(600, seed=13)
    index.upsert(0, [row(n, vectors[n]) for n in range(200)])
    while index.tail_size:
        index.build(64)
    index.search(vectors[0], 1)
    index.upsert(0, [row(n, vectors[n]) for n in range(200, 600)])
    while index._state.segment_due or index._builder._drafts:
        index.build(64)
    index.remove(0, [n for n in range(200, 600) if n < 300 or n % 3])
    compared = []
    real = Metric.keys_many

    def keys_many(metric, rows, queries, out):
        compared.append(len(rows))
        real(metric, rows, queries, out)

    monkeypatch.setattr(Metric, "keys_many", keys_many)
    for limit in (1, 10, 30):
        hits = index.search(vectors[450], limit)
        assert len(hits) == limit
        assert hits[0].seq == 450

    assert sum(compared) == 0
