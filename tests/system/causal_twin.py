"""A random causal graph, and what is true of it: found by making every trail there is."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, NamedTuple

from tests.system.graph_exchange import Graph, make_graph

CAUSAL: Final = ("CAUSED_BY", "LEADS_TO", "CAUSES")
TYPES: Final = ("root_cause", "deploy", "error", "alert", "outage")
EVENTS: Final = 42
SIZE: Final = 8
HOPS: Final = 5


class Step(NamedTuple):
    """An arc of a hyperedge."""

    edge: str
    label: str
    position: int
    source: str
    target: str
    confidence: float


Trail = tuple[Step, ...]
Place = tuple[str, int]


def sure(trail: Trail) -> float:
    """Return a trail's confidence, taken from its cause on."""
    return math.prod(step.confidence for step in trail)


def along(trail: Trail) -> list[str]:
    """Return the ids of the nodes of a trail."""
    return [trail[0].source, *(step.target for step in trail)]


def places(trail: Trail) -> list[Place]:
    """Return which arcs a trail takes."""
    return [(step.edge, step.position) for step in trail]


def best(trails: Iterable[Trail], limit: int | None = 10) -> list[Trail]:
    """Return the surest trails; of equal ones the shorter, then by ids."""
    ranked = sorted(trails, key=lambda each: (-sure(each), len(each), along(each), places(each)))
    return ranked[:limit]


@dataclass(frozen=True)
class Twin:
    """The graph as it was written."""

    nodes: list[dict[str, Any]]
    edges: list[dict[str, Any]]

    @cached_property
    def steps(self) -> list[Step]:
        return [step for edge in self.edges for step in _steps(edge)]

    @cached_property
    def trails(self) -> list[Trail]:
        """All causal trails of up to five arcs."""
        return list(self.made(HOPS, CAUSAL))

    @cached_property
    def types(self) -> dict[str, str]:
        return {node["id"]: node["properties"]["type"] for node in self.nodes}

    def made(self, hops: int, labels: Collection[str]) -> Iterator[Trail]:
        """Yield all trails of up to so many arcs, none of which is taken twice."""
        steps = [step for step in self.steps if step.label in labels]
        longest: list[Trail] = [(step,) for step in steps]
        for _ in range(hops):
            yield from longest
            longest = [
                (*trail, step)
                for trail in longest
                for step in steps
                if step.source == trail[-1].target and step not in trail
            ]

    def to(self, node: str) -> list[Trail]:
        """Return the trails that end in a node."""
        return [trail for trail in self.trails if trail[-1].target == node]

    def of(self, node: str) -> list[Trail]:
        """Return the trails that start at a node."""
        return [trail for trail in self.trails if trail[0].source == node]

    def near(self, start: str, hops: int, direction: str, labels: Collection[str] = ()) -> set[str]:
        """Return the nodes within so many hops of a start."""
        pairs = {
            pair
            for edge in self.edges
            if not labels or edge["label"] in labels
            for pair in _hops(edge, direction)
        }
        found = {start}
        for _ in range(hops):
            found |= {target for source, target in pairs if source in found}
        return found - {start}


def _hops(edge: dict[str, Any], direction: str) -> Iterator[tuple[str, str]]:
    if direction == "shared":
        everybody = members(edge)
        yield from ((one, other) for one in everybody for other in everybody)
    for step in _steps(edge):
        if direction in ("out", "both"):
            yield step.source, step.target
        if direction in ("in", "both"):
            yield step.target, step.source


def members(edge: dict[str, Any]) -> list[str]:
    """Return whom an edge joins."""
    if "members" in edge:
        return list(edge["members"])
    return [member for ids in edge["roles"].values() for member in ids]


def _steps(edge: dict[str, Any]) -> Iterator[Step]:
    whole = edge.get("confidence", 1.0)
    if "roles" in edge:
        sources, *others = edge["roles"].values()
        pairs = [(source, target) for source in sources for ids in others for target in ids]
        shares: Sequence[float] = [whole] * len(pairs)
    else:
        pairs = list(pairwise(edge["members"]))
        shares = edge.get("arc_confidences", [whole ** (1 / len(pairs))] * len(pairs))
    for at, (pair, share) in enumerate(zip(pairs, shares, strict=True)):
        yield Step(edge["id"], edge["label"], at, *pair, share)


def random_twin(seed: int) -> Twin:
    """Return a graph of branches, parallel hyperedges of two to five members, and a cycle."""
    rng = random.Random(seed)
    ids = [f"event-{number:02}" for number in range(EVENTS)]
    nodes = [
        {
            "id": each,
            "labels": ["Event"],
            "properties": {
                "type": rng.choice(TYPES),
                "timestamp": 1_700_000_000_000 + rng.randrange(10**9),
                **({"uplift": rng.uniform(-1, 1)} if rng.random() < 0.5 else {}),
                **({"latency_ms": rng.uniform(0, 2000)} if rng.random() < 0.5 else {}),
            },
            "vector": [rng.gauss(0, 1) for _ in range(SIZE)],
        }
        for each in ids
    ]
    shapes = [sorted(rng.sample(ids, rng.randint(2, 5))) for _ in range(22)]
    shapes += [ids[5:8], [ids[7], ids[5]], ids[5:7], ids[5:8]]
    edges = [_edge(rng, f"edge-{at:02}", shape) for at, shape in enumerate(shapes)]
    roles = {"causes": [ids[1], ids[2]], "effects": [ids[9]], "victims": [ids[10]]}
    edges.append({"id": "joint", "label": "CAUSED_BY", "roles": roles, "confidence": 0.83})
    return Twin(nodes, edges)


def _edge(rng: random.Random, name: str, shape: list[str]) -> dict[str, Any]:
    edge: dict[str, Any] = {"id": name, "label": "CAUSED_BY", "members": shape}
    if rng.random() < 0.2:
        edge["label"] = rng.choice(["LEADS_TO", "MENTIONS"])
    if rng.random() < 0.3:
        edge["confidence"] = rng.uniform(0.3, 1)
    else:
        edge["arc_confidences"] = [rng.uniform(0.5, 1) for _ in shape[1:]]
    if rng.random() < 0.5:
        edge["vector"] = [rng.gauss(0, 1) for _ in range(SIZE)]
    return edge


def stored(twin: Twin, url: str, name: str) -> Graph:
    """Create a graph and write all of the twin into it."""
    graph = make_graph(url, name, {"vectors": {"size": SIZE, "distance": "Cosine"}})
    graph.put_nodes(*twin.nodes)
    graph.put_edges(*twin.edges)
    return graph
