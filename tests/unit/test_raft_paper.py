"""The rules of elections, one test a rule, named by the section that states it.

Sections 5.1, 5.2 and 5.4.1: Ongaro and Ousterhout, "In search of an understandable consensus
algorithm (extended version)", 2014. Logs and snapshots are in test_raft_paper_log.py, what the
thesis adds in test_raft_thesis.py.
"""

from __future__ import annotations

import random

import pytest

from cluster.raft.messages import (
    Ack,
    Append,
    Message,
    Offer,
    PreVote,
    RequestPreVote,
    RequestVote,
    Vote,
)
from tests.raft_logs import (
    entries,
    give,
    group,
    linked,
    stand,
    terms_of,
    under_way,
    until,
    with_log,
)
from tests.simulation.nodes import Net

# -- 5.1: terms -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        RequestVote(9, 50, 8),
        Append(9, 1, 1, 0, [], 1),
        Offer(9, 1, None),
        Ack(9, 1),
        PreVote(9, 2, granted=False),
    ],
    ids=lambda message: type(message).__name__,
)
def test_5_1_a_leader_that_sees_a_newer_term_takes_it_and_steps_down(message: Message) -> None:
    """Figure 2, rules for all servers: a newer term in any request or answer makes a follower."""
    net = linked(leader="A")
    give(net, "B", "A", message)
    assert not group(net, "A").is_leader
    assert group(net, "A").term == 9


def test_5_1_a_candidate_that_sees_a_newer_term_becomes_a_follower() -> None:
    """The votes it still gets in its own term make no leader."""
    net = linked("ABCDE")
    term = stand(net, "A")
    give(net, "B", "A", RequestVote(term + 1, 5, term))
    for voter in "CDE":
        give(net, voter, "A", Vote(term))
    assert not group(net, "A").is_leader
    assert group(net, "A").term == term + 1


def test_5_1_requests_of_an_older_term_are_refused_and_told_the_newer() -> None:
    """A deposed leader and a late candidate change nothing and learn that they are late."""
    net = linked(leader="A")
    end = group(net, "C").log.last_index
    give(net, "A", "C", Append(7, 1, 1, 0, [], 1))
    stale = Append(3, end + 1, end, 1, entries([3], end + 1), 1)
    assert give(net, "B", "C", stale) == [Ack(7, 0)]
    assert group(net, "C").leader == "A"
    assert group(net, "C").log.last_index == end
    assert give(net, "B", "C", Offer(3, 4, None)) == [Ack(7, 0)]
    assert give(net, "B", "C", RequestVote(3, 50, 2)) == []
    net.now_s += 5
    assert PreVote(7, 7, granted=False) in give(net, "B", "C", RequestPreVote(7, 50, 6))
    assert group(net, "C").term == 7


# -- 5.2: elections ---------------------------------------------------------------------------


def test_5_2_servers_start_as_followers() -> None:
    """Nobody leads, nobody asks, until an election timeout has passed."""
    net = linked()
    net.settle(seconds=0.9)
    assert [group(net, name).is_leader for name in "ABC"] == [False] * 3
    assert {group(net, name).term for name in "ABC"} == {0}
    assert not net.letters


def test_5_2_a_follower_that_hears_nobody_stands_for_election() -> None:
    """After the timeout: a newer term, its own vote, and requests to all others at once."""
    net = linked("ABCDE")
    net.now_s += 2
    net.tick("A")
    net.deliver(lambda x: isinstance(x.message, RequestPreVote))
    net.deliver(lambda x: isinstance(x.message, PreVote))
    net.tick("A")
    asked = under_way(net, RequestVote, source="A")
    assert sorted(x.target for x in asked) == list("BCDE")
    assert {x.message for x in asked} == {RequestVote(1, 1, 0)}
    assert group(net, "A").term == 1
    assert give(net, "B", "A", RequestVote(1, 9, 0)) == [], "its vote is its own"


def test_5_2_heartbeats_keep_a_leader_in_office() -> None:
    """While they arrive nobody stands, however long."""
    net = linked(leader="A")
    term = group(net, "A").term
    net.settle(seconds=30)
    assert group(net, "A").is_leader
    assert {group(net, name).term for name in "ABC"} == {term}


def test_5_2_a_vote_is_given_once_in_a_term_to_who_asks_first() -> None:
    """Also not a second time after a later, better candidate asked."""
    net = linked()
    assert give(net, "A", "C", RequestVote(4, 5, 3)) == [Vote(4)]
    assert give(net, "B", "C", RequestVote(4, 9, 3)) == []
    assert give(net, "B", "C", RequestVote(5, 9, 3)) == [Vote(5)]


@pytest.mark.parametrize(
    ("members", "votes", "wins"),
    [
        (1, 0, True),
        (2, 0, False),
        (2, 1, True),
        (3, 0, False),
        (3, 1, True),
        (3, 2, True),
        (4, 1, False),
        (4, 2, True),
        (5, 1, False),
        (5, 2, True),
        (5, 4, True),
    ],
)
def test_5_2_a_majority_of_votes_makes_a_leader(members: int, votes: int, wins: bool) -> None:
    """Its own vote counts; of an even number more than half are needed."""
    net = linked("ABCDE"[:members])
    term = stand(net, "A")
    for voter in "BCDE"[:votes]:
        give(net, voter, "A", Vote(term))
    assert group(net, "A").is_leader is wins


def test_5_2_votes_of_an_earlier_election_do_not_count() -> None:
    """Nor do they use up the voter's voice in this one."""
    net = linked()
    term = stand(net, "A")
    assert stand(net, "A") == term + 1
    give(net, "B", "A", Vote(term))
    assert not group(net, "A").is_leader
    give(net, "B", "A", Vote(term + 1))
    assert group(net, "A").is_leader


@pytest.mark.parametrize("ahead", [0, 3])
def test_5_2_a_candidate_follows_the_leader_that_it_hears(ahead: int) -> None:
    """Of its own term or a newer one."""
    net = linked()
    term = stand(net, "A")
    give(net, "B", "A", Append(term + ahead, 1, 1, 0, [], 1))
    assert group(net, "A").leader == "B"
    give(net, "C", "A", Vote(term))
    assert not group(net, "A").is_leader


def test_5_2_a_candidate_ignores_a_leader_of_an_older_term() -> None:
    """It stays a candidate and can still win."""
    net = linked()
    term = stand(net, "A")
    term = stand(net, "A")
    give(net, "B", "A", Append(term - 1, 1, 1, 0, [], 1))
    give(net, "C", "A", Vote(term))
    assert group(net, "A").is_leader


def test_5_2_split_votes_are_followed_by_another_election() -> None:
    """Two of four each: both time out, and one of them wins in a newer term."""
    net = linked("ABCD")
    for name in "AB":
        stand(net, name)
    for source, target in ("AC", "BD"):
        way = (source, target)
        net.deliver(lambda x: (x.source, x.target) == way)  # noqa: B023  # called at once
    net.letters = [x for x in net.letters if isinstance(x.message, Vote)]
    net.deliver()
    assert not any(group(net, name).is_leader for name in "ABCD")
    until(net, lambda: sum(group(net, name).is_leader for name in "ABCD") == 1)
    assert max(group(net, name).term for name in "ABCD") > 1


def test_5_2_election_timeouts_are_spread_at_random() -> None:
    """Within the interval, seldom together, and the same for the same seed (D21)."""

    def deadlines(seed: int) -> list[float]:
        net, found = Net("ABCDE", seed=seed), []
        for _ in range(20):
            for name in "ABCDE":
                group(net, name).election.arm(net.now_s)
                found.append(group(net, name).election.deadline_s - net.now_s)
        return found

    spread = deadlines(1)
    assert all(1.0 <= wait <= 1.31 for wait in spread)
    assert len({round(wait, 3) for wait in spread}) > 60
    random.seed(5)
    assert deadlines(2) == deadlines(2)


def test_5_2_two_leaders_of_one_term_stop_the_replica_that_sees_it() -> None:
    """Election safety is broken already: nothing more may be acknowledged here."""
    net = linked(leader="A")
    raft = group(net, "A")
    give(net, "B", "A", Append(raft.term, 1, 1, 0, [], 1))
    assert raft.failed
    assert net.put("A", "k=1") is None
    end = raft.log.last_index
    give(net, "B", "A", Append(99, 1, 1, 0, [], 1))
    assert (raft.term < 99, raft.log.last_index) == (True, end)


# -- 5.4.1: election restriction --------------------------------------------------------------


@pytest.mark.parametrize(
    ("voter", "candidate", "granted"),
    [
        ([1], [1], True),
        ([1], [1, 1], True),
        ([1, 1], [1], False),
        ([1], [2], True),
        ([1, 1, 1], [2], True),
        ([2], [1], False),
        ([2], [1, 1, 1], False),
        ([1, 2], [1, 1, 2], True),
    ],
)
def test_5_4_1_a_vote_needs_a_log_that_is_not_behind(
    voter: list[int], candidate: list[int], granted: bool
) -> None:
    """The later last term wins; of equal terms the longer log; votes and pre-votes alike."""
    net = Net()
    with_log(net, "C", voter)
    net.link_all()
    last = {"last_index": 1 + len(candidate), "last_term": candidate[-1]}
    answer = give(net, "A", "C", RequestPreVote(9, **last))
    assert answer == [PreVote(group(net, "C").term, 9, granted=granted)]
    assert give(net, "A", "C", RequestVote(9, **last)) == ([Vote(9)] if granted else [])
    assert terms_of(net, "C") == voter
