"""The rules of logs and snapshots, one test a rule, named by the section that states it.

Sections 5.3 to 5.5, 7 and 8: Ongaro and Ousterhout, "In search of an understandable consensus
algorithm (extended version)", 2014. Elections are in test_raft_paper.py.
Terms in a list are those of entries 2, 3, ...: entry 1 is the root, of term 0.
"""

from __future__ import annotations

import random

import pytest

from cluster.raft.messages import Ack, Append, Message
from tests.raft_logs import (
    booted,
    entries,
    entry,
    give,
    group,
    leader_of,
    sent,
    stand,
    terms_of,
    under_way,
    until,
)
from tests.simulation.checkers import Checkers
from tests.simulation.nodes import Letter, Net

# -- 5.3: log replication ---------------------------------------------------------------------


def test_5_3_a_leader_appends_a_command_and_sends_it_to_all() -> None:
    """With index and term, and the entry before it."""
    net = Net()
    net.link_all()
    net.elect("A")
    net.settle(seconds=0.3)
    place = net.put("A", "k=1")
    raft = group(net, "A")
    assert place == (raft.log.last_index, raft.term)
    for target in "BC":
        (message,) = sent(net, Append, "A", target)
        assert message.entries == [(b"\x00k=1", *place)]
        assert (message.prev_index, message.prev_term) == (place[0] - 1, raft.term)


@pytest.mark.parametrize(
    ("members", "acks", "commits"),
    [
        (1, 0, True),
        (2, 0, False),
        (2, 1, True),
        (3, 0, False),
        (3, 1, True),
        (4, 1, False),
        (4, 2, True),
        (5, 1, False),
        (5, 2, True),
    ],
)
def test_5_3_an_entry_is_committed_on_a_majority(members: int, acks: int, commits: bool) -> None:
    """The leader's own copy counts."""
    net = leader_of("ABCDE"[:members])
    raft, end = group(net, "A"), group(net, "A").log.last_index
    for follower in "BCDE"[:acks]:
        give(net, follower, "A", Ack(raft.term, 1, matched=end))
        give(net, follower, "A", Ack(raft.term, 1, matched=end))
    assert (raft.commit_index == end) is commits
    assert (net.nodes["A"].machines[1].index == end) is commits


def test_5_3_acks_of_older_messages_do_not_take_agreement_back() -> None:
    """Match indexes only grow."""
    net = leader_of()
    raft = group(net, "A")
    first = raft.log.last_index
    place = net.put("A", "k=1")
    assert place is not None
    give(net, "B", "A", Ack(raft.term, 1, matched=place[0]))
    give(net, "B", "A", Ack(raft.term, 1, matched=first))
    assert raft.caught_up("B")


def test_5_3_followers_learn_the_commit_index_and_apply_in_order() -> None:
    """The next message tells it; entries are applied one by one, everywhere the same."""
    net = Net()
    checkers = Checkers(net)
    checkers.watch()
    net.link_all()
    net.elect("A")
    for number in range(10):
        net.put("A", f"k={number}")
    net.settle(seconds=0.3)
    checkers.at_rest()
    assert {net.nodes[name].machines[1].data["k"] for name in "ABC"} == {"9"}
    assert {group(net, name).commit_index for name in "ABC"} == {group(net, "A").log.last_index}


def test_5_3_a_follower_commits_no_more_than_the_message_proved() -> None:
    """Figure 2: min(leaderCommit, index of the last new entry); D2."""
    net = booted({"B": [1, 1, 2, 2]})
    net.link_all()
    give(net, "A", "B", Append(5, 5, 3, 1, [], 1))
    assert group(net, "B").commit_index == 3
    give(net, "A", "B", Append(5, 5, 3, 1, [entry(4, 4)], 1))
    assert group(net, "B").commit_index == 4
    assert terms_of(net, "B") == [1, 1, 4]


@pytest.mark.parametrize(
    ("prev", "answer"),
    [
        ((5, 2), Ack(4, 1, matched=5)),
        ((4, 2), Ack(4, 1, matched=4)),
        ((1, 0), Ack(4, 1, matched=1)),
        ((6, 2), Ack(4, 1, rejected=6, hint=6)),
        ((9, 3), Ack(4, 1, rejected=9, hint=6)),
        ((5, 3), Ack(4, 1, rejected=5, hint=4)),
    ],
)
def test_5_3_consistency_check(prev: tuple[int, int], answer: Message) -> None:
    """Refused unless the entry before is here with its term; the hint skips a whole term."""
    net = booted({"B": [1, 1, 2, 2]})
    net.link_all()
    assert give(net, "A", "B", Append(4, 1, *prev, [], 1)) == [answer]
    assert terms_of(net, "B") == [1, 1, 2, 2]
    assert group(net, "B").leader == "A"


@pytest.mark.parametrize(
    ("prev", "new", "after"),
    [
        ((3, 1), [3], [1, 1, 3]),
        ((5, 2), [3, 3], [1, 1, 2, 2, 3, 3]),
        ((2, 1), [1, 2, 3], [1, 1, 2, 3]),
        ((3, 1), [2], [1, 1, 2, 2]),
        ((1, 0), [1, 1], [1, 1, 2, 2]),
        ((1, 0), [], [1, 1, 2, 2]),
    ],
)
def test_5_3_only_what_conflicts_is_overwritten(
    prev: tuple[int, int], new: list[int], after: list[int]
) -> None:
    """From the first conflict on; a message that is a part of the log takes nothing (D3)."""
    net = booted({"B": [1, 1, 2, 2]})
    net.link_all()
    message = Append(4, 1, *prev, entries(new, prev[0] + 1), 1)
    assert give(net, "A", "B", message) == [Ack(4, 1, matched=prev[0] + len(new))]
    assert terms_of(net, "B") == after
    assert give(net, "A", "B", message) == [Ack(4, 1, matched=prev[0] + len(new))]
    assert terms_of(net, "B") == after


def test_5_3_a_hint_never_asks_for_what_is_committed() -> None:
    """A term may begin below the commit index and conflict above it."""
    net = booted({"B": [2, 2, 2, 2]})
    net.link_all()
    give(net, "A", "B", Append(4, 3, 3, 2, [], 1))
    assert give(net, "A", "B", Append(4, 3, 5, 3, [], 1)) == [Ack(4, 1, rejected=5, hint=4)]


FIGURE_7 = {
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


@pytest.mark.parametrize("case", FIGURE_7)
@pytest.mark.parametrize("append_bytes_max", [1, 1 << 20])
def test_5_3_figure_7(case: str, append_bytes_max: int) -> None:
    """Whatever a follower lacks or has too much, it ends with the leader's log."""
    terms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    logs = {"A": terms, "B": terms, "C": FIGURE_7[case]}
    net = booted(logs, append_bytes_max=append_bytes_max)
    group(net, "A")._adopt(7)
    net.link("A", "B")
    stand(net, "A")
    until(net, lambda: group(net, "A").is_leader, "AB")
    before = group(net, "A").log[:]
    net.link_all()
    until(net, lambda: group(net, "C").commit_index == 12)
    assert [group(net, name).log[:] for name in "ABC"] == [before] * 3
    assert terms_of(net, "A") == [*terms, 8]


def test_5_3_a_rejection_that_comes_late_does_not_send_the_suffix_again() -> None:
    """One lost message makes the follower reject all behind it; each is answered once."""
    net = Net(append_bytes_max=1)
    net.link_all()
    net.elect("A")
    net.settle(seconds=0.3)
    for number in range(6):
        net.put("A", f"k{number}=1")
    lost = under_way(net, Append, "A", "B")[0]
    net.letters.remove(lost)
    count = 0
    for _ in range(30):
        net.tick("AB")
        count += sum(len(message.entries) for message in sent(net, Append, "A", "B"))
        net.deliver(lambda x: "C" not in (x.source, x.target))
    assert group(net, "A").caught_up("B")
    assert count <= 2 * 6


# -- 5.4.2: entries of earlier terms ----------------------------------------------------------


def would_take_term_4(net: Net, letter: Letter) -> bool:
    """Whether its target would accept an entry of term 4 from a message."""
    message = letter.message
    new = isinstance(message, Append) and any(term == 4 for _, _, term in message.entries)
    return new and (letter.target == "D" or len(terms_of(net, letter.target)) == 2)


def figure_8() -> Net:
    """Situation (c): S1 to S5 are A to E. A leads again, in term 4, and its entry of term 2 is on
    a majority, A to C; E was leader in term 3. A's own entry of term 4 is on A alone."""
    logs = {"A": [1, 2], "B": [1, 2], "C": [1], "D": [1], "E": [1, 3]}
    net = booted(logs, "ABCDE", append_bytes_max=1)
    group(net, "A")._adopt(3)
    for other in "BCD":
        net.link("A", other)
    stand(net, "A")

    for _ in range(30):
        net.tick("A")
        net.letters = [
            x for x in net.letters if not (x.target in "BCD" and would_take_term_4(net, x))
        ]
        net.deliver()
    give(net, "B", "A", Ack(4, 1, matched=3))
    net.tick("A")
    assert [group(net, "A")._progress[name].match for name in "BC"] == [3, 3]
    assert group(net, "A").is_leader
    assert [terms_of(net, name) for name in "ABC"] == [[1, 2, 4], [1, 2], [1, 2]]
    return net


def test_5_4_2_entries_of_earlier_terms_are_not_committed_by_counting() -> None:
    """Figure 8 (c), (d): the entry of term 2 stands on a majority and is overwritten by E."""
    net = figure_8()
    assert {group(net, name).commit_index for name in "ABC"} == {1}
    for other in "BCD":
        net.cut("A", other)
    for a, b in ("EB", "EC", "ED"):
        net.link(a, b)
    group(net, "E")._adopt(4)
    net.elect("E", "BCDE")
    net.settle("BCDE")
    assert [terms_of(net, name)[:2] for name in "BCDE"] == [[1, 3]] * 4
    assert group(net, "E").commit_index == group(net, "E").log.last_index


def test_5_4_2_an_entry_of_the_leaders_own_term_commits_all_before_it() -> None:
    """Figure 8 (e): once it is on a majority, E cannot win any more."""
    net = figure_8()
    net.settle("ABC", 0.5)
    assert group(net, "A").commit_index == 4
    for other in "BCD":
        net.cut("A", other)
    for a, b in ("EB", "EC", "ED"):
        net.link(a, b)
    stand(net, "E")
    net.settle("E", 0.1)
    net.deliver()
    assert not group(net, "E").is_leader


# -- 5.4.3 and figure 3: the properties -------------------------------------------------------


@pytest.mark.parametrize("loser", "BCDE")
def test_5_4_3_whoever_wins_has_every_committed_entry(loser: str) -> None:
    """Leader completeness: who lacks one wins no majority, however it tries."""
    net = Net("ABCDE")
    net.link_all()
    net.elect("A")
    net.settle(seconds=0.3)
    others = [name for name in "BCDE" if name != loser]
    net.cut("A", loser)
    for name in others:
        net.cut(name, loser)
    net.put("A", "k=1")
    net.settle("A" + "".join(others), 0.3)
    net.nodes["A"].crash(power=False, rng=random.Random(1))
    for name in others:
        net.link(name, loser)
    for _ in range(3):
        stand(net, loser)
        net.deliver()
    until(net, lambda: any(group(net, name).is_leader for name in others), seconds=20)
    net.settle(seconds=1)
    assert not group(net, loser).is_leader
    assert {net.nodes[name].machines[1].data.get("k") for name in "BCDE"} == {"1"}


# -- 5.5: follower crashes --------------------------------------------------------------------


@pytest.mark.parametrize("power", [False, True])
def test_5_5_a_crashed_follower_is_sent_what_it_missed(power: bool) -> None:
    """Retried without end; what it had before the crash may come twice and changes nothing."""
    net = Net()
    checkers = Checkers(net)
    checkers.watch()
    net.link_all()
    net.elect("A")
    net.put("A", "before=1")
    net.settle(seconds=0.3)
    net.nodes["C"].crash(power=power, rng=random.Random(3))
    for number in range(20):
        net.put("A", f"k{number}=1")
    net.settle("AB", 3)
    net.nodes["C"].start()
    net.link_all()
    until(net, lambda: group(net, "C").commit_index == group(net, "A").commit_index)
    assert group(net, "C").log[1:] == group(net, "A").log[1:]
    net.settle()
    checkers.at_rest()
