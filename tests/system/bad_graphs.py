"""Nodes, edges, graphs and questions that must be refused, and the field that is to blame.

Each bad node or edge stands second in a batch whose first one is good, so that a batch that is
stored by half would show.
"""

from __future__ import annotations

import json
from typing import Any, Final

from tests.system.bad_bodies import NAMES
from tests.system.bad_points import Case, nested
from tests.system.bad_queries import LIMITS

Routed = tuple[str, Any, str | None]
"""A route of a graph, a body, and the field to blame."""

GRAPH: Final = {"vectors": {"size": 4, "distance": "Cosine"}}
EVENTS: Final = [{"id": "x"}, {"id": "y"}]
GOOD_NODE: Final = '{"id": "new", "vector": [1, 1, 1, 1]}'
GOOD_EDGE: Final = '{"label": "X", "members": ["a", "b"]}'
LONG_NAME: Final = "n" * 256
BROAD_NAME: Final = "é" * 128
LONG_ID: Final = "i" * 513
BROAD_ID: Final = "é" * 257
"""257 characters, and 514 bytes."""
TIMES: Final = ["yesterday", "2024-02-30", "", 1.5, True, 2**53 + 1, -(2**60), [], "9" * 65]
GRAPH_NAMES: Final = [name for name in NAMES if name not in (".", "..")]
"""As those of collections; of two dots the client itself makes another path."""


def text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def second_node(value: Any) -> str:
    return f'{{"nodes": [{GOOD_NODE}, {text(value)}]}}'


def second_edge(value: Any) -> str:
    return f'{{"edges": [{GOOD_EDGE}, {text(value)}]}}'


def node(**more: Any) -> dict[str, Any]:
    return {"id": "n", **more}


def edge(**more: Any) -> dict[str, Any]:
    return {"label": "X", "members": ["a", "b"], **more}


def roles(**more: Any) -> dict[str, Any]:
    return {"label": "X", "roles": more}


IDS: list[Any] = ["", LONG_ID, BROAD_ID, "a\0b", '"\\ud800"', 1, True, [], {}]
VECTORS: list[Case] = [
    ("[NaN, 1, 1, 1]", ""),
    ("[1, 1, 1, 1e39]", ""),
    ("[1, -Infinity, 1, 1]", ""),
    ([0, 0, 0, 0], ""),
    ([3e38, 3e38, 3e38, 3e38], ""),
    ([1, 1, 1], ""),
    ([1, 1, 1, 1, 1], ""),
    ([], ""),
    ([1, "1", 1, 1], "[1]"),
    ([1, None, 1, 1], "[1]"),
    ("1", ""),
]
PROPERTIES: list[Case] = [
    ([], ""),
    ("1", ""),
    (nested(33), ""),
    ({"a": "x" * 65_536}, ""),
    ({"a": "\0"}, ".a"),
    ({"a": 2**64}, ".a"),
    ('{"a": 1, "a": 2}', ".a"),
    ('{"a": NaN}', ".a"),
    ('{"a": "\\ud800"}', ".a"),
]


def within(name: str, value: Any, rest: str) -> str:
    """Return an object as text, with one more member as it stands."""
    return f'{{{rest}, "{name}": {text(value)}}}'


def _quoted(value: Any) -> Any:
    """Return an id as JSON text, unless it is text already."""
    return value if isinstance(value, str) and value.startswith('"') else json.dumps(value)


NODES: list[Case] = [
    *((second_node(f'{{"id": {_quoted(value)}}}'), "nodes[1].id") for value in IDS),
    *(
        (second_node(within("vector", value, '"id": "n"')), f"nodes[1].vector{at}")
        for value, at in VECTORS
    ),
    *(
        (second_node(within("properties", value, '"id": "n"')), f"nodes[1].properties{at}")
        for value, at in PROPERTIES
    ),
    (second_node({"labels": ["x"]}), "nodes[1].id"),
    (second_node(node(labels=[f"l{n}" for n in range(33)])), "nodes[1].labels"),
    (second_node(node(labels=["x", "x"])), "nodes[1].labels"),
    (second_node(node(labels=["x", ""])), "nodes[1].labels[1]"),
    (second_node(node(labels=[LONG_NAME])), "nodes[1].labels[0]"),
    (second_node(node(labels=["x", BROAD_NAME])), "nodes[1].labels"),
    (second_node(node(labels="x")), "nodes[1].labels"),
    (second_node(node(labels=[1])), "nodes[1].labels[0]"),
    (second_node(node(properties={"id": "other"})), "nodes[1].properties"),
    (second_node(node(text="a cat")), "nodes[1].text"),
    (second_node(node(text="")), "nodes[1].text"),
    (second_node(node(colour=None)), "nodes[1].colour"),
    (second_node('{"id": "n", "id": "m"}'), "nodes[1].id"),
    (second_node("null"), "nodes[1]"),
    (second_node("[]"), "nodes[1]"),
    ('{"nodes": []}', "nodes"),
    ('{"nodes": null}', "nodes"),
    ("{}", "nodes"),
    (f'{{"nodes": [{GOOD_NODE}], "nodes": []}}', "nodes"),
    (f'{{"nodes": [{GOOD_NODE}], "colour": null}}', "colour"),
    (json.dumps({"nodes": [{"id": str(n)} for n in range(10_001)]}), "nodes"),
    (f'{{"nodes": [{GOOD_NODE}]}} x', None),
    (f'{{"nodes": [{GOOD_NODE}]', None),
    ("", None),
    ("[]", None),
]
EDGES: list[Case] = [
    *((second_edge(within("id", _quoted(value), GOOD_EDGE[1:-1])), "edges[1].id") for value in IDS),
    *(
        (second_edge(within("vector", value, GOOD_EDGE[1:-1])), f"edges[1].vector{at}")
        for value, at in VECTORS
    ),
    *(
        (second_edge(within("properties", value, GOOD_EDGE[1:-1])), f"edges[1].properties{at}")
        for value, at in PROPERTIES
    ),
    *(
        (second_edge(edge(confidence=value)), "edges[1].confidence")
        for value in (1.5, -0.1, "1", True, 2**64)
    ),
    (second_edge(within("confidence", "NaN", GOOD_EDGE[1:-1])), "edges[1].confidence"),
    (second_edge(edge(arc_confidences=[1.5])), "edges[1].arc_confidences[0]"),
    (second_edge(edge(arc_confidences=[0.5, 0.5])), "edges[1].arc_confidences"),
    *((second_edge(edge(valid_at=value)), "edges[1].valid_at") for value in TIMES),
    *((second_edge(edge(invalid_at=value)), "edges[1].invalid_at") for value in TIMES),
    (second_edge(edge(valid_at=2, invalid_at=1)), "edges[1].invalid_at"),
    (second_edge(edge(members=[])), "edges[1].members"),
    (second_edge(edge(members=["a"])), "edges[1].members"),
    (second_edge(edge(members=["a", "b"] * 128 + ["a"])), "edges[1].members"),
    (second_edge(edge(members=["a", ""])), "edges[1].members[1]"),
    (second_edge(edge(members=["a", BROAD_ID])), "edges[1].members[1]"),
    (second_edge(edge(members=["a", 1])), "edges[1].members[1]"),
    (second_edge(edge(members={"a": ["b"]})), "edges[1].members"),
    (second_edge(edge(roles={"x": ["a"], "y": ["b"]})), "edges[1].members"),
    (second_edge({"label": "X"}), "edges[1].members"),
    (second_edge(roles(x=["a", "b"])), "edges[1].roles"),
    (second_edge(roles(x=["a"], y=[])), "edges[1].roles"),
    (second_edge(roles(x=["a"] * 200, y=["b"] * 57)), "edges[1].members"),
    (second_edge(roles(x=["a"] * 128, y=["b"] * 128)), "edges[1].roles"),
    (second_edge(roles(x=["a"], y="b")), "edges[1].roles"),
    (second_edge(roles(**{"x": ["a"], "": ["b"]})), "edges[1].roles"),
    (second_edge(roles(**{"x": ["a"], BROAD_NAME: ["b"]})), "edges[1].roles"),
    (
        second_edge('{"label": "X", "roles": {"x": ["a"], "y": ["b"], "x": ["c"]}}'),
        "edges[1].roles.x",
    ),
    (second_edge(edge(label="")), "edges[1].label"),
    (second_edge(edge(label=LONG_NAME)), "edges[1].label"),
    (second_edge(edge(label=BROAD_NAME)), "edges[1].label"),
    (second_edge({"members": ["a", "b"]}), "edges[1].label"),
    (second_edge(edge(text="a cat")), "edges[1].text"),
    (second_edge(edge(colour=1)), "edges[1].colour"),
    ('{"edges": []}', "edges"),
    (json.dumps({"edges": [edge()] * 10_001}), "edges"),
]
EXPIRIES: list[Routed] = [
    (route, {"ids": ids}, field)
    for route in ("nodes/delete", "edges/delete", "nodes/get", "edges/get")
    for ids, field in (
        ([], "ids"),
        (None, "ids"),
        ("a", "ids"),
        (["a", ""], "ids[1]"),
        (["a", LONG_ID], "ids[1]"),
        (["a", 1], "ids[1]"),
        (["a"] * 10_001, "ids"),
    )
]
CHAINS: list[Case] = [
    ({}, "events"),
    ({"events": []}, "events"),
    ({"events": EVENTS[:1]}, "events"),
    ({"events": [{"id": str(n)} for n in range(257)]}, "events"),
    ({"events": EVENTS, "confidences": [0.5, 0.5]}, "confidences"),
    ({"events": EVENTS, "confidences": [1.5]}, "confidences[0]"),
    ({"events": EVENTS, "label": ""}, "label"),
    ({"events": EVENTS, "label": BROAD_NAME}, "label"),
    ({"events": EVENTS, "id": BROAD_ID}, "id"),
    ({"events": EVENTS, "valid_at": "soon"}, "valid_at"),
    ({"events": [EVENTS[0], {"id": BROAD_ID}]}, "events[1].id"),
    ({"events": [EVENTS[0], {"id": "y", "vector": [1]}]}, "events[1].vector"),
    ({"events": [EVENTS[0], {"id": "y", "text": "a cat"}]}, "events[1].text"),
    ({"events": [EVENTS[0], {"id": "y", "type": 1}]}, "events[1].type"),
    ({"events": [EVENTS[0], {"id": "y", "labels": ["x", "x"]}]}, "events[1].labels"),
    ({"events": [EVENTS[0], {"id": "y", "timestamp": 1.5}]}, "events[1].timestamp"),
    ({"events": [EVENTS[0], {"id": "y", "data": {"a": "\0"}}]}, "events[1].data.a"),
    ({"events": [EVENTS[0], {"id": "y", "data": "x" * 65_536}]}, "events[1]"),
    ({"events": [EVENTS[0], {"id": "x", "type": "t"}]}, "events[1].id"),
    (
        {"events": [EVENTS[0], {"id": "y", "type": "t", "properties": {"type": "u"}}]},
        "events[1].properties.type",
    ),
    ({"events": [EVENTS[0], {"id": "y", "properties": {"id": "z"}}]}, "events[1].properties"),
    ({"events": [EVENTS[0], {"id": "y", "colour": 1}]}, "events[1].colour"),
    ({"events": EVENTS, "colour": 1}, "colour"),
]
HOPS: Final = [0, -1, 33, 1.5, "2", True, 2**64]
ASKING: Final[dict[str, dict[str, Any]]] = {
    "causes": {"id": "a"},
    "effects": {"id": "a"},
    "similar": {"types": ["x", "y"]},
    "counterfactual": {"id": "a", "without": "e"},
    "khop": {"ids": ["a"], "hops": 1},
    "recall": {"vector": [1, 1, 1, 1]},
    "cypher": {"query": "MATCH (n) RETURN n"},
    "algorithms/pagerank": {},
    "export": {"format": "json"},
}
"""A good body of each question."""
LIMITED: Final = [name for name in ASKING if name not in ("khop", "export")]
LABELLED: Final = [name for name in ASKING if name not in ("cypher", "algorithms/pagerank")]
QUESTIONS: list[Routed] = [
    *(
        (name, {**body, field: value}, field)
        for name, body in ASKING.items()
        for field, value in (
            ("timeout_ms", 0),
            ("timeout_ms", -1),
            ("timeout_ms", 3_600_001),
            ("timeout_ms", "1"),
            ("expansions_max", 0),
            ("expansions_max", 10_000_001),
            ("as_of", "yesterday"),
            ("as_of", 2**53 + 1),
            ("known_at", "2024-13-01"),
            ("colour", None),
        )
    ),
    *((name, {**ASKING[name], "limit": limit}, "limit") for name in LIMITED for limit in LIMITS),
    *((name, {**ASKING[name], "labels": []}, "labels") for name in LABELLED),
    *((name, {**ASKING[name], "labels": ["x", ""]}, "labels[1]") for name in LABELLED),
    *(
        (name, {**ASKING[name], "max_hops": hops}, "max_hops")
        for name in ("causes", "effects", "counterfactual")
        for hops in HOPS
    ),
    *(("khop", {"ids": ["a"], "hops": hops}, "hops") for hops in HOPS),
    *(("recall", {**ASKING["recall"], "max_hops": hops}, "max_hops") for hops in HOPS[1:]),
    *(("export", {**ASKING["export"], "hops": hops}, "hops") for hops in HOPS),
    ("causes", {}, "id"),
    ("causes", {"id": ""}, "id"),
    ("causes", {"id": LONG_ID}, "id"),
    ("causes", {"id": "a", "type": 1}, "type"),
    ("causes", {"id": "a", "to": ""}, "to"),
    ("similar", {}, "types"),
    ("similar", {"types": ["x"]}, "types"),
    ("similar", {"types": ["x"] * 33}, "types"),
    ("similar", {"types": ["x", 1]}, "types[1]"),
    ("similar", {"ids": ["a"]}, "ids"),
    ("similar", {"types": ["x", "y"], "ids": ["a", "b"]}, "types"),
    ("counterfactual", {"id": "a"}, "without"),
    ("counterfactual", {"without": "e"}, "id"),
    ("khop", {"ids": [], "hops": 1}, "ids"),
    ("khop", {"ids": ["a"]}, "hops"),
    ("khop", {"ids": ["a"], "hops": 1, "direction": "up"}, "direction"),
    ("recall", {}, "text"),
    ("recall", {"text": "a", "vector": [1, 1, 1, 1]}, "text"),
    ("recall", {"text": ""}, "text"),
    ("recall", {"text": "a cat"}, "text"),
    *(
        ("recall", within("vector", value, '"k": 1'), f"vector{at}")
        for value, at in VECTORS
        if value != []
    ),
    ("recall", {"vector": []}, "vector"),
    ("recall", {"vector": [1, 1, 1, 1], "kinds": []}, "kinds"),
    ("recall", {"vector": [1, 1, 1, 1], "kinds": ["arcs"]}, "kinds[0]"),
    ("recall", {"vector": [1, 1, 1, 1], "k": 0}, "k"),
    ("recall", {"vector": [1, 1, 1, 1], "k": 10_001}, "k"),
    ("recall", {"vector": [1, 1, 1, 1], "chains": 0}, "chains"),
    ("recall", {"vector": [1, 1, 1, 1], "min_confidence": 1.5}, "min_confidence"),
    ("recall", '{"vector": [1, 1, 1, 1], "min_score": NaN}', "min_score"),
    ("recall", {"vector": [1, 1, 1, 1], "direction": "up"}, "direction"),
    ("cypher", {}, "query"),
    ("cypher", {"query": ""}, "query"),
    ("cypher", {"query": "x" * 16_385}, "query"),
    ("cypher", {"query": "é" * 9_000}, "query"),
    ("cypher", {"query": "RETURN '\0'"}, "query"),
    ("cypher", {"query": "RETURN 1", "parameters": []}, "parameters"),
    ("cypher", {"query": "RETURN $a", "parameters": {"a": 2**64}}, "parameters.a"),
    ("cypher", '{"query": "RETURN $a", "parameters": {"a": 1, "a": 2}}', "parameters.a"),
    ("cypher", {"query": "RETURN $a", "parameters": nested(250)}, "parameters"),
    ("algorithms/astrology", {}, "algorithm"),
    ("algorithms/pagerank", {"parameters": {"damping": 2}}, "parameters.damping"),
    ("algorithms/pagerank", {"parameters": {"colour": 2}}, "parameters.colour"),
    ("algorithms/pagerank", {"parameters": {"labels": "x"}}, "parameters.labels"),
    ("algorithms/shortest_path", {}, "parameters.source"),
    ("algorithms/shortest_path", {"parameters": {"source": "a"}}, "parameters.target"),
    ("export", {}, "format"),
    ("export", {"format": "pdf"}, "format"),
    ("export", {"format": "svg", "around": [""]}, "around[0]"),
    ("export", {"format": "svg", "nodes_max": 0}, "nodes_max"),
    ("export", {"format": "svg", "projected": 1}, "projected"),
]
GRAPHS: list[Case] = [
    ({"vectors": 4}, "vectors"),
    ({"vectors": {}}, "vectors.size"),
    ({"vectors": {"size": 4}}, "vectors.distance"),
    *(
        ({"vectors": {"size": size, "distance": "Dot"}}, "vectors.size")
        for size in (0, -1, 4097, 2**70, 1.5, "4", True)
    ),
    ({"vectors": {"size": 4, "distance": "Hamming"}}, "vectors.distance"),
    ({"vectors": {"size": 4, "distance": "Dot", "colour": 1}}, "vectors.colour"),
    ({"vectors": {"size": 4, "distance": "Dot", "datatype": "uint8"}}, "vectors.datatype"),
    ({"vectors": None, "embedding_space": "default"}, "embedding_space"),
    ({"vectors": {"size": 4, "distance": "Dot"}, "embedding_space": "default"}, "vectors.size"),
    ({"embedding_space": "elsewhere"}, "vectors"),
    ({"embedding_space": ""}, "embedding_space"),
    ({"indexes": "Event.type"}, "indexes"),
    ({"indexes": ["Event"]}, "indexes[0]"),
    ({"indexes": ["Event.type", ".type"]}, "indexes[1]"),
    ({"indexes": ["Event."]}, "indexes[0]"),
    ({"indexes": ["Event." + "x" * 506]}, "indexes[0]"),
    ({"indexes": [f"Event.p{n}" for n in range(65)]}, "indexes"),
    ({"colour": 1}, "colour"),
    ([], None),
]
BATCHES: list[Case] = [
    ({}, "shard_key"),
    ({"shard_key": ""}, "shard_key"),
    ({"shard_key": 1}, "shard_key"),
    ({"shard_key": LONG_NAME}, "shard_key"),
    ({"shard_key": ".x", "nodes": [{"id": "n"}]}, "shard_key"),
    ({"shard_key": "refusing"}, "points"),
    ({"shard_key": "refusing", "nodes": [], "deletes": {}}, "points"),
    ({"shard_key": "refusing", "nodes": [{"id": "n"}, {"id": ""}]}, "nodes[1].id"),
    ({"shard_key": "refusing", "nodes": [{"id": "n", "vector": [1]}]}, "nodes[0].vector"),
    ({"shard_key": "refusing", "edges": [edge(confidence=2)]}, "edges[0].confidence"),
    ({"shard_key": "refusing", "edges": [roles(x=["a"])]}, "edges[0].roles"),
    ({"shard_key": "refusing", "deletes": {"nodes": [BROAD_ID]}}, "deletes.nodes[0]"),
    ({"shard_key": "refusing", "deletes": {"edges": ["e", BROAD_ID]}}, "deletes.edges[1]"),
    ({"shard_key": "refusing", "deletes": {"expire_edges": [""]}}, "deletes.expire_edges[0]"),
    ({"shard_key": "refusing", "deletes": {"colour": 1}}, "deletes.colour"),
    ({"shard_key": "refusing", "points": [{"id": 1, "vector": [1]}]}, "collection"),
    ({"shard_key": "refusing", "nodes": [{"id": "n"}], "colour": 1}, "colour"),
]
MANY: list[Routed] = [
    ("cypher", {"query": "RETURN 1"}, "graphs"),
    ("cypher", {"query": "RETURN 1", "graphs": []}, "graphs"),
    ("cypher", {"query": "RETURN 1", "graphs": ["refusing", ".x"]}, "graphs[1]"),
    ("cypher", {"query": "RETURN 1", "graphs": ["refusing"] * 65}, "graphs"),
    ("cypher", {"query": "CREATE (n)", "graphs": ["refusing"]}, "query"),
    ("cypher", {"graphs": ["refusing"]}, "query"),
    ("recall", {"graphs": ["refusing"]}, "text"),
    ("recall", {"graphs": ["refusing"], "vector": [1]}, "vector"),
    ("recall", {"graphs": ["refusing"], "vector": [1, 1, 1, 1], "limit": 0}, "limit"),
]
