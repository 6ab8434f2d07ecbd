"""How much memory the logs of a node take, and what is done about it."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from cluster.raft.log import GroupLog, GroupState
from cluster.raft.log_memory import ENTRY_BYTES, LogMemory, cuts
from cluster.raft.wal import Wal
from tests.simulation.faulty_disk import FaultyDisk
from tests.simulation.nodes import Net

KIB = 1024
MIB = 1024 * KIB


def log_of(memory: LogMemory) -> GroupLog:
    wal = Wal(FaultyDisk(), 64 * MIB, lambda: 1)
    return GroupLog(GroupState(), wal.records(1), memory)


def fill(log: GroupLog, count: int, size: int) -> None:
    for _ in range(count):
        log.add(b"c" * size, log.last_index + 1, 0)


def test_what_logs_hold_is_counted_through_every_change() -> None:
    """Appending, taking back, cutting and starting again all show in the node's total."""
    memory = LogMemory()
    first, second = log_of(memory), log_of(memory)
    empty = memory.used
    fill(first, 10, 1000)
    fill(second, 4, 500)

    assert memory.used == empty + 10 * (1000 + ENTRY_BYTES) + 4 * (500 + ENTRY_BYTES)
    first.delete_from(first.last_index - 1)
    assert memory.used == empty + 8 * (1000 + ENTRY_BYTES) + 4 * (500 + ENTRY_BYTES)
    first.durable_index = first.last_index
    first.compact(first.last_index)
    second.reset(99, 1)

    assert memory.used == empty
    assert memory.peak == empty + 10 * (1000 + ENTRY_BYTES) + 4 * (500 + ENTRY_BYTES)
    assert first.size_bytes + second.size_bytes == memory.used


def test_the_largest_logs_are_cut_until_the_rest_is_small_enough() -> None:
    """Nothing is cut below a quarter; beyond it the largest go first."""
    held = {1: 9 * MIB, 2: 2 * MIB, 3: 5 * MIB, 4: MIB}
    calm = LogMemory(used=16 * MIB)
    busy = LogMemory(used=sum(held.values()))

    assert cuts(held, {}, calm) == []
    assert cuts(held, {}, busy) == [1]
    assert not busy.pressed
    assert LogMemory(used=25 * MIB).pressed


def test_a_log_that_a_follower_keeps_is_not_cut_again_and_again_in_vain() -> None:
    """It is left alone until it has grown, or memory is really short."""
    held = {1: 18 * MIB, 2: 3 * MIB}
    memory = LogMemory(used=21 * MIB)

    assert cuts(held, {1: 18 * MIB}, memory) == [2]
    assert cuts({1: 24 * MIB, 2: 3 * MIB}, {1: 18 * MIB}, LogMemory(used=27 * MIB)) == [1]


@given(
    st.integers(1, 32),
    st.lists(st.tuples(st.integers(0, 31), st.integers(1, MIB)), max_size=300),
)
def test_whatever_comes_the_total_stays_below_the_bound(
    groups: int, wishes: list[tuple[int, int]]
) -> None:
    """Admission alone keeps it, even when nothing is ever cut."""
    memory = LogMemory(groups=groups, share_min=MIB + KIB)
    held = dict.fromkeys(range(groups), 0)
    for wish, size in wishes:
        group = wish % groups
        if memory.admits(held[group], size):
            held[group] += size
            memory.add(size)

    assert memory.peak <= memory.bytes_max


@given(st.integers(1, 32), st.integers(1, MIB))
def test_a_log_that_was_cut_is_always_admitted_to(groups: int, size: int) -> None:
    """However much the others hold: so no group waits for another one."""
    memory = LogMemory(groups=groups, share_min=MIB + KIB, used=64 * MIB)

    assert memory.admits(0, size)


def test_a_dead_or_slow_follower_costs_the_leader_no_more_than_the_bound() -> None:
    """Real groups: one follower is away, one lags; the leader cuts and they get a snapshot."""
    net = Net("ABC")
    for node in net.nodes.values():
        node.host.memory.bytes_max = 128 * KIB
        node.host.memory.share_min = 16 * KIB
    net.link_all()
    net.elect("A")
    net.cut("A", "C")
    net.cut("B", "C")
    rng, leader = random.Random(7), net.nodes["A"]
    accepted = 0
    for number in range(600):
        if net.put("A", f"k{number}={'v' * rng.randrange(1500)}") is not None:
            accepted += 1
        net.settle(seconds=0.04)
        for node in net.nodes.values():
            memory, held = node.host.memory, node.group().log.size_bytes
            if cuts({1: held}, {}, memory):
                node.group().compact(node.machines[1].make_durable(), urgent=memory.pressed)
    assert accepted == 600
    assert leader.host.memory.peak <= 64 * KIB
    net.link_all()
    net.settle(seconds=20)
    assert net.nodes["C"].machines[1].digest() == leader.machines[1].digest()
    assert net.nodes["C"].host.memory.peak <= 128 * KIB
