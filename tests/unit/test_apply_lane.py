"""The apply lane: what is applied where and when, and what an error or a full disk does."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.command import (
    Command,
    DropCollection,
    DropGraph,
    Result,
    Transaction,
    encode_command,
)
from cluster.raft.apply_lane import (
    GATHER_BYTES,
    LATE_TURN_S,
    PATIENCE_S,
    SLOW_REST_S,
    SLOW_S,
    SMALL_BYTES,
    TURN_S,
    ApplyLane,
)
from cluster.raft.driver import Driver
from cluster.replica import Replica
from cluster.shard import ShardMachine
from cluster.state_machine import Entry
from graph.model import GraphChanges, NodeWrite
from tests.shard_commands import TTL_MS, command, point, upsert
from tests.simulation.nodes import Net


class Watched(ShardMachine):
    """A shard's state that notes where it was applied, and fails on demand."""

    def __init__(self) -> None:
        super().__init__(None, request_id_ttl_ms=TTL_MS)
        self.batches: list[tuple[str, int]] = []
        self.errors: list[Exception] = []
        self.before: Callable[[], None] = lambda: None

    def apply(self, entries: Sequence[Entry]) -> list[Result]:  # type: ignore[explicit-override]
        self.before()
        if self.errors:
            raise self.errors.pop(0)
        self.batches.append((threading.current_thread().name, len(entries)))
        return super().apply(entries)


class Scene:
    """A lane with one replica on it."""

    def __init__(self, group: int = 1) -> None:
        self.now_s = 1000.0
        self.failures: list[BaseException] = []
        self.told: list[int] = []
        self.machine = Watched()
        net = Net("A")
        net.elect("A")
        self.replica = Replica(group, net.nodes["A"].group(), self.machine, lambda: None)
        self.pool = ThreadPoolExecutor(1, "lane")
        self.lane = ApplyLane(self.pool, self, clock=lambda: self.now_s, fail=self.failures.append)
        self.next_index = 2

    def applied(self, replica: Replica) -> None:
        self.told.append(replica.machine.position()[0])

    def installed(self, replica: Replica) -> None:
        raise AssertionError("nothing is installed here")

    def commit(self, count: int = 1, payload_bytes: int = 0) -> None:
        """Bring committed entries to the replica, as the driver does."""
        payload = b'{"a":"' + b"x" * payload_bytes + b'"}'
        numbers = range(self.next_index, self.next_index + count)
        self.bring([command(upsert(point(number, payload))) for number in numbers])

    def bring(self, commands: Sequence[bytes]) -> None:
        entries = []
        for raw in commands:
            entries.append((b"\x00" + raw, self.next_index, 1))
            self.next_index += 1
        self.replica.take_committed(entries)
        self.lane.look(self.replica)

    async def until(self, index: int) -> None:
        async with asyncio.timeout(5):
            while self.replica.applied_index < index:
                await asyncio.sleep(0.005)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    yield made
    made.lane.close()
    made.pool.shutdown()


async def waited_for(scene: Scene, index: int) -> asyncio.Task[None]:
    task = asyncio.ensure_future(scene.replica.wait_applied(index, 10**9))
    await asyncio.sleep(0)
    assert scene.replica.awaited
    return task


async def test_what_somebody_waits_for_is_applied_at_once_on_the_loop(scene: Scene) -> None:
    """A small batch does not pay for a thread."""
    waiting = await waited_for(scene, 2)
    scene.commit()
    assert scene.machine.batches == [(threading.current_thread().name, 1)]
    assert scene.told == [2]
    await waiting


async def test_batches_of_many_shards_leave_the_loop_time_for_others(scene: Scene) -> None:
    """What one write brings to several shards is applied in turns, a request's way between them."""
    other = Scene(2)
    other.lane = scene.lane
    first, second = await waited_for(scene, 2), await waited_for(other, 2)
    seen: list[int] = []
    scene.commit()
    other.commit()
    asyncio.get_running_loop().call_soon(lambda: seen.append(len(other.machine.batches)))
    assert (len(scene.machine.batches), other.machine.batches) == (1, [])
    await first
    await second

    assert other.machine.batches == [(threading.current_thread().name, 1)]
    assert seen
    other.pool.shutdown()


class Beside:
    """Two replicas of one lane, whose batches are committed together, and searches beside them."""

    def __init__(self, scene: Scene) -> None:
        self.scenes = [scene, Scene(2), Scene(3)]
        self.searching = True
        scene.lane.give_way_to(lambda: self.searching)
        for each in self.scenes[1:]:
            each.lane = scene.lane

    @property
    def clock(self) -> Scene:
        return self.scenes[0]

    def each_takes(self, seconds: float) -> None:
        """Let time pass while a batch is applied."""
        for each in self.scenes:
            each.machine.before = lambda: setattr(self.clock, "now_s", self.clock.now_s + seconds)

    @property
    def applied(self) -> int:
        return sum(len(each.machine.batches) for each in self.scenes)

    async def pass_turns(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)


@pytest.fixture
async def beside(scene: Scene) -> AsyncIterator[Beside]:
    made = Beside(scene)
    waiting = [await waited_for(each, 2) for each in made.scenes]
    for each in made.scenes:
        each.commit()
    yield made
    made.searching = False
    await asyncio.gather(*waiting)
    for each in made.scenes[1:]:
        each.pool.shutdown()


async def test_searches_go_before_what_is_applied(beside: Beside) -> None:
    """Who searches waits for nothing else; applying goes on when nobody does any more."""
    await beside.pass_turns(50)
    assert beside.applied == 0

    beside.searching = False
    await beside.pass_turns(2)
    assert beside.applied == 3


async def test_searches_without_end_do_not_stop_what_is_applied(beside: Beside) -> None:
    """After a while it has its turn, for longer than otherwise; then it gives way again."""
    beside.each_takes(LATE_TURN_S / 1.5)
    await beside.pass_turns(2)
    beside.clock.now_s += PATIENCE_S
    await beside.pass_turns(20)
    assert beside.applied == 2

    beside.clock.now_s += PATIENCE_S * 0.9
    await beside.pass_turns(20)
    assert beside.applied == 2


async def test_a_gap_between_searches_does_not_begin_the_patience_anew(beside: Beside) -> None:
    """Else short turns in such gaps would be all that writes ever get."""
    beside.each_takes(TURN_S)
    await beside.pass_turns(2)
    beside.clock.now_s += PATIENCE_S * 0.9
    beside.searching = False
    await beside.pass_turns(1)
    beside.searching = True
    assert beside.applied == 1

    await beside.pass_turns(20)
    assert beside.applied == 1
    beside.clock.now_s += PATIENCE_S * 0.1
    await beside.pass_turns(20)
    assert beside.applied == 3


async def test_an_ordinary_turn_is_short(beside: Beside) -> None:
    """Where nobody searches, requests and answers have their way after a millisecond."""
    beside.searching = False
    beside.each_takes(TURN_S)
    for applied in (1, 2, 3):
        await beside.pass_turns(1)
        assert beside.applied == applied


async def test_what_is_for_the_thread_waits_for_no_search(scene: Scene) -> None:
    """It takes little of the loop's time, and the thread has nothing else to do."""
    scene.lane.give_way_to(lambda: True)
    waiting = await waited_for(scene, 2)
    scene.commit(payload_bytes=SMALL_BYTES)
    await scene.until(2)

    assert [thread for thread, _ in scene.machine.batches] == ["lane_0"]
    await waiting


async def test_a_closed_lane_takes_no_more_turns(scene: Scene) -> None:
    """What waits for the next turn is left to the log."""
    other = Scene(2)
    other.lane = scene.lane
    waiting = [await waited_for(scene, 2), await waited_for(other, 2)]
    scene.commit()
    other.commit()
    scene.lane.close()
    for _ in range(3):
        await asyncio.sleep(0)

    assert (other.machine.batches, scene.lane._turn) == ([], False)
    await waiting[0]
    waiting[1].cancel()
    other.pool.shutdown()


LARGE_EFFECTS = {
    "a collection goes": DropCollection(1),
    "a graph goes": DropGraph(5),
    "nodes go, and with them any number of edges": Transaction(
        [], 5, GraphChanges(delete_nodes=["a"], cascade=True)
    ),
}


@pytest.mark.parametrize("body", LARGE_EFFECTS.values(), ids=LARGE_EFFECTS.keys())
async def test_a_small_entry_with_a_large_effect_goes_to_the_thread(scene: Scene, body) -> None:
    """How much an entry changes does not follow from its size; the loop must not find out."""
    waiting = await waited_for(scene, 2)
    scene.bring([encode_command(Command("", 1, body))])
    await scene.until(2)

    assert [thread for thread, _ in scene.machine.batches] == ["lane_0"]
    await waiting


async def test_a_small_graph_change_is_applied_on_the_loop(scene: Scene) -> None:
    """Writing a node or an edge is as small as it looks."""
    waiting = await waited_for(scene, 2)
    body = Transaction([], 5, GraphChanges(nodes=[NodeWrite("a")]))
    scene.bring([encode_command(Command("", 1, body))])

    assert scene.machine.batches == [(threading.current_thread().name, 1)]
    await waiting


async def test_what_nobody_waits_for_gathers(scene: Scene) -> None:
    """Many entries share a transaction at followers."""
    for _ in range(5):
        scene.commit()
    assert scene.machine.batches == []
    await scene.until(6)
    assert [count for _, count in scene.machine.batches] == [5]


async def test_a_wait_ends_the_gathering(scene: Scene) -> None:
    """A read with a token, or of this node's own write, does not wait for company."""
    scene.commit(3)
    waiting = await waited_for(scene, 4)
    scene.lane.look(scene.replica)
    assert [count for _, count in scene.machine.batches] == [3]
    await waiting


async def test_a_large_batch_goes_to_the_thread(scene: Scene) -> None:
    """The event loop goes on."""
    scene.commit(8, payload_bytes=GATHER_BYTES // 8)
    await scene.until(9)
    ((thread, count),) = scene.machine.batches
    assert thread.startswith("lane")
    assert count == 8
    assert scene.replica.inbox_bytes == 0


async def test_nothing_is_applied_on_the_loop_beside_the_thread(scene: Scene) -> None:
    """Opening an index reads the states: no entry may change one meanwhile."""
    begun, go_on = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        assert go_on.wait(5)
        return "done"

    other = asyncio.ensure_future(scene.lane.run(work))
    await asyncio.to_thread(begun.wait, 5)
    waiting = await waited_for(scene, 2)
    scene.commit()
    assert scene.machine.batches == []
    go_on.set()
    assert await other == "done"
    await waiting
    assert scene.machine.batches[0][0].startswith("lane")


async def test_a_slow_disk_is_left_to_the_thread_for_a_while(scene: Scene) -> None:
    """One slow commit is enough; later the loop tries again."""

    def slow() -> None:
        scene.now_s += 2 * SLOW_S

    scene.machine.before = slow
    waiting = await waited_for(scene, 3)
    scene.commit()
    scene.machine.before = lambda: None
    scene.commit()
    await waiting
    assert [thread.startswith("lane") for thread, _ in scene.machine.batches] == [False, True]
    scene.now_s += SLOW_REST_S
    waiting = await waited_for(scene, 4)
    scene.commit()
    await waiting
    assert not scene.machine.batches[-1][0].startswith("lane")


async def test_metadata_is_never_applied_on_the_loop() -> None:
    """It opens indexes, which reads whole shards."""
    made = Scene(group=0)
    made.commit()
    await made.until(2)
    assert made.machine.batches[0][0].startswith("lane")
    made.pool.shutdown()


async def test_a_full_disk_makes_entries_wait(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are applied, in order, when there is space."""
    monkeypatch.setattr("cluster.raft.apply_lane.DISK_FULL_RETRY_S", 0.01)
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    scene.machine.errors = [full, full]
    waiting = await waited_for(scene, 3)
    scene.commit(2)
    assert scene.replica.storage_full
    assert scene.replica.inbox_bytes > 0
    await waiting
    assert scene.replica.applied_index == 3
    assert [count for _, count in scene.machine.batches] == [2]
    assert scene.failures == []


@pytest.mark.parametrize("payload_bytes", [0, GATHER_BYTES])
async def test_any_other_error_ends_the_node(scene: Scene, payload_bytes: int) -> None:
    """On the loop as on the thread."""
    scene.machine.errors = [sqlite3.OperationalError("disk I/O error")]
    waiting = await waited_for(scene, 2)
    scene.commit(payload_bytes=payload_bytes)
    async with asyncio.timeout(5):
        while not scene.failures:
            await asyncio.sleep(0.005)
    assert scene.machine.batches == []
    waiting.cancel()


async def test_a_snapshot_that_overtakes_what_waited_ends_the_fullness(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would clear it afterwards: no entry comes while writes are refused."""
    monkeypatch.setattr("cluster.raft.apply_lane.DISK_FULL_RETRY_S", 0.01)
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    scene.machine.errors = [full]
    waiting = await waited_for(scene, 99)
    scene.commit(2)
    assert scene.replica.storage_full
    scene.replica.discard_below(99)
    async with asyncio.timeout(5):
        while scene.replica.retrying:
            await asyncio.sleep(0.005)
    assert [scene.replica.storage_full] == [False]
    waiting.cancel()


async def test_timers_run_however_often_something_else_is_due() -> None:
    """A group that hands over is due at once, again and again; the others still get their turn."""
    elapsed: list[float] = []
    loop = asyncio.get_running_loop()
    driver: Any = SimpleNamespace(
        host=SimpleNamespace(due_s=-math.inf, elapse=lambda: elapsed.append(loop.time())),
        _config=SimpleNamespace(heartbeat_ms=100),
        _clock=loop.time,
        _tick_s=0.02,
        _sooner=asyncio.Event(),
        _plan=lambda: None,
    )
    ticking = asyncio.ensure_future(Driver._tick_for_ever(driver))
    async with asyncio.timeout(5):
        while len(elapsed) < 5:
            driver._sooner.set()
            await asyncio.sleep(0.002)
    assert all(later > earlier for earlier, later in pairwise(elapsed))
    ticking.cancel()
