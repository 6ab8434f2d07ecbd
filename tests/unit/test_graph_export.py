"""Parts of graphs against a plain search, and what networkx and files make of them."""

import random

import networkx as nx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph.budget import Budget
from graph.edge_filter import EdgeFilter
from graph.errors import NodeMissing, TooLarge
from graph.export import (
    bipartite,
    graphml,
    json_shape,
    neighbourhood,
    projected,
    title_of,
    whole,
)
from tests.small_graphs import (
    NODES,
    a_graph,
    a_node,
    an_edge,
    drawn_graphs,
    plain_arcs,
    plainly_holds,
)

DIRECTIONS = ("out", "in", "both", "shared")


def budget(expansions_max=1_000_000):
    return Budget(expansions_max)


def ids(state, part):
    return [state.node(slot).id for slot in part.nodes]


def edge_ids(entries):
    return [entry.edge.id for entry in entries]


def plain_steps(edge, direction):
    """Return the (from, to) that one hop may lead."""
    if direction == "shared":
        return [(a, b) for a in edge.members for b in edge.members]
    steps = [(source, target) for source, target, *_ in plain_arcs(edge)]
    back = [(target, source) for source, target in steps]
    return {"out": steps, "in": back, "both": steps + back}[direction]


def plain_depths(edges, starts, hops, direction):
    """Return the distance of each node within the hops, by relaxing every edge again and again."""
    depths = dict.fromkeys(starts, 0)
    for depth in range(1, hops + 1):
        for a, b in [step for edge in edges for step in plain_steps(edge, direction)]:
            if depths.get(a, depth) < depth:
                depths.setdefault(b, depth)
    return depths


@settings(deadline=None, max_examples=40)
@given(
    edges=drawn_graphs(),
    starts=st.lists(st.sampled_from(NODES), min_size=1, max_size=3),
    hops=st.integers(0, 3),
    direction=st.sampled_from(DIRECTIONS),
    which=st.builds(
        EdgeFilter,
        st.sampled_from((None, ("LEADS_TO", "MENTIONS"))),
        st.sampled_from((None, 3, 7)),
        st.sampled_from((None, 60)),
    ),
)
def test_neighbourhood_is_what_a_plain_search_finds(edges, starts, hops, direction, which):
    """Nodes by distance, the edges whose members are all found, and those partly outside."""
    state = a_graph(edges, [a_node(each) for each in NODES])
    part = neighbourhood(
        state, starts, hops, direction=direction, **which._asdict(), budget=budget()
    )
    counting = [edge for edge in edges if plainly_holds(edge, which)]
    depths = plain_depths(counting, starts, hops, direction)
    inside = [edge.id for edge in counting if set(edge.members) <= set(depths)]
    partial = [
        edge.id
        for edge in counting
        if edge.id not in inside
        and any(a in depths and b in depths for a, b, *_ in plain_arcs(edge))
    ]
    found = ids(state, part)

    assert sorted(found) == sorted(depths)
    assert [depths[each] for each in found] == sorted(depths.values())
    assert edge_ids(part.edges) == inside
    assert edge_ids(part.partial) == partial
    assert (part.cut, part.beyond) == (None, 0)


def test_part_does_not_depend_on_history():
    """The same nodes in the same order, however the graph came to be."""
    edges = [an_edge(f"e{at}", f"a{end}", confidence=0.5) for at, end in enumerate("bcdefg")]
    shuffled = random.Random(1).sample(edges, len(edges))
    one, other = a_graph(edges), a_graph(shuffled)
    parts = [neighbourhood(each, ["a"], 1, nodes_max=4, budget=budget()) for each in (one, other)]

    assert ids(one, parts[0]) == ids(other, parts[1]) == ["a", "b", "c", "d"]


def test_limit_leaves_out_the_least_confident():
    """What is over the limit of nodes is behind the weakest arcs, and is counted."""
    edges = [an_edge(f"e{at}", f"a{end}", confidence=at / 10) for at, end in enumerate("bcdefg", 1)]
    state = a_graph(edges)
    part = neighbourhood(state, ["a"], 2, nodes_max=3, budget=budget())

    assert (ids(state, part), part.beyond, part.cut) == (["a", "g", "f"], 4, "nodes")


def test_budget_cuts_a_search_short():
    """A used-up budget leaves a part that says so."""
    state = a_graph([an_edge("e1", "ab"), an_edge("e2", "bc"), an_edge("e3", "cd")])
    part = neighbourhood(state, ["a"], 9, budget=budget(3))

    assert (ids(state, part), part.cut) == (["a", "b", "c"], "expansions")


def test_start_has_to_exist():
    """A neighbourhood of nobody is refused."""
    with pytest.raises(NodeMissing, match="'z'"):
        neighbourhood(a_graph([an_edge("e", "ab")]), ["z"], 1, budget=budget())


@settings(deadline=None, max_examples=40)
@given(edges=drawn_graphs(), kept=st.integers(1, 7))
def test_first_nodes_of_the_whole(edges, kept):
    """A whole graph has every edge that counts; its first nodes are a part like any other."""
    state = a_graph(edges, [a_node(each) for each in NODES])
    part = whole(state, budget=budget())
    few = whole(state, nodes_max=kept, budget=budget())

    assert edge_ids(part.edges) == [edge.id for edge in edges if edge.expired is None]
    assert ids(state, part) == list(NODES)
    assert part.first(kept) == few


@settings(deadline=None, max_examples=40)
@given(edges=drawn_graphs(), more=st.integers(1, 8))
def test_a_part_fits_into_a_number_of_elements(edges, more):
    """What does not fit is cut to its first nodes, and says so; what does is left alone."""
    room = len(edges) + more
    part = whole(a_graph(edges, [a_node(each) for each in NODES]), budget=budget())
    size = len(part.nodes) + len(part.edges)
    kept = part.within(room)

    assert len(kept.nodes) + len(kept.edges) <= room
    assert kept == part.first(len(kept.nodes))
    assert (kept == part) is (size <= room)
    assert kept.cut == (None if size <= room else "nodes")


def test_a_node_with_too_many_edges_is_no_part():
    """There is nothing to cut."""
    state = a_graph([an_edge(f"e{at}", "aa") for at in range(5)])

    with pytest.raises(TooLarge, match="6 nodes and edges; at most 5"):
        whole(state, budget=budget()).within(5)


@settings(deadline=None, max_examples=40)
@given(edges=drawn_graphs())
def test_bipartite_graph_loses_nothing(edges):
    """Members and roles can be read off the links."""
    state = a_graph(edges, [a_node(each) for each in NODES])
    part = whole(state, budget=budget())
    graph = bipartite(state, part)
    for entry in part.edges:
        name = f"e:{entry.edge.id}"
        links = [(n, graph[n][name]) for n in graph.pred[name]]
        links += [(n, graph[name][n]) for n in graph.succ[name]]
        members = {at: n[2:] for n, link in links for at in link["positions"]}
        roles = {
            at: role
            for _, link in links
            for at, role in zip(link["positions"], link["roles"], strict=False)
        }
        stored = state.stored_edge(entry)

        assert tuple(members[at] for at in sorted(members)) == stored.members
        expected = [role for role, count in stored.roles for _ in range(count)]
        assert [roles[at] for at in sorted(roles)] == expected


@settings(deadline=None, max_examples=40)
@given(edges=drawn_graphs())
def test_projected_graph_has_every_arc(edges):
    """Each arc is there once, with its confidence, under the key of its edge and position."""
    state = a_graph(edges, [a_node(each) for each in NODES])
    graph = projected(state, whole(state, budget=budget()))
    expected = {
        (a, b, f"{edge.id}:{at}", share)
        for edge in edges
        if edge.expired is None
        for a, b, at, share in plain_arcs(edge)
    }

    assert set(graph.edges(keys=True, data="confidence")) == expected


HARD = {
    "text": 'a < b & "c" \x01\x0c\ufffe \u202e é 日本',
    "list": [1, {"a": None}],
    "none": None,
    "flag": True,
    "count": 2**63 - 1,
    "huge": 2**64 - 1,
    "share": 0.25,
    "key \x02 <": 1,
}


@pytest.mark.parametrize("form", [bipartite, projected])
def test_graphml_is_read_back(form):
    """What networkx reads from the file is what was written, hard characters made visible."""
    nodes = [a_node("x\x01", labels=("A", "B"), **HARD), a_node("y", count="not a number")]
    edge = an_edge("e", ["x\x01", "y", "y"], confidence=0.25, properties=orjson.dumps(HARD))
    state = a_graph([edge], nodes)
    graph = form(state, whole(state, budget=budget()))
    text = graphml(graph)
    read = nx.parse_graphml(text, force_multigraph=graph.is_multigraph())
    node = read.nodes["n:x␁" if form is bipartite else "x␁"]

    assert not set(text) & set(map(chr, (1, 2, 12, 0xFFFE)))
    assert sorted(read) == sorted(each.replace("\x01", "␁") for each in graph)
    assert len(read.edges) == len(graph.edges)
    assert node["labels"] == '["A","B"]'
    assert node["property.list"] == '[1,{"a":null}]'
    assert node["property.text"] == 'a < b & "c" ␁␌\ufffd \u202e é 日本'
    assert (node["property.count"], node["property.huge"]) == (2**63 - 1, str(2**64 - 1))
    assert (node["property.flag"], node["property.share"]) == (True, 0.25)
    assert "property.none" not in node


def test_json_has_the_shapes_of_all_answers():
    """The document is nodes and edges as they are answered, and says what is missing."""
    edges = [an_edge("chain", "abc", confidence=0.25), an_edge("far", "abx")]
    state = a_graph(edges, [a_node(each, name=each.upper()) for each in "abcx"])
    part = neighbourhood(state, ["b"], 1, nodes_max=3, budget=budget())
    document = json_shape(state, part)

    assert orjson.loads(orjson.dumps(document)) == document
    assert [node["id"] for node in document["nodes"]] == ["b", "a", "x"]
    assert [edge["id"] for edge in document["edges"]] == ["far"]
    assert (document["partial_edges"], document["nodes_beyond"]) == (1, 1)
    assert document["truncated"] is True


@pytest.mark.parametrize(
    ("properties", "title"),
    [
        ({"name": "N", "title": " T "}, "T"),
        ({"title": "  ", "text": "words"}, "words"),
        ({"title": 7, "type": "root_cause"}, "root_cause"),
        ({}, "id1"),
    ],
)
def test_title_is_a_property_that_names(properties, title):
    """A text among the properties names a node, and else its id."""
    state = a_graph([], [a_node("id1", **properties)])

    assert title_of(state.node(0)) == title
