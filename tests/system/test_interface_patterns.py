"""Patterns and search by text, on real nodes with the bundled embedding."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import pytest

from tests.helpers import Cluster
from tests.system.exchange import SESSION, Points, ids, make, refusal, send

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

FIELDS = {
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
FULL = {
    "id": 9001,
    "task": "migrate the users table without downtime",
    "input": "schema v4",
    "output": "shadow table, backfill in batches, swap",
    "critique": "the swap was slow",
    "reward": 0.9,
    "success": True,
    "sessionId": "interface-full",
    "metadata": {"tables": ["users"], "nested": {"rows": 10**7, "note": None}},
}
ORCHARD = [
    {"id": 9101, "task": "prune the apple trees", "reward": 1, "success": True},
    {"id": 9102, "task": "prune the old apple tree", "reward": 0.5, "success": True},
    {"id": 9103, "task": "prune apple trees in winter", "reward": -2.5, "success": False},
    {"id": 9104, "task": "prune the apple and pear trees"},
]
IN_ORCHARD = {"must": [{"key": "sessionId", "match": {"value": "orchard"}}]}


def store(url: str, body: Any) -> dict[str, Any]:
    stored: dict[str, Any] = send(url, "POST", "/patterns/store", body).result
    return stored


def search(url: str, **body: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = send(url, "POST", "/patterns/search", body).result
    return found


def within_orchard(url: str, **body: Any) -> list[Any]:
    return ids(search(url, task="prune the apple trees", k=50, filter=IN_ORCHARD, **body))


@pytest.fixture(scope="module")
def orchard(shared: Cluster) -> str:
    """The URL of the node through which four like patterns were stored."""
    for pattern in ORCHARD:
        store(shared.url(2), {**pattern, "sessionId": "orchard"})
    return shared.url(2)


def test_the_collection_is_there_from_the_beginning(shared):
    """It was created with the cluster, for the vectors of the default embedding."""
    found = [send(url, "GET", "/collections/patterns").result for url in shared.urls]

    assert [each["config"]["params"]["vectors"]["distance"] for each in found] == ["Cosine"] * 3
    assert len({each["embedding_space"] for each in found}) == 1
    assert found[0]["embedding_space"] is not None


def test_a_task_is_enough(shared):
    """The answer is its new id and its version, and searches show all the other fields as null."""
    body = send(shared.url(1), "POST", "/patterns/store", {"task": "whistle a tune nobody knows"})
    found = search(shared.url(1), task="whistle a tune nobody knows", k=1)[0]

    assert set(body.result) == {"id", "version"}
    assert str(uuid.UUID(body.result["id"])) == body.result["id"]
    assert body.result["version"] > 0
    assert body.headers[SESSION]
    assert set(found) == FIELDS
    assert (found["id"], found["task"]) == (body.result["id"], "whistle a tune nobody knows")
    assert found["score"] == pytest.approx(1)
    others = FIELDS - {"id", "score", "task", "createdAt"}
    assert {name: found[name] for name in others} == dict.fromkeys(others)
    created = datetime.datetime.fromisoformat(found["createdAt"])
    assert created.tzinfo is not None


def test_everything_that_was_stored_comes_back(shared):
    """Text, reward, success, session, metadata of any shape, and the id that was chosen."""
    stored = store(shared.url(3), FULL)
    found = search(shared.url(3), task=FULL["task"], k=1)[0]

    assert stored["id"] == FULL["id"]
    assert {name: found[name] for name in FULL} == FULL
    assert set(found) == FIELDS


def test_null_fields_are_absent_ones(shared):
    """A client may spell out what it does not know."""
    names = FIELDS - {"id", "score", "task", "createdAt"}
    nulls = dict.fromkeys([*names, "embedding", "embeddingSpace"])
    stored = store(shared.url(1), {"task": "count the null fields", "id": 9002, **nulls})
    options = [
        "embedding",
        "k",
        "threshold",
        "minReward",
        "onlySuccesses",
        "onlyFailures",
        "filter",
    ]
    found = search(shared.url(1), task="count the null fields", **dict.fromkeys(options))

    assert stored["id"] == found[0]["id"] == 9002
    assert len(found) <= 5


def test_an_own_id_replaces(shared):
    """The same id again is the same pattern."""
    for task in ("paint the fence green", "paint the fence blue"):
        store(shared.url(1), {"task": task, "id": "A5B6C7D8-0000-4000-8000-000000000001"})
    found = search(shared.url(1), task="paint the fence green", k=3)

    assert [hit["task"] for hit in found if "fence" in hit["task"]] == ["paint the fence blue"]
    assert "a5b6c7d8-0000-4000-8000-000000000001" in ids(found)


def test_meaning_is_what_is_found(shared):
    """The pattern nearest in meaning comes first, best first, k of them."""
    for number, task in enumerate(
        (
            "the cat slept on the warm roof",
            "interest rates rose again in spring",
            "boil the pasta for nine minutes",
            "the train to the coast was late",
        )
    ):
        store(shared.url(1), {"task": task, "id": 9200 + number})
    found = search(shared.url(1), task="a kitten is napping", k=3)
    scores = [hit["score"] for hit in found]

    assert found[0]["id"] == 9200
    assert len(found) == 3
    assert scores == sorted(scores, reverse=True)
    assert ids(search(shared.url(1), task="how long to cook spaghetti", k=1)) == [9202]


def test_an_embedding_stands_in_for_the_task(shared):
    """One may store and search with a vector of the collection's space."""
    points = Points(shared.url(1), "patterns")
    store(shared.url(1), {"task": "sharpen the kitchen knives", "id": 9301})
    vector = points.by_id(9301, with_vector=True)[0]["vector"]
    space = send(shared.url(1), "GET", "/collections/patterns").result["embedding_space"]
    given = {"id": 9302, "task": "words that say something else", "embedding": vector}
    store(shared.url(1), {**given, "embeddingSpace": space})
    found = search(shared.url(1), embedding=vector, embeddingSpace=space, k=2)
    other = send(shared.url(1), "POST", "/patterns/store", {**given, "embeddingSpace": "other"})

    assert len(vector) == 256
    assert sorted(ids(found)) == [9301, 9302]
    assert [hit["score"] for hit in found] == pytest.approx([1, 1])
    assert refusal(other) == (400, "embedding_space_mismatch", "embedding")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, {9101, 9102, 9103, 9104}),
        ({"minReward": 0.5}, {9101, 9102}),
        ({"minReward": 1}, {9101}),
        ({"minReward": -3}, {9101, 9102, 9103}),
        ({"onlySuccesses": True}, {9101, 9102}),
        ({"onlyFailures": True}, {9103}),
        ({"onlySuccesses": False, "onlyFailures": False}, {9101, 9102, 9103, 9104}),
        ({"onlySuccesses": True, "minReward": 0.9}, {9101}),
        ({"onlyFailures": True, "minReward": 0}, set()),
        ({"threshold": 0.9999}, {9101}),
        ({"threshold": 1.5}, set()),
        ({"threshold": -1}, {9101, 9102, 9103, 9104}),
    ],
)
def test_options_narrow_a_search(orchard, options, found):
    """Reward, outcome and score each draw their line, alone and together."""
    assert set(within_orchard(orchard, **options)) == found


def test_k_bounds_a_search(orchard):
    """As many as asked, the best; more than there is gives what there is; five by default."""
    assert ids(search(orchard, task="prune the apple trees", k=1)) == [9101]
    assert len(search(orchard, task="prune the apple trees", k=2)) == 2
    assert len(search(orchard, task="prune the apple trees", k=10_000)) >= 4
    assert len(search(orchard, task="prune the apple trees")) == 5


def test_patterns_are_points(orchard):
    """They can be read, filtered and deleted as any point of a collection."""
    store(orchard, {"id": 9400, "task": "to be deleted", "sessionId": "short"})
    points = Points(orchard, "patterns")
    where = {"must": [{"key": "sessionId", "match": {"value": "short"}}]}
    before = points.by_id(9400)[0]["payload"]["task"]
    points.post("/delete", {"filter": where})

    assert before == "to be deleted"
    assert points.count(where) == 0
    assert 9400 not in ids(search(orchard, task="to be deleted", k=50))


@pytest.mark.parametrize(
    "task", ["🙂🙃", "…", "\u200b", "a", "DROP TABLE records; --", "x" * 60_000]
)
def test_any_text_is_a_task(shared, task):
    """Whatever is no blank can be stored and is found by itself."""
    store(shared.url(1), {"id": 9500, "task": task})
    found = search(shared.url(1), task=task, k=10_000)

    assert [hit["task"] for hit in found if hit["id"] == 9500] == [task]


def test_vectors_search_by_text(orchard):
    """Text is embedded; `patterns` is the collection unless another is named."""
    body = {"query": "prune the apple trees", "k": 2, "filter": IN_ORCHARD}
    found = send(orchard, "POST", "/vectors/search", body).result
    near = send(orchard, "POST", "/vectors/search", {**body, "threshold": 0.9999}).result
    named = send(orchard, "POST", "/vectors/search", {**body, "collection": "patterns"}).result

    assert ids(found)[0] == 9101
    assert len(found) == 2
    assert found[0]["payload"]["task"] == "prune the apple trees"
    assert found[0]["score"] == pytest.approx(1)
    assert ids(near) == [9101]
    assert named == found


def test_vectors_search_by_vector(shared):
    """A vector is taken as it is, in any collection."""
    points = make(shared.url(1), "compass", 2)
    points.put({"id": 1, "vector": [0, 1]}, {"id": 2, "vector": [1, 0], "payload": {"to": "east"}})
    body = {"query": [2, 0.1], "k": 1, "collection": "compass"}
    found = send(shared.url(1), "POST", "/vectors/search", body).result
    every = {"query": [1, 0], "threshold": None, "k": None, "collection": "compass"}

    assert ids(found) == [2]
    assert found[0]["payload"] == {"to": "east"}
    assert len(send(shared.url(1), "POST", "/vectors/search", every).result) == 2


def test_text_is_searched_only_where_its_model_is(shared):
    """A collection of the default space takes text; one of foreign vectors refuses it."""
    make(shared.url(1), "foreign", 256)
    make(shared.url(1), "own", 256, embedding_space="default")
    foreign = {"query": "text", "collection": "foreign"}
    refused = send(shared.url(1), "POST", "/vectors/search", foreign)
    served = send(shared.url(2), "POST", "/vectors/search", {"query": "text", "collection": "own"})

    assert refusal(refused) == (400, "embedding_space_mismatch", "query")
    assert served.result == []


def test_a_repeated_store_under_a_key_is_one_pattern(shared):
    """A client that did not hear the answer may ask again, on another node too."""
    body = {"task": "send the letter exactly once"}
    headers = {"Idempotency-Key": "letter-1"}
    first = send(shared.url(1), "POST", "/patterns/store", body, headers=headers).result
    again = send(shared.url(2), "POST", "/patterns/store", body, headers=headers)
    session = {SESSION: again.headers[SESSION]}
    found = send(
        shared.url(3), "POST", "/patterns/search", {**body, "k": 3}, headers=session
    ).result

    assert again.result == first
    assert [hit["task"] for hit in found].count(body["task"]) == 1
