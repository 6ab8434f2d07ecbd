"""Every kind of filter, through every route that takes one, on every node."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import Cluster
from tests.system.exchange import SESSION, Points, make, send

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

UUID = "0f7ea53c-5c1b-4a29-b1b0-1d6a4d3a1c11"
ALL: list[int | str] = [1, 2, 3, 4, 5, UUID]
ANIMALS: dict[int | str, dict[str, Any]] = {
    1: {
        "kind": "cat",
        "legs": 4,
        "weight": 4.5,
        "wild": False,
        "tags": ["small", "furry"],
        "home": {"city": "Oslo", "rooms": 3},
        "seen": "2024-01-01T00:00:00Z",
    },
    2: {
        "kind": "dog",
        "legs": 4,
        "weight": 30,
        "wild": False,
        "tags": ["furry"],
        "home": {"city": "Rome", "rooms": 1},
        "seen": "2024-06-01T12:00:00+02:00",
    },
    3: {"kind": "hen", "legs": 2, "weight": 2, "tags": [], "home": {"city": None}},
    4: {
        "kind": "eel",
        "legs": 0,
        "wild": True,
        "tags": None,
        "toys": [{"name": "ball", "count": 2}, {"name": "ring", "count": 5}],
    },
    5: {
        "kind": ["cat", "lynx"],
        "legs": 4.0,
        "wild": True,
        "toys": [{"name": "ball", "count": 7}],
        "a-b": "ünï",
    },
    UUID: {},
}


def key(name: str, **test: Any) -> dict[str, Any]:
    return {"key": name, **test}


def equal(name: str, value: Any) -> dict[str, Any]:
    return key(name, match={"value": value})


def within(name: str, **bounds: Any) -> dict[str, Any]:
    return key(name, range=bounds)


def one_of(name: str, *values: Any) -> dict[str, Any]:
    return key(name, match={"any": list(values)})


def none_of(name: str, *values: Any) -> dict[str, Any]:
    return key(name, match={"except": list(values)})


CONDITIONS: list[tuple[dict[str, Any], list[int | str]]] = [
    (equal("kind", "cat"), [1, 5]),
    (equal("kind", "Cat"), []),
    (equal("kind", "lynx"), [5]),
    (equal("legs", 4), [1, 2]),
    (equal("legs", 0), [4]),
    (equal("wild", True), [4, 5]),
    (equal("wild", False), [1, 2]),
    (equal("wild", 1), []),
    (equal("wild", "true"), []),
    (equal("tags", "furry"), [1, 2]),
    (equal("a-b", "ünï"), [5]),
    (equal("nothing", "cat"), []),
    (equal("kind", "cat' OR '1'='1"), []),
    (one_of("kind", "cat", "hen"), [1, 3, 5]),
    (one_of("legs", 0, 2, 99), [3, 4]),
    (one_of("kind"), []),
    (none_of("kind", "cat", "dog"), [3, 4, 5]),
    (none_of("legs", 4), [3, 4, 5]),
    (none_of("tags", "furry"), [1]),
    (key("kind", match={"text": "yn"}), [5]),
    (within("weight", gte=4.5), [1, 2]),
    (within("weight", gt=4.5), [2]),
    (within("weight", lt=4.5), [3]),
    (within("weight", lte=4.5), [1, 3]),
    (within("weight", gt=2, lt=30), [1]),
    (within("weight", gt=2, lt=None), [1, 2]),
    (within("legs", gte=4), [1, 2, 5]),
    (within("legs", lt=-1e300), []),
    (within("kind", gt=0), []),
    (within("seen", gte="2024-03-01T00:00:00Z"), [2]),
    (within("seen", lt="2024-06-01T10:00:00Z"), [1]),
    (within("seen", lte="2024-06-01T10:00:00Z"), [1, 2]),
    (within("seen", gt="2023-12-31", lt="2024-01-02"), [1]),
    ({"has_id": [1, UUID, 99]}, [1, UUID]),
    ({"has_id": [UUID.upper()]}, [UUID]),
    ({"has_id": []}, []),
    ({"is_empty": {"key": "tags"}}, [3, 4, 5, UUID]),
    ({"is_empty": {"key": "kind"}}, [UUID]),
    ({"is_empty": {"key": "home.city"}}, [3, 4, 5, UUID]),
    ({"is_null": {"key": "tags"}}, [4]),
    ({"is_null": {"key": "home.city"}}, [3]),
    ({"is_null": {"key": "nothing"}}, []),
    (key("tags", is_empty=False), [1, 2]),
    (key("tags", is_null=True), [4]),
    (key("tags", values_count={"gte": 1}), [1, 2]),
    (key("tags", values_count={"gt": 1, "lt": 3}), [1]),
    (equal("home.city", "Oslo"), [1]),
    (within("home.rooms", gte=1, lt=3), [2]),
    (none_of("home.city", "Oslo"), [2]),
    (equal("home", "Oslo"), []),
    (equal("toys[].name", "ball"), [4, 5]),
    (equal("toys[].name", "ring"), [4]),
    (within("toys[].count", gt=5), [5]),
    (equal("toys.name", "ball"), []),
]

FILTERS: list[tuple[dict[str, Any], list[int | str]]] = [
    ({}, ALL),
    ({"must": [], "should": [], "must_not": []}, ALL),
    ({"must": None, "should": None, "must_not": None, "min_should": None}, ALL),
    ({"must": equal("legs", 4)}, [1, 2]),
    ({"must": [equal("kind", "cat"), equal("wild", True)]}, [5]),
    ({"should": [equal("kind", "hen"), equal("legs", 0)]}, [3, 4]),
    ({"must_not": [equal("wild", False)]}, [3, 4, 5, UUID]),
    ({"must_not": [equal("wild", False), {"is_empty": {"key": "kind"}}]}, [3, 4, 5]),
    (
        {
            "must": [within("legs", gte=2)],
            "should": [equal("kind", "cat"), equal("kind", "dog"), equal("kind", "eel")],
            "must_not": [equal("home.city", "Rome")],
        },
        [1, 5],
    ),
    (
        {"should": [{"must": [equal("legs", 4), equal("wild", False)]}, {"has_id": [4]}]},
        [1, 2, 4],
    ),
    ({"must_not": [{"must_not": [equal("kind", "cat")]}]}, [1, 5]),
    ({"must": [{"should": [equal("legs", 0), equal("legs", 2)]}, equal("wild", True)]}, [4]),
    (
        {
            "min_should": {
                "conditions": [equal("kind", "cat"), equal("legs", 4), equal("wild", True)],
                "min_count": 2,
            }
        },
        [1, 5],
    ),
    (
        {"must": [{"key": "kind", "match": {"value": "cat"}, "range": None, "is_empty": None}]},
        [1, 5],
    ),
]


INDEXES = {
    "kind": "keyword",
    "legs": "integer",
    "weight": "float",
    "wild": "bool",
    "tags": "keyword",
    "seen": "datetime",
    "home.city": "text",
    "home.rooms": "integer",
    "toys[].name": "keyword",
    "toys[].count": "integer",
    "a-b": "keyword",
    "nothing": "uuid",
}


@pytest.fixture(scope="module", params=["zoo", "indexed-zoo"])
def zoo(request: pytest.FixtureRequest, shared: Cluster) -> list[dict[str, Any]]:
    """How to read the animals through each node: its points, and headers with the session.

    The second of two collections has payload indexes, most of them made before its points.
    """
    name: str = request.param
    animals = make(shared.url(1), name, 2, "Dot")
    fields = INDEXES if name == "indexed-zoo" else {}
    for at, (field, kind) in enumerate(fields.items()):
        body = {"field_name": field, "field_schema": kind}
        url = f"/collections/{name}/index?wait=true"
        made = send(shared.url(1 + at % 3), "PUT", url, body)
        assert made.result["status"] == "completed"
    stored = animals.put(
        *({"id": each, "vector": [1, 0], "payload": said} for each, said in ANIMALS.items())
    )
    headers = {"X-Recollect-Session": stored.headers[SESSION]}
    return [{"points": Points(url, name), "headers": headers} for url in shared.urls]


def names(found: list[dict[str, Any]]) -> list[int | str]:
    return [each for each in ALL if each in [row["id"] for row in found]]


@pytest.mark.parametrize(
    ("where", "passing"),
    [({"must": [condition]}, found) for condition, found in CONDITIONS] + FILTERS,
)
def test_a_filter_is_the_same_everywhere(zoo, where, passing):
    """Count, scroll, query and search agree on what passes, on each node, exact or not."""
    for node in zoo:
        points, headers = node["points"], {"headers": node["headers"]}
        query = {"query": [1, 0], "limit": 10, "filter": where}
        search = {"vector": [1, 0], "limit": 10, "filter": where, "params": {"exact": True}}

        assert points.count(where, **headers) == len(passing)
        assert names(points.post("/scroll", {"filter": where}, **headers)["points"]) == passing
        assert names(points.post("/query", query, **headers)["points"]) == passing
        assert names(points.post("/search", search, **headers)) == passing


@pytest.mark.parametrize(("condition", "passing"), CONDITIONS)
def test_a_negated_condition_passes_the_rest(zoo, condition, passing):
    """What does not pass `must` passes `must_not`."""
    points = zoo[1]["points"]
    found = points.post("/scroll", {"filter": {"must_not": [condition]}}, headers=zoo[1]["headers"])

    assert names(found["points"]) == [each for each in ALL if each not in passing]


def test_a_filtered_search_finds_enough(shared):
    """However rare what passes is, a search finds as much of it as it was asked for."""
    points = make(shared.url(2), "haystack", 4, "Euclid")
    for start in range(0, 2000, 1000):
        points.put(
            *(
                {
                    "id": n,
                    "vector": [n % 10, n // 10 % 10, n // 100 % 10, n // 1000],
                    "payload": {"needle": n % 200 == 0, "n": n},
                }
                for n in range(start, start + 1000)
            )
        )
    where = {"must": [equal("needle", True)]}

    assert len(points.query([9, 9, 9, 1], limit=10, filter=where)) == 10
    assert len(points.query([9, 9, 9, 1], limit=50, filter=where)) == 10
    assert points.query([0, 0, 2, 0], limit=3, filter=where)[0]["id"] == 200
    half = {"must": [within("n", gte=1000)]}
    assert len(points.query([0, 0, 0, 0], limit=1000, filter=half)) == 1000


def test_writes_by_filter_reach_exactly_what_passes(shared):
    """Payloads are set, and points deleted, where the filter holds, on every shard."""
    points = make(shared.url(3), "herd", 2, "Dot")
    points.put(*({"id": n, "vector": [1, n], "payload": {"n": n}} for n in range(100)))
    tens = {"must": [within("n", gte=10, lt=20)], "must_not": [equal("n", 15)]}
    points.post("/payload", {"payload": {"marked": True}, "filter": tens})
    marked = points.scroll(filter={"must": [equal("marked", True)]})
    points.post("/delete", {"filter": {"must_not": [equal("marked", True)]}})

    assert [row["payload"]["n"] for row in marked] == [10, 11, 12, 13, 14, 16, 17, 18, 19]
    assert [row["id"] for row in points.scroll()] == [10, 11, 12, 13, 14, 16, 17, 18, 19]
