"""Groups whose log finds no space: they go on leading, following and voting with what they have."""

from __future__ import annotations

import math

import pytest

from cluster.raft import messages as msg
from tests.raft_logs import under_way
from tests.simulation.nodes import SEGMENT_BYTES, Net, SimNode


def run_full(node: SimNode) -> None:
    """Take the space away, and use up what the log may put entries into."""
    node.disk.free_bytes = 0
    raft = node.group()
    while raft.log.admits([b"x" * 100]):
        node.wal.records(9).entry(2, 0, b"x" * 100)
        node.step()
    assert node.wal.full


def give_space(node: SimNode) -> None:
    node.disk.free_bytes = math.inf
    node.wal.refill()


@pytest.fixture
def net() -> Net:
    made = Net("ABC")
    made.link_all()
    made.elect("A")
    return made


def terms(net: Net) -> list[int]:
    return [node.group().term for node in net.nodes.values()]


def test_a_leader_without_space_refuses_and_goes_on_leading(net: Net) -> None:
    """Reads are served, heartbeats go out, nobody else stands; with space it takes writes again."""
    before = terms(net)
    run_full(net.nodes["A"])
    assert net.put("A", "x=" + "y" * 100) is None
    net.settle(seconds=5)
    answers: list[int | None] = []
    net.nodes["A"].group().read(answers.append)
    net.settle(seconds=0.5)
    assert answers == [net.nodes["A"].group().commit_index]
    assert terms(net) == before
    give_space(net.nodes["A"])
    assert net.put("A", "x=1") is not None
    net.settle(seconds=1)
    assert [node.machines[1].data.get("x") for node in net.nodes.values()] == ["1"] * 3


def test_a_follower_without_space_drops_entries_and_is_still_a_follower(net: Net) -> None:
    """The others commit without it; it hears heartbeats, and catches up when it has space."""
    before = terms(net)
    run_full(net.nodes["C"])
    held = net.nodes["C"].group().log.last_index
    for number in range(5):
        assert net.put("A", f"k{number}={'v' * 100}") is not None
        net.settle(seconds=1)
    assert net.nodes["A"].machines[1].data["k4"] == "v" * 100
    assert net.nodes["C"].group().log.last_index == held
    assert net.nodes["C"].group().leader == "A"
    assert terms(net) == before
    give_space(net.nodes["C"])
    net.settle(seconds=2)
    assert net.nodes["C"].machines[1].digest() == net.nodes["A"].machines[1].digest()


def test_a_follower_without_space_is_not_flooded(net: Net) -> None:
    """It says that it is full, and gets entries twice a second instead of with every heartbeat."""
    run_full(net.nodes["C"])
    net.put("A", "k=" + "v" * 200)
    net.settle(seconds=1)
    sent = 0
    for _ in range(250):
        net.tick()
        sent += sum(bool(x.message.entries) for x in under_way(net, msg.Append, "A", "C"))  # type: ignore[union-attr]
        net.deliver()
    assert 2 <= sent <= 14


def test_what_is_here_already_needs_no_room(net: Net) -> None:
    """An append that is repeated to a full follower is acknowledged, not dropped."""
    net.put("A", "k=" + "v" * 200)
    net.tick("A")
    letters = under_way(net, msg.Append, "A", "C")
    net.settle(seconds=1)
    run_full(net.nodes["C"])
    for letter in letters:
        net.hand(letter)
    acks = [x.message for x in under_way(net, msg.Ack, "C", "A")]
    assert letters
    assert acks
    assert all(isinstance(ack, msg.Ack) and ack.matched and not ack.full for ack in acks)


def test_nodes_without_space_elect_a_leader_and_vote(net: Net) -> None:
    """Terms and votes have the reserve; the no-op of the new leader is committed as well."""
    for name in "ABC":
        run_full(net.nodes[name])
    net.nodes["A"].crash(power=True, rng=net.rng)
    net.settle("BC", seconds=8)
    leaders = [n.name for n in net.nodes.values() if n.up and n.group().is_leader]
    assert len(leaders) == 1
    leader = net.nodes[leaders[0]].group()
    assert leader.commit_index >= leader.office_index > 0
    net.nodes["A"].start()
    net.link_all()
    net.settle(seconds=3)
    assert net.nodes["A"].group().leader == leaders[0]
    for name in "ABC":
        give_space(net.nodes[name])
    assert net.put(leaders[0], "x=2") is not None
    net.settle(seconds=2)
    assert [node.machines[1].data.get("x") for node in net.nodes.values()] == ["2"] * 3


def test_a_reserve_that_is_used_up_stops_a_node_and_forgets_nothing(net: Net) -> None:
    """Elections without end on a full disk: at last the node is silent, until there is space."""
    node = net.nodes["C"]
    run_full(node)
    term = node.group().term
    for _ in range(SEGMENT_BYTES // 40):
        term += 1
        node.wal.records(1).meta(term, None)
        node.step()
    assert node.wal.waiting_bytes > 0
    net.settle(seconds=3)
    assert net.nodes["A"].group().is_leader
    give_space(node)
    node.step()
    assert node.wal.waiting_bytes == 0


def test_a_slow_disk_of_followers_unseats_nobody(net: Net) -> None:
    """What they hear they say at once; only what they must keep waits for their disks."""
    before = terms(net)
    for name in "BC":
        net.nodes[name].instant_disk = False
    net.put("A", "x=1")
    for _ in range(10):
        net.settle(seconds=0.9)
        answers: list[int | None] = []
        net.nodes["A"].group().read(answers.append)
        net.settle(seconds=0.1)
        assert answers[0] is not None
    assert net.nodes["A"].group().commit_index < net.nodes["A"].group().log.last_index
    assert terms(net) == before
    for name in "BC":
        net.nodes[name].instant_disk = True
        net.nodes[name].finish_sync()
    net.settle(seconds=1)
    assert net.nodes["C"].machines[1].data["x"] == "1"
    assert terms(net) == before


def test_a_disk_that_stands_still_costs_its_node_the_leadership(net: Net) -> None:
    """Nothing can be committed under it, so others must get their turn."""
    net.nodes["A"].instant_disk = False
    net.put("A", "x=1")
    net.settle(seconds=15)
    leaders = [name for name in "BC" if net.nodes[name].group().is_leader]
    assert len(leaders) == 1
    assert net.put(leaders[0], "y=2") is not None
    net.settle(seconds=1)
    assert net.nodes[leaders[0]].machines[1].data["y"] == "2"
    net.nodes["A"].instant_disk = True
    net.nodes["A"].finish_sync()
    net.settle(seconds=3)
    assert net.nodes["A"].machines[1].digest() == net.nodes["B"].machines[1].digest()


def test_an_acknowledgement_of_an_entry_waits_for_the_disk(net: Net) -> None:
    """What is told at once is never more than what is durable."""
    follower = net.nodes["B"]
    follower.instant_disk = False
    place = net.put("A", "x=1")
    assert place is not None
    for _ in range(60):
        net.tick()
        acks = [x.message for x in under_way(net, msg.Ack, "B", "A")]
        assert all(isinstance(ack, msg.Ack) and ack.matched < place[0] for ack in acks)
        net.deliver()
    follower.instant_disk = True
    follower.finish_sync()
    net.settle(seconds=1)
    assert net.nodes["A"].group()._progress["B"].match >= place[0]
