"""Proposals and the room in the log: they wait in order, and are refused only when they must be."""

from __future__ import annotations

import asyncio
import math

import pytest

from cluster.command import Result
from cluster.errors import NotLeader, OutcomeUnknown, Overloaded, StorageFull
from cluster.replica import Replica
from cluster.state_machine import Entry
from tests.simulation.nodes import Net


class Scene:
    """A leader of one, whose entries are applied when a test says so."""

    def __init__(self) -> None:
        self.net = Net("A")
        self.net.settle(seconds=3)
        self.node = self.net.nodes["A"]
        raft = self.node.group()
        raft.log.memory.bytes_max = raft.log.memory.share_min = 1000
        self.replica = Replica(
            1, raft, self.node.machines[1], lambda: None, clock=lambda: self.net.now_s
        )

    def propose(self, text: str, wait_s: float = 60.0) -> asyncio.Task[Result]:
        return asyncio.ensure_future(self.replica.propose(text.encode(), self.net.now_s + wait_s))

    def proposed(self) -> list[str]:
        return [
            command[1:].decode()[:1] for command, _, _ in self.replica.raft.log[1:] if command[1:]
        ]

    def apply(self) -> None:
        """Let everything in the log commit and be applied, and the log be cut."""
        self.net.settle(seconds=0.2)
        machine, replica = self.node.machines[1], self.replica
        first = replica.applied_index + 1
        entries = [
            Entry(index, term, command[1:])
            for command, index, term in replica.raft.log[1:]
            if first <= index <= machine.index
        ]
        self.node.compact()
        if entries:
            replica.applied(entries, [Result(version=entry.index) for entry in entries])


@pytest.fixture
async def scene() -> Scene:
    made = Scene()
    made.apply()
    return made


async def test_proposals_wait_for_room_and_go_in_order(scene: Scene) -> None:
    """No more than a share is under way; what is applied makes room for the next."""
    tasks = [scene.propose(letter * 400) for letter in "abcde"]
    await asyncio.sleep(0)
    assert scene.proposed() == ["a"]
    seen = []
    for _ in range(5):
        seen += scene.proposed()
        scene.apply()
    versions = [(await task).version for task in tasks]

    assert seen == list("abcde")
    assert versions == sorted(versions)


async def test_one_shard_has_no_more_than_its_share_under_way(scene: Scene) -> None:
    """Also while there is room: what is not applied cannot be cut."""
    memory = scene.replica.raft.log.memory
    memory.bytes_max, memory.groups = 16_000, 8
    tasks = [scene.propose(letter * 400) for letter in "abcde"]
    await asyncio.sleep(0)
    assert memory.admits(scene.replica.raft.log.size_bytes, 2000)
    assert scene.proposed() == ["a", "b"]
    for _ in range(4):
        scene.apply()
    await asyncio.gather(*tasks)


async def test_a_proposal_for_which_there_is_never_room_was_not_proposed(scene: Scene) -> None:
    """Its caller is told to come again, and it does not enter the log afterwards."""
    first = scene.propose("a" * 400)
    with pytest.raises(Overloaded):
        await scene.propose("b" * 400, wait_s=0.0)
    scene.apply()
    await first
    scene.apply()

    assert scene.replica._waiting_bytes == 0
    assert "b" not in "".join(str(scene.node.machines[1].data))


async def test_a_caller_that_leaves_takes_its_proposal_along(scene: Scene) -> None:
    """What waits behind it moves up."""
    first = scene.propose("a" * 400)
    second, third = scene.propose("b" * 400), scene.propose("c" * 400)
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    scene.apply()
    assert scene.proposed() == ["c"]
    scene.apply()
    assert (await first).version < (await third).version


async def test_a_full_disk_refuses_what_waits_and_what_comes(scene: Scene) -> None:
    """507 at once: waiting for space could take for ever; with space it is taken again."""
    first, waiting = scene.propose("a" * 400), scene.propose("b" * 400)
    await asyncio.sleep(0)
    scene.node.disk.free_bytes = 0
    while scene.replica.raft.log._records.admits(1, 100):
        scene.node.wal.records(9).entry(2, 0, b"x" * 100)
        scene.node.step()
    scene.replica.observe()
    with pytest.raises(StorageFull):
        await waiting
    with pytest.raises(StorageFull):
        await scene.propose("c")
    scene.node.disk.free_bytes = math.inf
    scene.node.wal.refill()
    scene.apply()
    await first
    last = scene.propose("d")
    await asyncio.sleep(0)
    scene.apply()
    assert (await last).version > 0


async def test_who_does_not_lead_says_so_to_all_that_wait(scene: Scene) -> None:
    """Nothing of theirs is in a log."""
    first, waiting = scene.propose("a" * 400), scene.propose("b" * 400)
    await asyncio.sleep(0)
    scene.replica.raft._adopt(scene.replica.term + 1)
    scene.replica.observe()
    with pytest.raises(NotLeader):
        await waiting
    with pytest.raises(OutcomeUnknown):
        await first
