"""Points over HTTP, as the interface promises them, on real nodes."""

from __future__ import annotations

import http.client
import json
import uuid
from typing import Any

import pytest

from tests.helpers import Cluster
from tests.system.exchange import Points, ids, make, plain, refusal, send

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

UUID = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26"
IDS = [0, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, UUID, str(uuid.UUID(int=0))]


@pytest.fixture(scope="module")
def line(shared: Cluster) -> Points:
    """Points 1 to 20 on a line, seen through the node that wrote them."""
    line = make(shared.url(2), "line", 2, "Euclid")
    line.put(*({"id": n, "vector": [n, 0], "payload": {"n": n}} for n in range(1, 21)))
    return line


@pytest.fixture
def scratch(shared: Cluster, request: pytest.FixtureRequest) -> Any:
    """An empty collection of the test's own."""
    name = "scratch-" + "".join(each if each.isalnum() else "-" for each in request.node.name)
    yield make(shared.url(1), name, 2, "Euclid")
    assert send(shared.url(1), "DELETE", f"/collections/{name}").result is True


def test_success_has_one_shape(shared, line):
    """Result, status `ok` and the time in seconds, on every kind of route."""
    shared.until_ready()
    for method, path, body in (
        ("GET", "/collections", None),
        ("GET", "/collections/line", None),
        ("GET", "/collections/line/exists", None),
        ("GET", "/cluster", None),
        ("GET", "/healthz", None),
        ("GET", "/readyz", None),
        ("POST", "/collections/line/points", {"ids": [1]}),
        ("POST", "/collections/line/points/count", {}),
        ("PUT", "/collections/line/points", {"points": [{"id": 1, "vector": [1, 0]}]}),
    ):
        answer = send(shared.url(1), method, path, body).body

        assert set(answer) == {"result", "status", "time"}
        assert answer["status"] == "ok"
        assert isinstance(answer["time"], float)
    line.put({"id": 1, "vector": [1, 0], "payload": {"n": 1}})


def test_a_connection_serves_many_requests(shared, line):
    """One connection is enough for a client, errors in between included."""
    connection = http.client.HTTPConnection(f"127.0.0.1:{shared.port + 1}", timeout=10)
    headers = {"Content-Type": "application/json"}
    statuses = []
    for body in ({"ids": [3]}, {"ids": "x"}, {"ids": [4]}):
        connection.request("POST", "/collections/line/points", json.dumps(body), headers)
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    connection.close()

    assert statuses == [200, 400, 200]


@pytest.mark.parametrize("given", IDS, ids=str)
def test_ids_come_back_as_they_were_given(shared, scratch, given):
    """A number as that number, a UUID as that text, wherever a point is shown."""
    scratch.put({"id": given, "vector": [3, 4]}, {"id": 77, "vector": [5, 4]})

    for shown in (
        scratch.by_id(given),
        scratch.query([3, 4], limit=1),
        scratch.query([3, 4], limit=1, filter={"must": [{"has_id": [given]}]}),
        scratch.query(77, limit=1),
        scratch.post("/search", {"vector": [3, 4], "limit": 1}),
        scratch.scroll(filter={"must_not": [{"has_id": [77]}]}),
        scratch.scroll(offset=given)[:1],
        [send(scratch.url, "GET", f"{scratch.path}/points/{given}").result],
    ):
        assert ids(shown) == [given]
        assert type(shown[0]["id"]) is type(given)
    scratch.post("/delete", {"points": [given]})
    assert scratch.by_id(given) == []


def test_other_forms_of_a_uuid_are_that_uuid(scratch):
    """Capitals, a missing hyphen or a urn name the same point."""
    forms = [UUID, UUID.upper(), UUID.replace("-", ""), f"urn:uuid:{UUID}"]
    for number, form in enumerate(forms):
        scratch.put({"id": form, "vector": [number, 0]})

    assert scratch.count() == 1
    assert [ids(scratch.by_id(form)) for form in forms] == [[UUID]] * 4
    assert scratch.by_id(UUID, with_vector=True)[0]["vector"] == [3, 0]


def test_upsert_takes_points_or_columns(scratch):
    """Both forms store the same; a payload may be absent or null, and a second write replaces."""
    scratch.put(
        {"id": 1, "vector": [1, 2], "payload": {"a": {"b": [1, 2.5, None, "ü"]}}},
        {"id": 2, "vector": [3, 4]},
        {"id": UUID, "vector": [5, 6], "payload": None},
    )
    listed = plain(scratch.scroll(with_vector=True))
    columns = {
        "ids": [1, 2, UUID],
        "vectors": [[1, 2], [3, 4], [5, 6]],
        "payloads": [{"a": {"b": [1, 2.5, None, "ü"]}}, None, {}],
    }
    scratch.post("/delete", {"points": [1, 2, UUID]})
    put = send(scratch.url, "PUT", f"{scratch.path}/points?wait=true", {"batch": columns})
    batched = plain(scratch.scroll(with_vector=True))
    scratch.put({"id": 1, "vector": [9, 9], "payload": {"c": 1}})

    assert put.result["status"] == "completed"
    assert listed == [
        {"id": 1, "vector": [1, 2], "payload": {"a": {"b": [1, 2.5, None, "ü"]}}},
        {"id": 2, "vector": [3, 4], "payload": {}},
        {"id": UUID, "vector": [5, 6], "payload": {}},
    ]
    assert batched == listed
    assert plain(scratch.by_id(1, with_vector=True)) == [
        {"id": 1, "vector": [9, 9], "payload": {"c": 1}}
    ]


def test_columns_without_payloads(scratch):
    """The columns `ids` and `vectors` are enough."""
    body = {"batch": {"ids": [1, 2], "vectors": [[0, 1], [1, 0]]}}
    put = send(scratch.url, "PUT", f"{scratch.path}/points", body)

    assert put.result["status"] == "completed"
    assert ids(scratch.query([1, 0], limit=9)) == [2, 1]


def test_of_an_id_that_comes_twice_the_last_counts(scratch):
    """As if the points of a batch were written one after the other."""
    scratch.put({"id": 1, "vector": [1, 1]}, {"id": 1, "vector": [2, 2], "payload": {"last": True}})

    assert plain(scratch.scroll(with_vector=True)) == [
        {"id": 1, "vector": [2, 2], "payload": {"last": True}}
    ]


def test_payload_values_come_back_exactly(scratch):
    """Integers of 64 bits, floats, text of any script, and nesting to depth 32."""
    deep: Any = "bottom"
    for _ in range(31):
        deep = [deep]
    payload = {
        "integers": [2**64 - 1, -(2**63), 0, 2**53 + 1],
        "floats": [0.1, 1e-300, -1.5e300],
        "text": "日本語 🙂 \u0001 \\ \" '; DROP TABLE records; --",
        "": "an empty key",
        "a.b": "a key with a dot",
        "deep": deep,
        "false": False,
        "null": None,
        "large": "x" * 60_000,
    }
    scratch.put({"id": 1, "vector": [1, 1], "payload": payload})

    assert scratch.by_id(1)[0]["payload"] == payload
    assert scratch.query([1, 1], with_payload=True)[0]["payload"] == payload


def test_vectors_come_back(shared, scratch):
    """As float32 of what was given; under Cosine scaled to length one."""
    scratch.put({"id": 1, "vector": [0.1, -3e38]}, {"id": 2, "vector": [1, 2]})
    angle = make(shared.url(1), "angle", 2)
    angle.put({"id": 1, "vector": [3, 4]}, {"id": 2, "vector": [3e38, 4e-38]})
    given = scratch.by_id(1, with_vector=True)[0]["vector"]
    scaled = [row["vector"] for row in angle.by_id(1, 2, with_vector=True)]

    assert given == pytest.approx([0.1, -3e38], rel=1e-6)
    assert scaled == [pytest.approx([0.6, 0.8]), pytest.approx([1, 0])]
    assert "vector" not in angle.by_id(1)[0]


def test_retrieve(line):
    """What exists comes in the order asked; payload unless unwanted, vector if wanted."""
    assert plain(line.by_id(5, 999, 3, UUID, with_payload=False)) == [{"id": 5}, {"id": 3}]
    assert plain(line.by_id(4)) == [{"id": 4, "payload": {"n": 4}}]
    assert plain(line.by_id(4, with_payload=["m"])) == [{"id": 4, "payload": {}}]
    assert plain(line.by_id(4, with_payload={"exclude": ["n"]}, with_vector=True)) == [
        {"id": 4, "payload": {}, "vector": [4, 0]}
    ]
    assert line.by_id() == []
    one = send(line.url, "GET", f"{line.path}/points/4").result
    assert plain([one]) == [{"id": 4, "payload": {"n": 4}, "vector": [4, 0]}]
    missing = send(line.url, "GET", f"{line.path}/points/999")
    assert refusal(missing) == (404, "not_found", "id")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"limit": 3}, [7, 6, 8]),
        ({"limit": 2, "offset": 3}, [5, 9]),
        ({"limit": 3, "filter": {"must": [{"key": "n", "range": {"gt": 10}}]}}, [11, 12, 13]),
        ({"limit": 9, "score_threshold": 1.5}, [7, 6, 8]),
        ({"limit": 3, "params": {"exact": True}}, [7, 6, 8]),
        ({"limit": 3, "params": {"hnsw_ef": 512, "exact": False}}, [7, 6, 8]),
        (
            {"limit": 3, "params": {"quantization": {"rescore": True}, "indexed_only": None}},
            [7, 6, 8],
        ),
        (
            {"limit": 3, "params": None, "filter": None, "offset": None, "with_vector": None},
            [7, 6, 8],
        ),
        ({"limit": 1, "offset": 20}, []),
    ],
)
def test_query_and_search(line, body, found):
    """Both find the nearest, best first, under the same options."""
    assert ids(line.query([6.9, 0], **body)) == found
    assert ids(line.post("/search", {"vector": [6.9, 0], **body})) == found


def test_more_than_there_is(line):
    """A limit beyond the number of points gives what there is, up to the largest limit."""
    for limit in (20, 21, 10_000):
        assert ids(line.query([0.5, 0], limit=limit)) == list(range(1, 21))
        assert ids(line.post("/search", {"vector": [0.5, 0], "limit": limit})) == list(range(1, 21))
        assert ids(line.scroll(limit=limit)) == list(range(1, 21))
    assert len(line.query([0.5, 0])) == 10


def test_query_by_id_and_without_a_target(line):
    """A stored point stands for its vector and is no result; no target means points in id order."""
    assert sorted(ids(line.query(11, limit=2))) == [10, 12]
    assert sorted(ids(line.query({"nearest": 11}, limit=4))) == [9, 10, 12, 13]
    assert ids(line.query({"nearest": [11.1, 0]}, limit=2)) == [11, 12]
    assert ids(line.query(None, limit=3, offset=1)) == [2, 3, 4]
    assert ids(line.post("/query", {})["points"]) == list(range(1, 11))
    missing = send(line.url, "POST", f"{line.path}/points/query", {"query": 999})
    assert refusal(missing) == (404, "not_found", "query")


def test_what_a_hit_shows(line):
    """Id, version and score; payload and vector only if wanted."""
    plain = line.query([3, 4], limit=1)[0]
    full = line.query([3, 4], limit=1, with_payload=True, with_vector=True)[0]
    part = line.query([3, 4], limit=1, with_payload={"include": ["n"]})[0]

    assert set(plain) == {"id", "version", "score"}
    assert plain["score"] == pytest.approx(4)
    assert full == {**plain, "payload": {"n": 3}, "vector": [3, 0]}
    assert part == {**plain, "payload": {"n": 3}}


@pytest.mark.parametrize(
    ("distance", "order", "scores"),
    [
        ("Cosine", [1, 3, 2], [1.0, 0.8, 0.0]),
        ("Dot", [3, 1, 2], [4.0, 2.0, 0.0]),
        ("Euclid", [1, 2, 3], [1.0, 5**0.5, 18**0.5]),
        ("Manhattan", [1, 2, 3], [1.0, 3.0, 6.0]),
    ],
)
def test_distances(shared, distance, order, scores):
    """Each scores as its name says, best first."""
    points = make(shared.url(1), f"distance-{distance}", 2, distance)
    points.put(
        {"id": 1, "vector": [2, 0]}, {"id": 2, "vector": [0, 2]}, {"id": 3, "vector": [4, 3]}
    )
    hits = points.query([1, 0], limit=3)

    assert ids(hits) == order
    assert [hit["score"] for hit in hits] == pytest.approx(scores)


def test_batches_of_queries_and_searches(line):
    """Each answers as it would alone, in order."""
    three = {"vector": [3, 0], "limit": 1}
    nine = {"vector": [9, 0], "limit": 2, "filter": {"must": [{"key": "n", "range": {"gt": 9}}]}}
    found = line.post("/search/batch", {"searches": [three, nine]})
    queries = [{"query": each.pop("vector"), **each} for each in (three, nine)]
    asked = line.post("/query/batch", {"searches": queries})

    assert [ids(each) for each in found] == [[3], [10, 11]]
    assert [ids(each["points"]) for each in asked] == [[3], [10, 11]]


def test_scroll_pages_through_everything_once(shared, line):
    """Page after page, by the offset that each page names, on any node."""
    for where, expected in (
        (None, list(range(1, 21))),
        ({"must": [{"key": "n", "range": {"gte": 4, "lt": 17}}]}, list(range(4, 17))),
    ):
        found: list[int | str] = []
        offset = None
        for page in range(20):
            reader = Points(shared.url(1 + page % 3), "line")
            body = {"limit": 3, "offset": offset, "filter": where}
            answer = reader.post("/scroll", body, "?consistency=majority")
            found += ids(answer["points"])
            offset = answer["next_page_offset"]
            if offset is None:
                break

        assert found == expected
    assert plain(line.scroll(offset=20, with_payload=False, with_vector=True)) == [
        {"id": 20, "vector": [20, 0]}
    ]


def test_count(line):
    """All points, those that pass, exact or not: the count is exact."""
    where = {"must": [{"key": "n", "range": {"lte": 5}}]}

    assert [line.post("/count", body)["count"] for body in ({}, {"exact": False})] == [20, 20]
    assert line.count() == 20
    assert line.count(where) == 5
    assert line.post("/count", {"filter": where, "exact": False})["count"] == 5
    assert line.post("/count", {"filter": None, "exact": None})["count"] == 20


def test_delete_by_points_and_by_filter(scratch):
    """What is named or matched is gone from every read, and the rest stays."""
    scratch.put(*({"id": n, "vector": [n, 0], "payload": {"odd": n % 2}} for n in range(10)))
    scratch.post("/delete", {"points": [0, 2, 999]}, "?wait=true")
    left = ids(scratch.scroll())
    scratch.post("/delete", {"filter": {"must": [{"key": "odd", "match": {"value": 1}}]}})

    assert left == [1, 3, 4, 5, 6, 7, 8, 9]
    assert ids(scratch.scroll()) == [4, 6, 8]
    assert ids(scratch.query([0, 0], limit=10)) == [4, 6, 8]
    assert scratch.count() == 3
    assert scratch.by_id(0, 1, 2) == []
    scratch.post("/delete", {"filter": {}})
    assert scratch.count() == 0
    scratch.put({"id": 1, "vector": [1, 1]})
    assert ids(scratch.query([0, 0])) == [1]


def test_payloads_change_and_vectors_stay(scratch):
    """POST merges, PUT replaces, keys are removed, all is cleared, by ids or by filter."""
    scratch.put(*({"id": n, "vector": [n, 0], "payload": {"n": n, "a": 1}} for n in range(3)))

    def payloads() -> list[Any]:
        return [row["payload"] for row in scratch.scroll()]

    scratch.post("/payload", {"payload": {"a": 2, "b": {"c": [1]}}, "points": [0, 999]})
    assert payloads() == [{"n": 0, "a": 2, "b": {"c": [1]}}, {"n": 1, "a": 1}, {"n": 2, "a": 1}]
    where = {"must": [{"key": "a", "match": {"value": 1}}]}
    scratch.post("/payload", {"payload": {"d": None}, "filter": where}, "?wait=true")
    assert payloads()[1:] == [{"n": 1, "a": 1, "d": None}, {"n": 2, "a": 1, "d": None}]
    put = send(
        scratch.url,
        "PUT",
        f"{scratch.path}/points/payload",
        {"payload": {"e": 5}, "points": [0], "key": None, "shard_key": None, "filter": None},
    )
    assert put.result["status"] == "completed"
    assert payloads()[0] == {"e": 5}
    scratch.post("/payload/delete", {"keys": ["a", "zz"], "points": [1, 2]})
    assert payloads()[1:] == [{"n": 1, "d": None}, {"n": 2, "d": None}]
    scratch.post("/payload/clear", {"points": [2]})
    assert payloads()[2] == {}
    assert [row["vector"] for row in scratch.scroll(with_vector=True)] == [[0, 0], [1, 0], [2, 0]]
    assert scratch.count() == 3


def test_parameters_of_qdrants_clients_are_accepted(line):
    """Wait, ordering, timeout and consistency in the values that its clients send."""
    point = {"points": [{"id": 1, "vector": [1, 0], "payload": {"n": 1}}]}
    for text in (
        "wait=true",
        "wait=false",
        "ordering=weak&wait=true",
        "ordering=strong",
        "timeout=3",
    ):
        put = send(line.url, "PUT", f"{line.path}/points?{text}", point)

        assert put.result["status"] == "completed"
        assert line.by_id(1)[0]["payload"] == {"n": 1}


def test_fields_that_are_null_count_as_absent(shared, line):
    """A client that spells out what it does not want is served."""
    absent = dict.fromkeys(["prefetch", "using", "lookup_from", "shard_key", "score_threshold"])
    puts = {"points": [{"id": 1, "vector": [1, 0], "payload": {"n": 1}}], "shard_key": None}
    nulls = dict.fromkeys(
        ["offset", "filter", "with_payload", "with_vector", "shard_key", "order_by"]
    )

    assert ids(line.query([1, 0], limit=1, **absent)) == [1]
    assert send(line.url, "PUT", f"{line.path}/points", puts).status == 200
    assert len(line.post("/scroll", {**nulls, "limit": None})["points"]) == 10
    assert len(line.post("", {"ids": [1], "with_payload": None, "shard_key": None})) == 1
