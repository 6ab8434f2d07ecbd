"""Who keeps the log in bounds: which logs are cut and when, and the spare segment."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from cluster.raft.log_keeper import FULL_CUT_S, SPARE_RETRY_S, LogKeeper
from cluster.replica import Replica
from tests.simulation.nodes import SEGMENT_BYTES, Net, SimNode

KIB = 1024


class Now:
    """An executor that does everything at once."""

    def submit(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*args))
        return done


class Scene:
    """A node of the simulation with two groups, and its keeper."""

    def __init__(self) -> None:
        self.net = Net("A", groups=(1, 2))
        self.node: SimNode = self.net.nodes["A"]
        self.node.host.memory.bytes_max = 64 * KIB
        self.failures: list[BaseException] = []
        now: Any = Now()
        self.keeper = LogKeeper(
            host=self.node.host,
            wal=self.node.wal,
            replicas={
                group: Replica(group, self.node.group(group), machine, lambda: None)
                for group, machine in self.node.machines.items()
            },
            log_bytes_max=8 * KIB,
            checkpoints=now,
            spares=now,
            writer=now,
            clock=lambda: self.net.now_s,
            on_loop=lambda act, _: act(),
            fail=self.failures.append,
        )
        self.net.settle(seconds=3)

    def full(self) -> bool:
        return self.node.wal.full

    def write(self, group: int, size: int) -> None:
        while self.node.group(group).log.size_bytes < size:
            assert self.net.put("A", "k=" + "v" * 500, group) is not None
            self.net.settle(seconds=0.04)

    def cut(self, due: dict[int, bool]) -> None:
        for group, urgent in due.items():
            self.keeper._running.add(group)
            self.keeper._checkpoint(self.keeper.replicas[group], urgent)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_log_beyond_its_size_is_cut_below_what_is_durable(scene: Scene) -> None:
    """And left alone while the cut is under way."""
    scene.keeper.host.memory.bytes_max = 64 * KIB * KIB
    scene.write(1, 9 * KIB)
    due = scene.keeper.due()
    assert list(due) == [1]
    scene.keeper._running.add(1)
    assert scene.keeper.due() == {}
    scene.cut(due)
    assert scene.node.group(1).log.size_bytes < KIB
    assert scene.keeper.due() == {}


def test_all_together_are_kept_within_the_memory(scene: Scene) -> None:
    """None is beyond its own size, but the sum is beyond a quarter: the largest goes first."""
    scene.keeper.log_bytes_max = KIB * KIB
    scene.write(1, 10 * KIB)
    scene.node.wal._segments[:-1] = []
    scene.write(2, 8 * KIB)
    scene.node.wal._segments[:-1] = []
    assert scene.keeper.due() == {1: False}
    scene.cut({1: False})
    scene.node.wal._segments[:-1] = []
    assert scene.keeper.due() == {}


def test_a_spare_that_finds_no_space_is_tried_again_every_second(scene: Scene) -> None:
    """Meanwhile all logs are cut, for whole segments to become free."""
    scene.node.disk.free_bytes = 0
    scene.node.wal._spares.clear()
    scene.keeper.refill()
    assert scene.full()
    assert scene.keeper.due() == {1: True, 2: True}
    assert scene.keeper.due() == {}
    scene.net.now_s += FULL_CUT_S
    assert scene.keeper.due() == {1: True, 2: True}
    scene.node.disk.free_bytes = math.inf
    scene.net.now_s += SPARE_RETRY_S / 2 - FULL_CUT_S
    scene.keeper.refill()
    assert scene.full()
    scene.net.now_s += SPARE_RETRY_S
    scene.keeper.refill()
    assert not scene.full()
    assert scene.node.wal.admits(1, SEGMENT_BYTES // 2)
    assert scene.failures == []


def test_a_checkpoint_without_space_leaves_the_log(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is needed still; any other failure ends the node."""
    scene.write(1, 9 * KIB)
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL

    def fails() -> int:
        raise error

    monkeypatch.setattr(scene.node.machines[1], "make_durable", fails)
    size = scene.node.group(1).log.size_bytes
    scene.cut({1: True})
    assert scene.node.group(1).log.size_bytes == size
    assert scene.failures == []
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    scene.cut({1: True})
    assert scene.failures == [error]


def test_a_disk_that_fails_ends_the_node(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a spare may lack space, nothing else."""

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(scene.node.disk, "create", broken)
    scene.node.wal._spares.clear()
    scene.keeper.refill()
    assert [str(error) for error in scene.failures] == ["[Errno 5] Input/output error"]
