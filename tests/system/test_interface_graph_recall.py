"""Recall, algorithms and exports of graphs on three real nodes, against what was written."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest

from graph.algorithms import ALGORITHMS
from tests.helpers import Cluster
from tests.system.causal_twin import (
    EVENTS,
    Twin,
    along,
    best,
    members,
    random_twin,
    stored,
    sure,
)
from tests.system.exchange import SESSION, refusal
from tests.system.graph_exchange import Graph, asked, chained, make_graph

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SVG = "{http://www.w3.org/2000/svg}"
GRAPHML = "{http://graphml.graphdrawing.org/xmlns}"


@pytest.fixture(scope="module")
def twin() -> Twin:
    return random_twin(17)


@pytest.fixture(scope="module")
def incidents(shared: Cluster, twin: Twin) -> list[Graph]:
    """The random graph, as each node serves it."""
    made = stored(twin, shared.url(1), "remembered")
    nodes = [made.at(url) for url in shared.urls]
    for node in nodes:
        assert len(node.post("nodes/get", {"ids": ["event-00"]}, "?consistency=strong").result) == 1
    return nodes


def likeness(query: list[float], vector: list[float]) -> float:
    one, other = np.array(query), np.array(vector)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def merit(twin: Twin, node: str) -> tuple[float, float]:
    (found,) = (each["properties"] for each in twin.nodes if each["id"] == node)
    return found.get("uplift", 0.0), found.get("latency_ms", 0.0)


def worth(twin: Twin, node: str, alike: float) -> float:
    """Return the utility of a node that resembles a question so much."""
    uplift, latency_ms = merit(twin, node)
    return 0.7 * alike + 0.2 * uplift - 0.1 * min(latency_ms / 1000, 1)


def nearest(twin: Twin, query: list[float], kinds: list[str], k: int) -> list[tuple[float, Any]]:
    """Return the elements of some kinds that resemble a query, best first."""
    those = [each for kind in kinds for each in getattr(twin, kind) if "vector" in each]
    alike = [(likeness(query, each["vector"]), each) for each in those]
    return sorted(alike, key=lambda pair: -pair[0])[:k]


def recalled(twin: Twin, query: list[float], kinds: list[str], k: int, body: Any) -> Any:
    """Return the utility of all that a question brings to mind."""
    least, hops = body.get("min_confidence", 0.6), body.get("max_hops", 3)
    usable = [trail for trail in twin.trails if sure(trail) >= least and len(trail) <= hops]
    found: dict[str, float] = {}
    for alike, each in nearest(twin, query, kinds, k):
        for seed in members(each) if "label" in each else [each["id"]]:
            brought = [(seed, 1.0)]
            back = best((trail for trail in usable if trail[-1].target == seed), 5)
            on = best((trail for trail in usable if trail[0].source == seed), 5)
            if body.get("direction") != "effects":
                brought += [(trail[0].source, sure(trail)) for trail in back]
            if body.get("direction") != "causes":
                brought += [(trail[-1].target, sure(trail)) for trail in on]
            for node, confidence in brought:
                value = worth(twin, node, alike * confidence)
                found[node] = max(value, found.get(node, -9.0))
    return found


@pytest.mark.parametrize(
    ("kinds", "k", "body"),
    [
        (["nodes", "edges"], 12, {}),
        (["nodes"], 3, {"kinds": ["nodes"], "k": 3, "direction": "causes"}),
        (["edges"], 4, {"kinds": ["edges"], "k": 4, "direction": "effects", "min_confidence": 0.2}),
        (["nodes", "edges"], 5, {"k": 5, "max_hops": 0}),
    ],
)
def test_recall_is_meaning_then_cause(incidents, twin, kinds, k, body):
    """What resembles the question and what is joined to it by cause, by its use."""
    rng = random.Random(k)
    for graph in incidents:
        query = [rng.gauss(0, 1) for _ in range(8)]
        found = graph.ask("recall", vector=query, limit=1000, **body)
        wanted = recalled(twin, query, kinds, k, body)
        values = {each["node"]["id"]: each["utility"] for each in found["results"]}

        assert values == {node: pytest.approx(value, abs=1e-6) for node, value in wanted.items()}
        assert list(values.values()) == sorted(values.values(), reverse=True)
        assert [match["id"] for match in found["matches"]] == [
            each["id"] for _, each in nearest(twin, query, kinds, k)
        ]


def test_the_why_of_a_recall_adds_up(incidents, twin):
    """Each result tells what it takes to find its utility again, and its way."""
    trails = {tuple(along(trail)): sure(trail) for trail in best(twin.trails, None)[::-1]}
    found = incidents[1].ask("recall", vector=[1, -1, 1, 0, 0, 0, 0, 0.5], limit=1000)
    scores = {match["id"]: match["score"] for match in found["matches"]}
    for each in found["results"]:
        why, node = each["why"], each["node"]["id"]
        alike = why["similarity"] * why["chain_confidence"]
        cost = min(why["latency_ms"] / 1000, 1)

        assert each["utility"] == pytest.approx(0.7 * alike + 0.2 * why["uplift"] - 0.1 * cost)
        assert (why["uplift"], why["latency_ms"]) == merit(twin, node)
        assert why["similarity"] == scores[why["matched"]]
        if why["direction"] == "match":
            assert (why["path"], why["chain_confidence"]) == ([node], 1.0)
        else:
            assert node == why["path"][0 if why["direction"] == "cause" else -1]
            assert why["chain_confidence"] == pytest.approx(trails[tuple(why["path"])])
            assert len(why["edges"]) == len(why["path"]) - 1


def test_recall_by_text(shared):
    """Texts of nodes and edges are embedded, and found by another text."""
    graph = make_graph(shared.url(2), "by-text")
    texts = {
        "disk": "the disk is full",
        "cat": "a cat sleeps on the sofa",
        "pay": "a payment fails",
    }
    graph.put_nodes(*({"id": each, "text": text} for each, text in texts.items()))
    edge = chained("CAUSED_BY", "disk", "pay", id="why", text="no space left, so orders are lost")
    token = graph.put_edges(edge).headers[SESSION]
    for url in shared.urls:
        body = {"text": "there is no free space on the disk", "kinds": ["nodes"], "k": 1}
        found = graph.at(url).post("recall", body, headers={SESSION: token}).result
        said = graph.at(url).post("recall", {"text": texts["cat"]}, headers={SESSION: token}).result

        assert [each["node"]["id"] for each in found["results"]] == ["disk", "pay"]
        assert said["matches"][0]["id"] == "cat"
        assert said["matches"][0]["score"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms(incidents, twin, name):
    """Each algorithm is served, on every node alike."""
    path = name == "shortest_path"
    parameters = {"source": "event-05", "target": "event-07"} if path else {}
    asks = [
        graph.post(f"algorithms/{name}", {"parameters": parameters, "limit": 100})
        for graph in incidents
    ]
    found = asks[0].result
    pairs = {(step.source, step.target) for step in twin.steps}

    assert [each.result for each in asks] == [found] * 3
    assert (found["algorithm"], found["truncated"]) == (name, False)
    assert (found["nodes"], found["arcs"]) == (EVENTS, len(pairs))
    assert found["count"] == len(found["results"]) > 0
    if path:
        trails = twin.made(4, {step.label for step in twin.steps})
        ways = [each for each in trails if along(each)[:: len(each)] == ["event-05", "event-07"]]
        most = max(map(sure, ways))
        assert found["results"][0]["chain_confidence"] == pytest.approx(most)
    elif "id" in found["results"][0]:
        assert sorted(each["id"] for each in found["results"]) == sorted(twin.types)


def test_an_algorithm_nobody_knows(incidents):
    """It is refused, naming the algorithm."""
    answer = incidents[0].post("algorithms/astrology", {})

    assert refusal(answer) == (400, "bad_request", "algorithm")
    assert "astrology" in answer.body["status"]["error"]


def test_export_as_json(incidents, twin):
    """The whole graph, a part of it, and one cut short."""
    whole = incidents[0].ask("export", format="json")
    around = incidents[1].ask("export", format="json", around=["event-05"], hops=1, direction="out")
    few = incidents[2].ask("export", format="json", nodes_max=3)
    content = whole["content"]

    assert whole["truncated"] is False
    assert [each["id"] for each in content["nodes"]] == sorted(twin.types)
    assert [each["id"] for each in content["edges"]] == sorted(each["id"] for each in twin.edges)
    near = twin.near("event-05", 1, "out") | {"event-05"}
    assert {each["id"] for each in around["content"]["nodes"]} == near
    assert (few["truncated"], len(few["content"]["nodes"])) == (True, 3)


def test_export_as_graphml(incidents, twin):
    """Hyperedges as nodes of their own, or their arcs: both are XML that a parser reads."""
    bipartite = incidents[0].ask("export", format="graphml")["content"]
    projected = incidents[1].ask("export", format="graphml", projected=True)["content"]
    both = [ET.fromstring(each) for each in (bipartite, projected)]
    counts = [
        (len(root.findall(f".//{GRAPHML}node")), len(root.findall(f".//{GRAPHML}edge")))
        for root in both
    ]
    ends = {(edge["id"], member) for edge in twin.edges for member in members(edge)}

    assert [root.tag for root in both] == [f"{GRAPHML}graphml"] * 2
    assert counts == [(EVENTS + len(twin.edges), len(ends)), (EVENTS, len(twin.steps))]


def test_export_as_a_picture(incidents):
    """SVG that a parser reads, with what it shows in it."""
    answer = incidents[2].ask("export", format="svg", around=["event-05"], hops=2)
    root = ET.fromstring(answer["content"])
    text = " ".join(root.itertext())

    assert root.tag == f"{SVG}svg"
    assert answer["truncated"] is False
    assert "event-05" in text
    assert "CAUSED_BY" in text


def test_recall_from_several_graphs(shared, incidents, twin):
    """The most useful of all, each with its graph's name."""
    other = random_twin(12)
    stored(other, shared.url(2), "remembered-2")
    query = [0.3, 1, 0, 0, -1, 0, 0, 0]
    body = {"graphs": ["remembered", "remembered-2"], "vector": query, "limit": 20}
    for url in shared.urls:
        path = "/graph/recall?consistency=strong"
        found = asked(url, "POST", path, body).result["results"]
        wanted = {
            (name, node): value
            for name, each in (("remembered", twin), ("remembered-2", other))
            for node, value in recalled(each, query, ["nodes", "edges"], 12, {}).items()
        }
        ranked = sorted(wanted, key=lambda pair: -wanted[pair])[:20]

        assert [(each["graph"], each["node"]["id"]) for each in found] == ranked
