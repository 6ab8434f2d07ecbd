"""When an entry counts as committed and who hears of it; how leadership is handed over."""

from __future__ import annotations

from cluster.raft.messages import Ack, Append, TimeoutNow
from tests.simulation.nodes import Letter, Net


def led(**timing: float) -> Net:
    """A linked cluster that A leads, at rest; the next heartbeat is a whole period away."""
    net = Net("ABC", seed=0, groups=(1,), **timing)
    net.link_all()
    net.elect("A")
    net.settle()
    beat_s = net.timing.heartbeat_s
    net.settle(seconds=beat_s - net.now_s % beat_s + 0.05)
    return net


def appends(net: Net, target: str) -> list[Append]:
    return [x.message for x in net.letters if x.target == target and isinstance(x.message, Append)]


def test_a_leaders_appends_do_not_wait_for_its_own_disk() -> None:
    """Thesis 10.2.1: followers write while the leader does."""
    net = led()
    net.nodes["A"].instant_disk = False
    place = net.put("A", "k=1")
    assert place is not None
    assert [entry[1] for each in appends(net, "B") for entry in each.entries] == [place[0]]


def test_a_leader_counts_itself_once_its_own_disk_has_the_entry() -> None:
    """D19: one of three disks is no majority, though the leader's memory has the entry too."""
    net = led()
    net.nodes["A"].instant_disk = False
    net.cut("A", "C")
    place = net.put("A", "k=1")
    assert place is not None
    net.settle("AB", 0.5)
    leader = net.nodes["A"].group()
    assert net.nodes["B"].group().log.durable_index == place[0]
    assert leader.commit_index < place[0]
    assert net.nodes["B"].group().commit_index < place[0]
    net.nodes["A"].finish_sync()
    net.settle("AB", 0.5)
    assert leader.commit_index == place[0]
    assert net.nodes["B"].machines[1].data["k"] == "1"


def test_followers_hear_of_a_commit_within_a_moment_without_more_writes() -> None:
    """Nobody has to write again, or to wait for a heartbeat, to see the last write everywhere."""
    net = led(election_timeout_s=4.0, heartbeat_s=1.0)
    place = net.put("A", "k=1")
    assert place is not None
    net.settle(seconds=0.1)
    assert [net.nodes[name].group().commit_index for name in "ABC"] == [place[0]] * 3


def test_a_commit_alone_does_not_cost_a_message_at_once() -> None:
    """What is committed is told with the next entries, or after `commit_notice_s`."""
    net = led(election_timeout_s=99.0, heartbeat_s=10.0, commit_notice_s=5.0)
    net.put("A", "k=1")
    before = net.nodes["A"].group().reads.round
    net.settle(seconds=0.5)
    assert net.nodes["A"].machines[1].data["k"] == "1"
    assert net.nodes["A"].group().reads.round == before


def test_who_holds_the_entry_may_be_told_that_it_is_committed() -> None:
    """The node that forwarded a write learns of its commit with the answer."""
    net = led(election_timeout_s=99.0, heartbeat_s=30.0, commit_notice_s=20.0)
    place = net.put("A", "k=1")
    assert place is not None
    net.settle(seconds=0.2)
    follower = net.nodes["B"]
    assert follower.group().commit_index < place[0]
    follower.group().learn_commit(*place)
    net.tick("B")
    assert follower.machines[1].data["k"] == "1"


def test_hearsay_commits_nothing_that_the_log_does_not_hold() -> None:
    """Another term at that index is another entry: it stays uncommitted until the leader speaks."""
    net = led()
    follower = net.nodes["B"].group()
    index, term = follower.log.last_index, follower.log.last_term
    net.cut("A", "B")
    place = net.put("A", "k=1")
    assert place is not None
    follower.learn_commit(*place)
    follower.learn_commit(index + 5, term + 7)
    net.tick("B")
    assert follower.commit_index == index
    net.link("A", "B")
    net.settle()
    assert net.nodes["B"].machines[1].data["k"] == "1"


def test_leadership_is_handed_over_under_writes_without_an_election_timeout() -> None:
    """Thesis 3.10: the leader takes no more proposals, so that its heir can catch up."""
    net = led(election_timeout_s=1000.0)
    net.put("A", "k=1")
    leader = net.nodes["A"].group()
    leader.transfer_to("B")
    assert leader.heir == "B"
    assert net.put("A", "k=2") is None
    assert not any(isinstance(x.message, TimeoutNow) for x in net.letters)
    net.settle(seconds=0.5)
    assert net.nodes["B"].group().is_leader
    assert not leader.heir
    assert net.put("B", "k=3") is not None
    net.settle(seconds=0.5)
    assert [net.nodes[name].machines[1].data["k"] for name in "ABC"] == ["3"] * 3


def test_a_hand_over_to_nobody_is_given_up() -> None:
    """An heir that never catches up does not stop the writes for good."""
    net = led()

    def mute(letter: Letter) -> bool:
        return not (letter.source == "B" and isinstance(letter.message, Ack))

    net.put("A", "k=1")
    leader = net.nodes["A"].group()
    leader.transfer_to("B")
    assert net.put("A", "k=2") is None
    net.settle("AC", 1.2, lambda letter: "B" not in (letter.source, letter.target) and mute(letter))
    assert leader.is_leader
    assert not leader.heir
    assert net.put("A", "k=3") is not None


def test_a_log_owes_what_a_connected_follower_lacks() -> None:
    """Entries that are not applied yet are not kept for anybody's sake."""
    net = led()
    leader = net.nodes["A"].group()
    assert leader.owed_bytes == 0
    for number in range(10):
        net.put("A", f"k{number}={'v' * 100}")
    assert leader.owed_bytes == 0
    net.settle("AB", 0.5, lambda letter: "C" not in (letter.source, letter.target))
    assert leader.log.size_bytes * 0.8 < leader.owed_bytes <= leader.log.size_bytes
    assert net.nodes["B"].group().owed_bytes == 0
    net.cut("A", "C")
    assert leader.owed_bytes == 0


def test_a_snapshot_that_nobody_needs_any_more_keeps_no_log() -> None:
    """The follower has what it lacked: the log is cut beyond the snapshot at once."""
    net = led()
    net.cut("A", "C")
    net.cut("B", "C")
    for number in range(10):
        net.put("A", f"k{number}=1")
    net.settle("AB", 0.3)
    net.nodes["A"].compact()
    net.link("A", "C")
    for _ in range(100):
        net.tick()
        net.deliver()
        if net.nodes["A"].group().offer is not None:
            break
    offer = net.nodes["A"].group().offer
    assert offer is not None
    net.put("A", "late=1")
    net.settle("AB", 0.1, lambda letter: "C" not in (letter.source, letter.target))
    net.nodes["A"].compact()
    assert net.nodes["A"].group().log.base_index == offer.index
    net.settle(seconds=0.5)
    assert net.nodes["C"].machines[1].data["late"] == "1"
    net.nodes["A"].compact()
    assert net.nodes["A"].group().log.base_index > offer.index


def test_an_old_append_proves_no_strong_read() -> None:
    """6.4: a refused message is answered, but its round was counted in another term."""
    net = led()
    leader, follower = net.nodes["A"].group(), net.nodes["B"]
    old = Append(leader.term - 1, 1, 1, 0, [], 10**6)
    net.cut("A", "C")
    net.letters.clear()
    answers: list[int | None] = []
    leader.read(answers.append)
    follower.host.receive("A", 1, old)
    follower.step()
    (answer,) = [x.message for x in net.letters if x.source == "B" and isinstance(x.message, Ack)]
    assert answer.term > old.term
    net.deliver(lambda letter: letter.source == "B")
    assert answers == []
    net.settle("AB", 0.3)
    assert answers == [leader.commit_index]


def test_a_disk_that_hangs_does_not_fill_the_memory_with_answers() -> None:
    """Heartbeats go on; what waits for the disk is one answer, with the latest round."""
    net = led()
    follower = net.nodes["B"]
    follower.instant_disk = False
    net.put("A", "k=1")
    for _ in range(300):
        net.tick()
        net.deliver()
    assert net.nodes["A"].group().is_leader
    assert len(follower.host._outbox.waiting) <= 3
    assert len(follower.host._outbox.acks) <= 1
    follower.instant_disk = True
    follower.finish_sync()
    net.settle()
    assert follower.machines[1].data["k"] == "1"
    assert not follower.host._outbox.waiting
    assert not follower.host._outbox.acks
