"""Queries by examples, with diversity and in groups over HTTP, against brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cluster.config import Config
from tests.unit.api_router import ApiClient, MemoryRouter, served

C = "/collections/c/points"
DISTANCES = ["Cosine", "Dot", "Euclid", "Manhattan"]
COUNT = 40
ROWS = np.random.default_rng(11).normal(size=(COUNT, 3)).astype(np.float32)

each_distance = pytest.mark.parametrize("distance", DISTANCES)


async def made(client: ApiClient, name: str, distance: str) -> None:
    body = {"vectors": {"size": 3, "distance": distance}}
    assert (await client("PUT", f"/collections/{name}", body)).result is True


async def filled(client: ApiClient, distance: str, name: str = "c") -> None:
    """Store points with a number `n`, and a kind that a third of them share."""
    await made(client, name, distance)
    points = [
        {
            "id": n,
            "vector": ROWS[n].tolist(),
            "payload": {"n": n, "kind": "common" if n % 3 else f"rare {n % 5}"},
        }
        for n in range(COUNT)
    ]
    assert (await client("PUT", f"/collections/{name}/points", {"points": points})).status == 200


def stored(distance: str) -> Any:
    wide = ROWS.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True) if distance == "Cosine" else wide


def alike(vector: Any, distance: str) -> Any:
    """Return each point's similarity to a vector, more is better."""
    rows = stored(distance)
    if distance == "Cosine":
        vector = vector / np.linalg.norm(vector)
    if distance in {"Cosine", "Dot"}:
        return rows @ vector
    difference = rows - vector
    if distance == "Euclid":
        return -np.square(difference).sum(axis=1)
    return -np.abs(difference).sum(axis=1)


def ranked(scores: np.ndarray, *without: int) -> list[int]:
    return [n for n in np.argsort(-scores, kind="stable").tolist() if n not in without]


async def ids(client: ApiClient, body: dict[str, Any], action: str = "query") -> list[int]:
    reply = await client("POST", f"{C}/{action}", body)
    assert reply.status == 200, reply.body
    found = reply.result["points"] if action == "query" else reply.result
    return [hit["id"] for hit in found]


@each_distance
async def test_recommendation_by_the_average(distance):
    """Results resemble the examples' average, and the named points are none of them."""
    rows = stored(distance)
    given = np.array([0.3, -0.2, 0.9])
    unit = given / np.linalg.norm(given) if distance == "Cosine" else given
    wanted = 2 * (rows[1] + rows[2] + unit) / 3 - (rows[3] + rows[4]) / 2
    examples = {"positive": [1, 2, given.tolist()], "negative": [3, 4]}
    expected = ranked(alike(wanted, distance), 1, 2, 3, 4)
    async with served() as client:
        await filled(client, distance)
        body = {"query": {"recommend": examples}, "limit": 7, "offset": 2}
        older = {**examples, "limit": 9, "strategy": "average_vector"}

        assert await ids(client, body) == expected[2:9]
        assert await ids(client, older, "recommend") == expected[:9]


@each_distance
@pytest.mark.parametrize("shown", [{}, {"with_payload": True}, {"with_vector": True}])
async def test_a_page_takes_no_more_rows_than_it_has(distance, shown, monkeypatch):
    """Payloads and vectors of what an offset passes over are not fetched."""
    fetched = []

    router = MemoryRouter()
    plain = router.search

    async def noting(collection: Any, request: Any, options: Any) -> Any:
        if request.with_payload or request.with_vector:
            fetched.append(request.limit)
        return await plain(collection, request, options)

    monkeypatch.setattr(router, "search", noting)
    expected = ranked(alike(stored(distance)[1].astype(np.float64), distance), 1)
    async with served(router=router) as client:
        await filled(client, distance)
        for limit, offset in ((3, 1), (2, 20), (5, len(expected) - 2), (5, 10_000)):
            body = {"query": 1, "limit": limit, "offset": offset, **shown}
            assert await ids(client, body) == expected[offset : offset + limit]

        assert len(fetched) == (3 if shown else 0)
        assert all(limit <= 6 for limit in fetched)


@each_distance
async def test_recommendation_by_the_best_score(distance):
    """The order is that of the best scores of all points, which are told."""
    rows = stored(distance)
    near = np.max([alike(rows[n], distance) for n in (1, 2)], axis=0)
    far = np.max([alike(rows[n], distance) for n in (3, 4, 5)], axis=0)

    def squashed(x: Any) -> Any:
        return 0.5 * (x / (1 + np.abs(x)) + 1)

    scores = np.where(near > far, squashed(near), -squashed(far))
    expected = ranked(scores, 1, 2, 3, 4, 5)
    examples = {"positive": [1, 2], "negative": [3, 4, 5], "strategy": "best_score"}
    async with served() as client:
        await filled(client, distance)
        for limit, offset in ((1, 0), (5, 3), (100, 0)):
            body = {"query": {"recommend": examples}, "limit": limit, "offset": offset}
            assert await ids(client, body) == expected[offset : offset + limit]
        threshold = float(scores[expected[4]])
        body = {"query": {"recommend": examples}, "score_threshold": threshold - 1e-6}
        reply = await client("POST", f"{C}/query", body)

        assert [hit["id"] for hit in reply.result["points"]] == expected[:5]
        assert [hit["score"] for hit in reply.result["points"]] == pytest.approx(
            [scores[n] for n in expected[:5]], abs=1e-5
        )


@each_distance
async def test_diverse_results(distance):
    """Without diversity the order is the search's; with it, each result is unlike those before."""
    async with served() as client:
        await filled(client, distance)
        query = {"nearest": ROWS[0].tolist()}
        plain = await ids(client, {"query": query, "limit": 8})

        async def with_mmr(**mmr: Any) -> list[int]:
            return await ids(client, {"query": {**query, "mmr": mmr}, "limit": 8})

        assert await with_mmr(diversity=0, candidates_limit=40) == plain
        assert sorted(await with_mmr()) == sorted(plain)
        varied = await with_mmr(diversity=0.9, candidates_limit=40)
        assert varied[0] == plain[0]
        assert varied != plain
        page = {"query": {**query, "mmr": {"diversity": 0.9, "candidates_limit": 40}}}
        assert await ids(client, {**page, "limit": 5, "offset": 3}) == varied[3:]
        reply = await client("POST", f"{C}/query", {**page, "limit": 1, "with_payload": True})
        (hit,) = reply.result["points"]
        assert "vector" not in hit
        assert hit["payload"]["n"] == varied[0]


async def test_diverse_results_near_a_point():
    """A stored point is no result of its own, with diversity either."""
    async with served() as client:
        await filled(client, "Dot")
        body = {"query": {"nearest": 3, "mmr": {}}, "limit": 40}

        assert sorted(await ids(client, body)) == [n for n in range(COUNT) if n != 3]


@each_distance
async def test_points_of_another_collection_are_looked_up(distance):
    """Their vectors are searched for here, and a point of the same id here may be found."""
    async with served() as client:
        await filled(client, distance)
        await made(client, "other", distance)
        moved = ROWS[1] + np.array([0.5, -0.25, 0.125], np.float32)
        point = {"id": 7, "vector": moved.tolist()}
        await client("PUT", "/collections/other/points", {"points": [point]})
        lookup = {"lookup_from": {"collection": "other"}, "limit": 40}
        expected = ranked(alike(moved.astype(np.float64), distance))

        assert await ids(client, {"query": 7, **lookup}) == expected
        assert await ids(client, {"query": {"nearest": 7}, **lookup}) == expected
        assert await ids(client, {"query": {"recommend": {"positive": [7]}}, **lookup}) == expected
        assert await ids(client, {"positive": [7], **lookup}, "recommend") == expected
        batch = {"searches": [{"query": 7, **lookup}]}
        reply = await client("POST", f"{C}/query/batch", batch)
        assert [hit["id"] for hit in reply.result[0]["points"]] == expected


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"query": 99}, (404, "not_found", "query")),
        (
            {"query": {"recommend": {"positive": [1, 99]}}},
            (404, "not_found", "query.recommend.positive[1]"),
        ),
        (
            {"query": {"recommend": {"positive": [[1, 1]]}}},
            (400, "bad_request", "query.recommend.positive[0]"),
        ),
        (
            {"query": 1, "lookup_from": {"collection": "none"}},
            (404, "collection_not_found", "lookup_from.collection"),
        ),
        (
            {"query": 1, "lookup_from": {"collection": "wide"}},
            (400, "bad_request", "lookup_from.collection"),
        ),
        (
            {"query": 1, "lookup_from": {"collection": "patterns"}},
            (400, "bad_request", "lookup_from.collection"),
        ),
        ({"query": 7, "lookup_from": {"collection": "dots"}}, (400, "bad_request", "query")),
        (
            {"query": 7, "lookup_from": {"collection": "dots", "shard_key": "a"}},
            (400, "bad_request", "lookup_from.shard_key"),
        ),
        (
            {"query": {"recommend": {"positive": [[1, 2, 3], [-1, -2, -3]]}}},
            (400, "bad_request", "query.recommend"),
        ),
    ],
)
async def test_examples_that_cannot_be_compared(body, refusal):
    """What is named must exist, and have vectors like those that are searched."""
    async with served() as client:
        await filled(client, "Cosine")
        await client("PUT", "/collections/wide", {"vectors": {"size": 4, "distance": "Dot"}})
        await client("PUT", "/collections/dots", {"vectors": {"size": 3, "distance": "Dot"}})
        zero = {"points": [{"id": 7, "vector": [0, 0, 0]}]}
        await client("PUT", "/collections/dots/points", zero)

        assert (await client("POST", f"{C}/query", body)).refusal == refusal


async def test_examples_under_shard_keys():
    """An id is looked up under the query's key, and is no result only under that key."""
    async with served() as client:
        custom = {"vectors": {"size": 3, "distance": "Dot"}, "sharding_method": "custom"}
        await client("PUT", "/collections/c", custom)
        for key, x in (("a", 1.0), ("b", 2.0)):
            points = [{"id": n, "vector": [x * n, 0, 1]} for n in (1, 2, 3)]
            await client("PUT", C, {"points": points, "shard_key": key})
        recommend = {"recommend": {"positive": [1, 2]}}

        assert await ids(client, {"query": recommend, "shard_key": "a"}) == [3]
        assert await ids(client, {"query": 1, "shard_key": ["b"]}) == [3, 2]
        both = await client("POST", f"{C}/query", {"query": recommend, "shard_key": ["a", "b"]})
        none = await client("POST", f"{C}/recommend", {"positive": [1], "limit": 3})
        assert both.refusal == (400, "bad_request", "shard_key")
        assert none.refusal == (400, "bad_request", "shard_key")
        here = {"query": 1, "lookup_from": {"collection": "c", "shard_key": "b"}}
        assert await ids(client, {**here, "shard_key": "a"}) == [3, 2, 1]


def grouped(reply: Any) -> list[tuple[Any, list[int]]]:
    assert reply.status == 200, reply.body
    return [(group["id"], [hit["id"] for hit in group["hits"]]) for group in reply.result["groups"]]


def expected_groups(
    order: list[int], limit: int, size: int, value_of: Callable[[int], Any]
) -> list[tuple[Any, list[int]]]:
    groups: dict[Any, list[int]] = {}
    for n in order:
        groups.setdefault(value_of(n), []).append(n)
    return [(value, found[:size]) for value, found in groups.items()][:limit]


@each_distance
@pytest.mark.parametrize("limit_max", [10_000, 12])
async def test_groups_are_filled_when_they_exist(distance, limit_max):
    """A group that has most of the near points hides no other, however few may be searched."""
    async with served(config=Config(limit_max=limit_max)) as client:
        await filled(client, distance)
        order = ranked(alike(ROWS[0].astype(np.float64), distance))
        for limit, size in ((1, 1), (3, 2), (6, 2), (2, 6)):
            body = {"group_by": "kind", "group_size": size, "limit": limit}
            expected = expected_groups(
                order, limit, size, lambda n: "common" if n % 3 else f"rare {n % 5}"
            )
            vector = ROWS[0].tolist()
            queried = await client("POST", f"{C}/query/groups", {"query": vector, **body})
            searched = await client("POST", f"{C}/search/groups", {"vector": vector, **body})

            assert grouped(queried) == grouped(searched) == expected


async def test_a_group_is_found_by_points_that_are_in_others_too():
    """Neither a point of two groups nor values that make none keep a group from being found."""
    async with served(config=Config(limit_max=12)) as client:
        await client("PUT", C.removesuffix("/points"), {"vectors": {"size": 1, "distance": "Dot"}})
        kinds = ["a"] * 20 + [["a", "b"]] + [1.5] * 9 + ["c"] + ["a"] * 3 + ["b"]
        points = [
            {"id": n, "vector": [100 - n], "payload": {"kind": kind}}
            for n, kind in enumerate(kinds)
        ]
        await client("PUT", C, {"points": points})
        body = {"query": [1], "group_by": "kind", "group_size": 2, "limit": 4}
        reply = await client("POST", f"{C}/query/groups", body)

        assert grouped(reply) == [("a", [0, 1]), ("b", [20, 34]), ("c", [30])]


async def test_groups_show_what_is_asked_for():
    """Hits have payloads only when they are wanted; a group may have its point of another kind."""
    async with served() as client:
        await filled(client, "Dot")
        await made(client, "kinds", "Dot")
        points = [{"id": 3, "vector": [1, 1, 1], "payload": {"name": "three"}}]
        await client("PUT", "/collections/kinds/points", {"points": points})
        body = {
            "query": {"recommend": {"positive": [0]}},
            "group_by": "n",
            "filter": {"must": [{"key": "n", "match": {"any": [3, 4]}}]},
        }
        plain = await client("POST", f"{C}/query/groups", body)
        shown = await client(
            "POST",
            f"{C}/query/groups?allow_partial=true",
            {**body, "with_payload": ["n"], "with_vector": True, "with_lookup": "kinds"},
        )
        lookup = {"collection": "kinds", "with_payload": False, "with_vectors": True}
        bare = await client("POST", f"{C}/query/groups", {**body, "with_lookup": lookup})
        three = next(group for group in shown.result["groups"] if group["id"] == 3)
        four = next(group for group in shown.result["groups"] if group["id"] == 4)

        assert sorted(plain.result["groups"][0]) == ["hits", "id"]
        assert "payload" not in plain.result["groups"][0]["hits"][0]
        assert three["hits"][0]["payload"] == {"n": 3}
        assert len(three["hits"][0]["vector"]) == 3
        assert three["lookup"]["payload"] == {"name": "three"}
        assert four["lookup"] is None
        assert shown.body["partial"] is False
        assert {tuple(g["lookup"] or ()) for g in bare.result["groups"]} == {
            (),
            ("id", "version", "vector"),
        }


async def test_groups_without_a_query_are_in_id_order():
    """As a query without a target is."""
    async with served() as client:
        await filled(client, "Dot")
        body = {"group_by": "kind", "limit": 2, "group_size": 2}
        reply = await client("POST", f"{C}/query/groups", body)

        assert grouped(reply) == [("rare 0", [0, 15]), ("common", [1, 2])]


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"group_by": ""}, "bad_request", "group_by"),
        ({"group_by": "a..b"}, "bad_request", "group_by"),
        ({"group_by": None}, "bad_request", "group_by"),
        ({"group_size": 0}, "bad_request", "group_size"),
        ({"group_size": 10_001}, "bad_request", "group_size"),
        ({"group_size": 1001}, "bad_request", "group_size"),
        ({"offset": 1}, "unsupported_feature", "offset"),
        ({"with_lookup": "none"}, "collection_not_found", "with_lookup.collection"),
        (
            {"with_lookup": {"collection": "c", "with_vectors": ["a"]}},
            "unsupported_feature",
            "with_lookup.with_vectors",
        ),
        ({"with_lookup": {}}, "bad_request", "with_lookup.collection"),
        ({"query": {"nearest": 1, "mmr": {}}}, "unsupported_feature", "query.mmr"),
    ],
)
async def test_groups_that_cannot_be(change, code, field):
    """What is wrong with a request for groups is named."""
    async with served() as client:
        await filled(client, "Dot")
        body = {"query": 1, "group_by": "kind", "limit": 10, **change}
        reply = await client("POST", f"{C}/query/groups", body)

        assert reply.refusal[1:] == (code, field)


async def test_a_partial_recommendation_is_said_to_be_one():
    """What several searches missed is told together."""
    async with served(router=MemoryRouter(shards_failed=(1,))) as client:
        await filled(client, "Dot")
        for strategy in ("average_vector", "best_score"):
            body = {"positive": [1], "limit": 3, "strategy": strategy}
            reply = await client("POST", f"{C}/recommend?allow_partial=true", body)

            assert (reply.body["shards_ok"], reply.body["shards_failed"]) == ([0, 2], [1])
