"""Placement: every node its share of replicas and of leaders, and few moves when nodes come."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.placement import plan

POINTS = 150


def named(count):
    return [f"node{number}" for number in range(1, count + 1)]


def moved(old, new):
    """Count the replicas that are in a place where they were not."""
    return sum(len(set(after) - set(before)) for before, after in zip(old, new, strict=True))


def loads(shard_map, nodes):
    held = Counter(node for members in shard_map for node in members)
    return [held[node] for node in nodes]


def leads(shard_map, nodes):
    led = Counter(members[0] for members in shard_map)
    return [led[node] for node in nodes]


sizes = st.tuples(st.integers(1, 12), st.integers(1, 40), st.integers(1, 5))


@given(sizes)
def test_every_shard_has_its_replicas_on_different_nodes(size):
    """A shard has as many replicas as asked for, or one per node when nodes are fewer."""
    nodes, shards, replication = size
    shard_map = plan(named(nodes), shards, replication, POINTS)

    assert len(shard_map) == shards
    assert all(len(members) == min(replication, nodes) for members in shard_map)
    assert all(len(set(members)) == len(members) for members in shard_map)


@given(sizes)
def test_load_is_even(size):
    """No node has two replicas more than another, nor two leaderships."""
    nodes, shards, replication = size
    shard_map = plan(named(nodes), shards, replication, POINTS)
    held, led = loads(shard_map, named(nodes)), leads(shard_map, named(nodes))

    assert max(held) - min(held) <= 1
    assert max(led) - min(led) <= 1


@given(sizes, st.randoms())
def test_order_of_nodes_is_irrelevant(size, random):
    """Every node comes to the same map, in whatever order its configuration names them."""
    nodes, shards, replication = size
    shuffled = named(nodes)
    random.shuffle(shuffled)

    assert plan(shuffled, shards, replication, POINTS) == plan(
        named(nodes), shards, replication, POINTS
    )


@given(sizes)
def test_a_plan_for_the_same_nodes_moves_nothing(size):
    """With the present map and the present nodes, nothing moves, not even a leader."""
    nodes, shards, replication = size
    shard_map = plan(named(nodes), shards, replication, POINTS)
    again = plan(named(nodes), shards, replication, POINTS, shard_map)

    assert moved(shard_map, again) == 0
    assert [members[0] for members in again] == [members[0] for members in shard_map]


@given(sizes.filter(lambda size: size[0] > size[2]))
def test_a_new_node_gets_its_share_and_little_else_moves(size):
    """Nothing moves but what the new node takes, and what makes room at nodes above the average."""
    nodes, shards, replication = size
    shard_map = plan(named(nodes), shards, replication, POINTS)
    grown = plan(named(nodes + 1), shards, replication, POINTS, shard_map)
    share = -(-shards * replication // (nodes + 1))

    assert max(loads(grown, named(nodes + 1))) <= share
    assert moved(shard_map, grown) <= 2 * share + 1


@given(sizes.filter(lambda size: size[0] > size[2] + 1))
def test_a_lost_node_costs_its_own_replicas(size):
    """What a leaving node held has to move; of the rest, only little."""
    nodes, shards, replication = size
    shard_map = plan(named(nodes), shards, replication, POINTS)
    lost = loads(shard_map, named(nodes))[-1]
    shrunk = plan(named(nodes - 1), shards, replication, POINTS, shard_map)

    assert moved(shard_map, shrunk) <= 2 * lost + 2


@pytest.mark.parametrize("nodes", [3, 4, 5, 8, 20])
def test_planning_anew_moves_little_too(nodes):
    """The ring alone, without the present map, keeps most replicas where they are."""
    before = plan(named(nodes), 24, 3, POINTS)
    after = plan(named(nodes + 1), 24, 3, POINTS)

    assert moved(before, after) <= 2 * 24 * 3 / (nodes + 1) + 2


def test_a_known_plan():
    """The plan of a fresh cluster of three is the same in every process and version."""
    expected = [["node1", "node2"], ["node2", "node3"], ["node2", "node3"], ["node3", "node1"]]

    assert plan(named(3), 4, 2, POINTS) == expected
