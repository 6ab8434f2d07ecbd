"""Points and a graph changed in one transaction, over HTTP on three real nodes: all or nothing."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.helpers import Cluster
from tests.system.exchange import SESSION, Points, ids, make, refusal, send
from tests.system.graph_exchange import Graph, asked, chained, ids_of, make_graph, named

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

PLAIN = {"vectors": {"size": 2, "distance": "Cosine"}}


@pytest.fixture(scope="module")
def ledger(shared: Cluster) -> tuple[Graph, Points]:
    """A graph, and a collection whose points lie beside it under its name."""
    points = make(shared.url(1), "ledger-points", 2, "Euclid", sharding_method="custom")
    return make_graph(shared.url(1), "ledger", PLAIN), points


def point(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "vector": [number, 1], "payload": {"n": number}, **more}


def batch(url: str, body: dict[str, Any], **options: Any) -> Any:
    whole = {"shard_key": "ledger", "collection": "ledger-points", **body}
    return asked(url, "POST", "/batch", whole, **options)


def held(ledger: tuple[Graph, Points]) -> Any:
    """Return what is under the name: points with their versions, nodes and edges."""
    graph, points = ledger
    content = graph.ask("export", format="json")["content"]
    rows = points.scroll(shard_key="ledger", with_vector=True)
    return rows, content["nodes"], content["edges"]


def test_points_and_a_graph_change_together(shared, ledger):
    """One transaction, one version; every node shows all of it to who has the token."""
    graph, points = ledger
    edge = chained("CAUSED_BY", "a", "b", vector=[1, 1])
    written = {"points": [point(1), point(2)], "nodes": named("a", "b", "c"), "edges": [edge]}
    first = batch(shared.url(1), written)
    token = {SESSION: first.headers[SESSION]}
    for url in shared.urls:
        rows = Points(url, points.name).post(
            "", {"ids": [1, 2], "shard_key": "ledger"}, headers=token
        )
        found = graph.at(url).post("causes", {"id": "b"}, headers=token).result

        assert [(each["id"], each["payload"]["n"]) for each in rows] == [(1, 1), (2, 2)]
        assert {each["version"] for each in rows} == {first.result["version"]}
        assert ids_of(found["paths"]) == [["a", "b"]]
        assert found["paths"][0]["edges"][0]["hyperedge_id"] == first.result["edges"][0]
    assert graph.describe()["version"] == first.result["version"]
    assert graph.describe()["shard"] == int(max(_shards(first, points)))

    gone = {"points": [2], "nodes": ["c", "b"], "cascade": True}
    second = batch(shared.url(2), {"points": [point(3)], "deletes": gone})
    token = {SESSION: second.headers[SESSION]}
    left = Points(shared.url(3), points.name).post(
        "/scroll", {"shard_key": "ledger"}, headers=token
    )["points"]
    assert ids(left) == [1, 3]
    nodes = graph.at(shared.url(3)).post("nodes/get", {"ids": ["a", "b", "c"]}, headers=token)
    assert [each["id"] for each in nodes.result] == ["a"]


def _shards(answer: Any, points: Points) -> list[str]:
    """Return the shards that a write's token names."""
    parts = answer.headers[SESSION].split(",")
    return [part.partition(":")[0] for part in parts if not part.startswith("m:")]


def test_a_batch_may_be_of_points_or_of_a_graph_alone(shared, ledger):
    """And may delete, expire and write at once; its idempotency key makes it happen once."""
    graph, points = ledger
    graph.put_nodes(*named("p", "q", "r"))
    graph.put_edges(chained("X", "p", "q", id="pq"), chained("X", "q", "r", id="qr"))
    key = {"Idempotency-Key": str(uuid.uuid4())}
    body = {
        "edges": [chained("X", "p", "s")],
        "nodes": named("s"),
        "deletes": {"edges": ["pq"], "expire_edges": ["qr"]},
    }
    answers = [
        asked(url, "POST", "/batch", {"shard_key": "ledger", **body}, headers=key).result
        for url in shared.urls
    ]
    alone = {"shard_key": "elsewhere", "collection": points.name, "points": [point(9)]}
    asked(shared.url(2), "POST", "/batch", alone)

    assert answers == [answers[0]] * 3
    (edge,) = graph.edges(*answers[0]["edges"])
    assert edge["members"] == ["p", "s"]
    (expired,) = graph.edges("pq", "qr")
    assert (expired["id"], expired["expired_at"] is None) == ("qr", False)
    assert ids(points.post("", {"ids": [9], "shard_key": "elsewhere"})) == [9]


def test_a_key_is_not_that_of_what_had_the_names_before(shared):
    """What was dropped takes the meaning of its keys along, for points and for a graph."""
    key = {"Idempotency-Key": str(uuid.uuid4())}
    body = {"shard_key": "ashes", "collection": "ashes-points"}
    answers = []
    for _ in range(2):
        points = make(shared.url(1), "ashes-points", 2, "Euclid", sharding_method="custom")
        graph = make_graph(shared.url(1), "ashes", PLAIN)
        for _ in range(2):
            more = {"points": [point(1)], "nodes": named("a")}
            answers.append(asked(shared.url(1), "POST", "/batch", {**body, **more}, headers=key))
        rows = points.post("", {"ids": [1], "shard_key": "ashes"})

        assert (ids(rows), [each["id"] for each in graph.nodes("a")]) == ([1], ["a"])
        asked(shared.url(1), "DELETE", "/graph/ashes")
        send(shared.url(1), "DELETE", "/collections/ashes-points")
    versions = [each.result["version"] for each in answers]

    assert versions[0] == versions[1] < versions[2] == versions[3]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            {"points": [point(50)], "nodes": named("z"), "edges": [chained("X", "z", "nobody")]},
            (409, "graph_conflict", None),
        ),
        (
            {"points": [point(50)], "deletes": {"nodes": ["joined"]}},
            (409, "graph_conflict", None),
        ),
        (
            {"points": [point(50), point(40, if_version=3)], "nodes": named("z")},
            (409, "version_conflict", "points[1]"),
        ),
        (
            {"points": [point(40, if_absent=True)], "deletes": {"edges": ["joining"]}},
            (409, "version_conflict", "points[0]"),
        ),
        (
            {"points": [point(50), {"id": 51, "vector": [1]}], "nodes": named("z")},
            (400, "bad_request", "points[1].vector"),
        ),
        (
            {"points": [point(50)], "nodes": [{"id": "z", "vector": [0, 0]}]},
            (400, "bad_request", "nodes[0].vector"),
        ),
        (
            {"points": [point(50)], "nodes": named("z"), "deletes": {"points": [40, -1]}},
            (400, "bad_request", "deletes.points[1]"),
        ),
    ],
)
def test_a_batch_is_refused_whole(shared, ledger, body, told):
    """Whatever part of it is to blame, neither points nor graph have changed."""
    setup = {"points": [point(40)], "nodes": named("joined"), "edges": [_joining()]}
    assert batch(shared.url(1), setup).status == 200
    before = held(ledger)
    answer = batch(shared.url(1), body)

    assert refusal(answer) == told
    assert held(ledger) == before
    if told[1] == "version_conflict":
        (stored_version,) = (each["version"] for each in before[0] if each["id"] == 40)
        assert answer.body["error"]["current_version"] == stored_version


def _joining() -> dict[str, Any]:
    return chained("X", "joined", "joined", id="joining")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"collection": "ledger-plain"}, (400, "bad_request", "collection")),
        ({"collection": "ledger-nothing"}, (404, "collection_not_found", None)),
        ({"collection": ".."}, (400, "bad_request", "collection")),
        ({"collection": None}, (400, "bad_request", "collection")),
        ({"nodes": named("a"), "shard_key": "no-graph"}, (404, "graph_not_found", "shard_key")),
        ({"nodes": named("a"), "shard_key": ".graph"}, (400, "bad_request", "shard_key")),
        ({"points": []}, (400, "bad_request", "points")),
    ],
)
def test_a_batch_needs_a_place_for_all_of_it(shared, ledger, body, told):
    """A collection with shard keys for its points, and a graph of the name for the rest."""
    exists = send(shared.url(1), "GET", "/collections/ledger-plain").status == 200
    if not exists:
        make(shared.url(1), "ledger-plain", 2, "Euclid")
    before = held(ledger)

    assert refusal(batch(shared.url(1), {"points": [point(60)], **body})) == told
    assert held(ledger) == before
