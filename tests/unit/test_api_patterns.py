"""Patterns and search by text over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.api_router import (
    SPACE,
    ApiClient,
    LetterEmbedder,
    MemoryRouter,
    served,
    with_collection,
)

NAMES = {
    "id",
    "score",
    "task",
    "input",
    "output",
    "critique",
    "reward",
    "success",
    "sessionId",
    "metadata",
    "createdAt",
}
UUID = "6f1e8c7a-0d2b-4f6e-9a3c-5b7d9e1f2a4c"
FULL = {
    "task": "abba",
    "input": "in",
    "output": "out",
    "critique": "fine",
    "reward": 0.75,
    "success": True,
    "sessionId": "s1",
    "metadata": {"model": {"name": "m"}},
}


async def tasks(client: ApiClient, body: dict[str, Any]) -> list[str]:
    """Return the tasks of the patterns that a search finds."""
    return [hit["task"] for hit in (await client("POST", "/patterns/search", body)).result]


async def test_a_task_alone_is_a_pattern():
    """Only the task is needed; what a pattern lacks is null when it is found."""
    async with served() as client:
        stored = await client("POST", "/patterns/store", {"task": "ab"})
        (found,) = (await client("POST", "/patterns/search", {"task": "ba"})).result

        assert stored.result == {"id": "00000000-0000-4000-8000-000000000001", "version": 2}
        assert stored.headers["X-Recollect-Session"] == "m:5,0:2"
        assert found.keys() == NAMES
        assert found["id"] == stored.result["id"]
        assert found["score"] == pytest.approx(1.0)
        assert found["createdAt"] == "2025-10-09T08:53:20.123Z"
        empty = NAMES - {"id", "score", "task", "createdAt"}
        assert all(found[name] is None for name in empty)


async def test_a_full_pattern_comes_back():
    """Everything that was stored is found."""
    async with served() as client:
        await client("POST", "/patterns/store", FULL)
        (found,) = (await client("POST", "/patterns/search", {"task": "ab", "k": 3})).result

        assert {name: found[name] for name in FULL} == FULL


async def test_embeddings_stand_in_for_text():
    """A caller's own vector of the collection's space is stored and searched."""
    async with served() as client:
        vector = [0, 0, 0, 0, 0, 0, 0, 2]
        body = {"task": "no letters: xyz", "embedding": vector, "embeddingSpace": SPACE}
        assert (await client("POST", "/patterns/store", body)).status == 200
        await client("POST", "/patterns/store", {"task": "aaa"})
        search = {"embedding": vector, "embeddingSpace": SPACE, "k": 1}

        assert await tasks(client, search) == ["no letters: xyz"]


async def test_filters_and_threshold_limit_what_is_found():
    """Reward, success and threshold each keep their part; k is 5 unless given."""
    async with served() as client:
        for reward, success, task in [
            (0.9, True, "aab"),
            (0.1, True, "ab"),
            (0.5, False, "abb"),
            (None, None, "aaab"),
            (1, True, "hhh"),
            (-3, False, "gh"),
            (2e9, None, "fh"),
        ]:
            body = {"task": task, "reward": reward, "success": success}
            assert (await client("POST", "/patterns/store", body)).status == 200

        async def found(**filters: object) -> set[str]:
            return set(await tasks(client, {"task": "aab", "k": 10, **filters}))

        assert await found(minReward=0.5) == {"aab", "abb", "hhh", "fh"}
        assert await found(onlySuccesses=True) == {"aab", "ab", "hhh"}
        assert await found(onlyFailures=True, onlySuccesses=False) == {"abb", "gh"}
        assert await found(onlySuccesses=True, minReward=0.5) == {"aab", "hhh"}
        assert await found(threshold=0.9) == {"aab", "ab", "aaab"}
        assert await found(minReward=None, onlyFailures=None, threshold=0.99) == {"aab"}
        where = {"must_not": [{"key": "task", "match": {"value": "aab"}}]}

        assert await found(filter=where, onlySuccesses=True) == {"ab", "hhh"}
        assert await found(filter=where, threshold=0.9) == {"ab", "aaab"}
        assert len(await tasks(client, {"task": "aab"})) == 5


async def test_a_repeated_store_with_a_key_is_one_pattern():
    """With an idempotency key a repeated store answers the same id, and another one is refused."""
    async with served() as client:
        headers = {"Idempotency-Key": "k1"}
        first = await client("POST", "/patterns/store", FULL, headers=headers)
        again = await client("POST", "/patterns/store", FULL, headers=headers)
        other = await client("POST", "/patterns/store", {**FULL, "input": "x"}, headers=headers)

        assert first.result == again.result
        assert other.refusal == (422, "idempotency_key_reused", "Idempotency-Key")
        assert len(await tasks(client, {"task": "ab"})) == 1


async def test_an_own_id_replaces():
    """A pattern stored under a given id is replaced by the next one."""
    async with served() as client:
        for task in ("ab", "abc"):
            body = {"task": task, "id": UUID.upper()}
            assert (await client("POST", "/patterns/store", body)).result["id"] == UUID

        assert await tasks(client, {"task": "ab"}) == ["abc"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "task"),
        ({"task": None}, "task"),
        ({"task": ""}, "task"),
        ({"task": "  \n"}, "task"),
        ({"task": 3}, "task"),
        ({"task": "xyz"}, "task"),
        ({"task": "a\0"}, "task"),
        ({"task": "a" * 70_000}, "task"),
        ({"task": "a", "output": "b" * 40_000, "critique": "c" * 30_000}, "output"),
        ({"task": "a" * 1000, "metadata": {"x": [[]] * 30_000}}, "metadata"),
        ({"task": "a", "reward": "1"}, "reward"),
        ({"task": "a", "reward": True}, "reward"),
        ({"task": "a", "success": 1}, "success"),
        ({"task": "a", "sessionId": 7}, "sessionId"),
        ({"task": "a", "metadata": []}, "metadata"),
        ({"task": "a", "metadata": {"n": 2**64}}, "metadata.n"),
        ({"task": "a", "input": {}}, "input"),
        ({"task": "a", "embedding": [1, 2]}, "embedding"),
        ({"task": "a", "embedding": [0] * 8}, "embedding"),
        ({"task": "a", "embedding": ["a"] * 8}, "embedding[0]"),
        ({"task": "a", "id": "x"}, "id"),
        ({"task": "a", "outcome": 1}, "outcome"),
    ],
)
async def test_malformed_patterns_are_named(body, field):
    """A pattern that cannot be stored is a 400 with its field."""
    async with served() as client:
        assert (await client("POST", "/patterns/store", body)).refusal == (
            400,
            "bad_request",
            field,
        )


@pytest.mark.parametrize(
    "raw", [b'{"task": "a", "reward": NaN}', b'{"task": "a", "reward": 1e999}']
)
async def test_rewards_are_finite(raw):
    """A reward that is no finite number is refused."""
    async with served() as client:
        assert (await client("POST", "/patterns/store", raw)).refusal == (
            400,
            "bad_request",
            "reward",
        )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "task"),
        ({"task": "a", "embedding": [1] * 8}, "task"),
        ({"task": ""}, "task"),
        ({"embedding": [1] * 7}, "embedding"),
        ({"task": "a", "k": 0}, "k"),
        ({"task": "a", "k": 10_001}, "k"),
        ({"task": "a", "k": 1.5}, "k"),
        ({"task": "a", "threshold": "x"}, "threshold"),
        ({"task": "a", "minReward": "x"}, "minReward"),
        ({"task": "a", "onlySuccesses": 1}, "onlySuccesses"),
        ({"task": "a", "onlySuccesses": True, "onlyFailures": True}, "onlyFailures"),
        ({"task": "a", "limit": 3}, "limit"),
        ({"task": "a", "filter": {"x": []}}, "filter.x"),
    ],
)
async def test_malformed_pattern_searches_are_named(body, field):
    """A search of patterns that is malformed is a 400 with its field."""
    async with served() as client:
        assert (await client("POST", "/patterns/search", body)).refusal == (
            400,
            "bad_request",
            field,
        )


async def test_another_embedding_space_is_refused():
    """Vectors of one space are not offered to a collection of another."""
    async with served() as client:
        for path in ("/patterns/store", "/patterns/search"):
            body: dict[str, Any] = {"embedding": [1] * 8, "embeddingSpace": "another"}
            body |= {"task": "a"} if path.endswith("store") else {}
            reply = await client("POST", path, body)

            assert reply.refusal == (400, "embedding_space_mismatch", "embedding")


async def test_text_is_not_embedded_for_vectors_of_other_origin():
    """Text is refused for a collection whose vectors do not come from this server's model."""
    async with served() as client:
        await with_collection(client, size=8)
        body = {"query": "ab", "collection": "c"}

        assert (await client("POST", "/vectors/search", body)).refusal == (
            400,
            "embedding_space_mismatch",
            "query",
        )


async def test_a_server_with_another_model_does_not_mix_spaces():
    """When the cluster was formed with another model, patterns need their vectors given."""

    class OtherEmbedder(LetterEmbedder):
        space = "another"

    async with served(embedder=OtherEmbedder()) as client:
        reply = await client("POST", "/patterns/store", {"task": "ab"})

        assert reply.refusal == (400, "embedding_space_mismatch", "task")


async def test_vectors_are_searched_by_text_or_vector():
    """/vectors/search takes either, in `patterns` or any other collection."""
    async with served() as client:
        await client("POST", "/patterns/store", {"task": "ab"})
        await client("POST", "/patterns/store", {"task": "gh"})
        await with_collection(client)
        await client("PUT", "/collections/c/points", {"points": [{"id": 7, "vector": [1, 0, 0]}]})
        by_text = await client("POST", "/vectors/search", {"query": "ab", "threshold": 0.5})
        where = {"must": [{"key": "task", "match": {"value": "gh"}}]}
        filtered = await client("POST", "/vectors/search", {"query": "ab", "filter": where})
        by_vector = await client("POST", "/vectors/search", {"query": [0] * 7 + [1], "k": 1})
        elsewhere = await client("POST", "/vectors/search", {"query": [1, 1, 1], "collection": "c"})

        assert [hit["payload"]["task"] for hit in by_text.result] == ["ab"]
        assert [hit["payload"]["task"] for hit in by_vector.result] == ["gh"]
        assert [hit["payload"]["task"] for hit in filtered.result] == ["gh"]
        assert [(hit["id"], hit["payload"]) for hit in elsewhere.result] == [(7, {})]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "query"),
        ({"query": None}, 400, "query"),
        ({"query": 3}, 400, "query"),
        ({"query": ""}, 400, "query"),
        ({"query": " "}, 400, "query"),
        ({"query": "a" * 70_000}, 400, "query"),
        ({"query": [1, 2]}, 400, "query"),
        ({"query": "a", "k": 0}, 400, "k"),
        ({"query": "a", "collection": "a/b"}, 400, "collection"),
        ({"query": "a", "collection": ".a"}, 400, "collection"),
        ({"query": "a", "collection": "gone"}, 404, "collection_name"),
    ],
)
async def test_malformed_vector_searches_are_named(body, status, field):
    """A search by text or vector that is malformed is refused with its field."""
    async with served() as client:
        reply = await client("POST", "/vectors/search", body)

        assert (reply.status, reply.error["field"]) == (status, field)


async def test_partial_answers_are_said_to_be_such():
    """Searches of patterns and vectors name missing shards too."""
    async with served(router=MemoryRouter(shards_failed=(2,))) as client:
        for path, body in (
            ("/patterns/search", {"task": "a"}),
            ("/vectors/search", {"query": "a"}),
        ):
            reply = await client("POST", f"{path}?allow_partial=true", body)

            assert reply.body["partial"] is True
            assert reply.body["shards_failed"] == [2]


async def test_an_asynchronous_embedder_is_awaited():
    """An embedder that asks another server is awaited on the loop."""

    class RemoteEmbedder:
        space = SPACE
        dimension = 8

        async def embed(self, texts):
            await asyncio.sleep(0)
            return LetterEmbedder().embed(texts)

    async with served(embedder=RemoteEmbedder()) as client:
        assert (await client("POST", "/patterns/store", {"task": "ab"})).status == 200


async def test_without_its_collection_patterns_are_not_found():
    """A dropped collection of patterns is a 404, not a fault."""
    async with served(patterns=False) as client:
        reply = await client("POST", "/patterns/store", {"task": "ab"})

        assert reply.refusal == (404, "collection_not_found", "collection_name")
