"""Algorithms by name against plain definitions on small graphs."""

import itertools
import math
import random

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph.algorithms import ALGORITHMS, run_algorithm
from graph.budget import Budget
from graph.edge_filter import EVERY
from graph.errors import BadQuery, NodeMissing, TooLarge
from graph.projection import Limits, read_projection
from tests.small_graphs import NODES, a_graph, a_node, an_edge, drawn_graphs, plain_arcs

SCORES = [name for name in ALGORITHMS if name.endswith("centrality")] + ["pagerank"]


def run(state, name, limit=100, **arguments):
    return run_algorithm(state, name, arguments, limit=limit, budget=Budget(1_000_000))


def full(edges):
    return a_graph(edges, [a_node(each) for each in NODES])


def current_arcs(edges):
    return [arc for edge in edges if edge.expired is None for arc in plain_arcs(edge)]


def reachable(pairs, start):
    found = {start}
    while True:
        more = {b for a, b in pairs if a in found} - found
        if not more:
            return found
        found |= more


def groups(answer):
    return [frozenset(result["ids"]) for result in answer["results"]]


@settings(deadline=None, max_examples=40)
@given(edges=drawn_graphs())
def test_components_are_what_reaches_each_other(edges):
    """Weakly: when directions do not count; strongly: there and back again."""
    arcs = {(a, b) for a, b, *_ in current_arcs(edges)}
    ways = {node: reachable(arcs, node) for node in NODES}
    both = arcs | {(b, a) for a, b in arcs}
    weak = {frozenset(reachable(both, node)) for node in NODES}
    strong = {frozenset(b for b in NODES if b in ways[a] and a in ways[b]) for a in NODES}
    state = full(edges)

    for name, expected in (
        ("connected_components", weak),
        ("strongly_connected_components", strong),
    ):
        answer = run(state, name)
        assert groups(answer) == sorted(expected, key=lambda group: (-len(group), min(group)))
        assert answer["count"] == len(expected)


@settings(deadline=None, max_examples=40)
@given(edges=drawn_graphs(), damping=st.sampled_from((0.3, 0.85)))
def test_pagerank_is_the_fixed_point(edges, damping):
    """Scores satisfy the definition, add up to one, and come best first."""
    size = len(NODES)
    weights = np.zeros((size, size))
    for a, b, _, share in current_arcs(edges):
        weights[NODES.index(a), NODES.index(b)] += share
    totals = weights.sum(axis=1, keepdims=True)
    steps = np.where(totals > 0, weights / np.where(totals > 0, totals, 1), 1 / size)
    answer = run(full(edges), "pagerank", damping=damping)
    scores = {result["id"]: result["score"] for result in answer["results"]}
    vector = np.array([scores[node] for node in NODES])

    assert np.allclose(vector, damping * vector @ steps + (1 - damping) / size, atol=1e-8)
    assert math.isclose(vector.sum(), 1, abs_tol=1e-7)


@settings(deadline=None, max_examples=40)
@given(edges=drawn_graphs(), ends=st.permutations(NODES))
def test_shortest_path_is_the_most_confident(edges, ends):
    """No chain of nodes has a higher product of confidences, and no unweighted one fewer hops."""
    source, target = ends[:2]
    best: dict[tuple[str, str], float] = {}
    for a, b, _, share in current_arcs(edges):
        best[a, b] = max(share, best.get((a, b), 0.0))
    chains = [
        [source, *middle, target]
        for count in range(len(NODES) - 1)
        for middle in itertools.permutations([n for n in NODES if n not in ends[:2]], count)
    ]
    possible = [c for c in chains if all(pair in best for pair in itertools.pairwise(c))]
    products = [math.prod(best[pair] for pair in itertools.pairwise(c)) for c in possible]
    state = full(edges)
    surest = run(state, "shortest_path", source=source, target=target)["results"]
    nearest = run(state, "shortest_path", source=source, target=target, weighted=False)["results"]

    assert [path["hops"] for path in nearest] == ([len(possible[0]) - 1] if possible else [])
    if max(products, default=0) == 0:
        assert surest == []
    else:
        assert math.isclose(surest[0]["chain_confidence"], max(products), rel_tol=1e-6)
        assert surest[0]["nodes"][0]["id"] == source
        assert [arc["target"] for arc in surest[0]["edges"]][-1] == target


def test_of_equally_sure_paths_the_shorter():
    """Certain arcs cost nothing, yet a detour over them is not taken."""
    state = a_graph([an_edge("long", "abcd"), an_edge("short", "ad")])
    (path,) = run(state, "shortest_path", source="a", target="d")["results"]

    assert [arc["hyperedge_id"] for arc in path["edges"]] == ["short"]


@settings(deadline=None, max_examples=20)
@given(edges=drawn_graphs(), order=st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_answers_do_not_depend_on_history(edges, order, name):
    """Graphs that hold the same answer the same, in plain JSON, whatever they look like."""
    shuffled = order.sample(edges, len(edges))
    nodes = order.sample(NODES, len(NODES))
    arguments = {"source": "a", "target": "b"} if name == "shortest_path" else {}
    one = run(full(edges), name, **arguments)
    other = run(a_graph(shuffled, [a_node(each) for each in nodes]), name, **arguments)

    assert one == other
    assert orjson.loads(orjson.dumps(one)) == one


@pytest.mark.parametrize("name", SCORES)
def test_scores_come_best_first_and_ties_by_id(name):
    """The hub of a star leads; its leaves, all alike, follow by id."""
    edges = [an_edge(f"e{leaf}{way}", pair) for leaf in "bcde" for way, pair in pairs_of(leaf)]
    answer = run(a_graph(edges), name, limit=3)

    assert [result["id"] for result in answer["results"]] == ["a", "b", "c"]
    assert (answer["count"], answer["truncated"]) == (5, True)


def pairs_of(leaf):
    return enumerate((["a", leaf], [leaf, "a"]))


def test_communities_are_the_dense_groups():
    """Two cliques with a bridge are two communities."""
    cliques = [itertools.permutations(group, 2) for group in ("abc", "efg")]
    pairs = [*itertools.chain(*cliques), ("c", "e")]
    state = full([an_edge(f"e{at}", pair) for at, pair in enumerate(pairs)])

    assert groups(run(state, "communities")) == [set("abc"), set("efg"), {"d"}]


def test_betweenness_is_estimated_above_a_size():
    """A long line's middle lies between most, though not all starts are looked at."""
    size = 1_200
    ids = [f"n{at:04}" for at in range(size)]
    edges = [an_edge(f"e{at}", pair) for at, pair in enumerate(itertools.pairwise(ids))]
    answer = run(a_graph(edges), "betweenness_centrality", limit=1, samples=20)

    assert size / 3 < int(answer["results"][0]["id"][1:]) < size * 2 / 3


def test_labels_and_times_choose_the_arcs():
    """Only edges that are named and hold at the time are looked at."""
    edges = [
        an_edge("e1", "ab", valid_at=10, invalid_at=20),
        an_edge("e2", "bc", label="MENTIONS"),
        an_edge("e3", "cd", created=5, expired=30),
    ]
    state = a_graph(edges)

    def arcs(labels=None, **times):
        answer = run_algorithm(
            state, "pagerank", {"labels": labels}, limit=1, budget=Budget(99), **times
        )
        return answer["arcs"]

    assert arcs() == 2
    assert arcs(as_of=20) == 1
    assert arcs(known_at=29) == 3
    assert arcs(labels=["MENTIONS"]) == 1


@pytest.mark.parametrize(
    ("name", "arguments", "field"),
    [
        ("page_rank", {}, "algorithm"),
        ("pagerank", {"dumping": 0.5}, "dumping"),
        ("pagerank", {"damping": 1.0}, "damping"),
        ("pagerank", {"damping": "high"}, "damping"),
        ("pagerank", {"damping": math.nan}, "damping"),
        ("pagerank", {"damping": True}, "damping"),
        ("pagerank", {"weighted": 1}, "weighted"),
        ("pagerank", {"labels": "A"}, "labels"),
        ("degree_centrality", {"direction": "up"}, "direction"),
        ("betweenness_centrality", {"samples": 0}, "samples"),
        ("shortest_path", {"source": "a"}, "target"),
    ],
)
def test_bad_arguments_are_named(name, arguments, field):
    """What cannot be answered is refused, with the field at fault."""
    with pytest.raises(BadQuery) as caught:
        run(a_graph([an_edge("e", "ab")]), name, **arguments)

    assert caught.value.field == field


def test_ends_of_a_path_have_to_exist():
    """A path to nobody is refused, with the field at fault."""
    with pytest.raises(NodeMissing) as caught:
        run(a_graph([an_edge("e", "ab")]), "shortest_path", source="a", target="z")

    assert caught.value.field == "target"


@pytest.mark.parametrize(
    ("limits", "expansions", "words"),
    [
        (Limits(2, 9), 9, "3 nodes; at most 2"),
        (Limits(9, 1), 9, "More than 1 arcs"),
        (Limits(9, 9), 1, "limit of expansions"),
    ],
)
def test_limits_are_named(limits, expansions, words):
    """A graph over a limit is refused, and the refusal says which limit it was."""
    state = a_graph([an_edge("e", "abc")])

    with pytest.raises(TooLarge, match=words):
        read_projection(state, EVERY, limits, Budget(expansions))


def test_algorithm_says_that_it_refuses():
    """The refusal names the algorithm and its limit."""
    nodes = [a_node(f"n{at}") for at in range(3_001)]

    with pytest.raises(TooLarge, match=r"closeness_centrality.*3,001 nodes; at most 3,000"):
        run(a_graph([], nodes), "closeness_centrality")


def test_empty_graph_has_no_results():
    """No algorithm stumbles over nothing at all."""
    for name in ALGORITHMS:
        arguments = {"source": "a", "target": "b"} if name == "shortest_path" else {}
        answer = run(a_graph([]), name, **arguments)

        assert (answer["results"], answer["truncated"]) == ([], False)


def test_groups_show_some_members():
    """A large group is told by its size and its first members."""
    ids = [f"n{at:03}" for at in random.Random(1).sample(range(150), 150)]
    edges = [an_edge(f"e{at}", pair) for at, pair in enumerate(itertools.pairwise(ids))]
    (group,) = run(a_graph(edges), "connected_components", members=2)["results"]

    assert group == {"size": 150, "ids": ["n000", "n001"]}
