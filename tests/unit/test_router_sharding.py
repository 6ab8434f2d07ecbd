"""Custom sharding through the router: points under keys, which shards are asked, shared ids."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
from msgspec.structs import replace

from cluster import read_path
from cluster.command import Upsert
from cluster.errors import BadRequest, VersionConflict
from cluster.model import Point, SearchRequest
from cluster.ring import shard_of
from storage.filters import Filter, matches, parse_filter
from storage.ids import PointId, ShardKey, encode_id, key_bytes, keyed_id
from tests.unit.router_cluster import RouterCluster, cluster

SEARCH, PAGE, COUNT, FETCH = "router/search", "router/page", "router/count", "router/fetch"
THREE = [["node1", "node2", "node3"], ["node2", "node3", "node1"], ["node3", "node1", "node2"]]
RING = [["node1", "node2"], ["node2", "node3"], ["node3", "node4"], ["node4", "node1"]]
KEYS: list[ShardKey] = ["a", "b", 7, "7", "agent/" + "é" * 240]
UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


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


def point(point_id, *vector, **payload):
    return Point(point_id, np.array(vector or (1, 2, 3, 4), np.float32), payload)


async def keyed(opened: RouterCluster, **settings):
    return await opened.collection(custom_sharding=True, distance="Dot", **settings)


async def put(opened, collection, key, *points, node="node1"):
    return await opened[node].upsert(collection, points, opened.options(shard_keys=(key,)))


async def filled(opened: RouterCluster, ids=range(6)):
    """Every id under every key; the payload tells both."""
    collection = await keyed(opened)
    for place, key in enumerate(KEYS):
        points = [point(n, n, place, 1, 0, n=n, place=place) for n in ids]
        await put(opened, collection, key, *points)
    opened.wire.calls.clear()
    return collection


def seen(records):
    """Return (id, key) of records or hits, whose payload has to agree."""
    assert all(
        each.payload is None or each.payload["place"] == KEYS.index(each.shard_key)
        for each in records
    )
    return [(each.id, each.shard_key) for each in records]


async def retrieve(opened, collection, *ids, node="node1", **choices):
    records = await opened[node].retrieve(
        collection, ids, with_payload=True, with_vector=False, options=opened.options(**choices)
    )
    return seen(records)


async def scroll(opened, collection, limit, offset=None, where=None, **choices):
    records, following = await opened["node3"].scroll(
        collection,
        where,
        limit,
        offset,
        with_payload=True,
        with_vector=False,
        options=opened.options(**choices),
    )
    return seen(records), following


async def search(opened, collection, *, node="node2", where=None, limit=100, **choices):
    request = SearchRequest(
        np.array([1, 0.01, 0, 0], np.float32), limit, filter=where, with_payload=True
    )
    return await opened[node].search(collection, request, opened.options(**choices))


BY_KEY = sorted(KEYS, key=key_bytes)


async def test_a_key_lives_in_one_shard(ring):
    """All points of a key are commands of the shard that its own bytes belong to."""
    await filled(ring)
    homes = [shard_of(key_bytes(key), 4) for key in KEYS]
    for shard in range(4):
        bodies = [each.body for each in ring.commands(shard)]
        written = [each.id for body in bodies if isinstance(body, Upsert) for each in body.points]
        mine = [key for key, home in zip(KEYS, homes, strict=True) if home == shard]

        assert written == [keyed_id(encode_id(n), key_bytes(key)) for key in mine for n in range(6)]


async def test_the_same_id_under_two_keys_is_two_points(three):
    """Each is written, read, changed and deleted by itself."""
    collection = await keyed(three)
    await put(three, collection, "a", point(1, place=0), point(UUID, place=0))
    await put(three, collection, "b", point(1, place=1))
    options = three.options(shard_keys=("a",))
    await three["node2"].set_payload(collection, [1], "merge", {"new": True}, [], options)
    (changed,) = await three["node3"].retrieve(
        collection, [1], with_payload=True, with_vector=False, options=options
    )
    await three["node1"].delete(collection, [1], options)

    assert changed.payload == {"place": 0, "new": True}
    assert await retrieve(three, collection, 1, UUID) == [(1, "b"), (UUID, "a")]
    assert await retrieve(three, collection, 1, shard_keys=("a",)) == []


async def test_reads_by_id_alone_find_every_key(ring):
    """They come in the order asked, those of one id by key; what is not there is left out."""
    collection = await filled(ring)
    found = await retrieve(ring, collection, 4, 99, 0, 4, node="node3")

    assert found == [(n, key) for n in (4, 0, 4) for key in BY_KEY]


async def test_reads_under_keys_ask_their_shards_only(ring):
    """What lies elsewhere is neither asked nor seen."""
    collection = await filled(ring)
    home = shard_of(key_bytes("b"), 4)
    outside = next(name for name in ring.names if name not in RING[home])
    where = parse_filter({"must": {"key": "n", "range": {"lt": 3}}})
    choice = {"shard_keys": ("b",)}

    assert await retrieve(ring, collection, 3, 5, node=outside, **choice) == [(3, "b"), (5, "b")]
    answer = await search(ring, collection, node=outside, **choice)
    assert seen(answer.hits) == [(n, "b") for n in (5, 4, 3, 2, 1, 0)]
    assert (answer.shards_ok, answer.shards_failed) == ((home,), ())
    options = ring.options(**choice)
    assert await ring[outside].count(collection, None, options) == 6
    assert await ring[outside].count(collection, where, options) == 3
    assert len({target for _, target, _ in ring.wire.calls}) == 1
    assert {method for _, _, method in ring.wire.calls} == {FETCH, SEARCH, COUNT}


async def test_several_keys_are_seen_together(ring):
    """Keys come in any number, more than once too."""
    collection = await filled(ring)
    choice = {"shard_keys": (7, "a", 7, "nobody")}
    two = [key for key in BY_KEY if key in (7, "a")]

    assert sorted(await retrieve(ring, collection, 2, **choice), key=str) == [(2, "a"), (2, 7)]
    assert (await scroll(ring, collection, 100, **choice))[0] == [
        (n, key) for n in range(6) for key in two
    ]
    assert await ring["node1"].count(collection, None, ring.options(**choice)) == 12
    assert len((await search(ring, collection, **choice)).hits) == 12


@pytest.mark.parametrize("node", ["node1", "node3"])
@pytest.mark.parametrize("build", [False, True])
async def test_search_without_a_key_finds_all(three, node, build):
    """On the way of a node that has everything; hits say what they were written under."""
    collection = await filled(three)
    if build:
        index = three.nodes[node].indexes.get(collection.uid)
        while index is not None and index.build(64):
            pass
    answer = await search(three, collection, node=node, limit=7)
    bare = await three[node].search(
        collection, SearchRequest(np.array([1, 0.01, 0, 0], np.float32), 7), three.options()
    )

    assert seen(answer.hits) == [
        *((5, key) for key in reversed(KEYS)),
        *((4, key) for key in reversed(KEYS[3:])),
    ]
    assert seen(bare.hits) == seen(answer.hits)
    assert three.wire.calls == []


async def test_scattered_search_without_a_key_finds_all(ring):
    """The same id under two keys is two hits, wherever they are."""
    collection = await filled(ring)
    answer = await search(ring, collection)

    assert seen(answer.hits) == [(n, key) for n in (5, 4, 3, 2, 1, 0) for key in reversed(KEYS)]


async def test_ids_in_filters_mean_every_key(ring):
    """`has_id` compares ids; a chosen key leaves the one point."""
    collection = await filled(ring)
    where = parse_filter({"must_not": {"has_id": [0, 1, 2, 3, 4]}})
    answer = await search(ring, collection, where=where)

    assert seen(answer.hits) == [(5, key) for key in reversed(KEYS)]
    assert await ring["node1"].count(collection, where, ring.options()) == len(KEYS)
    options = ring.options(shard_keys=("a",))
    assert await ring["node1"].count(collection, where, options) == 1


async def test_a_page_has_all_points_of_its_last_id(ring):
    """The next page starts at another id, and following them all meets every point once."""
    collection = await filled(ring)
    everything = [(n, key) for n in range(6) for key in BY_KEY]
    for limit in (1, 4, 5, 6, 11, 29, 30, 31):
        found: list[tuple[PointId, ShardKey | None]] = []
        offset: PointId | None = None
        while True:
            page, offset = await scroll(ring, collection, limit, offset)
            assert len(page) >= min(limit, len(everything) - len(found))
            assert len(page) % len(KEYS) == 0
            found += page
            if offset is None:
                break
        assert found == everything


async def test_under_a_key_pages_are_as_long_as_asked(ring):
    """An id under one key is one point."""
    collection = await filled(ring)

    assert await scroll(ring, collection, 4, shard_keys=("b",)) == (
        [(n, "b") for n in range(4)],
        4,
    )
    assert await scroll(ring, collection, 4, 4, shard_keys=("b",)) == (
        [(n, "b") for n in (4, 5)],
        None,
    )


async def test_an_id_that_too_many_share_is_refused(three, monkeypatch):
    """An answer has a bound; the refusal names what to add. Below it, pages are followed."""
    monkeypatch.setattr(read_path, "SHARED_STEP", 2)
    collection = await filled(three, range(2))
    page, following = await scroll(three, collection, 1)
    assert (page, following) == ([(0, key) for key in BY_KEY], 1)
    assert await scroll(three, collection, 7) == ([(n, k) for n in (0, 1) for k in BY_KEY], None)

    monkeypatch.setattr(read_path, "SHARED_MAX", 3)
    for read in (scroll(three, collection, 1), retrieve(three, collection, 0)):
        with pytest.raises(BadRequest) as caught:
            await read
        assert caught.value.field == "shard_key"
    assert await retrieve(three, collection, 0, shard_keys=("a",)) == [(0, "a")]


async def test_writes_by_filter_stay_in_their_keys(ring):
    """Without a key a filter is about all of the collection."""
    collection = await filled(ring)
    where = parse_filter({"must": {"key": "n", "range": {"gte": 4}}})
    options = ring.options(shard_keys=("a", 7))
    await ring["node4"].delete(collection, where, options)
    assert await ring["node1"].count(collection, None, ring.options()) == 26
    await ring["node4"].set_payload(collection, where, "clear", {}, [], ring.options())
    assert await ring["node1"].count(collection, where, ring.options()) == 0
    await ring["node4"].delete(collection, Filter(), ring.options(shard_keys=("b",)))

    assert await ring["node1"].count(collection, None, ring.options()) == 20
    assert await ring["node1"].count(collection, None, ring.options(shard_keys=("b",))) == 0


async def test_a_conflict_tells_the_id_and_the_key(three):
    """Conditions are about the point under its key."""
    collection = await keyed(three)
    await put(three, collection, "a", point(1))
    absent = replace(point(1), if_version=0)
    await put(three, collection, "b", absent)
    with pytest.raises(VersionConflict) as caught:
        await put(three, collection, "a", absent, node="node3")

    assert (caught.value.point, caught.value.current_version) == (1, 2)
    assert "point 1 under key 'a' has version 2" in caught.value.message


async def test_keys_are_needed_or_refused(three):
    """By the collection's way of sharding, before anything is proposed."""
    custom, auto = await keyed(three), await three.collection("auto")
    node, plain, under = three["node1"], three.options(), three.options(shard_keys=("a",))
    shows = {"with_payload": False, "with_vector": False}
    where = parse_filter({})
    query = SearchRequest(np.ones(4, np.float32), 1)
    refused = [
        node.upsert(custom, [point(1)], plain),
        node.upsert(custom, [point(1)], three.options(shard_keys=("a", "b"))),
        node.delete(custom, [1], plain),
        node.set_payload(custom, [1], "clear", {}, [], plain),
        node.upsert(custom, [point(1)], three.options(shard_keys=("",))),
        node.upsert(auto, [point(1)], under),
        node.delete(auto, [1], under),
        node.delete(auto, where, under),
        node.retrieve(auto, [1], **shows, options=under),
        node.scroll(auto, None, 1, None, **shows, options=under),
        node.count(auto, None, under),
        node.search(auto, query, under),
    ]
    for call in refused:
        with pytest.raises(BadRequest) as caught:
            await call
        assert caught.value.field == "shard_key"

    assert [three.commands(shard) for shard in range(3)] == [[], [], []]


async def test_strong_reads_under_keys(ring):
    """The leaders of the shards in question alone are asked for their read index."""
    collection = await filled(ring)
    home = shard_of(key_bytes("b"), 4)
    for shard, group in enumerate(ring.groups):
        if shard != home:
            group.elect(None)

    assert await retrieve(ring, collection, 1, shard_keys=("b",), strong=True) == [(1, "b")]
    answer = await search(ring, collection, shard_keys=("b",), strong=True)
    assert len(answer.hits) == 6


@pytest.mark.parametrize("seed", range(4))
async def test_against_a_dictionary(ring, seed):
    """Random writes and reads, with and without keys, on any node."""
    rng = random.Random(seed)
    collection = await keyed(ring)
    twin: dict[tuple[int, ShardKey], dict[str, int]] = {}

    def visible(keys, where=None):
        pairs = sorted(twin, key=lambda each: (each[0], key_bytes(each[1])))
        return [
            (n, key)
            for n, key in pairs
            if (keys is None or key in keys)
            and (where is None or matches(where, n, twin[n, key], key))
        ]

    for _ in range(120):
        router, key = ring[rng.choice(ring.names)], rng.choice(KEYS)
        ids = rng.sample(range(8), rng.randint(1, 4))
        one = ring.options(shard_keys=(key,))
        payload = {"n": rng.randint(0, 3), "place": KEYS.index(key)}
        match rng.randint(0, 3):
            case 0 | 1:
                points = [point(n, **payload) for n in ids]
                await router.upsert(collection, points, one)
                twin.update({(n, key): payload for n in ids})
            case 2:
                await router.delete(collection, ids, one)
                for n in ids:
                    twin.pop((n, key), None)
            case _:
                some = rng.choice([None, (key,)])
                where = parse_filter({"must": {"key": "n", "match": {"value": 3}}})
                await router.delete(collection, where, ring.options(shard_keys=some))
                for each in visible(some, where):
                    del twin[each]
        choices: list[tuple[ShardKey, ...] | None] = [None, (key,), tuple(rng.sample(KEYS, 2))]
        keys = rng.choice(choices)
        expected = visible(keys)
        page, following = await scroll(ring, collection, 1000, shard_keys=keys)
        answer = await search(ring, collection, node=rng.choice(ring.names), shard_keys=keys)

        assert (page, following) == (expected, None)
        assert sorted(seen(answer.hits), key=str) == sorted(expected, key=str)
        assert await router.count(collection, None, ring.options(shard_keys=keys)) == len(expected)
        assert sorted(await retrieve(ring, collection, *ids, shard_keys=keys), key=str) == sorted(
            (each for each in expected if each[0] in ids), key=str
        )
