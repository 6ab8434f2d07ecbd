"""Custom sharding over HTTP: points under keys on three real nodes, found by key and by id."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.helpers import Cluster, eventually
from tests.system.exchange import SESSION, Points, make, refusal, send

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

TENANTS = 40
EACH = 60
SIZE = 16
GREEN_S = 60.0


def key_of(tenant: int) -> int | str:
    """Return a tenant's key: every third one is a number."""
    return tenant if tenant % 3 == 0 else f"tenant/{tenant}"


@pytest.fixture(scope="module")
def vectors() -> Any:
    drawn = np.random.default_rng(3).normal(size=(TENANTS, EACH, SIZE)).astype("f4")
    return drawn / np.linalg.norm(drawn, axis=2, keepdims=True)


@pytest.fixture(scope="module")
def tenants(shared: Cluster, vectors: Any) -> list[Points]:
    """Ids 0..59 under each of forty keys, written through all nodes, as each node serves them."""
    made = make(shared.url(1), "tenants", SIZE, "Dot", sharding_method="custom")
    nodes = [Points(url, made.name) for url in shared.urls]
    for tenant in range(TENANTS):
        rows = [
            {"id": n, "vector": vectors[tenant, n].tolist(), "payload": {"of": tenant, "n": n}}
            for n in range(EACH)
        ]
        body = {"points": rows, "shard_key": key_of(tenant)}
        answer = send(nodes[tenant % 3].url, "PUT", f"{made.path}/points?wait=true", body)
        assert answer.result["status"] == "completed"
    return nodes


def green(points: Points) -> bool:
    return bool(send(points.url, "GET", points.path).result["status"] == "green")


def pairs(found: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    return [(each["id"], each["shard_key"]) for each in found]


def strong(points: Points, what: str, body: dict[str, Any]) -> Any:
    return points.post(what, body, "?consistency=strong")


def test_the_collection_says_how_it_is_sharded(tenants):
    """On every node, beside what it counts."""
    for node in tenants:
        eventually(partial(green, node), GREEN_S, "a built index")
        described = send(node.url, "GET", node.path).result

        assert described["config"]["params"]["sharding_method"] == "custom"
        assert described["points_count"] == TENANTS * EACH


@pytest.mark.parametrize("exact", [False, True])
def test_search_under_a_key_is_search_of_its_points(tenants, vectors, exact):
    """The best of one tenant, of two, and of all, in the order of their scores."""
    rng = random.Random(5)
    for _ in range(20):
        node = rng.choice(tenants)
        chosen = rng.sample(range(TENANTS), rng.choice([1, 2]))
        query = vectors[rng.randrange(TENANTS), rng.randrange(EACH)]
        scores = {(n, t): float(vectors[t, n] @ query) for t in chosen for n in range(EACH)}
        best = sorted(scores, key=lambda pair: -scores[pair])[:10]
        body = {
            "query": query.tolist(),
            "limit": 10,
            "with_payload": True,
            "params": {"exact": exact},
            "shard_key": [key_of(tenant) for tenant in chosen],
        }
        found = strong(node, "/query", body)["points"]

        assert pairs(found) == [(n, key_of(tenant)) for n, tenant in best]
        assert [each["payload"]["of"] for each in found] == [tenant for _, tenant in best]


def test_search_without_a_key_is_search_of_everything(tenants, vectors):
    """Every point is the nearest to itself, and says whose it is."""
    for tenant in range(0, TENANTS, 7):
        for node in tenants:
            body = {"vector": vectors[tenant, 11].tolist(), "limit": 1}
            found = strong(node, "/search", body)

            assert pairs(found) == [(11, key_of(tenant))]


def test_one_id_is_a_point_under_each_key(tenants):
    """By id alone all are found; a key leaves one; a URL names it too."""
    for node in tenants:
        everywhere = strong(node, "", {"ids": [7]})
        assert {each["payload"]["of"] for each in everywhere} == set(range(TENANTS))
        one = strong(node, "", {"ids": [7], "shard_key": key_of(4)})
        assert [each["payload"] for each in one] == [{"of": 4, "n": 7}]
        path = f"{node.path}/points/7?consistency=strong"
        assert refusal(send(node.url, "GET", path)) == (400, "bad_request", "shard_key")
        for tenant in (3, 4):
            found = send(node.url, "GET", f"{path}&shard_key={key_of(tenant)}").result
            assert (found["id"], found["shard_key"]) == (7, key_of(tenant))


def test_pages_meet_every_point_once(tenants):
    """Whole ids at a time without a key, exactly so many with one."""
    node = tenants[1]
    met: list[tuple[Any, Any]] = []
    offset = None
    while True:
        page = strong(node, "/scroll", {"limit": 170, "offset": offset})
        assert len(page["points"]) % TENANTS == 0
        met += pairs(page["points"])
        offset = page["next_page_offset"]
        if offset is None:
            break
    one = strong(node, "/scroll", {"limit": 25, "offset": 10, "shard_key": "tenant/1"})

    assert len(met) == len(set(met)) == TENANTS * EACH
    assert [n for n, _ in met] == sorted(n for n, _ in met)
    assert pairs(one["points"]) == [(n, "tenant/1") for n in range(10, 35)]
    assert one["next_page_offset"] == 35


def test_filters_and_counts_keep_to_their_keys(tenants):
    """`has_id` means ids; a filter is narrowed by a key."""
    node = tenants[2]
    where = {"must": [{"has_id": [1, 2, 99]}, {"key": "of", "range": {"lt": 3}}]}

    assert strong(node, "/count", {"filter": where})["count"] == 6
    assert strong(node, "/count", {"filter": where, "shard_key": 0})["count"] == 2
    assert strong(node, "/count", {"filter": where, "shard_key": [0, "tenant/5"]})["count"] == 2
    assert strong(node, "/count", {"shard_key": ["tenant/5", 6]})["count"] == 2 * EACH


def test_changes_under_one_key_leave_the_others(shared):
    """Payloads, conditions, deletion by id, by filter and of a whole key; sessions hold."""
    made = make(shared.url(2), "changing", 2, "Euclid", sharding_method="custom")
    nodes = [Points(url, made.name) for url in shared.urls]
    path = f"{made.path}/points"
    row = {"id": 1, "vector": [1, 2], "payload": {"n": 1}}
    assert send(made.url, "PUT", f"{made.path}/shards", {"shard_key": "a"}).result is True
    for key in ("a", "b", 3):
        body = {"points": [row, {**row, "id": 2}], "shard_key": key}
        assert send(nodes[0].url, "PUT", path, body).status == 200
    taken = {"points": [{**row, "if_absent": True}], "shard_key": "b"}
    conflict = send(nodes[1].url, "PUT", path, taken)
    assert refusal(conflict) == (409, "version_conflict", "points[0]")
    assert conflict.body["error"]["point"] == 1
    unkeyed = send(nodes[0].url, "POST", f"{path}/delete", {"points": [1]})
    assert refusal(unkeyed) == (400, "bad_request", "shard_key")

    change = {"payload": {"n": 2}, "points": [1], "shard_key": "b"}
    token = send(nodes[2].url, "POST", f"{path}/payload", change).headers[SESSION]
    found = nodes[0].post("", {"ids": [1]}, headers={SESSION: token})
    assert {each["shard_key"]: each["payload"]["n"] for each in found} == {"a": 1, "b": 2, 3: 1}
    where = {"filter": {"must": {"key": "n", "match": {"value": 1}}}, "shard_key": ["a", "b"]}
    assert send(nodes[1].url, "POST", f"{path}/delete", where).status == 200
    left = strong(nodes[0], "/scroll", {})["points"]
    assert pairs(left) == [(1, 3), (1, "b"), (2, 3)]
    gone = send(nodes[1].url, "POST", f"{made.path}/shards/delete", {"shard_key": 3})
    assert gone.result is True

    assert pairs(strong(nodes[2], "/scroll", {})["points"]) == [(1, "b")]
    assert [pairs(strong(node, "/query", {"query": [1, 2]})["points"]) for node in nodes] == [
        [(1, "b")]
    ] * 3


def test_collections_without_keys_refuse_them(shared):
    """A key there is a misunderstanding, and named."""
    plain = make(shared.url(1), "keyless", 2, "Euclid")
    body = {"points": [{"id": 1, "vector": [1, 2]}], "shard_key": "a"}
    put = send(plain.url, "PUT", f"{plain.path}/points", body)
    created = send(plain.url, "PUT", f"{plain.path}/shards", {"shard_key": "a"})
    read = send(plain.url, "POST", f"{plain.path}/points/count", {"shard_key": "a"})

    assert refusal(put) == refusal(created) == refusal(read) == (400, "bad_request", "shard_key")
    assert plain.count() == 0
