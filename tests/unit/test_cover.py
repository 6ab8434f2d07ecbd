"""Covering sets: each shard once, few nodes, this one first."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from cluster.cover import cover
from cluster.placement import plan

NODES = ["node1", "node2", "node3", "node4", "node5"]
holders = st.dictionaries(
    st.integers(0, 11), st.lists(st.sampled_from(NODES), unique=True, max_size=3), max_size=12
)


def fewest(candidates):
    """Return the size of the smallest set of nodes that has a candidate of every shard."""
    wanted = [set(nodes) for nodes in candidates.values() if nodes]
    return next(
        size
        for size in range(len(NODES) + 1)
        for chosen in combinations(NODES, size)
        if all(nodes & set(chosen) for nodes in wanted)
    )


@given(holders, st.sampled_from(NODES))
def test_each_shard_is_asked_of_one_node_that_has_it(candidates, me):
    """The assignment and the uncovered shards are a partition of all shards."""
    assignment, uncovered = cover(candidates, me)
    asked = [shard for shards in assignment.values() for shard in shards]

    assert sorted(asked + uncovered) == sorted(candidates)
    assert all(node in candidates[s] for node, shards in assignment.items() for s in shards)
    assert uncovered == sorted(shard for shard, nodes in candidates.items() if not nodes)


@given(holders, st.sampled_from(NODES))
def test_no_node_is_superfluous(candidates, me):
    """Without any one of the other nodes, some shard would have nobody."""
    assignment, uncovered = cover(candidates, me)
    for node in assignment:
        rest = set(assignment) - {node}
        open_shards = [s for s in candidates if s not in uncovered]

        assert node == me or any(not rest & set(candidates[s]) for s in open_shards)


@given(holders, st.sampled_from(NODES))
def test_cover_is_near_the_smallest(candidates, me):
    """This node costs nothing; beside it, at most one node more than an exhaustive search needs."""
    assignment, _ = cover(candidates, me)

    assert len([node for node in assignment if node != me]) <= fewest(candidates) + 1


def test_a_node_that_has_everything_asks_nobody():
    """With a replica of every shard here, no message is sent."""
    assignment, uncovered = cover({shard: ["node2", "node1"] for shard in range(12)}, "node1")

    assert assignment == {"node1": list(range(12))}
    assert uncovered == []


def test_cover_is_the_smallest_for_planned_clusters():
    """Six nodes of twelve shards in three replicas are covered by this node and one or two."""
    nodes = [f"node{number}" for number in range(1, 7)]
    shard_map = plan(nodes, 12, 3, 150)
    for me in nodes:
        assignment, _ = cover(dict(enumerate(shard_map)), me)

        assert 2 <= len(assignment) <= 3


def test_callers_do_not_all_ask_the_same_node():
    """Among equals, each caller starts at its own place in the order of names."""
    candidates = {0: ["node2", "node4"], 1: ["node2", "node4"]}

    assert list(cover(candidates, "node1")[0]) == ["node2"]
    assert list(cover(candidates, "node3")[0]) == ["node4"]
    assert list(cover(candidates, "node5")[0]) == ["node2"]
