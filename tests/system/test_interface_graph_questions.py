"""Questions to graphs on three real nodes, against every trail of a random causal graph."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from tests.helpers import Cluster
from tests.system.causal_twin import (
    CAUSAL,
    Trail,
    Twin,
    along,
    best,
    places,
    random_twin,
    stored,
    sure,
)
from tests.system.exchange import refusal
from tests.system.graph_exchange import Graph, chained, ids_of, make_graph, named

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def twin() -> Twin:
    return random_twin(11)


@pytest.fixture(scope="module")
def incidents(shared: Cluster, twin: Twin) -> list[Graph]:
    """The random graph, as each node serves it."""
    made = stored(twin, shared.url(1), "incidents")
    nodes = [made.at(url) for url in shared.urls]
    for node in nodes:
        assert len(node.post("nodes/get", {"ids": ["event-00"]}, "?consistency=strong").result) == 1
    return nodes


def everywhere(nodes: list[Graph], twin: Twin) -> Iterator[tuple[Graph, str]]:
    """Yield each event with a node to ask about it."""
    for at, event in enumerate(twin.nodes):
        yield nodes[at % 3], event["id"]


def told(paths: Iterable[Any]) -> list[tuple[list[str], list[tuple[str, int]]]]:
    """Return the nodes and the arcs of each path."""
    arcs = [[(arc["hyperedge_id"], arc["position"]) for arc in path["edges"]] for path in paths]
    return list(zip(ids_of(paths), arcs, strict=True))


def expected(trails: Iterable[Trail]) -> list[tuple[list[str], list[tuple[str, int]]]]:
    return [(along(trail), places(trail)) for trail in trails]


def test_causes_and_effects_are_the_surest_trails(incidents, twin):
    """The ten surest, in order, each with its confidence, of every event."""
    for graph, event in everywhere(incidents, twin):
        for what, trails in (("causes", twin.to(event)), ("effects", twin.of(event))):
            found = graph.ask(what, id=event)
            confidences = [path["chain_confidence"] for path in found["paths"]]

            assert told(found["paths"]) == expected(best(trails))
            assert confidences == pytest.approx([sure(trail) for trail in best(trails)])
            assert found["truncated"] is False


def test_what_narrows_causes_and_effects(incidents, twin):
    """Fewer hops, more results, the type or the name of the far end, labels."""
    for graph, event in everywhere(incidents, twin):
        ends = twin.to(event)
        two = [trail for trail in ends if len(trail) <= 2]
        rooted = [trail for trail in ends if twin.types[trail[0].source] == "root_cause"]
        far = ends[-1][0].source if ends else "event-00"
        between = [trail for trail in ends if trail[0].source == far]
        plain = [trail for trail in ends if all(step.label == "CAUSED_BY" for step in trail)]
        asks: list[tuple[dict[str, Any], list[Trail]]] = [
            ({"max_hops": 2, "limit": 1000}, two),
            ({"type": "root_cause", "limit": 3}, rooted),
            ({"to": far, "limit": 1000}, between),
            ({"labels": ["CAUSED_BY"], "limit": 1000}, plain),
        ]
        for body, trails in asks:
            found = graph.ask("causes", id=event, **body)["paths"]

            assert told(found) == expected(best(trails, body.get("limit", 10)))


def test_causes_are_cut_short_aloud(incidents, twin):
    """What a limit of work leaves out is told; what is there is still the best."""
    busiest = max(twin.types, key=lambda each: len(twin.to(each)))
    found = incidents[0].ask("causes", id=busiest, limit=1000, expansions_max=10)
    whole = expected(best(twin.to(busiest), None))

    assert found["truncated"] is True
    assert told(found["paths"]) == whole[: len(found["paths"])]
    assert len(found["paths"]) < len(whole)


def test_similar_chains_have_the_types_asked_for(incidents, twin):
    """By types, with a wildcard, and by example."""
    rng = random.Random(3)
    for _ in range(20):
        example = rng.choice([trail for trail in twin.trails if len(trail) < 4])
        types = [twin.types[each] for each in along(example)]
        wild = [*types[:-1], "*"]
        graph = rng.choice(incidents)
        for wanted, body in (
            (types, {"types": types}),
            (types, {"ids": along(example)}),
            (wild, {"types": wild}),
        ):
            alike = [trail for trail in twin.trails if len(trail) == len(wanted) - 1]
            alike = [
                trail
                for trail in alike
                if all(
                    kind in ("*", twin.types[each])
                    for kind, each in zip(wanted, along(trail), strict=True)
                )
            ]
            found = graph.ask("similar", limit=7, **body)["paths"]

            assert told(found) == expected(best(alike, 7))


def strongest(trails: Iterable[Trail]) -> dict[str, float]:
    """Return how sure each far cause is."""
    found: dict[str, float] = {}
    for trail in trails:
        cause = trail[0].source
        found[cause] = max(sure(trail), found.get(cause, 0.0))
    return found


def test_without_an_edge_causes_are_lost_or_weakened(inhabited):
    """Exactly those that the edge's trails made sure."""
    incidents, twin, edge, event = inhabited
    found = incidents.ask("counterfactual", id=event, without=edge, limit=5)
    uses = [trail for trail in twin.to(event) if edge in {step.edge for step in trail}]
    rest = [trail for trail in twin.to(event) if trail not in uses]
    before, after = strongest(twin.to(event)), strongest(rest)
    weakened = {
        each: (before[each], after[each])
        for each in after
        if not math.isclose(before[each], after[each])
    }

    assert told(found["paths_lost"]) == expected(best(uses, 5))
    assert told(found["remaining"]) == expected(best(rest, 5))
    assert sorted(found["causes_lost"]) == sorted(before.keys() - after.keys())
    assert {each["id"]: (each["with"], each["without"]) for each in found["causes_weakened"]} == {
        each: (pytest.approx(pair[0]), pytest.approx(pair[1])) for each, pair in weakened.items()
    }
    assert found["confidence_with"] == pytest.approx(max(before.values(), default=0.0))
    assert found["confidence_without"] == pytest.approx(max(after.values(), default=0.0))
    assert found["delta"] == found["confidence_without"] - found["confidence_with"]


@pytest.fixture(params=range(12))
def inhabited(request, incidents, twin) -> tuple[Graph, Twin, str, str]:
    """A hyperedge, and an event that one of its trails leads to."""
    rng = random.Random(request.param)
    trail = rng.choice(twin.trails)
    return incidents[request.param % 3], twin, rng.choice(trail).edge, trail[-1].target


@pytest.mark.parametrize("direction", ["out", "in", "both", "shared"])
def test_neighbours_of_many_starts(incidents, twin, direction):
    """Those within so many hops, the start left out, in the order of the starts."""
    starts = [node["id"] for node in twin.nodes]
    for hops in (1, 2, 3):
        for labels in (None, ["CAUSED_BY", "MENTIONS"]):
            body = {"ids": starts, "hops": hops, "direction": direction, "labels": labels}
            found = incidents[hops - 1].ask("khop", **body)
            wanted = [twin.near(each, hops, direction, labels or ()) for each in starts]

            assert [set(each) for each in found["neighbours"]] == wanted
            assert [len(each) for each in found["neighbours"]] == [len(each) for each in wanted]
            assert found["truncated"] is False


def test_a_chain_goes_on_from_what_is_there(shared):
    """An event that exists keeps its properties, labels and vector, but for what is said anew."""
    graph = make_graph(shared.url(1), "goes-on", {"vectors": {"size": 2, "distance": "Cosine"}})
    node = {"id": "a", "labels": ["Seen"], "properties": {"type": "x", "cost": 7}}
    graph.put_nodes({**node, "vector": [0.6, 0.8]})
    graph.post("chain", {"events": [{"id": "a"}, {"id": "b", "type": "y"}]})
    graph.post("chain", {"events": [{"id": "a", "type": "z"}, {"id": "c"}]})
    found = graph.post("nodes/get", {"ids": ["a", "b"], "with_vector": True}).result

    assert found[0]["properties"] == {"type": "z", "cost": 7}
    assert found[0]["labels"] == ["Seen", "Event"]
    assert found[0]["vector"] == pytest.approx([0.6, 0.8])
    assert found[1]["properties"] == {"type": "y"}
    assert ids_of(graph.ask("effects", id="a")["paths"]) == [["a", "b"], ["a", "c"]]


def test_a_chain_of_events(shared):
    """Events become nodes with their properties, and one hyperedge that joins them in order."""
    graph = make_graph(shared.url(1), "chains", {"vectors": None})
    events = [
        {
            "id": "deploy",
            "type": "root_cause",
            "timestamp": 5,
            "agentId": "ada",
            "data": {"v": [2]},
        },
        {"id": "error", "type": "error", "timestamp": "2024-05-01T10:00:00Z"},
        {"id": "outage", "labels": ["Event", "Seen"], "properties": {"cost": 7}},
    ]
    body = {"events": events, "confidences": [0.5, 0.25], "valid_at": "2024-05-01"}
    added = graph.post("chain", body)
    bare = graph.post("chain", {"events": [{"id": "x"}, {"id": "y"}], "label": "LEADS_TO"}).result
    (edge,) = graph.edges(added.result["edge"])
    deploy, error, outage = graph.nodes("deploy", "error", "outage")

    assert added.result["events"] == ["deploy", "error", "outage"]
    assert (added.result["chain_confidence"], bare["chain_confidence"]) == (0.125, 1.0)
    assert deploy["properties"] == {
        "type": "root_cause",
        "timestamp": 5,
        "agentId": "ada",
        "data": {"v": [2]},
    }
    assert error["labels"] == ["Event"]
    assert (outage["labels"], outage["properties"]) == (["Event", "Seen"], {"cost": 7})
    assert (edge["members"], edge["arc_confidences"]) == (added.result["events"], [0.5, 0.25])
    assert edge["valid_at"] == "2024-05-01T00:00:00.000Z"
    assert ids_of(graph.ask("causes", id="outage", type="root_cause")["paths"]) == [
        ["deploy", "error", "outage"]
    ]
    assert ids_of(graph.ask("effects", id="x")["paths"]) == [["x", "y"]]


def test_unknown_nodes_and_edges_are_named(incidents):
    """A question about what is not there says so."""
    graph = incidents[0]
    cases = [
        ("causes", {"id": "nobody"}, "id"),
        ("effects", {"id": "nobody"}, "id"),
        ("causes", {"id": "event-01", "to": "nobody"}, "to"),
        ("similar", {"ids": ["event-01", "nobody"]}, "ids[1]"),
        ("khop", {"ids": ["event-01", "nobody"], "hops": 1}, "ids[1]"),
        ("counterfactual", {"id": "nobody", "without": "joint"}, "id"),
        ("counterfactual", {"id": "event-01", "without": "nothing"}, "without"),
        ("export", {"format": "svg", "around": ["event-01", "nobody"]}, "around[1]"),
        (
            "algorithms/shortest_path",
            {"parameters": {"source": "event-01", "target": "nobody"}},
            "parameters.target",
        ),
    ]
    for what, body, field in cases:
        assert refusal(graph.post(what, body)) == (404, "not_found", field)


def test_only_causal_labels_are_walked_unasked(shared):
    """Other labels join, but do not cause, unless they are named."""
    graph = make_graph(shared.url(3), "labels", {"vectors": None})
    graph.put_nodes(*named("a", "b", "c", "d", "e"))
    pairs = zip(["a", "b", "c", "d"], ["b", "c", "d", "e"], [*CAUSAL, "MENTIONS"], strict=True)
    graph.put_edges(*(chained(label, one, other) for one, other, label in pairs))

    assert ids_of(graph.ask("effects", id="a")["paths"]) == [["a", *"bcd"[:n]] for n in (1, 2, 3)]
    assert ids_of(graph.ask("causes", id="e")["paths"]) == []
    assert ids_of(graph.ask("causes", id="e", labels=["MENTIONS"])["paths"]) == [["d", "e"]]
