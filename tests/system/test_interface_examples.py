"""Recommendation, diversity, groups and MessagePack on three real nodes, against brute force."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.helpers import Cluster, eventually
from tests.system.description import description
from tests.system.exchange import Points, ids, make, refusal, send

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SIZE = 12
COUNT = 300
MSGPACK = "application/msgpack"
DISTANCES = ("Cosine", "Dot", "Euclid", "Manhattan")

each_distance = pytest.mark.parametrize("distance", DISTANCES)


@pytest.fixture(scope="module")
def vectors() -> Any:
    drawn = np.random.default_rng(17).normal(size=(COUNT, SIZE)).astype("<f4")
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def stored(shared: Cluster, vectors: Any) -> dict[str, list[Points]]:
    """The same vectors under each distance, written as one matrix, as each node serves them."""
    nodes = {}
    for distance in DISTANCES:
        made = make(shared.url(1), f"examples-{distance}", SIZE, distance)
        payloads = [{"n": n, "kind": n % 7} for n in range(COUNT)]
        batch = {"ids": list(range(COUNT)), "vectors": vectors.tobytes(), "payloads": payloads}
        status, answer = packed(made.url, "PUT", f"{made.path}/points", {"batch": batch})
        assert (status, answer["result"]["status"]) == (200, "completed")
        nodes[distance] = [Points(url, made.name) for url in shared.urls]
        for points in nodes[distance]:
            eventually(partial(has, points, COUNT), timeout_s=20)
    return nodes


def has(points: Points, count: int) -> bool:
    return points.count() == count


def packed(
    url: str,
    method: str,
    path: str,
    body: Any,
    accept: str = MSGPACK,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Any]:
    """Send MessagePack, and return status and body of an answer in it."""
    sent = {"Content-Type": MSGPACK, "Accept": accept, **(headers or {})}
    content = None if body is None else msgspec.msgpack.encode(body)
    request = urllib.request.Request(f"{url}{path}", content, sent, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Content-Type"] == MSGPACK
        return answer.status, msgspec.msgpack.decode(answer.read())


def alike(rows: Any, vector: Any, distance: str) -> Any:
    wide = rows.astype(np.float64)
    if distance in {"Cosine", "Dot"}:
        return wide @ vector
    difference = wide - vector
    order = 2 if distance == "Euclid" else 1
    return -np.linalg.norm(difference, ord=order, axis=1)


@each_distance
def test_recommendation(stored, vectors, distance):
    """What resembles the examples' average, whichever node is asked, and in every collection."""
    wide = vectors.astype(np.float64)
    wanted = 2 * wide[[1, 2]].mean(axis=0) - wide[[3]].mean(axis=0)
    order = np.argsort(-alike(vectors, wanted, distance), kind="stable").tolist()
    expected = [n for n in order if n not in {1, 2, 3}][:8]
    examples = {"positive": [1, 2], "negative": [3]}
    for points in stored[distance]:
        assert ids(points.query({"recommend": examples}, limit=8)) == expected
        assert ids(points.post("/recommend", {**examples, "limit": 8})) == expected
        other = {"collection": stored["Dot" if distance != "Dot" else "Cosine"][0].name}
        body = {"query": {"recommend": examples}, "limit": 8, "lookup_from": other}
        answer = send(points.url, "POST", f"{points.path}/points/query", body)
        description(points.url).check("POST", f"{points.path}/points/query", answer)
        assert ids(answer.result["points"]) == order[:8]


@each_distance
def test_groups_and_thresholds(stored, vectors, distance):
    """Groups are those of all points, and a threshold is on the better side."""
    scores = alike(vectors, vectors[5].astype(np.float64), distance)
    order = np.argsort(-scores, kind="stable").tolist()
    groups: dict[int, list[int]] = {}
    for n in order:
        groups.setdefault(n % 7, []).append(n)
    for points in stored[distance]:
        path = f"{points.path}/points/query/groups"
        body = {"query": vectors[5].tolist(), "group_by": "kind", "group_size": 40, "limit": 7}
        answer = send(points.url, "POST", path, body)
        description(points.url).check("POST", path, answer)
        found = {group["id"]: ids(group["hits"]) for group in answer.result["groups"]}
        assert list(found) == list(groups)
        assert found == {kind: members[:40] for kind, members in groups.items()}
        middle = float(abs(scores[order[9]] + scores[order[10]]) / 2)
        if distance in {"Cosine", "Dot"}:
            middle = float((scores[order[9]] + scores[order[10]]) / 2)
        near = points.query(vectors[5].tolist(), limit=50, score_threshold=middle)
        assert ids(near) == order[:10]


def test_batches_in_messagepack_are_those_in_json(stored, vectors):
    """Binary vectors find the same as numbers, and come back as they are stored."""
    for points in stored["Cosine"]:
        searches = [{"vector": row.tolist(), "limit": 3} for row in vectors[:70]]
        plain = points.post("/search/batch", {"searches": searches})
        binary = [{"vector": row.tobytes(), "limit": 3} for row in vectors[:70]]
        path = f"{points.path}/points/search/batch"
        _, answer = packed(points.url, "POST", path, {"searches": binary})
        assert answer["result"] == plain
        one = {"query": vectors[4].tobytes(), "limit": 1, "with_vector": True}
        accept = f"{MSGPACK}; vectors=float32"
        _, answer = packed(points.url, "POST", f"{points.path}/points/query", one, accept)
        (hit,) = answer["result"]["points"]
        assert np.frombuffer(hit["vector"], "<f4") == pytest.approx(vectors[4], abs=1e-6)


def test_examples_lie_in_any_shard(shared, vectors):
    """Under keys, points are looked up in their shards, and another key's may be found."""
    made = make(shared.url(1), "examples-keys", SIZE, "Dot", sharding_method="custom")
    for key in ("a", "b", "c"):
        rows = [{"id": n, "vector": vectors[n].tolist()} for n in range(20)]
        body: dict[str, Any] = {"points": rows, "shard_key": key}
        assert send(made.url, "PUT", f"{made.path}/points", body).status == 200
    for url in shared.urls:
        eventually(partial(has, Points(url, made.name), 60), timeout_s=20)
    order = np.argsort(-(vectors[:20] @ vectors[[1, 2]].mean(axis=0)), kind="stable").tolist()
    expected = [n for n in order if n not in {1, 2}][:5]
    recommend = {"recommend": {"positive": [1, 2]}}
    for url in shared.urls:
        points = Points(url, made.name)
        assert ids(points.query(recommend, limit=5, shard_key="b")) == expected
        body = {"query": recommend, "limit": 5}
        unclear = send(url, "POST", f"{made.path}/points/query", body)
        assert refusal(unclear) == (400, "bad_request", "shard_key")
        lookup = {"collection": made.name, "shard_key": "c"}
        found = points.query(1, limit=20, shard_key="a", lookup_from=lookup)
        assert len(found) == 20


def test_answers_of_all_kinds_are_the_same_in_messagepack(shared, stored):
    """Whatever a route answers, parts that are JSON already among it."""
    url, name = shared.url(1), stored["Dot"][0].path
    assert send(url, "PUT", "/graph/examples", {}).status == 200
    nodes = {"nodes": [{"id": "a", "labels": ["x"], "properties": {"n": 1.5}}]}
    written = send(url, "POST", "/graph/examples/nodes", nodes)
    asked = [
        ("POST", "/graph/examples/nodes/get", {"ids": ["a"]}),
        ("POST", "/graph/examples/cypher", {"query": "MATCH (a) RETURN a, 1.5, null"}),
        ("POST", f"{name}/points/scroll", {"limit": 3}),
        ("POST", f"{name}/points/count", {}),
        ("GET", name, None),
        ("GET", "/collections", None),
        ("GET", "/graph", None),
    ]
    headers = {"x-recollect-session": written.headers["x-recollect-session"]}
    for method, path, body in asked:
        plain = send(url, method, path, body, headers=headers)
        _, answer = packed(url, method, path, body, headers=headers)
        drop = {"time", "usage", "elapsed_ms"}
        assert cleaned(answer["result"], drop) == cleaned(plain.result, drop)


def cleaned(result: Any, drop: set[str]) -> Any:
    """Return a result without what depends on when it was asked for."""
    if not isinstance(result, dict):
        return result
    return {name: value for name, value in result.items() if name not in drop}


def test_who_accepts_nothing_is_refused(shared):
    """406 in JSON, before anything is done."""
    answer = send(shared.url(1), "GET", "/collections", headers={"Accept": "text/html"})

    assert refusal(answer) == (406, "not_acceptable", "Accept")
