"""Raft scenes for tests: replicas that boot with given logs, single messages, who stands when.

Every log begins with the root, entry 1 of term 0, so the first entry of a paper's picture has
index 2 here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgpack

from cluster.raft.group import RaftGroup
from cluster.raft.log import REGULAR, GroupLog, GroupState
from cluster.raft.messages import Entry, Message, Vote, to_wire
from cluster.raft.wal import Wal
from tests.simulation.faulty_disk import FaultyDisk
from tests.simulation.nodes import SEGMENT_BYTES, Letter, Net

M = TypeVar("M")
SEGMENT: Final = 2048


def entry(index: int, term: int) -> Entry:
    """The entry that all scenes have at an index, if a leader of `term` wrote it."""
    return REGULAR + f"i{index}={term}".encode(), index, term


def entries(terms: Sequence[int], first: int = 2) -> list[Entry]:
    """Consecutive entries of these terms."""
    return [entry(index, term) for index, term in enumerate(terms, start=first)]


def with_log(net: Net, name: str, terms: Sequence[int], current_term: int = 0) -> None:
    """Boot a node anew with entries of these terms after the root; nothing is applied."""
    node = net.nodes[name]
    node.crash(power=False, rng=random.Random(0))
    node.disk = FaultyDisk()
    wal = Wal(node.disk, SEGMENT_BYTES, lambda: 1)
    wal.open()
    records = wal.records(1)
    records.meta(max([current_term, *terms]), None)
    for command, index, term in entries(terms):
        records.entry(index, term, command)
    batch = wal.take()
    assert batch is not None
    wal.write(batch)
    node.start()


def booted(logs: dict[str, list[int]], names: str = "ABC", **timing: Any) -> Net:
    """Nodes that start with logs of these terms; nothing is linked."""
    net = Net(names, **timing)
    for name, terms in logs.items():
        with_log(net, name, terms)
    return net


def opened(disk: FaultyDisk) -> tuple[Wal, GroupLog]:
    """A write-ahead log and the log of group 1 in it."""
    wal = Wal(disk, SEGMENT, lambda: 7)
    log = GroupLog(wal.open().get(1, GroupState()), wal.records(1))
    return wal, log


def sync(wal: Wal, log: GroupLog) -> None:
    """Write what gathered."""
    while (batch := wal.take()) is not None:
        wal.write(batch)
        wal.refill()
        log.synced(batch.sequence)


def terms_of(net: Net, name: str) -> list[int]:
    """Terms of a node's entries after its base."""
    return [term for _, _, term in group(net, name).log[1:]]


def group(net: Net, name: str) -> RaftGroup:
    """A node's replica."""
    return net.nodes[name].group()


def letter(source: str, target: str, message: Message) -> Letter:
    """A message on its way."""
    return Letter(source, target, 1, msgpack.packb(to_wire(message)))


def give(net: Net, source: str, target: str, message: Message) -> list[Message]:
    """Deliver a message out of nothing; return what its receiver sends to the sender."""
    before = list(net.letters)
    net.hand(letter(source, target, message))
    new = net.letters[len(before) :]
    return [x.message for x in new if (x.source, x.target) == (target, source)]


def sent(net: Net, kind: type[M], source: str = "", target: str = "") -> list[M]:
    """Messages of a kind that were sent and not delivered."""
    return [x.message for x in under_way(net, kind, source, target) if isinstance(x.message, kind)]


def under_way(net: Net, kind: type, source: str = "", target: str = "") -> list[Letter]:
    """The same, as letters."""
    return [
        x
        for x in net.letters
        if isinstance(x.message, kind)
        and (not source or x.source == source)
        and (not target or x.target == target)
    ]


def stand(net: Net, name: str) -> int:
    """Let a node stand for election without a pre-vote; return its new term."""
    group(net, name)._stand()
    net.tick(name)
    return group(net, name).term


def until(net: Net, condition: Callable[[], bool], names: str = "", seconds: float = 10.0) -> None:
    """Let time pass and everything flow until a condition holds."""
    end = net.now_s + seconds
    while not condition():
        assert net.now_s < end, f"not within {seconds} s of virtual time"
        net.tick(names)
        net.deliver()


def linked(names: str = "ABC", leader: str = "", seed: int = 0, **timing: Any) -> Net:
    """A linked cluster, with a leader if one is named."""
    net = Net(names, seed=seed, **timing)
    net.link_all()
    if leader:
        net.elect(leader)
        net.settle(seconds=0.5)
    return net


def leader_of(names: str = "ABC") -> Net:
    """A leads, alone on the wire: what the others would say is up to the test."""
    net = Net(names)
    net.link_all()
    term = stand(net, "A")
    for voter in names[1:]:
        give(net, voter, "A", Vote(term))
    net.letters.clear()
    return net


def asked(net: Net, name: str = "A") -> list[int | None]:
    """Ask for a strong read; the list gets its answer."""
    answers: list[int | None] = []
    group(net, name).read(answers.append)
    net.nodes[name].host.touch(1)
    net.nodes[name].step()
    return answers
