"""One replica: when its reads are fresh, and that waiting leaves nothing behind."""

from __future__ import annotations

import pytest

from cluster.errors import DeadlineExceeded
from cluster.raft.messages import Chunk
from cluster.replica import Replica
from tests.simulation.nodes import Net


def on_node(net: Net, name: str) -> Replica:
    """The replica of group 1 on a node of the simulation."""
    node = net.nodes[name]
    return Replica(1, node.group(), node.machines[1], lambda: None, clock=lambda: net.now_s)


def test_a_replica_that_is_being_refilled_is_not_fresh() -> None:
    """Heartbeats arrive all the while, but what they tell is far from applied."""
    net = Net()
    net.link_all()
    net.elect("A")
    net.cut("A", "C")
    net.cut("B", "C")
    for number in range(50):
        net.put("A", f"k{number}=1")
        net.settle(seconds=0.1)
    net.nodes["A"].compact()
    lagging = on_node(net, "C")
    net.link("A", "C")
    for _ in range(200):
        net.tick()
        net.letters = [x for x in net.letters if not isinstance(x.message, Chunk)]
        net.deliver()
        lagging.observe()
        assert not lagging.fresh(1000)
    for _ in range(100):
        net.tick()
        net.deliver()
        lagging.applied_index = net.nodes["C"].machines[1].index
        lagging.observe()
    assert lagging.fresh(1000)


def test_a_follower_stays_fresh_under_a_steady_load() -> None:
    """The newest commit is always a little ahead; what was told before it is applied."""
    net = Net()
    net.link_all()
    net.elect("A")
    follower = on_node(net, "B")
    for number in range(100):
        net.put("A", f"k{number}=1")
        net.tick()
        net.deliver()
        follower.observe()
        if number > 10:
            assert follower.fresh(200)
        follower.applied_index = net.nodes["B"].machines[1].index


def test_a_leader_is_fresh_once_its_own_term_is_applied() -> None:
    """Before that it may not know what its predecessors committed."""
    net = Net()
    net.link_all()
    net.elect("A")
    leader = on_node(net, "A")
    leader.applied_index = leader.raft.office_index - 1
    assert not leader.fresh(1000)
    leader.applied_index += 1
    assert leader.fresh(1000)


def test_a_leader_that_was_cut_off_knows_how_old_it_is() -> None:
    """It steps down by itself; until a majority last answered it, it had seen everything."""
    net = Net()
    net.link_all()
    net.elect("A")
    net.put("A", "k=1")
    net.settle(seconds=1.0)
    replica = on_node(net, "A")
    replica.applied_index = net.nodes["A"].machines[1].index
    replica.observe()
    net.cut("A", "B")
    net.cut("A", "C")
    cut_off_s = net.now_s
    while replica.is_leader:
        net.tick()
        replica.observe()
    age_ms = 1000 * (net.now_s - cut_off_s)
    timeout_ms = 1000 * replica.raft.timing.election_timeout_s

    assert not replica.fresh(int(age_ms) - 1)
    assert replica.fresh(int(age_ms + timeout_ms) + 1)


async def test_a_wait_that_was_given_up_leaves_nothing_behind() -> None:
    """Any client can send a token that is never reached."""
    net = Net()
    replica = on_node(net, "A")
    for _ in range(10):
        with pytest.raises(DeadlineExceeded):
            await replica.wait_applied(10**9, net.now_s)
    assert replica._applied_waits == []
