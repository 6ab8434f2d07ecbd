"""Micro-batching: searches that wait together are one call, and nothing waits for company."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cluster.search_calls import SearchCalls
from cluster.search_lanes import SEARCHES_PER_CALL_MAX, Passing, SearchLanes
from storage.filter_parse import parse_filter
from storage.ids import encode_id
from storage.payload_index.fields import FieldIndex
from storage.payload_index.selection import ByPayload
from storage.vector_index import VectorIndex


class Gated:
    """A vector index whose calls wait until the gate is open, and are counted."""

    def __init__(self) -> None:
        self.index = VectorIndex(dimension=2, distance="Euclid")
        rows = [(n, 1, encode_id(n), np.array([n, 0], "<f4").tobytes()) for n in range(50)]
        self.index.upsert(0, rows)
        self.gate = threading.Event()
        self.calls: list[tuple[int, int, int | None]] = []
        self.failure: Exception | None = None

    would_wait = False

    def settle(self):
        """It has taken in all there is."""

    def search_many(self, vectors, limit, *, ef=None, unit=False):
        self.calls.append((len(vectors), limit, ef))
        assert self.gate.wait(10)
        if self.failure is not None:
            raise self.failure
        return self.index.search_many(vectors, limit, ef=ef, unit=unit)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def lanes_of(executor: ThreadPoolExecutor, lanes: int) -> SearchLanes:
    return SearchLanes(SearchCalls(lambda: 0.0), executor, lanes)


def near(x: float) -> np.ndarray:
    return np.array([x, 0], np.float32)


def ids(hits):
    return [int.from_bytes(hit.id[1:], "big") for hit in hits]


async def started(index: Gated, calls: int) -> None:
    """Wait until so many calls are under way."""
    async with asyncio.timeout(10):
        while len(index.calls) < calls:
            await asyncio.sleep(0)


async def test_an_idle_lane_answers_at_once(executor):
    """A single search is a call of its own."""
    index = Gated()
    index.gate.set()

    assert await lanes_of(executor, 1).nearest(index, near(7.1), 2, None, ids) == [7, 8]
    assert index.calls == [(1, 2, None)]


async def test_searches_that_wait_share_a_call(executor):
    """What comes while the lane is busy goes together, and each gets its own answer."""
    index, lanes = Gated(), lanes_of(executor, 1)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(lanes.nearest(index, near(0), 1, None, ids))
        await started(index, 1)
        others = [group.create_task(lanes.nearest(index, near(n), 1, None, ids)) for n in range(9)]
        await asyncio.sleep(0)
        index.gate.set()

    assert index.calls == [(1, 1, None), (9, 1, None)]
    assert first.result() == [0]
    assert [task.result() for task in others] == [[n] for n in range(9)]


async def test_a_lane_leaves_the_others_their_share(executor):
    """Of what waits a lane takes no more than its part, so that no core stands still."""
    index, lanes = Gated(), lanes_of(executor, 2)
    async with asyncio.TaskGroup() as group:
        for busy in (1, 2):
            group.create_task(lanes.nearest(index, near(0), 1, None, ids))
            await started(index, busy)
        others = [group.create_task(lanes.nearest(index, near(n), 1, None, ids)) for n in range(6)]
        await asyncio.sleep(0)
        index.gate.set()

    assert [count for count, _, _ in index.calls] == [1, 1, 3, 2, 1]
    assert [task.result() for task in others] == [[n] for n in range(6)]


async def test_only_like_searches_share_a_call(executor):
    """Another limit or beam width would change what the others get."""
    index, lanes = Gated(), lanes_of(executor, 1)
    asked = [(1, None), (2, None), (1, 99), (1, None), (2, None)]
    async with asyncio.TaskGroup() as group:
        group.create_task(lanes.nearest(index, near(0), 5, None, ids))
        await started(index, 1)
        tasks = [group.create_task(lanes.nearest(index, near(3), k, ef, ids)) for k, ef in asked]
        await asyncio.sleep(0)
        index.gate.set()

    assert index.calls[1:] == [(2, 1, None), (2, 2, None), (1, 1, 99)]
    assert [len(task.result()) for task in tasks] == [1, 2, 1, 1, 2]


async def test_two_lanes_search_at_the_same_time(executor):
    """A second lane does not wait for the first."""
    index, lanes = Gated(), lanes_of(executor, 2)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(lanes.nearest(index, near(n), 1, None, ids)) for n in range(3)]
        await started(index, 2)
        waiting = len(index.calls)
        index.gate.set()

    assert waiting == 2
    assert [task.result() for task in tasks] == [[0], [1], [2]]


async def test_a_call_is_bounded(executor):
    """A long queue is several calls, oldest first."""
    index, lanes = Gated(), lanes_of(executor, 1)
    count = 2 * SEARCHES_PER_CALL_MAX + 3
    async with asyncio.TaskGroup() as group:
        group.create_task(lanes.nearest(index, near(0), 1, None, ids))
        await started(index, 1)
        for n in range(count):
            group.create_task(lanes.nearest(index, near(n % 50), 1, None, ids))
        await asyncio.sleep(0)
        index.gate.set()

    sizes = [size for size, _, _ in index.calls]
    assert sizes == [1, SEARCHES_PER_CALL_MAX, SEARCHES_PER_CALL_MAX, 3]


async def test_a_failing_call_fails_its_searches_and_no_others(executor):
    """After a failure the lane goes on with what waits."""
    index, lanes = Gated(), lanes_of(executor, 1)
    index.failure = ValueError("broken")
    index.gate.set()
    with pytest.raises(ValueError, match="broken"):
        await lanes.nearest(index, near(1), 1, None, ids)
    index.failure = None

    assert await lanes.nearest(index, near(1), 1, None, ids) == [1]


async def test_a_failing_finish_fails_its_own_search(executor):
    """The others of the same call get their answers."""
    index, lanes = Gated(), lanes_of(executor, 1)

    def broken(hits):
        raise ValueError("mine alone")

    async with asyncio.TaskGroup() as group:
        group.create_task(lanes.nearest(index, near(0), 1, None, ids))
        await started(index, 1)
        good = group.create_task(lanes.nearest(index, near(4), 1, None, ids))
        bad = group.create_task(caught(lanes.nearest(index, near(5), 1, None, broken)))
        await asyncio.sleep(0)
        index.gate.set()

    assert good.result() == [4]
    assert str(bad.result()) == "mine alone"


async def caught(search):
    try:
        return await search
    except ValueError as error:
        return error


async def test_a_search_that_is_given_up_leaves_the_others_alone(executor):
    """A client that went away does not disturb whom it waited with."""
    index, lanes = Gated(), lanes_of(executor, 1)
    async with asyncio.TaskGroup() as group:
        group.create_task(lanes.nearest(index, near(0), 1, None, ids))
        await started(index, 1)
        gone = group.create_task(lanes.nearest(index, near(1), 1, None, ids))
        stays = group.create_task(lanes.nearest(index, near(2), 1, None, ids))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        index.gate.set()

    assert gone.cancelled()
    assert stays.result() == [2]


async def test_searches_asked_together_share_their_calls(executor):
    """Many at once are as few calls as fit, over all free lanes, and answer in their order."""
    index, lanes = Gated(), lanes_of(executor, 2)
    asked = [(near(n % 50), ids) for n in range(SEARCHES_PER_CALL_MAX + 8)]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(lanes.nearest_many(index, asked, 1, None))
        await started(index, 2)
        index.gate.set()

    assert task.result() == [[n % 50] for n in range(SEARCHES_PER_CALL_MAX + 8)]
    assert sum(call[0] for call in index.calls) == len(asked)
    assert len(index.calls) <= len(asked) // 3


async def test_one_failure_fails_all_that_were_asked_together(executor):
    """The first failure is raised once every search is over."""
    index, lanes = Gated(), lanes_of(executor, 1)
    index.gate.set()

    def broken(hits):
        raise ValueError("not this one")

    asked = [(near(1), ids), (near(2), broken), (near(3), broken)]
    with pytest.raises(ValueError, match="not this one"):
        await lanes.nearest_many(index, asked, 1, None)


WHERE = {"key": "n"}


async def test_searches_with_one_filter_share_a_call(executor):
    """Two requests with the same filter ask the same rows; with another they are a group apart."""
    index = VectorIndex(dimension=2, distance="Euclid")
    index.payloads.set_fields([FieldIndex("n", "integer")], lambda *_: ())
    payloads = [b'{"n":%d}' % n for n in range(50)]
    rows = [(n, 1, encode_id(n), np.array([n, 0], "<f4").tobytes()) for n in range(50)]
    index.defer(0, rows, (), payloads)
    while index.build(50):
        pass
    few, none = (
        ByPayload(
            index._state.payloads, parse_filter({"must": WHERE | {"range": {"gte": n}}}), None
        )
        for n in (40, 60)
    )
    assert Passing(index, few) == Passing(index, few)
    assert Passing(index, few) != Passing(index, none)
    lanes = lanes_of(executor, 1)
    async with asyncio.TaskGroup() as group:
        found = [
            group.create_task(lanes.nearest(Passing(index, few), near(n), 2, None, ids))
            for n in range(40, 44)
        ]
        nothing = group.create_task(lanes.nearest(Passing(index, none), near(1), 2, None, ids))
    assert [sorted(each.result()) for each in found] == [[40, 41], [40, 41], [41, 42], [42, 43]]
    assert nothing.result() == []
