"""Collections over HTTP, as the interface promises them, on real nodes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Cluster, eventually
from tests.system.exchange import Points, make, refusal, send

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def shelf(shared: Cluster) -> Points:
    """A collection of three points."""
    points = make(shared.url(2), "shelf", 2, "Euclid")
    points.put(*({"id": n, "vector": [n, 0], "payload": {"n": n}} for n in (1, 2, 3)))
    return points


def test_a_collection_comes_and_goes(shared):
    """Created through one node it is there on every other at once; so is its end."""
    before = send(shared.url(2), "GET", "/collections/fleeting/exists").result
    make(shared.url(1), "fleeting", 3)
    there = [send(url, "GET", "/collections/fleeting/exists").result for url in shared.urls]
    paths = ["/collections", *["/collections?consistency=majority"] * 2]
    lists = [send(url, "GET", path) for url, path in zip(shared.urls, paths, strict=True)]
    dropped = send(shared.url(3), "DELETE", "/collections/fleeting").result
    again = send(shared.url(3), "DELETE", "/collections/fleeting").result
    after = [send(url, "GET", "/collections/fleeting?consistency=all") for url in shared.urls]

    assert before == {"exists": False}
    assert there == [{"exists": True}] * 3
    for listed in lists:
        assert {"name": "fleeting"} in listed.result["collections"]
        assert {"name": "patterns"} in listed.result["collections"]
    assert (dropped, again) == (True, False)
    assert [refusal(each)[:2] for each in after] == [(404, "collection_not_found")] * 3


def test_creation_accepts_the_wishes_and_reports_what_is(shared):
    """Shards, replicas and consistency are validated and accepted, and the real values told."""
    wishes = {
        "hnsw_config": {"m": 24, "ef_construct": 77, "full_scan_threshold": 5, "on_disk": None},
        "shard_number": 1,
        "replication_factor": 7,
        "write_consistency_factor": 1,
        "optimizers_config": {"indexing_threshold": 0},
        "wal_config": {"wal_capacity_mb": 1},
        "on_disk_payload": False,
        "quantization_config": None,
        "sparse_vectors": None,
        "sharding_method": None,
    }
    path = make(shared.url(3), "wishes", 5, "Manhattan", **wishes).path
    found = send(shared.url(1), "GET", path).result
    params = found["config"]["params"]

    assert params["vectors"] == {"size": 5, "distance": "Manhattan"}
    assert found["config"]["hnsw_config"]["m"] == 24
    assert found["config"]["hnsw_config"]["ef_construct"] == 77
    assert (params["shard_number"], params["replication_factor"]) == (12, 3)
    assert params["write_consistency_factor"] == 2
    assert (found["status"], found["points_count"]) == ("green", 0)


def test_a_name_is_taken_once(shared, shelf):
    """Whoever creates what exists is told so, on any node, and nothing changes."""
    for node in (1, 2, 3):
        for vectors in ({"size": 2, "distance": "Euclid"}, {"size": 3, "distance": "Dot"}):
            taken = send(shared.url(node), "PUT", "/collections/shelf", {"vectors": vectors})

            assert refusal(taken) == (409, "collection_exists", "collection_name")
    assert shelf.count() == 3


@pytest.mark.parametrize("name", ["x" * 255, "-", "_", "1", "a.b-c_D9", "Aa", "aA", "a."])
def test_names(shared, name):
    """Letters, digits, dot, dash and underscore make a name, 255 of them too; case counts."""
    points = make(shared.url(1), name, 2)
    points.put({"id": 1, "vector": [1, 2]})
    counted = Points(shared.url(2), name).count(parameters="?consistency=majority")
    dropped = send(shared.url(2), "DELETE", points.path).result

    assert (counted, dropped) == (1, True)


def test_a_namesake_starts_empty(shared):
    """What is created in the place of what was dropped has its own points, on every node."""
    for turn in range(6):
        first, second, third = ((turn + shift) % 3 + 1 for shift in range(3))
        make(shared.url(first), "phoenix", 2 + turn % 2)
        other = Points(shared.url(second), "phoenix")
        other.put({"id": turn, "vector": [1.0] * (2 + turn % 2)})
        counted = Points(shared.url(third), "phoenix").count(parameters="?consistency=majority")
        dropped = send(shared.url(third), "DELETE", other.path).result

        assert (counted, dropped) == (1, True)


def test_green_means_that_all_is_indexed(shared):
    """Soon after a load the status is green on every node, and then nothing waits."""
    points = make(shared.url(1), "meadow", 8)
    for start in (0, 500):
        rows = range(start, start + 500)
        points.put(
            *({"id": n, "vector": [n % 7 + 1, *[n >> s & 3 for s in range(7)]]} for n in rows)
        )

    def described(url: str) -> dict[str, Any]:
        found: dict[str, Any] = send(url, "GET", points.path).result
        assert found["status"] in {"green", "yellow"}
        assert found["points_count"] == 1000
        return found

    for url in shared.urls:
        eventually(lambda: described(url)["status"] == "green", 30, "green")  # noqa: B023

        assert described(url)["indexed_vectors_count"] == 1000


@pytest.mark.parametrize(
    "schema",
    ["keyword", "integer", "float", "bool", "datetime", "text", "uuid", None, {"type": "keyword"}],
)
def test_payload_indexes_come_and_go(shared, shelf, schema):
    """Any field may be indexed and un-indexed; it filters either way, and says which."""
    where = {"must": [{"key": "n", "match": {"value": 2}}]}
    body = {"field_name": "n", "field_schema": schema}
    made = send(shared.url(3), "PUT", "/collections/shelf/index?wait=true", body)
    described = send(shared.url(3), "GET", "/collections/shelf").result["payload_schema"]
    counted = send(shared.url(3), "POST", f"{shelf.path}/points/count", {"filter": where})
    gone = send(shared.url(3), "DELETE", "/collections/shelf/index/n?wait=true")

    kind = schema["type"] if isinstance(schema, dict) else schema or "keyword"
    assert made.result["status"] == "completed"
    assert described["n"]["data_type"] == kind
    assert (described["n"]["points"] > 0) is (kind in {"integer", "float"})
    assert counted.result == {"count": 1}
    assert ("usage" in counted.body) is (kind != "integer")
    assert gone.result["status"] == "completed"
    assert send(shared.url(3), "GET", "/collections/shelf").result["payload_schema"] == {}
    again = send(shared.url(3), "POST", f"{shelf.path}/points/count", {"filter": where})
    assert again.result == {"count": 1}
    assert again.body["usage"] == {"filter": {"unindexed": ["n"]}}
