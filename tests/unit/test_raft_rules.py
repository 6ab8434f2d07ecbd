"""Rules of the hardened group that no paper states: what stock code may not do, counting,
flow control, snapshots under way, and who is heard."""

from __future__ import annotations

import math
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pysyncobj
import pytest

from cluster.raft.messages import (
    Ack,
    Append,
    Chunk,
    Manifest,
    Offer,
    PreVote,
    RequestPreVote,
    RequestVote,
    Vote,
)
from cluster.raft.pinned import CORE_SHA256, ForeignCore, verify_core
from cluster.raft.progress import Progress
from cluster.raft.snapshot import RETRY_S, Receiver, WantSnapshot
from tests.raft_logs import (
    entry,
    give,
    group,
    leader_of,
    linked,
    sent,
    stand,
    under_way,
    until,
)
from tests.simulation.nodes import Net

# -- the stock core is held -------------------------------------------------------------------


def test_the_core_never_compacts_on_its_own() -> None:
    """D1, D7, D8, D14: not after a time, not after a number of entries."""
    net = linked(leader="A")
    raft = group(net, "A")
    for _ in range(6000):
        raft.propose(b"k=1")
    net.settle(seconds=1)
    net.now_s += 1000
    net.settle(seconds=1)
    for name in "ABC":
        log = group(net, name).log
        assert log.base_index == 1
        assert len(log.span(2, log.last_index, 1 << 40)) == log.last_index - 1
    assert raft._SyncObj__lastSerializedEntry is None


def test_stock_code_that_would_forward_a_command_is_stopped() -> None:
    """D17: nothing in the product queues a command; if something did, it would show."""
    net = linked(leader="A")
    raft = group(net, "B")
    raft._applyCommand(b"\x00k=1", None)
    with pytest.raises(AssertionError, match="stock code sent apply_command"):
        raft.doTick(0)


def test_an_entry_in_the_form_of_a_membership_change_changes_no_membership() -> None:
    """D6: the members of a group are fixed, and no bytes of an entry are unpickled."""
    net = linked()
    change = b"\x02" + pickle.dumps(["add", "Z"])
    give(net, "A", "B", Append(5, 1, 1, 0, [(change, 2, 5)], 1))
    raft = group(net, "B")
    assert raft.log.last_index == 2
    assert {node.id for node in raft.otherNodes} == {"A", "C"}
    with pytest.raises(Exception, match="disabled"):
        raft.addNodeToCluster("Z")


def test_another_text_of_pysyncobj_is_refused(tmp_path: Path) -> None:
    """The overrides were written against these very files."""
    for name in CORE_SHA256:
        shutil.copy(Path(pysyncobj.__file__).parent / name, tmp_path)
    verify_core(tmp_path)
    with (tmp_path / "journal.py").open("a") as file:
        file.write("# one more line\n")
    with pytest.raises(ForeignCore, match="journal"):
        verify_core(tmp_path)


def test_members_come_in_the_same_order_in_every_process() -> None:
    """D21: string hashes differ from process to process."""
    program = (
        "from cluster.raft.pinned import Peer;"
        "print([peer.id for peer in {Peer(f'node{number}') for number in range(8)}])"
    )
    orders = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(orders) == 1


def test_a_stranger_is_not_heard() -> None:
    """Only members have a voice, whatever they say."""
    net = linked(leader="A")
    before = group(net, "A").term
    give(net, "Z", "A", RequestVote(99, 50, 98))
    give(net, "Z", "A", Append(99, 1, 1, 0, [], 1))
    assert (group(net, "A").term, group(net, "A").is_leader) == (before, True)


# -- counting ---------------------------------------------------------------------------------


def test_a_voter_counts_again_in_the_next_election() -> None:
    """D16: once in each, not once for ever."""
    net = linked("ABCDE")
    give(net, "B", "A", Vote(stand(net, "A")))
    term = stand(net, "A")
    for voter in "BC":
        give(net, voter, "A", Vote(term))
    assert group(net, "A").is_leader


def test_a_new_term_of_office_assumes_nothing_of_followers() -> None:
    """What B once acknowledged was overwritten at both; counting it would commit on two of five."""
    net = leader_of("ABCDE")
    raft = group(net, "A")
    for number in range(8):
        net.put("A", f"old{number}=1")
    give(net, "B", "A", Ack(raft.term, 1, matched=raft.log.last_index))
    give(net, "C", "A", Append(raft.term + 1, 1, 1, 0, [entry(2, raft.term + 1)], 1))
    term = stand(net, "A")
    for voter in "DE":
        give(net, voter, "A", Vote(term))
    assert raft.office_index == 3
    give(net, "B", "A", Ack(term, raft.reads.round, matched=1))
    give(net, "D", "A", Ack(term, raft.reads.round, matched=3))
    assert raft.commit_index == 1
    give(net, "B", "A", Ack(term, raft.reads.round, matched=3))
    assert raft.commit_index == 3


def test_half_of_an_even_number_is_no_majority_of_pre_votes() -> None:
    """Two of four are not enough."""
    net = linked("ABCD")
    net.now_s += 5
    net.tick("A")
    give(net, "B", "A", PreVote(0, 1, granted=True))
    net.tick("A")
    assert not under_way(net, RequestVote)
    give(net, "C", "A", PreVote(0, 1, granted=True))
    net.tick("A")
    assert under_way(net, RequestVote)


def test_grants_of_an_earlier_round_are_forgotten() -> None:
    """A majority has to be without a leader at one time."""
    net = linked("ABCDE")
    for voter in "BC":
        net.now_s += 5
        net.tick("A")
        give(net, voter, "A", PreVote(0, 1, granted=True))
    net.tick("A")
    assert not under_way(net, RequestVote)


def test_who_gave_its_vote_waits_before_it_stands() -> None:
    """The candidate gets the time to win."""
    net = linked()
    raft = group(net, "B")
    net.now_s = raft.election.deadline_s - 0.01
    assert give(net, "A", "B", RequestVote(5, 9, 4)) == [Vote(5)]
    net.tick("B", 0.5)
    assert not under_way(net, RequestPreVote)


# -- flow control -----------------------------------------------------------------------------


def fresh_entries(net: Net, source: str, target: str) -> list[int]:
    """Indexes of the entries that are under way, in the order of sending."""
    appends = sent(net, Append, source, target)
    return [index for message in appends for _, index, _ in message.entries]


def test_a_probe_is_one_message_at_a_time() -> None:
    """Until the follower answers, nobody knows whether more would be of use."""
    net = leader_of()
    net.tick("A", 0.2)
    net.letters.clear()
    for number in range(5):
        net.put("A", f"k{number}=1")
    assert fresh_entries(net, "A", "B") == []


def test_a_probe_that_got_lost_is_sent_again_with_the_next_heartbeat() -> None:
    """A lost message must not silence a leader."""
    net = leader_of()
    index = group(net, "A").office_index
    net.tick("A", 0.2)
    assert fresh_entries(net, "A", "B") == [index]
    net.letters.clear()
    net.tick("A", 0.2)
    assert fresh_entries(net, "A", "B") == [index]


def test_a_follower_that_does_not_answer_has_bounded_bytes_under_way() -> None:
    """A slow follower costs the leader neither its memory nor its heartbeats."""
    net = Net(append_bytes_max=100, inflight_bytes_max=300)
    net.link_all()
    net.elect("A")
    net.settle(seconds=0.3)
    for number in range(40):
        net.put("A", f"k{number:02}={'v' * 50}")
    assert 3 <= len(fresh_entries(net, "A", "B")) <= 8
    until(net, lambda: group(net, "A").caught_up("B"))


def test_a_rejection_goes_back_no_further_than_what_matches() -> None:
    """A follower's hint is its guess; what it proved is proved."""
    progress = Progress(1000)
    progress.take_office(20)
    assert progress.rejected(20, 9)
    progress.accepted(8)
    assert (progress.probing, progress.match, progress.next) == (False, 8, 9)
    assert not progress.rejected(8, 3)
    assert progress.rejected(12, 3)
    assert (progress.probing, progress.next) == (True, 9)


def test_a_connected_follower_is_not_left_to_a_snapshot_without_need() -> None:
    """What it lacks stays in the log unless space is short."""
    net = linked(leader="A")
    for number in range(20):
        net.put("A", f"k{number}=1")
    net.settle("AC", 0.3, lambda x: "B" not in (x.source, x.target))
    behind = group(net, "A")._progress["B"].match
    group(net, "A").compact(net.nodes["A"].machines[1].make_durable(), urgent=False)
    assert group(net, "A").log.base_index == behind
    net.deliver(lambda x: not isinstance(x.message, Offer))
    until(net, lambda: group(net, "A").caught_up("B"))
    group(net, "A").compact(net.nodes["A"].machines[1].make_durable(), urgent=False)
    assert group(net, "A").log.base_index == group(net, "A").delivered_index


# -- snapshots under way ----------------------------------------------------------------------


def behind_the_log(*lagging: str) -> Net:
    """A leads five; its log no longer holds what the lagging ones need."""
    net = linked("ABCDE", leader="A")
    rest = "".join(name for name in "ABCDE" if name not in lagging)
    for name in lagging:
        for other in rest:
            net.cut(name, other)
    for number in range(20):
        net.put("A", f"k{number}=1")
    net.settle(rest, 0.5)
    net.nodes["A"].compact()
    return net


def test_a_snapshot_is_made_once_for_all_who_need_it() -> None:
    """While it is being made, nobody asks for another."""
    net = behind_the_log("D", "E")
    effects: list[object] = []
    net.nodes["A"].perform = lambda group, effect: effects.append(effect)  # type: ignore[method-assign]
    for name in "DE":
        net.link("A", name)
    net.settle("ADE", 1.0)
    assert effects == [WantSnapshot()]


def test_a_snapshot_that_the_log_left_behind_is_not_offered() -> None:
    """Who took it would lack entries that are nowhere any more."""
    net = behind_the_log("E")
    net.link("A", "E")
    net.settle("ABCDE", 0.3, lambda x: not isinstance(x.message, Chunk))
    first = group(net, "A").offer
    assert first is not None
    net.cut("A", "E")
    for number in range(20):
        net.put("A", f"more{number}=1")
    net.settle("ABCD", 15)
    net.nodes["A"].compact()
    net.letters.clear()
    net.link("A", "E")
    net.tick("A", 0.2)
    offers = sent(net, Offer, "A", "E")
    base = group(net, "A").log.base_index
    assert first.index < base
    assert offers
    assert all(m.manifest is None or m.manifest.index >= base for m in offers)
    until(net, lambda: group(net, "A").caught_up("E"))


MANIFEST = Manifest(40, 4, 8, b"x" * 32)


def test_a_piece_of_another_snapshot_is_dropped() -> None:
    """Two leaders may make different files of the same state."""
    receiver = Receiver()
    assert receiver.received(Chunk(b"x" * 32, 0, b"half")) is None
    receiver.offered(MANIFEST, 0.0)
    assert receiver.received(Chunk(b"y" * 32, 0, b"half")) is None
    assert receiver.received(Chunk(b"x" * 32, 0, b"half")) is not None


def test_a_piece_that_is_not_the_next_one_is_dropped() -> None:
    """Neither a repeated nor an early one."""
    receiver = Receiver()
    receiver.offered(MANIFEST, 0.0)
    assert receiver.received(Chunk(b"x" * 32, 4, b"half")) is None
    assert receiver.received(Chunk(b"x" * 32, 0, b"half")) is not None
    assert receiver.received(Chunk(b"x" * 32, 0, b"half")) is None
    assert receiver.offset == 4
    assert not receiver.complete


def test_a_piece_under_way_is_not_asked_for_again_at_once() -> None:
    """Offers come with every heartbeat; a lost piece is asked for after a while."""
    receiver = Receiver()
    assert receiver.offered(MANIFEST, 0.0) is not None
    assert receiver.offered(MANIFEST, RETRY_S / 2) is None
    assert receiver.offered(MANIFEST, RETRY_S) is not None


def test_an_offer_during_an_install_starts_nothing() -> None:
    """The file that is being read must not be written."""
    receiver = Receiver(manifest=MANIFEST, offset=8, installing=True)
    other = Manifest(60, 4, 8, b"y" * 32)
    assert receiver.offered(other, math.inf) is None
    assert receiver.received(Chunk(b"y" * 32, 0, b"half")) is None
    assert receiver.manifest == MANIFEST
