"""What stock pysyncobj does wrong, attempted on ours; each test names the defect it attacks.

The schedules are those under which the stock library provably loses acknowledged writes, elects
two leaders or stops for good; on the hardened group the acknowledged write is there, or was
never acknowledged.
"""

from __future__ import annotations

import random

import pytest

from cluster.raft.core import Timing
from cluster.raft.host import GroupHost
from cluster.raft.messages import Ack, Append, Chunk, Manifest, Offer, RequestVote, TimeoutNow, Vote
from cluster.raft.snapshot import Install
from cluster.raft.wal import Wal
from cluster.raft.wal_format import CorruptLog
from tests.simulation.checkers import Checkers
from tests.simulation.faulty_disk import FaultyDisk
from tests.simulation.nodes import Letter, Net


def watched(names: str = "ABC", **timing) -> tuple[Net, Checkers]:
    """A linked cluster under the checkers' eyes."""
    net = Net(names, **timing)
    checkers = Checkers(net)
    checkers.watch()
    net.link_all()
    return net, checkers


def propose(net: Net, checkers: Checkers, name: str, command: str) -> tuple[int, int]:
    """Propose and remember who asked, so that an application there counts as an ack."""
    place = net.nodes[name].group().propose(command.encode())
    assert place is not None
    checkers.proposed[(1, *place)] = name
    net.nodes[name].host.touch(1)
    net.nodes[name].step()
    return place


def between(a: str, b: str):
    return lambda letter: {letter.source, letter.target} == {a, b}


def test_a_deposed_leader_caught_up_by_snapshot_does_not_ack_its_own_tail() -> None:
    """D2 (e01): the tail that nobody compared is never committed by snapshot messages."""
    net, checkers = watched()
    net.elect("A")
    propose(net, checkers, "A", "base=1")
    net.settle()
    net.cut("A", "B")
    net.cut("A", "C")
    propose(net, checkers, "A", "k=lost")
    net.elect("B", "BC")
    propose(net, checkers, "B", "k=winner")
    for number in range(6):
        propose(net, checkers, "B", f"x{number}={number}")
    net.settle("BC")
    net.nodes["B"].compact()
    net.settle("BC")
    net.link("A", "B")
    net.link("A", "C")
    for _ in range(60):
        net.tick(dt_s=0.05)
        net.deliver(limit=1)
    net.settle()

    assert b"\x00k=lost" not in checkers.acked.values()
    assert [net.nodes[n].machines[1].data["k"] for n in "ABC"] == ["winner"] * 3


def test_a_repeated_append_takes_nothing_back() -> None:
    """D3 (e02): the first of several repeated messages must not cut off what was acked."""
    net, checkers = watched(append_bytes_max=100)
    net.elect("A")
    net.settle()
    net.cut("A", "C")
    net.cut("B", "C")
    for number in range(6):
        propose(net, checkers, "A", f"k{number}={'v' * 60}")
    sent = [x for x in net.letters if x.target == "B" and isinstance(x.message, Append)]
    net.settle("AB")
    sent += [x for x in net.letters if x.target == "B"]
    end = net.nodes["B"].group().log.last_index
    for letter in sent:
        net.hand(letter)
        assert net.nodes["B"].group().log.last_index == end
    net.cut("A", "B")
    net.link("B", "C")
    net.elect("B", "BC")
    net.settle("BC")

    assert len(checkers.acked) >= 6
    for command in checkers.acked.values():
        key = command[1:].decode().partition("=")[0]
        assert key in net.nodes["B"].machines[1].data


def test_an_ack_of_an_older_term_is_not_counted() -> None:
    """D12 (e03): five nodes; late acks for entries that were overwritten prove nothing."""
    net, checkers = watched("ABCDE")
    net.elect("A")
    net.settle()
    for other in "CDE":
        net.cut("A", other)
        net.cut("B", other)
    for number in range(5):
        propose(net, checkers, "A", f"old{number}={number}")
    net.deliver(lambda letter: (letter.source, letter.target) == ("A", "B"))
    late = [x for x in net.letters if x.source == "B" and isinstance(x.message, Ack)]
    assert any(letter.message.matched for letter in late if isinstance(letter.message, Ack))
    net.letters.clear()
    net.elect("C", "CDE")
    propose(net, checkers, "C", "c=1")
    net.settle("CDE")
    for other in "CDE":
        net.link("A", other)
    slow = lambda letter: "B" not in (letter.source, letter.target)  # noqa: E731
    net.settle("ACDE", 2.0, slow)
    net.letters = [letter for letter in net.letters if slow(letter)]
    net.cut("A", "B")
    net.elect("A", "ACDE")
    for other in "DE":
        net.cut("A", other)
    place = propose(net, checkers, "A", "k=lost")
    net.settle("AC", 0.3)
    for letter in late:
        net.hand(letter)
    net.tick("A")

    assert net.nodes["A"].group().commit_index < place[0]
    assert b"\x00k=lost" not in checkers.acked.values()


def test_a_snapshot_that_cannot_be_installed_is_not_acked() -> None:
    """D5 (e05): a follower that failed to load a snapshot proves nothing to the leader."""
    net, checkers = watched()
    net.elect("A")
    net.settle()
    net.cut("A", "B")
    net.cut("A", "C")
    for number in range(60):
        propose(net, checkers, "A", f"u{number}={number}")
    net.elect("B", "BC")
    for number in range(10):
        propose(net, checkers, "B", f"x{number}={number}")
    net.settle("BC")
    net.nodes["B"].compact()
    net.settle("BC", 0.3)
    net.cut("B", "C")
    net.nodes["A"].fail_install = True
    net.link("A", "B")
    place = propose(net, checkers, "B", "k=lost")
    net.settle("AB", 0.9)

    assert net.nodes["B"].group().commit_index < place[0]
    assert b"\x00k=lost" not in checkers.acked.values()
    net.nodes["A"].fail_install = False
    net.link_all()
    net.settle(seconds=4)
    checkers.at_rest()


def test_a_repeated_snapshot_does_not_take_the_state_back() -> None:
    """D4 (e12): offers and pieces of an older snapshot arrive when newer entries are acked."""
    net, checkers = watched()
    net.elect("A")
    net.cut("A", "C")
    net.cut("B", "C")
    for number in range(20):
        propose(net, checkers, "A", f"k{number}={number}")
    net.settle("AB")
    net.nodes["A"].compact()
    net.cut("A", "B")
    net.link("A", "C")
    old: list[Letter] = []
    for _ in range(60):
        net.tick("AC")
        old += [x for x in net.letters if isinstance(x.message, (Offer, Chunk))]
        net.deliver()
    for number in range(5):
        propose(net, checkers, "A", f"new{number}={number}")
    net.settle("AC")
    assert old, "the follower was refilled by a snapshot"
    before = net.nodes["C"].machines[1].position()
    for letter in old:
        net.hand(letter)
    net.tick("C")

    assert net.nodes["C"].machines[1].position() >= before
    net.cut("A", "C")
    net.link("B", "C")
    net.elect("C", "BC")
    net.settle("BC", 3)
    assert all(f"new{number}" in net.nodes["B"].machines[1].data for number in range(5))


def test_power_loss_in_the_middle_of_compaction_keeps_every_acked_write() -> None:
    """D1, D7, D8 (e08): all nodes die while their logs are being cut, at any point of it."""
    for seed in range(60):
        rng = random.Random(seed)
        net, checkers = watched()
        net.elect("A")
        for number in range(30):
            propose(net, checkers, "A", f"k{number}={'v' * 100}")
            net.settle(seconds=0.02)
        net.settle(seconds=0.3)
        for name in "ABC":
            node = net.nodes[name]
            node.instant_disk = rng.random() < 0.5
            node.compact()
            for number in range(rng.randrange(3)):
                node.group().propose(f"late{number}=1".encode())
            node.step()
        for name in "ABC":
            net.nodes[name].crash(power=True, rng=rng)
        for name in "ABC":
            net.nodes[name].instant_disk = True
            net.nodes[name].start()
        net.link_all()
        net.settle(seconds=4)
        assert len(checkers.acked) == 30
        checkers.at_rest()


def test_power_loss_takes_from_the_state_only_what_the_log_still_has() -> None:
    """D1, D8: the state falls back to any commit since the last durable one; the log goes on."""
    for seed in range(12):
        rng = random.Random(seed)
        net, checkers = watched()
        net.elect("A")
        for number in range(5):
            propose(net, checkers, "A", f"k{number}=1")
            net.settle(seconds=0.02)
        durable = {name: net.nodes[name].machines[1].make_durable() for name in "ABC"}
        for number in range(5, 12):
            propose(net, checkers, "A", f"k{number}=1")
            net.settle(seconds=0.02)
        net.settle(seconds=0.3)
        for name in "ABC":
            net.nodes[name].group().compact(durable[name])
            net.nodes[name].step()
        for name in "ABC":
            net.nodes[name].crash(power=True, rng=rng)
        for name in "ABC":
            net.nodes[name].start()
        assert all(net.nodes[name].group().log.may_vote for name in "ABC")
        net.link_all()
        net.settle(seconds=3)
        assert len(checkers.acked) == 12
        checkers.at_rest()


def test_a_vote_survives_the_loss_of_power() -> None:
    """D10, D15 (e06): no second vote in a term, whatever of the last write reached the disk."""
    for seed in range(20):
        net = Net()
        net.link_all()
        node = net.nodes["C"]
        net.hand(letter_of("A", "C", RequestVote(7, 5, 1)))
        granted = [x for x in net.letters if isinstance(x.message, Vote)]
        assert len(granted) == 1
        node.crash(power=True, rng=random.Random(seed))
        net.letters.clear()
        node.start()
        net.link_all()
        net.hand(letter_of("B", "C", RequestVote(7, 5, 1)))
        node.step()
        assert not [x for x in net.letters if isinstance(x.message, Vote)]
        assert node.group().term == 7


def test_an_undurable_vote_does_not_leave() -> None:
    """D10: the vote waits for the sync of the record that remembers it."""
    net = Net()
    net.link_all()
    node = net.nodes["C"]
    node.instant_disk = False
    net.hand(letter_of("A", "C", RequestVote(7, 5, 1)))
    assert not net.letters
    node.finish_sync()
    node.step()
    assert [type(letter.message) for letter in net.letters] == [Vote]


def test_a_repeated_vote_does_not_make_a_leader() -> None:
    """D16: two of five votes, one of them twice, are two of five votes."""
    net = Net("ABCDE")
    net.link_all()
    raft = net.nodes["A"].group()
    raft._stand()
    net.tick("A")
    vote = letter_of("B", "A", Vote(raft.term))
    net.hand(vote)
    net.hand(vote)
    net.hand(vote)
    assert not raft.is_leader
    net.hand(letter_of("C", "A", Vote(raft.term)))
    assert raft.is_leader


def test_a_follower_refuses_proposals_instead_of_forwarding_them() -> None:
    """D17: what is not in this leader's log is nowhere."""
    net, _ = watched()
    net.elect("A")
    before = len(net.letters)
    assert net.nodes["B"].group().propose(b"k=1") is None
    net.nodes["B"].step()
    assert len(net.letters) == before


def test_a_cut_off_replica_does_not_raise_terms() -> None:
    """D18 (e13): a replica that hears nobody asks, and changes nothing by asking."""
    net, _checkers = watched()
    net.elect("A")
    term = net.nodes["A"].group().term
    net.cut("A", "C")
    net.settle(seconds=30)
    assert net.nodes["A"].group().is_leader
    net.link("A", "C")
    net.settle(seconds=2)
    assert net.nodes["A"].group().is_leader
    assert {net.nodes[n].group().term for n in "ABC"} == {term}


def test_nothing_is_acked_before_the_leaders_own_disk_has_it() -> None:
    """D19: a majority elsewhere is not enough for the leader to answer."""
    for names in ("A", "ABC"):
        net, checkers = watched(names)
        net.elect("A")
        net.settle(seconds=0.3)
        net.nodes["A"].instant_disk = False
        propose(net, checkers, "A", "k=1")
        net.settle(seconds=0.5)
        assert b"\x00k=1" not in checkers.acked.values()
        net.nodes["A"].finish_sync()
        net.nodes["A"].instant_disk = True
        net.settle(seconds=0.5)
        assert b"\x00k=1" in checkers.acked.values()


def test_a_cut_off_leader_steps_down_and_answers_no_strong_read() -> None:
    """Check-quorum and ReadIndex: no stale read, ever; no claim to lead beyond the timeout."""
    net, _ = watched()
    net.elect("A")
    net.settle(seconds=0.5)
    answers: list[int | None] = []
    net.cut("A", "B")
    net.cut("A", "C")
    net.nodes["A"].group().read(answers.append)
    net.settle("A", 1.2)
    assert not net.nodes["A"].group().is_leader
    assert answers == [None]


def test_a_strong_read_is_answered_after_a_round_of_the_majority() -> None:
    """ReadIndex: the index covers everything acknowledged before the read was asked."""
    net, checkers = watched()
    net.elect("A")
    index, _ = propose(net, checkers, "A", "k=1")
    net.settle(seconds=0.5)
    answers: list[int | None] = []
    net.nodes["A"].group().read(answers.append)
    net.nodes["A"].host.touch(1)
    net.nodes["A"].step()
    assert answers == []
    net.settle(seconds=0.1)
    assert answers == [net.nodes["A"].group().commit_index]
    assert answers[0] is not None
    assert answers[0] >= index


def test_leadership_is_transferred_without_an_election_timeout() -> None:
    """TimeoutNow: the chosen follower stands at once, stickiness of the others notwithstanding."""
    net, _checkers = watched()
    net.elect("A")
    net.settle(seconds=0.5)
    net.nodes["A"].group().transfer_to("B")
    net.nodes["A"].host.touch(1)
    net.settle(seconds=0.2)
    assert net.nodes["B"].group().is_leader


def test_a_replica_that_lost_its_state_does_not_vote_until_refilled() -> None:
    """D9: what it once acknowledged is gone, so its vote could elect a leader without it."""
    net, checkers = watched()
    net.elect("A")
    for number in range(20):
        propose(net, checkers, "A", f"k{number}={number}")
    net.settle()
    for name in "ABC":
        net.nodes[name].compact()
    net.settle()
    node = net.nodes["C"]
    node.crash(power=False, rng=random.Random(1))
    node.machines[1] = type(node.machines[1])()
    node.start()
    assert not node.group().log.may_vote
    net.hand(letter_of("B", "C", RequestVote(99, 10**6, 98)))
    net.hand(letter_of("A", "C", TimeoutNow(99)))
    assert node.group().term < 99
    net.link_all()
    net.settle(seconds=2)
    assert node.group().log.may_vote
    checkers.at_rest()


def test_a_slow_snapshot_does_not_flood_the_network() -> None:
    """e11: while no snapshot is ready, a lagging follower costs a heartbeat per period."""
    net, checkers = watched()
    net.elect("A")
    net.cut("A", "C")
    for number in range(20):
        propose(net, checkers, "A", f"k{number}={number}")
    net.settle("AB")
    leader = net.nodes["A"]
    leader.compact()
    leader.perform = lambda *_: None  # type: ignore[method-assign]  # the snapshot never comes
    net.link("A", "C")
    sent = 0
    for _ in range(50):
        net.tick()
        sent += sum(1 for letter in net.letters if letter.target == "C")
        net.deliver()
    assert 0 < sent < 60


def test_a_snapshot_of_another_size_than_offered_is_dropped() -> None:
    """A piece beyond the offered size ends the transfer; nothing is installed."""
    net, _ = watched()
    net.elect("A")
    raft = net.nodes["C"].group()
    manifest = Manifest(500, raft.term, 10, b"x" * 32)
    net.hand(letter_of("A", "C", Offer(raft.term, 1, manifest)))
    net.hand(letter_of("A", "C", Chunk(b"x" * 32, 0, b"far too many bytes")))
    assert raft.receiver.manifest is None
    assert raft.delivered_index < 500


def letter_of(source: str, target: str, message) -> Letter:
    import msgpack

    from cluster.raft.messages import to_wire

    return Letter(source, target, 1, msgpack.packb(to_wire(message)))


def test_state_of_which_the_log_knows_nothing_is_refused() -> None:
    """Term and vote are durable before anything is applied, so such a log was lost."""
    net, _ = watched()
    net.elect("A")
    net.settle()
    node = net.nodes["C"]
    node.crash(power=False, rng=random.Random(1))
    node.disk = FaultyDisk()
    with pytest.raises(CorruptLog, match="no record"):
        node.start()


def test_a_new_log_is_durable_before_there_is_state() -> None:
    """An empty log beside a state then always means a lost log."""
    disk = FaultyDisk()
    wal = Wal(disk, 4096, lambda: 1)
    GroupHost("A", wal, clock=lambda: 0.0, timing=Timing()).open()
    disk.lose_power(random.Random(1))
    assert Wal(disk, 4096, lambda: 1).open().keys() == {0}


def test_an_install_that_takes_long_is_not_overtaken_by_compaction() -> None:
    """The follower keeps answering offers; what follows its snapshot stays in the log."""
    net, checkers = watched()
    net.elect("A")
    net.cut("A", "C")
    net.cut("B", "C")
    for number in range(30):
        propose(net, checkers, "A", f"k{number}={number}")
    net.settle("AB")
    net.nodes["A"].compact()
    follower = net.nodes["C"]
    installs: list[Install] = []
    perform = follower.perform

    def slowly(group: int, effect: object) -> None:
        installs.append(effect) if isinstance(effect, Install) else perform(group, effect)

    follower.perform = slowly  # type: ignore[method-assign]
    net.link("A", "C")
    for number in range(60):
        net.settle(seconds=0.5)
        propose(net, checkers, "A", f"more{number}={number}")
        net.nodes["A"].compact()
    assert len(installs) == 1
    assert net.nodes["A"].group().log.base_index <= installs[0].manifest.index
    perform(1, installs[0])
    follower.perform = perform  # type: ignore[method-assign]
    net.settle(seconds=2)
    checkers.at_rest()
