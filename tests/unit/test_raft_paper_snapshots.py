"""The rules of snapshots and of terms of office, one test a rule, named by the section.

Sections 7 and 8: Ongaro and Ousterhout, "In search of an understandable consensus algorithm
(extended version)", 2014. Terms in a list are those of entries 2, 3, ...: entry 1 is the root.
"""

from __future__ import annotations

import pytest

from cluster.raft.messages import Ack, Append, Chunk, Manifest, Offer, Pull
from cluster.raft.snapshot import Install
from tests.raft_logs import (
    booted,
    give,
    group,
    terms_of,
)
from tests.simulation.nodes import Net

# -- 7: snapshots -----------------------------------------------------------------------------


def follower_of_a(terms: list[int]) -> Net:
    """B holds entries of these terms and hears the leader A of term 5."""
    net = booted({"B": terms})
    net.link_all()
    give(net, "A", "B", Append(5, 1, 1, 0, [], 1))
    return net


@pytest.mark.parametrize(
    ("index", "term", "after"),
    [(4, 2, [2]), (4, 3, []), (9, 4, [])],
    ids=["is a prefix", "conflicts", "goes beyond"],
)
def test_7_after_a_snapshot_the_log_keeps_what_follows_it(
    index: int, term: int, after: list[int]
) -> None:
    """If the last entry of the snapshot is in the log; else the whole log goes."""
    net = follower_of_a([1, 1, 2, 2])
    machine = net.nodes["C"].machines[1]
    machine.index, machine.term = index, term
    raft = group(net, "B")
    net.nodes["B"].machines[1].load(machine.dump())
    raft.installed(Manifest(index, term, 10, b"x" * 32))
    assert terms_of(net, "B")[-len(after) :] == after or not after
    assert raft.log.term_at(index) == term
    assert raft.log.last_index == index + len(after)
    assert (raft.delivered_index, raft.commit_index) == (index, index)


def test_7_a_snapshot_that_is_not_newer_is_answered_and_left() -> None:
    """D4: what it covers is here; the leader is told so, and nothing is pulled."""
    net = follower_of_a([1, 1, 2, 2])
    give(net, "A", "B", Append(5, 4, 4, 2, [], 2))
    assert group(net, "B").delivered_index == 4
    offer = Offer(5, 3, Manifest(4, 2, 100, b"x" * 32))
    assert give(net, "A", "B", offer) == [Ack(5, 3, matched=4)]


def test_7_an_offer_proves_nothing_about_the_log() -> None:
    """D2, D5: until the snapshot is in place, only that the follower is alive is told."""
    net = follower_of_a([1, 1, 2, 2])
    offer = Offer(5, 3, Manifest(40, 4, 100, b"x" * 32))
    assert give(net, "A", "B", offer) == [Ack(5, 3), Pull(b"x" * 32, 0)]
    assert group(net, "B").commit_index == 1


def test_7_a_snapshot_that_the_log_overtook_is_not_installed() -> None:
    """D4: entries came faster than the pieces."""
    net = follower_of_a([1, 1, 2, 2])
    sha = b"x" * 32
    give(net, "A", "B", Offer(5, 3, Manifest(4, 2, 8, sha)))
    give(net, "A", "B", Chunk(sha, 0, b"half"))
    give(net, "A", "B", Append(5, 5, 5, 2, [], 4))
    installs: list[object] = []
    node = net.nodes["B"]
    perform = node.perform

    def noted(group: int, effect: object) -> None:
        installs.append(effect) if isinstance(effect, Install) else perform(group, effect)

    node.perform = noted  # type: ignore[method-assign]
    give(net, "A", "B", Chunk(sha, 4, b"half"))
    assert installs == []
    assert group(net, "B").receiver.manifest is None


def test_7_a_failed_install_says_nothing_to_the_leader() -> None:
    """D5: the follower's own end of the log is not what the snapshot would have proved."""
    net = follower_of_a([1, 1, 2, 2])
    net.nodes["B"].fail_install = True
    give(net, "A", "B", Offer(5, 3, Manifest(40, 4, 4, b"x" * 32)))
    assert give(net, "A", "B", Chunk(b"x" * 32, 0, b"full")) == []
    assert group(net, "B").delivered_index == 1
    assert not group(net, "B").receiver.installing


def test_7_nothing_is_applied_while_a_snapshot_is_put_in_place() -> None:
    """Else the state that is being replaced would run ahead of the new one."""
    net = follower_of_a([1, 1, 2, 2])
    sha, node = b"x" * 32, net.nodes["B"]
    node.perform = lambda *_: None  # type: ignore[method-assign]  # the install takes its time
    give(net, "A", "B", Offer(5, 3, Manifest(40, 4, 4, sha)))
    give(net, "A", "B", Chunk(sha, 0, b"full"))
    give(net, "A", "B", Append(5, 5, 5, 2, [], 4))
    assert group(net, "B").commit_index == 5
    assert node.machines[1].index == 1
    group(net, "B").install_failed()
    net.tick("B")
    assert node.machines[1].index == 5


# -- 8: terms of office -----------------------------------------------------------------------


def test_8_a_term_of_office_begins_with_an_entry_of_its_own() -> None:
    """It commits what earlier leaders left, without waiting for a client."""
    net = booted({"A": [1, 2], "B": [1, 2], "C": [1]})
    net.link_all()
    net.elect("A")
    net.settle(seconds=0.3)
    assert terms_of(net, "A") == [1, 2, group(net, "A").term]
    assert group(net, "A").office_index == 4
    assert [net.nodes[name].machines[1].index for name in "ABC"] == [4] * 3
