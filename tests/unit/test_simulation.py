"""The simulator itself: a seed is one run, whatever the process; and a lie does not pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cluster.graph_memory import GraphMemory
from cluster.graph_rows import GraphChange
from cluster.raft.host import _Outbox
from cluster.read_path import ReadPath
from cluster.shard import _ShardBatch
from storage.requests import RequestMemory
from tests.simulation.checkers import Violation
from tests.simulation.node_world import NodeWorld

ROOT = Path(__file__).parents[2]
SEED = 7


def replay(world: str, hash_seed: str) -> str:
    """Run one seed in a process of its own, and return what it prints of the digest."""
    command = [sys.executable, "-m", "tests.simulation", "--world", world, "--seed", str(SEED)]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=50
    )
    return done.stdout.splitlines()[0]


@pytest.mark.parametrize("world", ["groups", "nodes"])
def test_a_seed_gives_the_same_run_whatever_the_hashes_of_strings_are(world: str) -> None:
    """Else a failing seed could not be replayed, and replicas could differ by it."""
    first, second = replay(world, "1"), replay(world, "2")

    assert "digest" in first
    assert first == second


def broken_seeds(seeds: range) -> list[int]:
    """Return the first seed that finds something wrong, if any does."""
    for seed in seeds:
        try:
            NodeWorld(seed).run()
        except Violation:
            return [seed]
    return []


def test_a_node_that_acknowledges_before_its_disk_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Messages leave before what they say is durable."""
    released = _Outbox.released
    monkeypatch.setattr(_Outbox, "released", lambda self, _: released(self, 1 << 60))

    assert broken_seeds(range(2, 12))


def test_a_node_that_forgets_request_ids_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated request takes effect again."""
    monkeypatch.setattr(RequestMemory, "recall", lambda *_: None)

    assert broken_seeds(range(2, 22))


def test_a_strong_read_without_its_barrier_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows what some replica happens to have."""

    async def no_barrier(_path: object, shards: list[int], _deadline_s: float) -> dict[int, int]:
        return dict.fromkeys(shards, 0)

    monkeypatch.setattr(ReadPath, "_barrier", no_barrier)

    assert broken_seeds(range(3, 13))


def test_points_that_change_without_their_graph_are_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A transaction whose graph is refused has left its points behind."""
    transact = _ShardBatch._transact

    def torn(batch, body, stamp):
        affected = sum(batch._change(each, stamp) for each in body.points)
        return affected + transact(batch, msgspec.structs.replace(body, points=[]), stamp)

    monkeypatch.setattr(_ShardBatch, "_transact", torn)

    assert broken_seeds(range(2, 12))


def test_a_query_that_overwrites_what_came_between_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The condition on the graph's version is not looked at."""
    check = GraphChange.check
    monkeypatch.setattr(GraphChange, "check", lambda self, _: check(self, None))

    assert broken_seeds(range(6, 20))


def test_a_graph_that_outlives_its_rows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that took another's state over still shows its own."""
    monkeypatch.setattr(GraphMemory, "forget", lambda _: None)

    assert broken_seeds(range(2, 12))
