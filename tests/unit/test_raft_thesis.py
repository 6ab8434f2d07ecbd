"""What Ongaro's thesis (2014) adds to the paper, one test a rule, named by the section.

3.10 leadership transfer, 6.2 check-quorum (with the paper's 5.6), 6.4 ReadIndex, 9.6 pre-vote.
"""

from __future__ import annotations

import pytest

from cluster.raft.messages import Ack, Append, PreVote, RequestPreVote, RequestVote, TimeoutNow
from tests.raft_logs import asked, give, group, leader_of, linked, under_way, until, with_log
from tests.simulation.nodes import Net

# -- 9.6: pre-vote ----------------------------------------------------------------------------


def test_9_6_a_pre_vote_changes_nobodys_state() -> None:
    """Neither the asker's nor the asked one's, granted or not."""
    net = linked("ABCDE")
    net.now_s += 5
    before = {name: (group(net, name).term, group(net, name).log.snapshot_of()) for name in "ABCDE"}
    net.tick("A")
    net.deliver(lambda x: isinstance(x.message, RequestPreVote))
    assert len(under_way(net, PreVote, target="A")) == 4
    after = {name: (group(net, name).term, group(net, name).log.snapshot_of()) for name in "ABCDE"}
    assert after == before


@pytest.mark.parametrize(("grants", "stands"), [("B", False), ("BB", False), ("BC", True)])
def test_9_6_only_a_majority_of_pre_votes_starts_an_election(grants: str, stands: bool) -> None:
    """Each member counts once."""
    net = linked("ABCDE")
    net.now_s += 5
    net.tick("A")
    for voter in grants:
        give(net, voter, "A", PreVote(0, 1, granted=True))
    net.tick("A")
    assert bool(under_way(net, RequestVote, source="A")) is stands


def test_9_6_pre_votes_of_another_round_and_refusals_do_not_count() -> None:
    """An answer names the term that was asked about."""
    net = linked()
    net.now_s += 5
    net.tick("A")
    give(net, "B", "A", PreVote(0, 7, granted=True))
    give(net, "C", "A", PreVote(0, 1, granted=False))
    net.tick("A")
    assert not under_way(net, RequestVote)
    give(net, "C", "A", PreVote(0, 1, granted=True))
    net.tick("A")
    assert under_way(net, RequestVote)


def test_9_6_who_hears_a_leader_grants_no_pre_vote() -> None:
    """A server that cannot hear the leader does not depose it; once it is silent, it can."""
    net = linked(leader="A")
    ask = RequestPreVote(50, 99, 49)
    term = group(net, "A").term
    for name in "BA":
        assert give(net, "C", name, ask) == [PreVote(term, 50, granted=False)]
    net.now_s += 1.5
    assert PreVote(term, 50, granted=True) in give(net, "C", "B", ask)


def test_9_6_a_pre_vote_under_way_ends_when_a_leader_is_heard() -> None:
    """A grant that arrives after it starts no election."""
    net = linked("ABCDE")
    net.now_s += 5
    net.tick("A")
    give(net, "B", "A", PreVote(0, 1, granted=True))
    give(net, "D", "A", Append(1, 1, 1, 0, [], 1))
    give(net, "C", "A", PreVote(0, 1, granted=True))
    net.tick("A")
    assert not under_way(net, RequestVote)


def test_9_6_an_election_won_in_a_pre_vote_is_off_when_a_leader_is_heard() -> None:
    """D18: any append clears the stock deadline that the pre-vote opened."""
    net = linked()
    raft = group(net, "A")
    raft._stand()
    give(net, "B", "A", Append(1, 1, 1, 0, [], 1))
    net.settle("A", 0.5)
    assert raft.term == 1
    assert raft.leader == "B"


def test_9_6_a_server_that_fell_behind_learns_the_term_and_can_win() -> None:
    """Else no majority could be made of a fresh log with an old term and a stale one."""
    net = Net()
    with_log(net, "A", [1, 1, 1], 1)
    with_log(net, "B", [1], 8)
    net.link("A", "B")
    until(net, lambda: group(net, "A").is_leader, "AB", 20)
    assert group(net, "A").term > 8


# -- 3.10: leadership transfer ----------------------------------------------------------------


def test_3_10_a_follower_that_is_behind_is_not_asked_to_stand() -> None:
    """It could not win; the leader stays in office."""
    net = linked(leader="A")
    net.cut("A", "B")
    net.put("A", "k=1")
    net.settle("AC", 0.3)
    net.link("A", "B")
    assert not group(net, "A").caught_up("B")
    group(net, "A").transfer_to("B")
    net.tick("A")
    assert not under_way(net, TimeoutNow)


@pytest.mark.parametrize(("sender", "late"), [("C", 0), ("A", 1)])
def test_3_10_only_the_leader_of_this_term_may_ask_to_stand(sender: str, late: int) -> None:
    """A request of another member, or of an earlier term, is ignored."""
    net = linked(leader="A")
    term = group(net, "A").term
    give(net, sender, "B", TimeoutNow(term - late))
    net.tick("B")
    assert group(net, "B").term == term


# -- 6.2, paper 5.6: a leader needs a quorum --------------------------------------------------


@pytest.mark.parametrize(("members", "cut_off"), [(3, 1), (5, 2)])
def test_6_2_a_leader_that_hears_a_majority_stays(members: int, cut_off: int) -> None:
    """Members that are gone do not matter while enough answer."""
    net = linked("ABCDE"[:members], leader="A")
    term = group(net, "A").term
    for name in "ABCDE"[members - cut_off : members]:
        net.cut("A", name)
    net.settle(seconds=10)
    assert (group(net, "A").is_leader, group(net, "A").term) == (True, term)


@pytest.mark.parametrize(("members", "cut_off"), [(2, 1), (3, 2), (5, 3)])
def test_6_2_a_leader_that_hears_no_majority_steps_down(members: int, cut_off: int) -> None:
    """Within an election timeout; until then it commits nothing (5.6)."""
    names = "ABCDE"[:members]
    net = linked(names, leader="A")
    for name in names[members - cut_off :]:
        net.cut("A", name)
    place = net.put("A", "k=1")
    assert place is not None
    net.settle(names[: members - cut_off], 1.2)
    assert not group(net, "A").is_leader
    assert group(net, "A").commit_index < place[0]
    assert net.put("A", "k=2") is None


def test_a_follower_whose_leader_hangs_up_stands_early() -> None:
    """A closed connection says more than a timeout has to wait for."""
    net = linked(leader="A")
    for name in "BC":
        net.cut("A", name)
    net.settle("BC", 0.5)
    assert sum(group(net, name).is_leader for name in "BC") == 1


# -- 6.4: strong reads ------------------------------------------------------------------------


def test_6_4_a_new_leader_answers_no_read_before_its_own_entry_is_committed() -> None:
    """Until then it may not know what its predecessors committed."""
    net = leader_of()
    raft = group(net, "A")
    answers = asked(net)
    give(net, "B", "A", Ack(raft.term, 50))
    give(net, "C", "A", Ack(raft.term, 50))
    net.tick("A")
    assert answers == []
    give(net, "B", "A", Ack(raft.term, 51, matched=raft.office_index))
    net.tick("A")
    give(net, "B", "A", Ack(raft.term, raft.reads.round))
    assert answers == [raft.office_index]


@pytest.mark.parametrize(("members", "echoes"), [(2, 1), (3, 1), (4, 2), (5, 2)])
def test_6_4_a_read_waits_for_a_majority_to_answer_a_later_round(members: int, echoes: int) -> None:
    """Answers to rounds that began before the read prove nothing; nor does one answer twice."""
    net = leader_of("ABCDE"[:members])
    raft = group(net, "A")
    for name in "BCDE"[: members - 1]:
        give(net, name, "A", Ack(raft.term, raft.reads.round, matched=raft.office_index))
    before = raft.reads.round
    answers = asked(net)
    for name in "BCDE"[: members - 1]:
        give(net, name, "A", Ack(raft.term, before))
    for name in ["B"] * members + list("BCDE"[: echoes - 1]):
        if echoes > 1:
            give(net, name, "A", Ack(raft.term, before + 1))
    assert answers == []
    for name in "BCDE"[:echoes]:
        give(net, name, "A", Ack(raft.term, before + 1))
    assert answers == [raft.commit_index]


def test_6_4_a_read_at_a_leader_that_is_deposed_gets_no_answer() -> None:
    """Nor one at a follower: it is told that nobody leads here."""
    net = leader_of()
    give(net, "B", "A", Ack(group(net, "A").term, 1, matched=group(net, "A").office_index))
    answers = asked(net)
    give(net, "B", "A", Append(99, 1, 1, 0, [], 1))
    assert answers == [None]
    assert asked(net) == [None]


def test_6_4_a_group_of_one_reads_without_a_round() -> None:
    """It is its own majority."""
    net = leader_of("A")
    assert asked(net) == [group(net, "A").commit_index]
