"""The vector index against brute force: what is searchable, in which order, and never short."""

import gc
import math
import random
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from storage.copies import digests_of
from storage.hnsw import Hnsw
from storage.ids import encode_id, key_bytes, keyed_id
from storage.vector_index import VectorIndex

DIMENSION = 6
DISTANCES = ["Cosine", "Euclid", "Dot", "Manhattan"]


def make(distance="Cosine", dimension=DIMENSION, **options):
    """Return a small index."""
    return VectorIndex(dimension=dimension, distance=distance, m=8, ef_construct=60, **options)


def draw_vectors(count, distance="Cosine", dimension=DIMENSION, seed=0):
    """Return float32[count, dimension], of unit norm for Cosine."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype("<f4")
    if distance == "Cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def row(seq, vector, version=1):
    """Return a row as the store would give it."""
    return (seq, version, encode_id(seq), np.asarray(vector, "<f4").tobytes())


def build(index):
    """Empty the tail."""
    while index.build(64):
        pass
    index.validate()


def true_scores(vectors, query, distance):
    """Return the score of each row, in float64."""
    wide, query = vectors.astype(np.float64), np.asarray(query, dtype=np.float64)
    if distance == "Euclid":
        return np.sqrt(((wide - query) ** 2).sum(axis=1))
    if distance == "Manhattan":
        return np.abs(wide - query).sum(axis=1)
    if distance == "Cosine":
        query = query / np.linalg.norm(query)
    return wide @ query


def best(vectors, query, distance, limit):
    """Return the scores of the nearest rows, best first."""
    scores = true_scores(vectors, query, distance)
    ordered = np.sort(scores) if distance in {"Euclid", "Manhattan"} else -np.sort(-scores)
    return ordered[:limit]


def scores_of(hits):
    """Return the hits' scores."""
    return np.array([hit.score for hit in hits])


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("built", [0, 150, 300])
def test_every_distance_is_brute_force(distance, built):
    """Exact search gives the true scores in the true order, wherever the rows are."""
    vectors = draw_vectors(300, distance)
    index = make(distance)
    for start in (0, 150):
        index.upsert(1, [row(n, vectors[n]) for n in range(start, start + 150)])
        if start < built:
            build(index)
    for query in draw_vectors(10, "Dot", seed=1) * 3:
        for exact, ef in ((True, None), (False, 300)):
            hits = index.search(query, 12, exact=exact, ef=ef)

            np.testing.assert_allclose(
                scores_of(hits), best(vectors, query, distance, 12), rtol=2e-5, atol=2e-6
            )
            for hit in hits:
                assert (hit.shard, hit.version, hit.id) == (1, 1, encode_id(hit.seq))
                expected = true_scores(vectors[hit.seq : hit.seq + 1], query, distance)[0]
                assert math.isclose(hit.score, expected, rel_tol=2e-5, abs_tol=2e-6)


def test_recall_of_the_default():
    """The default beam finds nearly all of the true neighbours, mixed with a fresh tail."""
    vectors = draw_vectors(4000, dimension=24, seed=2)
    index = make(dimension=24)
    index.upsert(0, [row(n, vectors[n]) for n in range(3500)])
    build(index)
    index.upsert(0, [row(n, vectors[n]) for n in range(3500, 4000)])
    queries = draw_vectors(100, dimension=24, seed=3)
    found = 0
    for query in queries:
        truth = set(np.argsort(-(vectors @ query))[:10].tolist())
        found += len(truth & {hit.seq for hit in index.search(query, 10)})

    assert found / 1000 >= 0.95


class AgainstBruteForce(RuleBasedStateMachine):
    """Any sequence of changes leaves an index that agrees with a dictionary of its rows."""

    distance = "Cosine"

    def __init__(self):
        super().__init__()
        self.index = make(self.distance)
        self.rows = {}
        self.version = 0

    @rule(
        shard=st.integers(0, 2),
        seqs=st.lists(st.integers(0, 40), min_size=1, max_size=12),
        seed=st.integers(0, 5),
    )
    def upsert(self, shard, seqs, seed):
        """Write rows, some of them again, perhaps twice in one batch."""
        self.version += 1
        vectors = draw_vectors(len(seqs), self.distance, seed=seed)
        batch = [row(seq, vectors[n], self.version) for n, seq in enumerate(seqs)]
        self.index.upsert(shard, batch)
        for n, seq in enumerate(seqs):
            self.rows[shard, seq] = (self.version, vectors[n])

    @rule(shard=st.integers(0, 2), seq=st.integers(0, 40))
    def upsert_older(self, shard, seq):
        """Offer a row that is not newer than what is there."""
        if (shard, seq) in self.rows:
            version = self.rows[shard, seq][0]
            self.index.upsert(shard, [row(seq, draw_vectors(1, seed=9)[0], version)])

    @rule(shard=st.integers(0, 2), seqs=st.lists(st.integers(0, 40), max_size=20))
    def remove(self, shard, seqs):
        """Remove rows, some of them absent."""
        self.index.remove(shard, seqs)
        for seq in seqs:
            self.rows.pop((shard, seq), None)

    @rule(shard=st.integers(0, 2))
    def drop_shard(self, shard):
        """Remove a whole shard."""
        self.index.drop_shard(shard)
        self.rows = {key: value for key, value in self.rows.items() if key[0] != shard}

    @rule(limit=st.integers(1, 30))
    def build(self, limit):
        """Move some rows into the graph, or rebuild a bit."""
        self.index.build(limit)

    @rule(
        limit=st.integers(1, 50),
        seed=st.integers(10, 13),
        shards=st.none() | st.sets(st.integers(0, 3)),
        allowed=st.none() | st.sets(st.tuples(st.integers(0, 3), st.integers(0, 45))),
        exact=st.booleans(),
    )
    def search(self, limit, seed, shards, allowed, exact):
        """Search, restricted or not, and compare with sorting all rows."""
        query = draw_vectors(1, self.distance, seed=seed)[0]
        admitted = {
            key: value
            for key, value in self.rows.items()
            if (shards is None or key[0] in shards) and (allowed is None or key in allowed)
        }
        by_shard = None
        if allowed is not None:
            by_shard = {
                shard: np.array([seq for owner, seq in allowed if owner == shard], dtype=np.int64)
                for shard in range(4)
            }

        hits = self.index.search(query, limit, shards=shards, allowed=by_shard, exact=exact)

        assert len(hits) == min(limit, len(admitted))
        assert len({(hit.shard, hit.seq) for hit in hits}) == len(hits)
        for hit in hits:
            version, vector = admitted[hit.shard, hit.seq]
            assert (hit.version, hit.id) == (version, encode_id(hit.seq))
            expected = true_scores(vector.reshape(1, -1), query, self.distance)[0]
            assert math.isclose(hit.score, expected, rel_tol=1e-4, abs_tol=1e-5)
        if hits:
            vectors = np.stack([vector for _, vector in admitted.values()])
            truth = best(vectors, query, self.distance, limit)
            np.testing.assert_allclose(scores_of(hits), truth, rtol=1e-4, atol=1e-5)

    @invariant()
    def agrees(self):
        """The index has the rows of the dictionary, and its invariants hold."""
        self.index.validate()
        found = {
            (shard, seq): version
            for shard in self.index.shards()
            for seq, version in zip(*map(np.ndarray.tolist, self.index.keys(shard)), strict=True)
        }
        assert found == {key: version for key, (version, _) in self.rows.items()}
        assert self.index.size == len(self.rows)


class AgainstBruteForceEuclid(AgainstBruteForce):
    """The same, in hnswlib's other space."""

    distance = "Euclid"


class AgainstBruteForceManhattan(AgainstBruteForce):
    """The same, without a graph."""

    distance = "Manhattan"


for machine in (AgainstBruteForce, AgainstBruteForceEuclid, AgainstBruteForceManhattan):
    machine.TestCase.settings = settings(max_examples=40, stateful_step_count=25)

TestAgainstBruteForce = AgainstBruteForce.TestCase
TestAgainstBruteForceEuclid = AgainstBruteForceEuclid.TestCase
TestAgainstBruteForceManhattan = AgainstBruteForceManhattan.TestCase


def test_empty_index():
    """An index without rows answers with nothing, before and after it had some."""
    index = make()
    query = draw_vectors(1)[0]

    assert index.search(query, 10) == []
    assert index.search(query, 10, exact=True, shards=[1], allowed={1: np.array([5])}) == []
    assert index.search_many(np.stack([query, query]), 10) == [[], []]
    assert index.build(10) == 0
    index.upsert(0, [row(n, draw_vectors(9)[n]) for n in range(9)])
    build(index)
    index.drop_shard(0)
    assert index.search(query, 10) == []
    build(index)
    assert index.search(query, 10) == []
    assert index.stats() == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("built", [False, True])
def test_more_asked_than_there_is(built):
    """A limit above the number of rows gives all rows."""
    index = make()
    index.upsert(0, [row(n, draw_vectors(30)[n]) for n in range(30)])
    if built:
        build(index)

    for limit in (29, 30, 31, 10_000):
        hits = index.search(draw_vectors(1, seed=5)[0], limit)
        assert len({hit.seq for hit in hits}) == len(hits) == min(limit, 30)


@pytest.mark.parametrize("part", [1, 3, 10, 100, 1000, 2900])
@pytest.mark.parametrize("near", [True, False])
def test_filters_are_never_short(part, near):
    """However few rows pass, and however far they are, a search gives as many as asked."""
    vectors = draw_vectors(3000, seed=4)
    index = make()
    index.upsert(0, [row(n, vectors[n]) for n in range(2950)])
    build(index)
    index.upsert(0, [row(n, vectors[n]) for n in range(2950, 3000)])
    query = draw_vectors(1, seed=6)[0]
    order = np.argsort(-(vectors @ query))
    seqs = order[:part] if near else order[-part:]

    for limit in (1, 10, 200):
        hits = index.search(query, limit, allowed={0: seqs})

        assert len(hits) == min(limit, part)
        assert {hit.seq for hit in hits} <= set(seqs.tolist())
        truth = best(vectors[seqs], query, "Cosine", limit)
        missed = np.count_nonzero(np.abs(scores_of(hits) - truth) > 1e-5)
        assert missed <= 0.2 * len(hits)


def test_equal_vectors_are_all_found():
    """Thousands of equal vectors would tear the graph apart; here they share a row of it."""
    vectors = np.concatenate([np.repeat(draw_vectors(1, seed=8), 1500, axis=0), draw_vectors(1500)])
    index = make()
    index.upsert(0, [row(n, vectors[n]) for n in range(3000)])
    build(index)

    assert index.stats().graph == 1501
    truth = [set(np.argsort(-(vectors[1500:] @ query))[:10] + 1500) for query in vectors[1500:1600]]
    rest = {0: np.arange(1500, 3000)}
    found = [{hit.seq for hit in index.search(query, 10)} for query in vectors[1500:1600]]
    found_in_rest = [
        {hit.seq for hit in index.search(query, 10, allowed=rest)} for query in vectors[1500:1600]
    ]
    assert sum(len(a & b) for a, b in zip(truth, found_in_rest, strict=True)) >= 950
    assert sum(seq in hits for seq, hits in zip(range(1500, 1600), found, strict=True)) >= 98
    for query in (vectors[0], vectors[2000]):
        assert len(index.search(query, 2000)) == 2000
        hits = index.search(query, 50, exact=True)
        np.testing.assert_allclose(scores_of(hits), best(vectors, query, "Cosine", 50), atol=1e-5)
        far = index.search(query, 5, allowed={0: np.arange(2990, 3000)})
        assert len(far) == 5
        assert len(index.search(query, 3000, exact=True)) == 3000


def test_slots_are_never_reused():
    """A row that is written again and again has one hit, the newest, and no slot comes back."""
    index = make()
    vectors = draw_vectors(50, seed=11)
    for version in range(1, 50):
        given_out = index.stats().slots
        index.upsert(0, [row(7, vectors[version], version), row(100 + version, vectors[0])])
        assert index.stats().slots == given_out + 2
        index.build(3 if version % 2 else 1)
        (newest,) = [hit for hit in index.search(vectors[version], 100) if hit.seq == 7]
        assert newest.version == version
        index.validate()


def test_garbage_leads_to_a_rebuild():
    """At three dead rows in ten the graph is rebuilt, while everything stays searchable."""
    index = make()
    vectors = draw_vectors(200, seed=12)
    index.upsert(0, [row(n, vectors[n]) for n in range(200)])
    build(index)
    index.remove(0, range(59))
    assert index.build(100) == 0
    assert index.garbage == pytest.approx(0.295)
    index.remove(0, [59])

    assert index.has_work
    moved = index.build(50)
    index.upsert(0, [row(300, vectors[0]), row(199, vectors[1], 2)])
    index.remove(0, [60, 61])
    assert moved == 50
    assert [hit.seq for hit in index.search(vectors[0], 1)] == [300]
    build(index)

    assert not index.has_work
    assert index.stats()[:4] == (139, 0, 142, 3)
    assert index.garbage < 0.05
    assert [(hit.seq, hit.version) for hit in index.search(vectors[1], 1)] == [(199, 2)]
    assert {hit.seq for hit in index.search(vectors[5], 500)} == {*range(62, 200), 300}


def test_updates_before_building_leave_no_garbage():
    """Rows that die in the tail never reach the graph."""
    index = make()
    vectors = draw_vectors(20, seed=13)
    for version in range(1, 21):
        index.upsert(0, [row(1, vectors[version - 1], version)])
    build(index)

    assert index.stats() == (1, 0, 1, 0, 20)


def test_an_unchanged_vector_is_not_built_again():
    """A new version with the old vector costs no row of the graph, and is the one that is found."""
    index = make()
    vectors = draw_vectors(50, seed=24)
    index.upsert(0, [row(n, vectors[n]) for n in range(50)])
    build(index)
    for version in range(2, 300):
        index.upsert(0, [row(7, vectors[7], version), row(n := version % 50, vectors[n], version)])
        index.build(5)
        (hit,) = index.search(vectors[7], 1)
        assert (hit.seq, hit.version) == (7, version)
    index.validate()

    assert index.stats()[:4] == (50, 0, 50, 0)
    index.upsert(0, [row(n, vectors[n], 300) for n in range(50)])
    assert index.stats().graph_dead == 50, "until the new versions take their places"
    build(index)
    assert index.stats()[:4] == (50, 0, 50, 0)
    index.remove(0, [7])
    assert index.stats().graph_dead == 1
    index.upsert(1, [row(7, vectors[7])])
    build(index)
    assert index.stats()[:4] == (50, 0, 50, 0)


def test_vectors_of_one_digest_are_told_apart():
    """Digests only say where to look: a different vector is never taken for an equal one."""
    index = make()
    first, second = draw_vectors(2, seed=25)
    index.upsert(0, [row(1, first)])
    build(index)
    index._state.copies.known.add(digests_of(second.reshape(1, -1))[0], 0)
    index.upsert(0, [row(2, second)])
    build(index)

    assert index.stats().graph == 2
    (hit,) = index.search(second, 1)
    assert hit.seq == 2
    assert math.isclose(hit.score, 1, rel_tol=1e-5)


def test_search_many_is_search():
    """Several vectors at once give what each gives alone, with and without a tail."""
    index = make()
    vectors = draw_vectors(500, seed=14)
    queries = draw_vectors(20, seed=15)
    for first, last in ((0, 400), (400, 500)):
        index.upsert(1, [row(n, vectors[n]) for n in range(first, last)])
        for ef, exact in ((None, False), (5, False), (400, False), (None, True)):
            together = index.search_many(queries, 10, ef=ef, exact=exact)
            assert together == [index.search(query, 10, ef=ef, exact=exact) for query in queries]
        if last == 400:
            build(index)
    assert index.search_many(queries[:0], 10) == []


def test_ids_come_back_as_they_are():
    """Integer and UUID ids keep their canonical bytes, zeros at the end too."""
    index = make()
    vectors = draw_vectors(4, seed=16)
    ids = [encode_id(0), encode_id(2**64 - 1), encode_id(256), encode_id("f" * 30 + "00")]
    index.upsert(0, [(n, 1, point_id, vectors[n].tobytes()) for n, point_id in enumerate(ids)])

    found = {hit.seq: hit.id for hit in index.search(vectors[0], 10)}

    assert [found[n] for n in range(4)] == ids


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(DIMENSION + 1, "<f4"),
        np.zeros(DIMENSION - 1, "<f4"),
        np.full(DIMENSION, np.nan, "<f4"),
        np.full(DIMENSION, np.inf, "<f4"),
        np.array([1, 2, -np.inf, 3, 4, 5], "<f4"),
    ],
)
def test_bad_vectors_are_refused_whole(bad):
    """One bad row refuses its batch, and nothing of it is applied; a bad query is refused too."""
    index = make("Dot")
    good = draw_vectors(1)[0]

    with pytest.raises(ValueError, match="row 1"):
        index.upsert(0, [row(1, good), row(2, bad)])
    with pytest.raises(ValueError, match=r"shape|finite"):
        index.search(bad, 5)
    assert index.size == 0
    index.validate()


@pytest.mark.parametrize("seq", [-1, 2**36])
def test_bad_rows_are_refused(seq):
    """Sequence numbers out of range and ids that are not canonical are refused."""
    index = make()
    vector = draw_vectors(1)[0].tobytes()

    with pytest.raises(ValueError, match="sequence number"):
        index.upsert(0, [(seq, 1, encode_id(1), vector)])
    with pytest.raises(ValueError, match="id"):
        index.upsert(0, [(1, 1, b"\x01", vector)])
    assert index.size == 0


def test_bad_arguments_are_refused():
    """Parameters that hnswlib does not check are checked here."""
    index = make()
    query = draw_vectors(1)[0]

    with pytest.raises(ValueError, match="limit"):
        index.search(query, 0)
    with pytest.raises(ValueError, match="ef"):
        index.search(query, 1, ef=0)
    with pytest.raises(ValueError, match="norm zero"):
        index.search(np.zeros(DIMENSION, np.float32), 1)
    with pytest.raises(ValueError, match="finite"):
        index.search([1e39] * DIMENSION, 1)
    usual: dict[str, Any] = {"dimension": 4, "distance": "Dot"}
    refused: list[dict[str, Any]] = [
        {"m": 1},
        {"m": 10_000},
        {"ef_construct": 0},
        {"dimension": 0},
    ]
    for options in refused:
        with pytest.raises(ValueError, match=next(iter(options))):
            VectorIndex(**(usual | options))


@pytest.mark.parametrize("distance", DISTANCES)
def test_huge_vectors_do_not_poison(distance):
    """Elements near the end of float32 give finite scores and leave the others findable."""
    vectors = draw_vectors(200, distance, seed=17)
    index = make(distance)
    index.upsert(0, [row(n, vectors[n]) for n in range(200)])
    if distance != "Cosine":  # whose rows are of unit length
        huge = np.resize(np.array([3e38, -3e38], "<f4"), DIMENSION)
        index.upsert(0, [row(200, huge), row(201, -huge), row(202, np.full(DIMENSION, 3e38))])
    build(index)

    for query in (np.full(DIMENSION, 3e38, np.float32), np.full(DIMENSION, 1e-30, np.float32)):
        assert all(map(math.isfinite, scores_of(index.search(query, 300))))
    hits = index.search(vectors[5], 20, allowed={0: np.arange(200)})
    np.testing.assert_allclose(
        scores_of(hits)[:5], best(vectors, vectors[5], distance, 5), rtol=1e-4, atol=1e-5
    )


@given(st.integers(-30, 30))
def test_dot_is_precise_at_any_scale(exponent):
    """A query's length scales its scores and changes nothing else."""
    vectors = draw_vectors(50, "Dot", seed=18)
    index = make("Dot")
    index.upsert(0, [row(n, vectors[n]) for n in range(50)])
    build(index)
    query = vectors[3] * np.float32(10.0**exponent)

    hits = index.search(query, 10)

    np.testing.assert_allclose(scores_of(hits), best(vectors, query, "Dot", 10), rtol=1e-5)


def test_same_calls_give_the_same_index():
    """Without a clock building is deterministic, so that a simulation can be replayed."""
    vectors = draw_vectors(300, seed=19)
    answers = []
    for _ in range(2):
        index = make()
        for start in range(0, 300, 50):
            index.upsert(0, [row(n, vectors[n]) for n in range(start, start + 50)])
            index.build(30)
            index.remove(0, [start])
        answers.append([index.search(query, 20, ef=20) for query in draw_vectors(30, seed=20)])

    assert answers[0] == answers[1]


@pytest.mark.parametrize("threads", [1, 2])
def test_builder_with_a_clock(threads):
    """Holds sized by time, and several threads, build the same set of rows."""
    ticks = iter(range(10**9))
    index = make(clock=lambda: next(ticks) * 1e-4, build_threads=threads)
    vectors = draw_vectors(500, seed=21)
    index.upsert(0, [row(n, vectors[n]) for n in range(500)])
    build(index)

    assert index.tail_size == 0
    assert len(index.search(vectors[0], 500)) == 500


class SlowGraph:
    """Stands before the graph's `add`: a row takes 0.2 ms of the clock, which stands still else."""

    def __init__(self, monkeypatch):
        self.now_s, self.added = 0.0, list[int]()
        real = Hnsw.add

        def add(graph, rows, slots, *, threads=1):
            self.added.append(len(rows))
            self.now_s += 2e-4 * len(rows)
            real(graph, rows, slots, threads=threads)

        monkeypatch.setattr(Hnsw, "add", add)

    def batches(self, index, numbers, vectors):
        """Build more rows; return how many were added at a time."""
        self.added.clear()
        index.upsert(0, [row(n, vectors[n]) for n in numbers])
        build(index)
        return list(self.added)


def test_the_builder_takes_more_at_a_time_when_nobody_searches(monkeypatch):
    """What surrounds a batch is paid less often; a search makes batches small again."""
    slow = SlowGraph(monkeypatch)
    index = make(clock=lambda: slow.now_s)
    vectors = draw_vectors(900, seed=24)
    slow.batches(index, range(300), vectors)  # now it knows what a row takes
    slow.now_s += 2.0
    quiet = slow.batches(index, range(300, 600), vectors)
    index.search(vectors[0], 1)
    searched = slow.batches(index, range(600, 900), vectors)

    assert len(quiet) < len(searched)
    assert max(quiet) > max(searched)


def test_the_first_rows_of_a_graph_are_not_expected_to_be_quick(monkeypatch):
    """A graph that was loaded may be large and cold: it is not held for long to find that out."""
    slow = SlowGraph(monkeypatch)
    index = make(clock=lambda: slow.now_s)
    added = slow.batches(index, range(300), draw_vectors(300, seed=25))

    assert added[0] <= 2
    assert max(added) > added[0]


def test_searches_while_building_and_writing():
    """Searches during building, rebuilding, updates and removals always see every stable row."""
    changes = []
    clock = iter(range(10**9))
    index = make(clock=lambda: next(clock) * 1e-4, on_change=lambda: changes.append(1))
    stable, moving = draw_vectors(400, seed=22), draw_vectors(400, seed=23)
    index.upsert(0, [row(n, stable[n]) for n in range(400)])
    failures, done = [], threading.Event()

    def search(seed):
        chance = random.Random(seed)
        while not done.is_set():
            target = chance.randrange(400)
            try:
                hits = index.search(stable[target], 3)
                assert (hits[0].shard, hits[0].seq, len(hits)) == (0, target, 3)
                hits = index.search(moving[target], 1, allowed={1: np.array([target])})
                assert [hit.seq for hit in hits] == [target], "an update never hides a row"
                assert index.search(moving[target], 5, shards=[2]) == []
            except Exception as error:  # noqa: BLE001
                failures.append(repr(error))
                return

    def write():
        for version in range(2, 30):
            seqs = range(400) if version % 5 == 0 else range(0, 400, version)
            index.upsert(1, [row(n, moving[n], version) for n in seqs])
            index.remove(0, range(1000, 1100))

    def build_all():
        while not done.is_set():
            index.build(64)

    index.upsert(1, [row(n, moving[n]) for n in range(400)])
    workers = [threading.Thread(target=search, args=(n,)) for n in range(3)]
    workers.append(threading.Thread(target=build_all))
    for worker in workers:
        worker.start()
    write()
    done.set()
    for worker in workers:
        worker.join()

    assert failures == []
    assert changes
    build(index)
    assert index.size == 800


def test_on_change_tells_of_every_change():
    """Who builds is told whenever there may be something to do."""
    told = []
    index = make(on_change=lambda: told.append(1))
    index.upsert(0, [])
    assert not told
    index.upsert(0, [row(1, draw_vectors(1)[0])])
    index.remove(0, [1])
    index.drop_shard(0)

    assert len(told) == 3


@pytest.mark.parametrize("seed", range(5))
def test_what_is_deferred_is_as_if_done_at_once(seed):
    """Any mixture of upserts and removals, looked at now and then, from graph and tail."""
    rng = random.Random(seed)
    vectors = draw_vectors(400, seed=seed)
    at_once, deferred = make(), make()
    alive: list[int] = []
    for seq in range(400):
        fresh = [row(seq, vectors[seq])]
        gone = [alive.pop(rng.randrange(len(alive)))] if alive and rng.random() < 0.3 else []
        alive.append(seq)
        at_once.upsert(seq % 3, fresh)
        for each in gone:
            at_once.remove(each % 3, [each])
            deferred.defer(each % 3, [], [each])
        deferred.defer(seq % 3, fresh)
        if rng.random() < 0.05:
            for index in (at_once, deferred):
                index.build(16)
            assert deferred.size == at_once.size == len(alive)
    query = vectors[0]
    late, early = (index.search(query, 20, exact=True) for index in (deferred, at_once))
    assert [hit[:4] for hit in late] == [hit[:4] for hit in early]
    # Sums of products are rounded as their place in memory has it.
    assert [hit.score for hit in late] == pytest.approx([hit.score for hit in early], abs=1e-6)
    assert {each: sorted(deferred.keys(each)[0]) for each in deferred.shards()} == {
        each: sorted(at_once.keys(each)[0]) for each in at_once.shards()
    }
    deferred.validate()


def test_ids_with_keys_are_left_to_the_store():
    """An index keeps short ids whole, and of long ones none: the row's number leads to them."""
    vectors = draw_vectors(3)
    index = make()
    long = keyed_id(encode_id(5), key_bytes("x" * 255))
    index.upsert(0, [row(1, vectors[0]), (2, 1, long, vectors[1].tobytes())])
    build(index)
    index.upsert(0, [(3, 1, long, vectors[2].tobytes())])
    hits = index.search(vectors[0], 3)

    assert {hit.seq: hit.id for hit in hits} == {1: encode_id(1), 2: b"", 3: b""}


def test_a_row_that_came_and_went_while_deferred_is_gone():
    """The removal belongs behind the row, whatever is taken in first."""
    index = make()
    vectors = draw_vectors(2)
    index.defer(1, [row(5, vectors[0])])
    index.defer(1, [], [5])
    index.defer(1, [row(6, vectors[1])])
    assert [hit.seq for hit in index.search(vectors[0], 5)] == [6]


def test_deferring_does_not_wait_for_the_builder():
    """The event loop defers: nobody who holds the index's locks may stop it."""
    index = make()
    with index._settling, index._state.mutex:
        index.defer(1, [row(1, draw_vectors(1)[0])])
    assert index.size == 1


def test_what_could_not_be_taken_in_is_not_lost(monkeypatch):
    """A search that finds no memory fails; the next one finds all rows."""
    index = make()
    vectors = draw_vectors(3)
    for seq, vector in enumerate(vectors):
        index.defer(seq, [row(seq, vector)])

    def no_memory(rows):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(index._state.metric, "rows", no_memory)
        with pytest.raises(MemoryError):
            index.search(vectors[0], 3)
    assert len(index.search(vectors[0], 3)) == 3
    index.validate()


def test_a_dropped_index_is_freed_at_once():
    """Nothing keeps it but its owner: its memory does not wait for the collector of cycles."""
    index = VectorIndex(dimension=8, distance="Cosine")
    index.upsert(
        0, [(n + 1, 1, encode_id(n), row.tobytes()) for n, row in enumerate(np.eye(8, dtype="<f4"))]
    )
    index.build(10)
    index.search(np.ones(8, dtype=np.float32), 1)
    kept = weakref.ref(index)
    gc.disable()
    try:
        del index
        assert kept() is None
    finally:
        gc.enable()
