"""Cypher over HTTP: checked against every trail of a random graph, bounded, and of many graphs."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any, Final

import pytest

from tests.helpers import Cluster
from tests.system.causal_twin import Trail, Twin, along, places, random_twin, stored, sure
from tests.system.exchange import SESSION, refusal
from tests.system.graph_exchange import Graph, asked, chained, make_graph, named

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

ROOT_CAUSES: Final = (
    "MATCH path = (root:Event)-[:CAUSED_BY*1..5]->(outcome:Event {id: $outcomeId}) "
    "WHERE root.type = 'root_cause' RETURN path, length(path) AS depth, "
    "reduce(conf = 1.0, r IN relationships(path) | conf * r.confidence) AS chain_confidence "
    "ORDER BY chain_confidence DESC LIMIT 10"
)
PATTERNS: Final = (
    "MATCH (a:Event)-[:CAUSED_BY]->(b:Event)-[:CAUSED_BY]->(c:Event) "
    "WHERE a.type = $type1 AND b.type = $type2 RETURN a, b, c"
)
MESH_NODES: Final = 2000
MESH_ARCS: Final = 10
SLACK_S: Final = 3.0
"""What a busy machine may add to the time of an answer."""


@pytest.fixture(scope="module")
def twin() -> Twin:
    return random_twin(23)


@pytest.fixture(scope="module")
def events(shared: Cluster, twin: Twin) -> list[Graph]:
    """The random graph, as each node serves it."""
    made = stored(twin, shared.url(2), "cypher-events")
    nodes = [made.at(url) for url in shared.urls]
    for node in nodes:
        assert node.post("nodes/get", {"ids": ["event-00"]}, "?consistency=strong").result
    return nodes


@pytest.fixture(scope="module")
def caused(twin: Twin) -> list[Trail]:
    """All trails of up to five arcs of the label that the queries name."""
    return list(twin.made(5, ["CAUSED_BY"]))


def taken(path: dict[str, Any]) -> list[tuple[str, int]]:
    return [(arc["hyperedge_id"], arc["position"]) for arc in path["relationships"]]


def test_root_causes_of_every_outcome(events, twin, caused):
    """The ten surest trails from a root cause, each with its length and its confidence."""
    found_any = 0
    for at, outcome in enumerate(twin.types):
        rooted = [
            trail
            for trail in caused
            if trail[-1].target == outcome and twin.types[trail[0].source] == "root_cause"
        ]
        answer = events[at % 3].cypher(ROOT_CAUSES, outcomeId=outcome)
        by_arcs = {tuple(places(trail)): trail for trail in rooted}
        surest = sorted(map(sure, rooted), reverse=True)[:10]
        ways = [tuple(taken(path)) for path, _, _ in answer["rows"]]
        found_any += bool(ways)

        assert answer["columns"] == ["path", "depth", "chain_confidence"]
        assert [row[2] for row in answer["rows"]] == pytest.approx(surest)
        assert len(set(ways)) == len(ways)
        for (path, depth, confidence), way in zip(answer["rows"], ways, strict=True):
            trail = by_arcs[way]
            assert [node["id"] for node in path["nodes"]] == along(trail)
            assert (depth, path["length"]) == (len(trail), len(trail))
            assert confidence == pytest.approx(sure(trail))
    assert found_any > 10


def test_causal_patterns_of_every_pair_of_types(events, twin, caused):
    """Every chain of two arcs whose first events have these types, once."""
    pairs = [trail for trail in caused if len(trail) == 2]
    kinds = sorted(set(twin.types.values()))
    whole = 0
    for at, one in enumerate(kinds):
        for other in kinds:
            wanted = Counter(
                tuple(along(trail))
                for trail in pairs
                if [twin.types[each] for each in along(trail)[:2]] == [one, other]
            )
            answer = events[at % 3].cypher(PATTERNS, type1=one, type2=other)
            rows = Counter(tuple(node["id"] for node in row) for row in answer["rows"])
            whole += rows.total()

            assert answer["columns"] == ["a", "b", "c"]
            assert rows == wanted
    assert whole == len(pairs) > 20


def test_elements_come_as_on_every_other_route(events, twin):
    """A node as `nodes/get` answers it, a relationship as a step of a chain."""
    step = next(step for step in twin.steps if step.label == "CAUSED_BY")
    query = (
        "MATCH (a {id: $a})-[r:CAUSED_BY]->(b {id: $b}) WHERE r.hyperedge_id = $e RETURN a, r, b"
    )
    rows = events[0].rows(query, a=step.source, b=step.target, e=step.edge)
    node, relation, _ = next(row for row in rows if row[1]["position"] == step.position)
    chains = events[0].ask("effects", id=step.source, max_hops=1, limit=1000)["paths"]

    assert [node] == events[0].nodes(step.source)
    assert relation in [chain["edges"][0] for chain in chains]


def test_writes_go_through_the_log(shared):
    """Create, merge, set and delete: counted, whole, and seen by the other routes."""
    graph = make_graph(shared.url(1), "cypher-writes", {"vectors": {"size": 2, "distance": "Dot"}})
    graph.put_nodes({"id": "v", "labels": ["Event"], "vector": [3, 4]})
    made = graph.post(
        "cypher",
        {
            "query": "MATCH (v {id: 'v'}) UNWIND $rows AS row CREATE (n:Event {id: row.id}) "
            "SET n += row.more CREATE (v)-[r:CAUSED_BY {confidence: row.c}]->(n) RETURN n.id, r.id",
            "parameters": {
                "rows": [{"id": "a", "c": 0.5, "more": {"x": 1}}, {"id": "b", "c": 1, "more": {}}]
            },
        },
    ).result
    graph.ask("cypher", query="MATCH (v {id: 'v'}) SET v.seen = true, v:Seen")
    merged = graph.ask("cypher", query="MERGE (n:Event {id: 'a'}) ON MATCH SET n.x = n.x + 1")
    refused = graph.post("cypher", {"query": "MATCH (n {id: 'a'}) DELETE n"})
    late = graph.post("cypher", {"query": "CREATE (:Late) WITH 1 AS x RETURN 1 / 0"})
    none = graph.ask("cypher", query="MATCH (n {id: 'nobody'}) SET n.x = 1")
    (node,) = graph.nodes("v", with_vector=True)

    assert (made["stats"]["nodes_created"], made["stats"]["relationships_created"]) == (2, 2)
    assert [row[0] for row in made["rows"]] == ["a", "b"]
    assert node == {
        "id": "v",
        "labels": ["Event", "Seen"],
        "properties": {"seen": True},
        "vector": [3, 4],
    }
    assert graph.nodes("a")[0]["properties"] == {"x": 2}
    assert merged["stats"]["nodes_created"] == 0
    assert refusal(refused)[:2] == (409, "graph_conflict")
    assert refusal(late)[0] == 400
    assert graph.rows("MATCH (n:Late) RETURN n") == []
    assert (none["version"], sum(none["stats"].values())) == (0, 0)
    assert [each["confidence"] for each in graph.edges(*(row[1] for row in made["rows"]))] == [
        0.5,
        1,
    ]
    graph.ask("cypher", query="MATCH (n {id: 'a'}) DETACH DELETE n")
    assert [each["id"] for each in graph.nodes("a", "b")] == ["b"]
    assert graph.describe()["edges"] == 1


def test_a_repeated_write_happens_once(shared):
    """Under its idempotency key, on whichever node it is repeated."""
    graph = make_graph(shared.url(1), "cypher-once", {"vectors": None})
    body = {"query": "CREATE (n:Event {id: 'once'}) RETURN n.id"}
    key = {"Idempotency-Key": "cypher-once-1"}
    first = graph.post("cypher", body, headers=key)
    again = [graph.at(url).post("cypher", body, headers=key) for url in shared.urls]
    unkeyed = graph.post("cypher", body)
    reused = graph.post("cypher", {"query": "CREATE (n)"}, headers=key)

    assert first.result["rows"] == [["once"]]
    assert {answer.result["version"] for answer in again} == {first.result["version"]}
    assert [answer.result["stats"] for answer in again] == [{}] * 3
    assert all(answer.headers[SESSION] for answer in again)
    assert refusal(unkeyed)[0] == 400
    assert refusal(reused) == (422, "idempotency_key_reused", "Idempotency-Key")
    assert graph.rows("MATCH (n) RETURN count(*)") == [1]


def test_explain_tells_a_plan_and_does_nothing(events):
    """Also for a query that would write."""
    read = events[0].ask("cypher", query=f"EXPLAIN {ROOT_CAUSES}", parameters={"outcomeId": "x"})
    write = events[1].ask("cypher", query="EXPLAIN CREATE (n:Never {id: 'never'})")

    assert all(set(step) == {"operator", "details"} for step in read["plan"])
    assert (read["rows"], write["rows"]) == ([], [])
    assert write["plan"]
    assert events[0].nodes("never") == []


@pytest.mark.parametrize(
    ("query", "code", "word"),
    [
        ("MATCH (n) RETURN n UNION MATCH (n) RETURN n", "unsupported_feature", "UNION"),
        ("CALL db.labels()", "unsupported_feature", "CALL"),
        ("MATCH (n) CALL { RETURN 1 AS x } RETURN n", "unsupported_feature", "CALL"),
        ("FOREACH (x IN [1] | CREATE (n))", "unsupported_feature", "FOREACH"),
        ("LOAD CSV FROM 'file:///etc/passwd' AS row RETURN row", "unsupported_feature", "LOAD"),
        ("CREATE INDEX FOR (n:Event) ON (n.type)", "unsupported_feature", "CREATE INDEX"),
        ("MATCH p = shortestPath((a)-[*]->(b)) RETURN p", "unsupported_feature", "shortestPath"),
        ("USE other MATCH (n) RETURN n", "unsupported_feature", "USE"),
        ("MATCH (n RETURN n", "bad_request", "line 1"),
        ("MATCH (n) RETURN m", "bad_request", "m"),
        ("RETURN 1 / 0", "bad_request", "zero"),
        ("RETURN $missing", "bad_request", "missing"),
        ("RETURN 9223372036854775807 + 1", "bad_request", "64"),
    ],
)
def test_what_is_not_served_is_named(events, query, code, word):
    """A clause that is not served by its name, a slip by its place."""
    answer = events[0].post("cypher", {"query": query})

    assert refusal(answer)[:2] == (400, code)
    assert word in answer.body["status"]["error"]


def test_rows_are_bounded(events):
    """The limit of rows is told when it is reached, and not when it just suffices."""
    graph = events[2]
    cut = graph.ask("cypher", query="MATCH (n) RETURN n.id ORDER BY n.id", limit=5)
    whole = graph.ask("cypher", query="MATCH (n) RETURN n.id", limit=42)
    worked = graph.ask("cypher", query="MATCH (a), (b), (c) RETURN count(*)", expansions_max=1000)
    write = graph.post(
        "cypher",
        {"query": "UNWIND range(1, 5000) AS i CREATE (:Never)", "expansions_max": 1000},
    )

    assert [row[0] for row in cut["rows"]] == [f"event-{n:02}" for n in range(5)]
    assert (cut["truncated"], cut["truncated_by"]) == (True, "rows")
    assert (len(whole["rows"]), whole["truncated"], whole["truncated_by"]) == (42, False, None)
    assert (worked["truncated"], worked["truncated_by"]) == (True, "expansions")
    assert refusal(write)[:2] == (400, "bad_request")
    assert graph.rows("MATCH (n:Never) RETURN n") == []


def test_parameters_and_answers_have_a_largest_size(shared, events):
    """Alike on each node, whether they have to travel or not; and every node is still there."""
    text = "x" * 100_000
    much = {"query": "RETURN size($t)", "parameters": {"t": text * 12}}
    answers = [graph.post("cypher", much) for graph in events]
    grown = {"query": "UNWIND range(1, 60) AS i RETURN $t", "parameters": {"t": text}}
    large = [graph.post("cypher", grown) for graph in events]
    written = [
        graph.post("cypher", {**grown, "query": "UNWIND range(1, 60) AS i CREATE (:Big) RETURN $t"})
        for graph in events
    ]

    assert [refusal(each) for each in answers] == [(413, "payload_too_large", "parameters")] * 3
    assert [refusal(each)[:2] for each in (*large, *written)] == [(400, "bad_request")] * 6
    assert "ask for less" in large[0].body["status"]["error"]
    for graph in events:
        assert graph.rows("MATCH (n:Big) RETURN n") == []


@pytest.fixture(scope="module")
def mesh(shared: Cluster) -> Graph:
    """Two thousand nodes, each with ten arcs to others."""
    rng = random.Random(1)
    graph = make_graph(shared.url(1), "mesh", {"vectors": None})
    names = [str(number) for number in range(MESH_NODES)]
    graph.put_nodes(*named(*names, labels=["Event"]))
    for at in range(0, MESH_NODES, 500):
        graph.put_edges(
            *(
                chained("CAUSED_BY", name, other, confidence=0.9)
                for name in names[at : at + 500]
                for other in rng.sample(names, MESH_ARCS)
            )
        )
    return graph


@pytest.mark.parametrize(
    ("query", "limit", "cuts"),
    [
        ("MATCH (a)-[*]->(b) RETURN a, b", None, {"rows"}),
        ("MATCH (a)-[*]->(b) RETURN a, b", 10_000, {"rows", "time"}),
        ("MATCH (a)-[*]->(b) RETURN count(*)", None, {"time"}),
        ("MATCH p = (a)-[*]-(b) WHERE b.x = 'nothing' RETURN p", None, {"time"}),
        ("MATCH (a)-[*]->(b) RETURN a.id ORDER BY b.id LIMIT 3", None, {"time"}),
        ("MATCH (a), (b), (c), (d) WITH DISTINCT a.id AS x RETURN x", None, {"time", "rows"}),
    ],
)
def test_a_runaway_query_ends_in_its_time(shared, mesh, query, limit, cuts):
    """It answers what it has, says that it was cut short, and others are served meanwhile."""
    body = {"query": query, "limit": limit, "timeout_ms": 500, "expansions_max": 10_000_000}
    for url in shared.urls:
        began = time.monotonic()
        found = mesh.at(url).post("cypher", body, "?consistency=strong").result

        assert time.monotonic() - began < 0.5 + SLACK_S
        assert found["truncated"] is True
        assert found["truncated_by"] in cuts


def test_causes_in_a_mesh_end_in_their_time(mesh):
    """The ten surest chains of five hops are found without making all hundred thousand."""
    began = time.monotonic()
    found = mesh.ask("causes", id="7", timeout_ms=2000)

    assert time.monotonic() - began < 2 + SLACK_S
    assert len(found["paths"]) == 10


@pytest.fixture(scope="module")
def several(shared: Cluster) -> list[str]:
    """Three graphs of numbered events: 0, 3, 6...; 1, 4, 7...; 2, 5, 8..."""
    for first in range(3):
        graph = make_graph(shared.urls[first], f"of-several-{first}", {"vectors": None})
        graph.put_nodes(
            *({"id": str(n), "labels": ["E"], "properties": {"n": n}} for n in range(first, 30, 3))
        )
    return [f"of-several-{first}" for first in range(3)]


def ask_all(url: str, names: list[str], query: str, **body: Any) -> Any:
    path = "/graph/cypher?consistency=strong"
    return asked(url, "POST", path, {"graphs": names, "query": query, **body})


def test_one_query_over_several_graphs(shared, several):
    """Rows carry their graph's name and are in the query's order; LIMIT and SKIP are of all."""
    query = "MATCH (n:E) RETURN n.n AS n ORDER BY n DESC SKIP 2 LIMIT 5"
    with_parameters = "MATCH (n:E) RETURN n.n AS n ORDER BY n DESC SKIP $skip LIMIT $limit"
    numbers = list(range(27, 22, -1))
    wanted = [[f"of-several-{n % 3}", n] for n in numbers]
    for url in shared.urls:
        plain = ask_all(url, several, query).result
        given = ask_all(url, several, with_parameters, parameters={"skip": 2, "limit": 5}).result
        counts = ask_all(url, several, "MATCH (n) RETURN count(*) AS c").result
        cut = ask_all(url, several, "MATCH (n) RETURN n.n ORDER BY n.n", limit=4).result

        assert (plain["columns"], plain["rows"]) == (["graph", "n"], wanted)
        assert (given["rows"], given["truncated"]) == (wanted, False)
        assert counts["rows"] == [[name, 10] for name in several]
        assert [row[1] for row in cut["rows"]] == [0, 1, 2, 3]
        assert (cut["truncated"], cut["truncated_by"]) == (True, "rows")
    explained = ask_all(shared.url(1), several, f"EXPLAIN {query}").result["plan"]
    assert [step["graph"] for step in explained] == sorted(step["graph"] for step in explained)


def test_several_graphs_are_only_read(shared, several):
    """A write, and a graph that does not exist, are refused."""
    write = ask_all(shared.url(1), several, "CREATE (n)")
    lost = ask_all(shared.url(1), [*several, "nowhere"], "MATCH (n) RETURN n")
    bad = ask_all(shared.url(1), [several[0], "../x"], "MATCH (n) RETURN n")
    limit = ask_all(shared.url(1), several, "MATCH (n) RETURN n LIMIT $gone")

    assert refusal(write) == (400, "bad_request", "query")
    assert refusal(lost) == (404, "graph_not_found", "graphs[3]")
    assert refusal(bad) == (400, "bad_request", "graphs[1]")
    assert refusal(limit)[0] == 400


def test_after_all_this_every_node_is_well(shared, events, twin):
    """Each serves its graphs as before."""
    for graph in events:
        assert asked(graph.url, "GET", "/graph").headers[SESSION]
        assert graph.rows("MATCH (n:Event) RETURN count(*)") == [len(twin.nodes)]
