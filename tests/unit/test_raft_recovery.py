"""What a replica makes of a crash: log and state that fell apart, lost state, lost segments."""

from __future__ import annotations

import random

import pytest

from cluster.raft.log import GroupLog, GroupState
from cluster.raft.messages import Ack, Append, Manifest, Offer, PreVote, RequestPreVote, TimeoutNow
from cluster.raft.wal import Wal
from cluster.raft.wal_format import CorruptLog
from tests.raft_logs import (
    SEGMENT,
    give,
    group,
    leader_of,
    linked,
    opened,
    sent,
    sync,
    terms_of,
    until,
    with_log,
)
from tests.simulation.faulty_disk import FaultyDisk
from tests.simulation.nodes import Net

# -- log and state ----------------------------------------------------------------------------


def test_after_a_restart_nothing_is_committed_until_a_leader_says_so() -> None:
    """D11: a commit index from before the crash could reach over entries that were replaced."""
    net = linked(leader="A")
    stood = net.nodes["A"].machines[1].index
    for other in "BC":
        net.cut("A", other)
    net.put("A", "k=lost")
    net.nodes["A"].crash(power=False, rng=random.Random(1))
    net.nodes["A"].start()
    net.settle("A", 0.5)
    raft = group(net, "A")
    assert raft.log.last_index > stood
    assert (raft.commit_index, net.nodes["A"].machines[1].index) == (stood, stood)


def test_a_follower_applies_nothing_that_its_own_disk_does_not_have() -> None:
    """D19: its log could come back from a crash without what its state reflects."""
    net = linked(leader="A")
    net.nodes["B"].instant_disk = False
    place = net.put("A", "k=1")
    assert place is not None
    net.settle(seconds=0.5)
    assert net.nodes["C"].machines[1].index == place[0]
    assert net.nodes["B"].machines[1].index < place[0]
    net.nodes["B"].instant_disk = True
    net.nodes["B"].finish_sync()
    net.settle(seconds=0.5)
    assert net.nodes["B"].machines[1].index == place[0]


def test_an_answer_in_a_new_term_waits_for_the_term() -> None:
    """D10: who forgot the term in a crash could follow, and vote, in an older one again."""
    net = linked()
    node = net.nodes["C"]
    node.instant_disk = False
    assert give(net, "A", "C", Append(5, 1, 1, 0, [], 1)) == []
    node.finish_sync()
    node.step()
    assert sent(net, Ack, "C", "A") == [Ack(5, 1, matched=1)]
    assert give(net, "A", "C", Append(5, 1, 1, 0, [], 2)) == [Ack(5, 2, matched=1)]


@pytest.mark.parametrize(("index", "term"), [(40, 4), (4, 3)])
def test_a_crash_between_install_and_reset_is_recovered(index: int, term: int) -> None:
    """D1: state beyond the log, or beside it, is committed; the log starts again behind it."""
    net = Net()
    with_log(net, "B", [1, 1, 2, 2], 5)
    node = net.nodes["B"]
    state = type(node.machines[1])()
    state.index, state.term = index, term
    node.machines[1].load(state.dump())
    node.crash(power=False, rng=random.Random(1))
    node.start()
    raft = group(net, "B")
    assert (raft.log.base_index, raft.log.last_index, raft.log.last_term) == (index, index, term)
    assert (raft.commit_index, raft.delivered_index, raft.term) == (index, index, 5)
    assert raft.log.may_vote


def test_a_compaction_that_comes_late_takes_nothing() -> None:
    """D14: it was decided before a snapshot moved the log's base beyond it."""
    net = Net()
    with_log(net, "B", [1, 1, 2, 2])
    raft = group(net, "B")
    state = net.nodes["B"].machines[1]
    state.index, state.term = 40, 4
    raft.installed(Manifest(40, 4, 8, b"x" * 32))
    raft.log.add(b"\x00k=1", 41, 4)
    raft.compact(3)
    raft.log.validate()
    assert (raft.log.base_index, raft.log.last_index) == (40, 41)


def test_entries_that_are_not_durable_are_not_forgotten() -> None:
    """D8: the state machine cannot have what is not on disk."""
    wal, log = opened(FaultyDisk())
    log.add(b"\x00k=1", 2, 1)
    with pytest.raises(AssertionError, match="durable"):
        log.compact(2)
    sync(wal, log)
    log.compact(2)
    assert log.base_index == 2


def test_a_truncation_lowers_what_is_durable() -> None:
    """D19: an entry that stands in the place of a durable one is not durable itself."""
    wal, log = opened(FaultyDisk())
    for index in range(2, 6):
        log.add(b"\x00k=1", index, 1)
    sync(wal, log)
    assert log.durable_index == 5
    log.delete_from(4)
    log.add(b"\x00k=2", 4, 2)
    assert log.durable_index == 3
    sync(wal, log)
    assert log.durable_index == 4


@pytest.mark.parametrize("wrong", [(4, 2), (3, 0)])
def test_a_log_with_a_gap_or_a_falling_term_is_not_opened(wrong: tuple[int, int]) -> None:
    """It is not a log of Raft."""
    records = Wal(FaultyDisk(), SEGMENT, int).records(1)
    with pytest.raises(AssertionError):
        GroupLog(GroupState(term=9, entries=[(b"\x00", 2, 1), (b"\x00", *wrong)]), records)


def test_a_gap_between_recovered_entries_is_corruption() -> None:
    """D20: no crash leaves one."""
    disk = FaultyDisk()
    wal, log = opened(disk)
    for index in (2, 4):
        wal.records(1).entry(index, 1, b"\x00k=1")
    sync(wal, log)
    with pytest.raises(CorruptLog, match="entry 3"):
        opened(disk)


# -- lost state -------------------------------------------------------------------------------


def lost_state() -> Net:
    """C comes back with a log that was cut, and without the state that was cut away."""
    net = linked(leader="A")
    for number in range(20):
        net.put("A", f"k{number}=1")
    net.settle()
    for name in "ABC":
        net.nodes[name].compact()
    for number in range(3):
        net.put("A", f"more{number}=1")
    net.settle()
    node = net.nodes["C"]
    node.crash(power=False, rng=random.Random(1))
    node.machines[1] = type(node.machines[1])()
    node.start()
    node.step()
    return net


def test_a_replica_that_lost_its_state_takes_no_part_in_elections() -> None:
    """D9: it neither asks, nor grants, nor takes over, until it holds again what it once had."""
    net = lost_state()
    net.link_all()
    net.letters.clear()
    raft, term = group(net, "C"), group(net, "A").term
    net.tick("C", 5.0)
    net.tick("C")
    assert not net.letters
    ask = RequestPreVote(99, 10**6, 98)
    assert give(net, "B", "C", ask) == [PreVote(raft.term, 99, granted=False)]
    assert Ack(term, 1) in give(net, "A", "C", Offer(term, 1, None))
    give(net, "A", "C", TimeoutNow(term))
    net.tick("C")
    assert (raft.term, raft.leader) == (term, "A")


def test_a_replica_that_was_refilled_votes_again_for_good() -> None:
    """The hold is taken back on disk too."""
    net = lost_state()
    held = group(net, "C").log.hold_index
    assert held > 1
    net.link_all()
    until(net, lambda: group(net, "C").commit_index >= held)
    net.settle(seconds=0.3)
    assert group(net, "C").log.snapshot_of()[3] == 0


def test_a_hold_survives_a_restart() -> None:
    """Else the second boot would find a short log and a state that fits it."""
    net = lost_state()
    held = group(net, "C").log.hold_index
    net.nodes["C"].crash(power=True, rng=random.Random(1))
    net.nodes["C"].start()
    assert group(net, "C").log.hold_index == held
    assert not group(net, "C").log.may_vote


def test_a_hold_is_written_into_the_segment_in_use() -> None:
    """A group may be opened long after the node; nothing restates the hold then."""
    disk = FaultyDisk()
    wal, log = opened(disk)
    log.add(b"\x00k=1", 2, 1)
    sync(wal, log)
    log.hold_until(50)
    sync(wal, log)
    assert len(wal.segments) == 1
    assert opened(disk)[1].hold_index == 50


def test_vote_and_hold_survive_the_segment_that_they_were_written_into() -> None:
    """What is told once is told again before its segment goes."""
    disk = FaultyDisk()
    wal, log = opened(disk)
    log.setCurrentTerm(1, "B")
    log.hold_until(10**6)
    sync(wal, log)
    first = wal.segments[0].name
    for index in range(2, 60):
        log.add(b"c" * 200, index, 1)
        sync(wal, log)
        log.compact(index)
    assert first not in disk.names()
    again = opened(disk)[1]
    assert again.hold_index == 10**6
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (1, "B")


def test_a_follower_that_came_back_empty_proves_nothing_by_what_it_had() -> None:
    """Its answers of before the crash do not commit now, and it is sent everything again."""
    net = leader_of("ABCDE")
    raft = group(net, "A")
    place = net.put("A", "k=1")
    assert place is not None
    give(net, "B", "A", Ack(raft.term, 1, matched=place[0]))
    with_log(net, "B", [], raft.term)
    net.letters.clear()
    net.link("A", "B")
    give(net, "C", "A", Ack(raft.term, 1, matched=place[0]))
    assert raft.commit_index < place[0]
    net.settle("AB", 0.5, lambda x: {x.source, x.target} == {"A", "B"})
    assert terms_of(net, "B") == terms_of(net, "A")
    assert raft.caught_up("B")
