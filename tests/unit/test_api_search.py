"""Searches over HTTP: every kind of query, its batches, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cluster.config import Config
from tests.unit.api_router import ApiClient, MemoryRouter, served, with_collection

C = "/collections/c/points"
UUID = "6f1e8c7a-0d2b-4f6e-9a3c-5b7d9e1f2a4c"


async def filled(client: ApiClient, distance: str = "Euclid") -> None:
    """Store points 0 to 9, point n at (n, 1, 0)."""
    await with_collection(client, distance=distance)
    points = [
        {"id": n, "vector": [n, 1, 0], "payload": {"n": n, "even": n % 2 == 0}} for n in range(10)
    ]
    await client("PUT", C, {"points": points})


async def ids(client: ApiClient, body: dict[str, Any]) -> list[object]:
    """Return the ids that a query finds."""
    return [hit["id"] for hit in (await client("POST", f"{C}/query", body)).result["points"]]


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_vector_finds_its_neighbours(wrapped):
    """A vector, bare or as `nearest`, finds the closest points with their scores."""
    async with served() as client:
        await filled(client)
        vector = [3.2, 1, 0]
        body = {"query": {"nearest": vector} if wrapped else vector, "limit": 2}
        found = (await client("POST", f"{C}/query", body)).result["points"]

        assert [hit["id"] for hit in found] == [3, 4]
        assert [hit["score"] for hit in found] == pytest.approx([0.2, 0.8], abs=1e-6)
        assert found[0]["version"] > 0
        assert "payload" not in found[0]
        assert "vector" not in found[0]


@pytest.mark.parametrize("query", [4, {"nearest": 4}])
async def test_a_point_finds_its_neighbours_but_not_itself(query):
    """A stored point is searched by its own vector and is no result."""
    async with served() as client:
        await filled(client)

        assert await ids(client, {"query": query, "limit": 2}) == [3, 5]
        assert await ids(client, {"query": query, "limit": 2, "offset": 2}) == [2, 6]
        assert await ids(client, {"query": query, "limit": 20}) == [3, 5, 2, 6, 1, 7, 0, 8, 9]


async def test_a_missing_point_is_not_found():
    """A query by a point that is not stored is a 404 that names the query."""
    async with served() as client:
        await filled(client)
        reply = await client("POST", f"{C}/query", {"query": {"nearest": UUID}})

        assert reply.refusal == (404, "not_found", "query.nearest")


@pytest.mark.parametrize("body", [{}, {"query": None}])
async def test_no_query_lists_points(body):
    """Without a target the points come in id order."""
    async with served(config=Config(limit_max=4)) as client:
        await filled(client)
        where = {"must": [{"key": "even", "match": {"value": True}}]}

        assert await ids(client, {**body, "limit": 3}) == [0, 1, 2]
        assert await ids(client, {**body, "limit": 3, "offset": 6}) == [6, 7, 8]
        assert await ids(client, {**body, "limit": 3, "offset": 10}) == []
        assert await ids(client, {**body, "limit": 2, "offset": 3, "filter": where}) == [6, 8]


async def test_payload_and_vector_come_when_asked_for():
    """`with_payload` and `with_vector` add what they name."""
    async with served() as client:
        await filled(client)
        body = {"query": [0, 1, 0], "limit": 1, "with_payload": ["n"], "with_vector": True}
        found = (await client("POST", f"{C}/query", body)).result["points"]

        assert found[0]["payload"] == {"n": 0}
        assert found[0]["vector"] == [0, 1, 0]


async def test_search_is_the_older_form():
    """points/search takes a vector and answers a list."""
    async with served() as client:
        await filled(client)
        body = {"vector": [9, 1, 0], "limit": 2, "offset": 1, "with_payload": True}
        found = (await client("POST", f"{C}/search", body)).result

        assert [hit["id"] for hit in found] == [8, 7]
        assert found[0]["payload"] == {"n": 8, "even": True}


@pytest.mark.parametrize(("distance", "expected"), [("Euclid", [0, 1]), ("Dot", [9, 8])])
async def test_the_threshold_has_the_sense_of_the_score(distance, expected):
    """A threshold keeps the better side, whichever that is."""
    async with served() as client:
        await filled(client, distance)
        threshold = 1.5 if distance == "Euclid" else 0.75
        vector = [0, 1, 0] if distance == "Euclid" else [0.1, 0, 0]

        assert await ids(client, {"query": vector, "score_threshold": threshold}) == expected


async def test_filters_and_params_reach_the_router():
    """A filter limits the hits; tuning that is not ours is accepted."""
    async with served() as client:
        await filled(client)
        params = {
            "hnsw_ef": 128,
            "exact": True,
            "indexed_only": False,
            "quantization": {"ignore": True, "rescore": None, "oversampling": 2.0},
            "acorn": {"enable": True},
        }
        where = {"must": [{"key": "even", "match": {"value": True}}]}
        body = {"query": [5, 1, 0], "filter": where, "params": params, "limit": 2}

        assert await ids(client, body) == [4, 6]


async def test_more_than_there_is_gives_what_there_is():
    """A limit beyond the collection is no error."""
    async with served() as client:
        await filled(client)

        assert len(await ids(client, {"query": [0, 0, 1], "limit": 10_000})) == 10


async def test_batches_answer_in_order():
    """A batch holds any mixture of queries."""
    async with served() as client:
        await filled(client)
        searches = [{"query": [7, 1, 0], "limit": 1}, {"query": 2, "limit": 1}, {"limit": 1}]
        queried = await client("POST", f"{C}/query/batch", {"searches": searches})
        older = [{"vector": [n, 1, 0], "limit": 1} for n in (5, 1)]
        searched = await client("POST", f"{C}/search/batch", {"searches": older})

        assert [[hit["id"] for hit in each["points"]] for each in queried.result] == [[7], [1], [0]]
        assert [[hit["id"] for hit in each] for each in searched.result] == [[5], [1]]


async def test_a_partial_answer_is_said_to_be_one():
    """With allow_partial the envelope names the shards that answered and those that did not."""
    async with served(router=MemoryRouter(shards_failed=(1,))) as client:
        await filled(client)
        requests = [
            ("query", {"query": [1, 1, 0]}),
            ("search", {"vector": [1, 1, 0], "limit": 1}),
            ("query/batch", {"searches": [{"query": [1, 1, 0]}, {}]}),
            ("search/batch", {"searches": [{"vector": [1, 1, 0], "limit": 1}]}),
        ]
        for action, body in requests:
            reply = await client("POST", f"{C}/{action}?allow_partial=true", body)

            assert reply.status == 200
            assert {
                name: reply.body[name] for name in ("partial", "shards_ok", "shards_failed")
            } == {
                "partial": True,
                "shards_ok": [0, 2],
                "shards_failed": [1],
            }
        assert client.router.seen[-1].allow_partial is True
        plain = await client("POST", f"{C}/query", {"query": [1, 1, 0]})

        assert "partial" not in plain.body


UNSUPPORTED = [
    ({"prefetch": {"query": [1]}}, "prefetch"),
    ({"prefetch": []}, "prefetch"),
    ({"using": "image"}, "using"),
    ({"lookup_from": {"collection": "d", "vector": "image"}}, "lookup_from.vector"),
    ({"group_by": "n"}, "group_by"),
    ({"query": {"fusion": "rrf"}}, "query.fusion"),
    (
        {"query": {"recommend": {"positive": [1], "strategy": "sum_scores"}}},
        "query.recommend.strategy",
    ),
    ({"query": {"recommend": {"positive": [{}]}}}, "query.recommend.positive[0]"),
    (
        {"query": {"recommend": {"negative": [[[1]]], "positive": [1]}}},
        "query.recommend.negative[0]",
    ),
    ({"query": {"discover": {}}}, "query.discover"),
    ({"query": {"context": []}}, "query.context"),
    ({"query": {"order_by": "n"}}, "query.order_by"),
    ({"query": {"sample": "random"}}, "query.sample"),
    ({"query": {"formula": 1}}, "query.formula"),
    ({"query": {"text": "x", "model": "y"}}, "query.text"),
    ({"query": {"indices": [1], "values": [1]}}, "query.indices"),
    ({"query": {"nearest": {"indices": [], "values": []}}}, "query.nearest"),
    ({"query": {"nearest": [[1, 1, 0]]}}, "query.nearest"),
    ({"with_vector": ["image"]}, "with_vector"),
    ({"params": {"idf": {}}}, "params.idf"),
]

MALFORMED = [
    ({"query": [1, 1]}, "query"),
    ({"query": []}, "query"),
    ({"query": [1, 1e39, 0]}, "query"),
    ({"query": [1, "1", 0]}, "query[1]"),
    ({"query": [1, True, 0]}, "query[1]"),
    ({"query": [[1, 1, 0]]}, "query[0]"),
    ({"query": {"nearest": [1, 1]}}, "query.nearest"),
    ({"query": {"nearest": [1, None, 0]}}, "query.nearest[1]"),
    ({"query": {"nearest": [1, False, 0]}}, "query.nearest[1]"),
    ({"query": {"nearest": None}}, "query.nearest"),
    ({"query": {"nearest": True}}, "query.nearest"),
    ({"query": {"nearest": 1.5}}, "query.nearest"),
    ({"query": {"nearest": -1}}, "query.nearest"),
    ({"query": {"nearest": "x"}}, "query.nearest"),
    ({"query": {}}, "query.nearest"),
    ({"query": {"nearer": [1, 1, 0]}}, "query.nearer"),
    ({"query": {"nearest": 1, "mmr": 1}}, "query.mmr"),
    ({"query": {"nearest": 1, "mmr": {"diversity": 1.5}}}, "query.mmr.diversity"),
    ({"query": {"nearest": 1, "mmr": {"diversity": True}}}, "query.mmr.diversity"),
    ({"query": {"nearest": 1, "mmr": {"candidates_limit": 0}}}, "query.mmr.candidates_limit"),
    ({"query": {"nearest": 1, "mmr": {"candidates_limit": 1001}}}, "query.mmr.candidates_limit"),
    ({"query": {"nearest": 1, "mmr": {"lambda": 1}}}, "query.mmr.lambda"),
    ({"query": {"recommend": 1}}, "query.recommend"),
    ({"query": {"recommend": {}}}, "query.recommend.positive"),
    ({"query": {"recommend": {"positive": []}}}, "query.recommend.positive"),
    ({"query": {"recommend": {"positive": 1}}}, "query.recommend.positive"),
    ({"query": {"recommend": {"positive": [1] * 257}}}, "query.recommend.positive"),
    ({"query": {"recommend": {"positive": [-1]}}}, "query.recommend.positive[0]"),
    ({"query": {"recommend": {"positive": [1, [1, 1]]}}}, "query.recommend.positive[1]"),
    ({"query": {"recommend": {"positive": [1], "strategy": "best"}}}, "query.recommend.strategy"),
    ({"query": {"recommend": {"positive": [1], "likes": 1}}}, "query.recommend.likes"),
    ({"query": {"recommend": {"positive": [1]}, "nearest": 1}}, "query.recommend"),
    ({"lookup_from": {"collection": ""}}, "lookup_from.collection"),
    ({"lookup_from": {}}, "lookup_from.collection"),
    ({"query": {"nearest": 1, "mmr": {}}, "limit": 1001}, "limit"),
    ({"query": {"nearest": 1, "mmr": {}}, "offset": 995}, "limit"),
    (
        {
            "query": {"recommend": {"positive": [1] * 100, "strategy": "best_score"}},
            "limit": 10,
        },
        "limit",
    ),
    ({"query": -1}, "query"),
    ({"query": 2**64}, "query"),
    ({"query": "words"}, "query"),
    ({"query": True}, "query"),
    ({"query": 1.5}, "query"),
    ({"limit": 0}, "limit"),
    ({"limit": 10_001}, "limit"),
    ({"limit": 2**80}, "limit"),
    ({"limit": True}, "limit"),
    ({"offset": -1}, "offset"),
    ({"offset": 100_001}, "offset"),
    ({"score_threshold": "1"}, "score_threshold"),
    ({"params": {"hnsw_ef": 0}}, "params.hnsw_ef"),
    ({"params": {"hnsw_ef": "8"}}, "params.hnsw_ef"),
    ({"params": {"exact": 1}}, "params.exact"),
    ({"params": {"ef": 8}}, "params.ef"),
    ({"params": {"quantization": {"oversampling": 0.5}}}, "params.quantization.oversampling"),
    ({"filter": {"musts": []}}, "filter.musts"),
    ({"filter": "x"}, "filter"),
    ({"with_payload": 1}, "with_payload"),
    ({"vector": [1, 1, 0]}, "vector"),
]


@pytest.mark.parametrize(("body", "field"), UNSUPPORTED)
async def test_queries_that_are_lacking_are_named(body, field):
    """A kind of query that is not served is a 400 of its own code, in batches too."""
    async with served() as client:
        await filled(client)
        alone = await client("POST", f"{C}/query", body)
        batch = await client("POST", f"{C}/query/batch", {"searches": [{}, body]})

        assert alone.refusal == (400, "unsupported_feature", field)
        assert batch.refusal == (400, "unsupported_feature", f"searches[1].{field}")


@pytest.mark.parametrize(("body", "field"), MALFORMED)
async def test_malformed_queries_are_named(body, field):
    """A malformed query is a 400 with its field, in batches too."""
    async with served() as client:
        await filled(client)
        alone = await client("POST", f"{C}/query", body)
        batch = await client("POST", f"{C}/query/batch", {"searches": [{}, body]})

        assert alone.refusal == (400, "bad_request", field)
        assert batch.refusal == (400, "bad_request", f"searches[1].{field}")


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"limit": 1}, "bad_request", "vector"),
        ({"vector": [1, 1, 0]}, "bad_request", "limit"),
        ({"vector": [1, 1], "limit": 1}, "bad_request", "vector"),
        ({"vector": 1, "limit": 1}, "bad_request", "vector"),
        ({"vector": {"name": "a", "vector": []}, "limit": 1}, "unsupported_feature", "vector"),
        ({"vector": [1, 1, 0], "limit": 1, "query": [1]}, "bad_request", "query"),
    ],
)
async def test_malformed_searches_are_named(body, code, field):
    """The older form has its own required fields."""
    async with served() as client:
        await filled(client)

        assert (await client("POST", f"{C}/search", body)).refusal == (400, code, field)


async def test_a_query_without_direction_is_refused_under_cosine():
    """The zero vector has no nearest points by angle."""
    async with served() as client:
        await filled(client, "Cosine")

        assert (await client("POST", f"{C}/query", {"query": [0, 0, 0]})).refusal == (
            400,
            "bad_request",
            "query",
        )


@pytest.mark.parametrize(
    "searches", [[], [{"limit": 10_000}] * 11, [{}] * 1001], ids=["none", "results", "many"]
)
async def test_batches_are_bounded(searches):
    """A batch holds at least one search, at most a thousand, and a bounded number of results."""
    async with served() as client:
        await filled(client)
        reply = await client("POST", f"{C}/query/batch", {"searches": searches})

        assert reply.refusal == (400, "bad_request", "searches")


async def test_a_batch_reports_the_failure_of_one_search():
    """A point that one search of a batch asks for and that is missing is named with its place."""
    async with served() as client:
        await filled(client)
        body = {"searches": [{"query": 1}, {"query": 99}]}

        assert (await client("POST", f"{C}/query/batch", body)).refusal == (
            404,
            "not_found",
            "searches[1].query",
        )


async def test_scores_survive_the_answer_exactly():
    """Vectors are answered in the shortest digits that give the same float32."""
    async with served() as client:
        await with_collection(client, distance="Dot")
        vector = np.random.default_rng(7).standard_normal(3).astype(np.float32)
        await client("PUT", C, {"points": [{"id": 1, "vector": vector.tolist()}]})
        found = (await client("GET", f"{C}/1")).result["vector"]

        assert np.array_equal(np.float32(found), vector)
