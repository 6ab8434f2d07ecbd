"""Bad input: refused with the status and the field that are to blame, and nothing is stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.helpers import Cluster
from tests.system.bad_bodies import (
    COLLECTIONS,
    COSINE,
    NAMES,
    PATTERN_SEARCHES,
    PATTERNS,
    VECTOR_SEARCHES,
)
from tests.system.bad_points import GOOD, ONES, POINTS, TEXTS, nested
from tests.system.bad_queries import OTHERS, QUERIES, SEARCHES, nested_filter
from tests.system.exchange import Points, make, refusal, send

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


def state(points: Points) -> Any:
    """Return all that a request may have changed."""
    return (
        points.scroll(with_vector=True),
        Points(points.url, "patterns").count(),
        send(points.url, "GET", "/collections").result,
    )


@pytest.fixture(scope="module")
def target(shared: Cluster) -> Points:
    """A collection with three points, which nothing in this file may change."""
    points = make(shared.url(1), "target", 4)
    points.put(*({"id": n, "vector": [n, 1, 0, 0], "payload": {"n": n}} for n in (1, 2, 3)))
    return points


@pytest.fixture
def refuses(target: Points) -> Callable[..., None]:
    """Sends a request and sees that it is refused for the right reason, and changes nothing."""

    def check(method: str, path: str, body: Any, field: str | None, status: int = 400) -> None:
        before = state(target)
        raw = body if isinstance(body, bytes | str) else json.dumps(body)
        content = raw.encode() if isinstance(raw, str) else raw
        found = refusal(send(target.url, method, path, raw=content))

        assert found[::2] == (status, field)
        assert found[1] in {"bad_request", "unsupported_feature"}
        assert state(target) == before

    return check


def cases(table: Sequence[tuple[Any, ...]], names: str = "body, field") -> Any:
    """Parametrize by a table; a case is called by its number and the field to blame."""
    called = [f"{number}-{case[-1]}" for number, case in enumerate(table)]
    return pytest.mark.parametrize(names, table, ids=called)


@cases(POINTS + TEXTS)
def test_points(refuses, body, field):
    """A batch is refused whole; the first bad point, or part of it, is named."""
    refuses("PUT", "/collections/target/points?wait=true", body, field)


@cases(QUERIES)
def test_queries(refuses, body, field):
    """A query that cannot be served says why."""
    refuses("POST", "/collections/target/points/query", body, field)


@cases(SEARCHES)
def test_searches(refuses, body, field):
    """So does a search."""
    refuses("POST", "/collections/target/points/search", body, field)


@cases(OTHERS, "method, route, body, field")
def test_other_routes_of_points(refuses, method, route, body, field):
    """And reads, deletions and changes of payloads."""
    refuses(method, f"/collections/target/points{route}", body, field)


@cases(PATTERNS)
def test_patterns(refuses, body, field):
    """A pattern that cannot be stored names the field to change."""
    refuses("POST", "/patterns/store", body, field)


@cases(PATTERN_SEARCHES)
def test_pattern_searches(refuses, body, field):
    """Searches for patterns are as strict."""
    refuses("POST", "/patterns/search", body, field)


@cases(VECTOR_SEARCHES)
def test_vector_searches(refuses, body, field):
    """And searches by text or vector."""
    refuses("POST", "/vectors/search", body, field)


@cases(COLLECTIONS)
def test_collections(refuses, body, field):
    """A collection is not created by half."""
    refuses("PUT", "/collections/never", body, field)


@cases(
    [
        ({"field_name": "a", "field_schema": "geo"}, "field_schema"),
        ({"field_name": "a", "field_schema": "colour"}, "field_schema"),
        ({"field_name": "a", "field_schema": {"type": "colour"}}, "field_schema.type"),
        ({"field_name": "", "field_schema": "keyword"}, "field_name"),
        ({"field_schema": "keyword"}, "field_name"),
        ({"field_name": 1}, "field_name"),
    ]
)
def test_payload_indexes(refuses, body, field):
    """Nor is an index of a kind that is not served."""
    refuses("PUT", "/collections/target/index?wait=true", body, field)


@pytest.mark.parametrize("name", NAMES)
def test_names(refuses, name):
    """A name outside the alphabet, too long, or with a leading dot makes no collection."""
    body = {"vectors": COSINE}
    refuses("PUT", f"/collections/{name}", body, "collection_name")
    refuses("PUT", f"/collections/{name}/points", {"points": [json.loads(GOOD)]}, "collection_name")
    refuses("GET", f"/collections/{name}", "", "collection_name")
    refuses("DELETE", f"/collections/{name}", "", "collection_name")


@pytest.mark.parametrize(
    ("parameter", "field"),
    [
        ("colour=1", "colour"),
        ("wait=maybe", "wait"),
        ("wait=true&wait=true", "wait"),
        ("ordering=sideways", "ordering"),
        ("timeout=0", "timeout"),
        ("timeout=-1", "timeout"),
        ("timeout=inf", "timeout"),
        ("timeout=soon", "timeout"),
        ("consistency=most", "consistency"),
    ],
)
def test_parameters(refuses, parameter, field):
    """A parameter that is unknown, repeated or malformed is named."""
    body = {"points": [json.loads(GOOD)]}
    refuses("PUT", f"/collections/target/points?{parameter}", body, field)


def test_a_large_batch_with_one_bad_point(refuses):
    """The bad one is found at the end of ten thousand, and none of them is stored."""
    points = [{"id": n, "vector": ONES} for n in range(10_000)]
    points[9_998]["vector"] = [0, 0, 0, 0]
    points[9_999]["vector"] = [1, 1]
    path = "/collections/target/points"
    refuses("PUT", path, {"points": points}, "points[9999].vector")
    points[9_999]["vector"] = ONES
    refuses("PUT", path, {"points": points}, "points[9998].vector")


def test_zero_has_no_direction_only_under_cosine(shared):
    """The other distances store the zero vector and find it."""
    for distance in ("Euclid", "Dot", "Manhattan"):
        points = make(shared.url(2), f"zero-{distance}", 2, distance)
        points.put({"id": 1, "vector": [0, 0]})
        found = points.query([0, 0], limit=1)
        overflowing = send(
            points.url,
            "PUT",
            f"{points.path}/points",
            {"points": [{"id": 2, "vector": [1e39, 0]}]},
        )

        assert [hit["id"] for hit in found] == [1]
        assert refusal(overflowing) == (400, "bad_request", "points[0].vector")


def test_the_largest_that_is_allowed_is_stored(shared):
    """One step inside each limit is served: depth, size, integers, filter, limit."""
    points = make(shared.url(3), "brim", 4096, "Euclid")
    for number, said in enumerate((nested(32), {"a": "x" * 65_528}, {"a": 2**64 - 1})):
        points.put({"id": number, "vector": [number] * 4096, "payload": said})
        assert points.by_id(number)[0]["payload"] == said
    longest = list(range(10_000))

    assert points.count(nested_filter(16)) == 0
    assert points.count({"must": [{"key": "a", "match": {"any": longest}}]}) == 0
    assert points.count({"must": [{"key": "a", "match": {"value": 1}}] * 256}) == 0
    assert points.count({"must": [{"has_id": longest}]}) == 3
    assert len(points.by_id(*longest, with_payload=False)) == 3
    assert len(points.query([0] * 4096, limit=10_000, offset=0)) == 3


def test_everything_still_works(shared, target):
    """After all this every node is ready, and serves what it served before."""
    shared.until_ready()
    for url in shared.urls:
        points = Points(url, "target")
        assert points.count(parameters="?consistency=all") == 3
        assert [hit["id"] for hit in points.query([3, 1, 0, 0], limit=1)] == [3]


def test_a_payload_does_not_grow_beyond_its_limit_by_merging(shared: Cluster) -> None:
    """64 KiB is the limit of what a point comes to have, not of each request alone."""
    points = make(shared.url(1), "growing", 2)
    points.put({"id": 1, "vector": [1, 0], "payload": {"a": "x" * 40_000}})
    path = f"{points.path}/points/payload?wait=true"
    body = {"points": [1], "payload": {"b": "y" * 40_000}}
    found = refusal(send(points.url, "POST", path, body))

    assert found[::2] == (400, "payload")
    assert points.scroll()[0]["payload"] == {"a": "x" * 40_000}
