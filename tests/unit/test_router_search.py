"""Search: few nodes, the best of all shards, failover, and shards that are missing by name."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cluster.config import Config
from cluster.errors import BadRequest, CollectionNotFound, ShardsUnavailable
from cluster.local_reads import FRESH_FOR_MS
from cluster.merge import more_is_better
from cluster.model import Point, SearchRequest
from cluster.ring import shard_of
from storage.filters import parse_filter
from storage.ids import encode_id
from storage.payload_index.fields import FIELDS_MAX, FieldIndex
from tests.unit.router_cluster import RouterCluster, cluster

SEARCH, FETCH = "router/search", "router/fetch"
THREE = [["node1", "node2", "node3"], ["node2", "node3", "node1"], ["node3", "node1", "node2"]]
RING = [["node1", "node2"], ["node2", "node3"], ["node3", "node4"], ["node4", "node1"]]
COUNT = 60
VECTORS = np.random.default_rng(7).normal(size=(COUNT, 4)).astype(np.float32)
QUERY = np.array([1, 0.5, -0.25, 0.1], np.float32)


@pytest.fixture
def three() -> Iterator[RouterCluster]:
    """Three nodes with all three shards each."""
    with cluster(THREE) as opened:
        yield opened


@pytest.fixture
def ring() -> Iterator[RouterCluster]:
    """Four nodes with two of four shards each."""
    with cluster(RING) as opened:
        yield opened


async def filled(opened: RouterCluster, distance="Cosine"):
    collection = await opened.collection(distance=distance)
    points = [Point(n, VECTORS[n], {"n": n, "kind": n % 3}) for n in range(COUNT)]
    await opened["node1"].upsert(collection, points, opened.options())
    opened.wire.calls.clear()
    return collection


def scores(distance):
    """Return the score of each point, by the metric's definition."""
    wide, query = VECTORS.astype(np.float64), QUERY.astype(np.float64)
    match distance:
        case "Cosine":
            return wide @ query / np.linalg.norm(wide, axis=1) / np.linalg.norm(query)
        case "Dot":
            return wide @ query
        case "Euclid":
            return np.linalg.norm(wide - query, axis=1)
        case _:
            return np.abs(wide - query).sum(axis=1)


def best(distance="Cosine", among=range(COUNT)):
    """Return all ids, best first."""
    found = scores(distance)
    return sorted(among, key=lambda n: -found[n] if more_is_better(distance) else found[n])


def request(limit=10, **choices):
    return SearchRequest(vector=choices.pop("vector", QUERY), limit=limit, **choices)


def ids(answer):
    return [hit.id for hit in answer.hits]


async def test_a_node_with_all_shards_asks_nobody(three):
    """The usual search sends no message, and reflects every shard."""
    collection = await filled(three)
    answer = await three["node2"].search(collection, request(), three.options())

    assert ids(answer) == best()[:10]
    assert (answer.shards_ok, answer.partial) == ((0, 1, 2), False)
    assert three.wire.calls == []


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid", "Manhattan"])
@pytest.mark.parametrize("exact", [False, True])
async def test_scattered_search_is_search_of_everything(ring, distance, exact):
    """Merged over nodes, hits and scores are those of one list of all points."""
    collection = await filled(ring, distance)
    for node in ring.names:
        answer = await ring[node].search(collection, request(15, exact=exact), ring.options())
        expected = [scores(distance)[n] for n in best(distance)[:15]]

        assert ids(answer) == best(distance)[:15]
        assert [hit.score for hit in answer.hits] == pytest.approx(expected, abs=1e-5)


async def test_the_covering_set_is_minimal(ring):
    """Two nodes cover four shards: one other node is asked, once."""
    collection = await filled(ring)
    await ring["node1"].search(collection, request(), ring.options())

    assert ring.wire.calls == [("node1", "node3", SEARCH)]


async def test_filtered_search(ring):
    """A filter leaves as many hits as pass, the best of them first."""
    collection = await filled(ring)
    where = parse_filter({"must": [{"key": "kind", "match": {"value": 1}}]})
    answer = await ring["node2"].search(collection, request(50, filter=where), ring.options())

    assert ids(answer) == best(among=range(1, COUNT, 3))


async def test_filtered_search_here(three):
    """The same on a node that has everything."""
    collection = await filled(three)
    where = parse_filter({"must": [{"key": "n", "range": {"lt": 5}}]})
    answer = await three["node3"].search(collection, request(filter=where), three.options())

    assert ids(answer) == best(among=range(5))
    assert three.wire.calls == []


FIELDS = [FieldIndex("n", "integer"), FieldIndex("kind", "integer")]
INDEXED: list[tuple[dict[str, Any], list[int], list[str]]] = [
    ({"must": {"key": "kind", "match": {"value": 1}}}, list(range(1, COUNT, 3)), []),
    ({"must": {"key": "n", "range": {"lt": 5}}}, list(range(5)), []),
    ({"must_not": {"key": "n", "range": {"lt": 5}}}, list(range(5, COUNT)), []),
    (
        {"must": [{"key": "n", "range": {"lt": 5}}, {"key": "kind", "values_count": {"gt": 0}}]},
        list(range(5)),
        ["kind"],
    ),
    ({"must": {"key": "other", "match": {"value": 1}}}, [], ["other"]),
    ({"must": {"has_id": [3, 4]}}, [3, 4], []),
]


@pytest.mark.parametrize("shape", ["three", "ring"])
@pytest.mark.parametrize(("raw", "passing", "unindexed"), INDEXED)
async def test_an_index_changes_no_answer(request_fixture, shape, raw, passing, unindexed):
    """With indexes, search, count and pages are what they are without, on every node."""
    opened = request_fixture(shape)
    await filled(opened)
    where = parse_filter(raw)
    for field in FIELDS:
        collection = await opened["node1"].collection("things", opened.options())
        assert await opened["node2"].put_index(collection, field, opened.options())
    for name in opened.names:
        router, options = opened[name], opened.options()
        collection = await router.collection("things", opened.options(strong=True))
        answer = await router.search(collection, request(50, filter=where), options)
        page, _ = await router.scroll(
            collection, where, COUNT, None, with_payload=False, with_vector=False, options=options
        )

        assert collection.payload_indexes == tuple(FIELDS)
        assert ids(answer) == best(among=passing)[:50]
        assert await router.count(collection, where, options) == len(passing)
        assert sorted(record.id for record in page) == passing
        assert router.unindexed(collection, where) == unindexed


@pytest.mark.parametrize(("raw", "passing", "_"), INDEXED)
async def test_a_built_index_is_searched_at_once(three, raw, passing, _):
    """Where nothing waits to be built, few rows are compared without a thread, and found alike."""
    collection = await filled(three)
    for field in FIELDS:
        await three["node1"].put_index(collection, field, three.options())
    index = three.nodes["node2"].indexes.get(collection.uid)
    assert index is not None
    while index.build(100):
        pass
    assert index.is_quiet
    where = parse_filter(raw)
    for wanted in (request(50, filter=where), request(50, filter=where, with_payload=True)):
        answer = await three["node2"].search(collection, wanted, three.options())

        assert ids(answer) == best(among=passing)[:50]
    assert three.wire.of(SEARCH) == []


async def test_many_filtered_searches_are_made_by_threads(three, monkeypatch):
    """Searches that a loop may make one at a time would together hold it up."""
    collection = await filled(three)
    for field in FIELDS:
        await three["node1"].put_index(collection, field, three.options())
    index = three.nodes["node2"].indexes.get(collection.uid)
    assert index is not None
    while index.build(100):
        pass
    lanes = three["node2"]._searches.lanes
    calls = []
    nearest = lanes.nearest

    async def noted(*arguments: Any) -> Any:
        calls.append(arguments)
        return await nearest(*arguments)

    monkeypatch.setattr(lanes, "nearest", noted)
    where = parse_filter({"must": {"key": "n", "range": {"lt": 5}}})
    wanted = request(50, filter=where)
    alone = await three["node2"].search(collection, wanted, three.options())
    assert not calls
    together = await three["node2"].search_many(collection, [wanted] * 20, three.options())

    assert [ids(answer) for answer in together] == [ids(alone)] * 20
    assert len(calls) == 20


async def test_indexes_come_and_go(three):
    """An index is filled when its creation is answered, follows writes, and can be removed."""
    collection = await filled(three)
    where = parse_filter({"must": {"key": "n", "range": {"gte": COUNT}}})
    router, options = three["node1"], three.options()
    assert router.unindexed(collection, where) == ["n"]

    assert await router.put_index(collection, FIELDS[0], options)
    assert router.unindexed(collection, where) == []
    await router.upsert(collection, [Point(1, VECTORS[1], {"n": COUNT})], options)
    await router.set_payload(collection, [2], "merge", {"n": COUNT + 1}, [], options)
    await router.delete(collection, where, options)
    info = await router.collection_info("things", options)
    assert info.points_count == COUNT - 2
    assert info.field_counts == {"n": COUNT - 2}

    await router.drop_index(collection, "n", options)
    assert router.unindexed(collection, where) == ["n"]
    assert (await router.collection_info("things", options)).field_counts == {}
    assert await router.count(collection, where, options) == 0


async def test_what_indexes_hold_is_counted_by_threads(three, monkeypatch):
    """Counting looks at every row, on every node: it is not done where requests are served."""
    collection = await filled(three)
    await three["node1"].put_index(collection, FIELDS[0], three.options())
    inside, counted = [], []
    submit = three.pool.submit

    def noted(function: Any, *arguments: Any) -> Any:
        inside.append(function)
        try:
            return submit(function, *arguments)
        finally:
            inside.pop()

    monkeypatch.setattr(three.pool, "submit", noted)
    for node in three.nodes.values():
        payloads = node.indexes.get(collection.uid).payloads

        def points(count: Any = payloads.points) -> Any:
            counted.append(bool(inside))
            return count()

        monkeypatch.setattr(payloads, "points", points)
    info = await three["node1"].collection_info("things", three.options())

    assert info.field_counts == {"n": COUNT}
    assert counted == [True] * 3


async def test_too_many_indexes_are_refused(three):
    """A collection has a limited number of indexes; to define one again changes nothing."""
    collection = await filled(three)
    router, options = three["node1"], three.options()
    for n in range(FIELDS_MAX):
        await router.put_index(collection, FieldIndex(f"f{n}", "bool"), options)
    await router.put_index(collection, FieldIndex("f3", "text"), options)

    with pytest.raises(BadRequest) as refused:
        await router.put_index(collection, FieldIndex("more", "bool"), options)
    assert refused.value.field == "field_name"
    await router.drop_collection("things", options)
    with pytest.raises(CollectionNotFound):
        await router.put_index(collection, FieldIndex("f1", "text"), options)


@pytest.mark.parametrize("shape", ["three", "ring"])
async def test_hits_have_what_was_asked_for(request_fixture, shape):
    """Payloads and vectors belong to their hits, whichever way they came."""
    opened = request_fixture(shape)
    collection = await filled(opened, "Dot")
    wanted = request(with_payload=True, with_vector=True)
    answer = await opened["node2"].search(collection, wanted, opened.options())
    bare = await opened["node2"].search(collection, request(), opened.options())

    assert ids(answer) == best("Dot")[:10]
    for hit in answer.hits:
        assert hit.payload == {"n": hit.id, "kind": hit.id % 3}
        assert hit.vector.tolist() == VECTORS[hit.id].tolist()
        assert hit.version >= 2
    assert {(hit.payload, hit.vector) for hit in bare.hits} == {(None, None)}


@pytest.fixture
def request_fixture(request):
    return request.getfixturevalue


@pytest.mark.parametrize("shape", ["three", "ring"])
async def test_offset_and_limit_cut_the_same_list(request_fixture, shape):
    """Pages of a search follow each other."""
    opened = request_fixture(shape)
    collection = await filled(opened)
    found = []
    for offset in range(0, 70, 20):
        page = request(20, offset=offset)
        found += ids(await opened["node1"].search(collection, page, opened.options()))

    assert found == best()


@pytest.mark.parametrize("shape", ["three", "ring"])
@pytest.mark.parametrize("distance", ["Cosine", "Euclid"])
async def test_threshold_follows_the_metric(request_fixture, shape, distance):
    """Only hits at least as good as the threshold are left."""
    opened = request_fixture(shape)
    collection = await filled(opened, distance)
    limit = float(np.median(scores(distance)))
    wanted = request(COUNT, score_threshold=limit)
    answer = await opened["node1"].search(collection, wanted, opened.options())

    assert ids(answer) == best(distance)[: COUNT // 2]


@pytest.mark.parametrize("shape", ["three", "ring"])
async def test_deleted_and_changed_points(request_fixture, shape):
    """A search reflects what was acknowledged: no deleted point, no old vector."""
    opened = request_fixture(shape)
    collection = await filled(opened)
    first, second, *rest = best()
    await opened["node1"].delete(collection, [first], opened.options())
    moved = Point(second, -QUERY, {})
    ack = await opened["node1"].upsert(collection, [moved], opened.options())
    for node in opened.names:
        options = opened.options(session=dict(ack.session.indexes))
        answer = await opened[node].search(collection, request(COUNT), options)

        assert ids(answer) == [*rest, second]


@pytest.mark.parametrize(
    ("distance", "vector"),
    [
        ("Cosine", [1, 2, 3]),
        ("Cosine", [0, 0, 0, 0]),
        ("Dot", [1, 2, 3, float("nan")]),
        ("Euclid", [float("inf"), 0, 0, 0]),
    ],
)
async def test_a_vector_that_does_not_fit_is_the_callers_mistake(three, distance, vector):
    """Nothing unvalidated reaches an index."""
    collection = await filled(three, distance)
    wanted = request(vector=np.array(vector, np.float32))
    with pytest.raises(BadRequest) as failure:
        await three["node1"].search(collection, wanted, three.options())

    assert failure.value.field == "vector"


async def test_a_stale_replica_is_searched_elsewhere(three):
    """This node answers for its fresh shards, another one for the stale one."""
    collection = await filled(three)
    three.replica("node2", 1).is_stale = True
    answer = await three["node2"].search(collection, request(), three.options())

    assert ids(answer) == best()[:10]
    assert three.wire.calls == [("node2", "node3", SEARCH)]


async def test_that_replicas_are_fresh_is_not_believed_for_long(three):
    """A moment later the stale one is noticed; and what is believed was true with that to spare."""
    collection = await filled(three)
    await three["node2"].search(collection, request(), three.options())
    three.replica("node2", 1).is_stale = True
    three.clock.now_s += FRESH_FOR_MS / 1000
    await three["node2"].search(collection, request(), three.options())
    assert three.wire.calls == [("node2", "node3", SEARCH)]

    three.replica("node2", 1).is_stale = False
    three.replica("node2", 1).stale_ms = Config().max_staleness_ms - FRESH_FOR_MS + 1
    assert not three["node2"].local.serves_all(3, None)


async def test_for_how_long_copies_of_replicas_may_be_believed(three):
    """A part of the age that a read accepts, by which they are fresher; not at all without one."""
    await filled(three)
    local, accepted_ms = three["node2"].local, Config().max_staleness_ms
    assert local.stays_fresh_ms(250) == 250
    assert local.stays_fresh_ms(accepted_ms) == accepted_ms // 4
    three.replica("node2", 1).stale_ms = accepted_ms - 249
    assert local.stays_fresh_ms(250) == 0
    assert local.stays_fresh_ms(249) == 249


async def test_a_node_that_fails_is_replaced(ring):
    """Its shards are asked of their other replicas."""
    collection = await filled(ring)
    ring.wire.channels["node1"].unseen_deaths.add("node3")
    ring.kill("node3")
    answer = await ring["node1"].search(collection, request(), ring.options())

    assert ids(answer) == best()[:10]
    assert ring.wire.calls[0] == ("node1", "node3", SEARCH)
    assert {target for _, target, _ in ring.wire.calls[1:]} == {"node2", "node4"}


async def test_a_node_that_hangs_is_replaced_in_time(ring):
    """Half of the time is left for the other replicas."""
    collection = await filled(ring)
    ring.wire.hanging.add("node3")
    options = ring.options()
    answer = await ring["node1"].search(collection, request(), options)

    assert ids(answer) == best()[:10]
    assert ring.clock() <= options.deadline_s


async def test_a_missing_shard_is_an_error_that_names_it(ring):
    """A result without a shard would look complete and not be."""
    collection = await filled(ring)
    ring.kill("node3", "node4")
    options = ring.options()
    with pytest.raises(ShardsUnavailable, match="shard 2") as failure:
        await ring["node1"].search(collection, request(), options)

    assert failure.value.shards == (2,)
    assert ring.clock() <= options.deadline_s


@pytest.mark.parametrize("with_payload", [False, True])
async def test_a_partial_answer_names_what_is_missing(ring, with_payload):
    """Who allows it gets what there is, at once, and is told which shard is not in it."""
    collection = await filled(ring)
    ring.kill("node3", "node4")
    start_s = ring.clock()
    answer = await ring["node1"].search(
        collection,
        request(COUNT, with_payload=with_payload),
        ring.options(allow_partial=True),
    )

    assert ids(answer) == [n for n in best() if shard_of(encode_id(n), 4) != 2]
    assert (answer.shards_ok, answer.shards_failed) == ((0, 1, 3), (2,))
    assert answer.partial
    assert ring.clock() == start_s


async def test_a_shard_lost_between_search_and_fetch_is_named(ring):
    """Hits whose rows cannot be fetched any more are left out, and their shard is named."""
    collection = await filled(ring)

    def lost(source, target, method):
        if method == FETCH:
            ring.kill("node3", "node4")

    ring.wire.on_call = lost
    answer = await ring["node1"].search(
        collection, request(COUNT, with_payload=True), ring.options(allow_partial=True)
    )

    assert answer.shards_failed == (2,)
    assert ids(answer) == [n for n in best() if shard_of(encode_id(n), 4) != 2]


async def test_a_session_is_honoured(three):
    """A node whose replica lags behind the token lets another node search."""
    collection = await filled(three)
    three.replica("node2", 0).held_back = True
    member = next(n for n in range(1000, 2000) if shard_of(encode_id(n), 3) == 0)
    ack = await three["node1"].upsert(collection, [Point(member, QUERY, {})], three.options())
    session = dict(ack.session.indexes)
    old = await three["node2"].search(collection, request(1), three.options())
    new = await three["node2"].search(collection, request(1), three.options(session=session))

    assert ids(old) == best()[:1]
    assert ids(new) == [member]


async def test_a_session_that_is_reached_costs_nothing(three):
    """A token that this node's replicas have reached keeps the short way."""
    collection = await filled(three)
    session = {shard: group.log[-1].index for shard, group in enumerate(three.groups)}
    answer = await three["node2"].search(collection, request(), three.options(session=session))

    assert ids(answer) == best()[:10]
    assert three.wire.calls == []


async def test_a_strong_search_sees_what_was_acknowledged(three):
    """Read indexes of all leaders, then a search at them."""
    collection = await filled(three)
    for shard in (0, 2):
        three.replica("node2", shard).held_back = True
    points = [Point(1000 + n, QUERY + n / 100, {}) for n in range(20)]
    await three["node1"].upsert(collection, points, three.options())
    answer = await three["node2"].search(collection, request(20), three.options(strong=True))

    assert sorted(ids(answer)) == list(range(1000, 1020))


async def test_an_index_that_is_not_open_is_not_an_empty_result(ring):
    """A node that has not heard of the collection refuses instead of finding nothing."""
    collection = await filled(ring)
    ring.nodes["node3"].indexes.drop(collection.uid)
    answer = await ring["node1"].search(collection, request(COUNT), ring.options())

    assert ids(answer) == best()
    assert ring.wire.calls[0] == ("node1", "node3", SEARCH)


async def test_an_empty_collection_finds_nothing(three):
    """No points is an answer, not an error."""
    collection = await three.collection()
    answer = await three["node1"].search(collection, request(), three.options())

    assert (answer.hits, answer.shards_ok) == ([], (0, 1, 2))


async def test_the_only_replica_is_waited_for_until_the_deadline():
    """Where nobody else could answer, a slow node is not given up early."""
    with cluster([["node1"], ["node2"]]) as opened:
        collection = await filled(opened)
        opened.wire.hanging.add("node2")
        options = opened.options()
        with pytest.raises(ShardsUnavailable) as failure:
            await opened["node1"].search(collection, request(), options)

        assert failure.value.shards == (1,)
        assert opened.wire.of(SEARCH) == [("node1", "node2")]
        assert opened.clock() == options.deadline_s


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid", "Manhattan"])
async def test_many_searches_are_single_ones(three, ring, distance):
    """Searches asked together, alike or not, answer as each alone would, here and scattered."""
    where = parse_filter({"must": [{"key": "kind", "match": {"value": 1}}]})
    requests = [
        request(3, vector=VECTORS[1]),
        request(3, vector=VECTORS[2], with_payload=True),
        request(3, vector=VECTORS[3], filter=where),
        request(2, vector=VECTORS[4], offset=1, with_vector=True),
        request(3, vector=VECTORS[5], exact=True),
        request(5, vector=VECTORS[6], score_threshold=0.5, ef=40),
    ]
    for opened in (three, ring):
        collection = await filled(opened, distance)
        for node in opened.names[:2]:
            router = opened[node]
            together = await router.search_many(collection, requests, opened.options())
            alone = [await router.search(collection, each, opened.options()) for each in requests]

            assert [repr(answer) for answer in together] == [repr(answer) for answer in alone]


async def test_many_searches_share_calls(three):
    """Searches of one kind are few calls of the index."""
    collection = await filled(three)
    index = three.nodes["node1"].indexes.get(collection.uid)
    calls: list[int] = []
    plain = index.search_many

    def counted(vectors, *arguments, **choices):
        calls.append(len(vectors))
        return plain(vectors, *arguments, **choices)

    index.search_many = counted
    requests = [request(3, vector=vector) for vector in VECTORS[:20]]
    requests += [request(4, vector=vector) for vector in VECTORS[:10]]
    await three["node1"].search_many(collection, requests, three.options())

    assert sum(calls) == len(requests)
    assert len(calls) <= len(requests) // 2


async def test_none_of_many_searches_is_answered_when_one_is_wrong(three):
    """A vector that does not fit fails the whole."""
    collection = await filled(three)
    requests = [request(), request(vector=QUERY[:3])]
    with pytest.raises(BadRequest):
        await three["node1"].search_many(collection, requests, three.options())
    assert await three["node1"].search_many(collection, [], three.options()) == []


async def test_many_searches_reflect_what_one_does(three):
    """Session tokens of a batch cover every shard, and a strong batch asks the leaders."""
    collection = await filled(three)
    options = three.options()
    await three["node2"].search_many(collection, [request(), request()], options)
    strong = three.options(strong=True)
    await three["node2"].search_many(collection, [request(), request()], strong)

    assert sorted(options.reflected) == sorted(strong.reflected) == [0, 1, 2]
