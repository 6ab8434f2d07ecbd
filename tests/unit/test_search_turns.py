"""Turns: short searches are made by the event loop, together; all others by threads."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cluster.search_calls import KINDS_MAX, Search, SearchCalls
from cluster.search_lanes import SearchLanes
from cluster.search_turns import (
    COMPANY,
    CROWD,
    HELP_MAX,
    SEARCHES_PER_TURN_MAX,
    SHORT_S,
    TURN_S,
    SearchTurns,
)
from storage.ids import encode_id
from storage.vector_index import VectorIndex

COUNT = 50


class Watched:
    """A vector index whose calls are noted, and take as much of a made-up clock as it is told."""

    def __init__(self) -> None:
        self.index = VectorIndex(dimension=2, distance="Euclid")
        rows = [(n, 1, encode_id(n), np.array([n, 0], "<f4").tobytes()) for n in range(COUNT)]
        self.index.upsert(0, rows)
        self.here: list[int] = []
        """Searches of each call that the event loop made."""
        self.there: list[int] = []
        """Of each call that a thread made."""
        self.cost_s = 0.0001
        self.taking_in_s = 0.0
        """Of what was written, before the next call."""
        self.now_s = 0.0
        self.failure: Exception | None = None
        self.gate, self.called_twice = threading.Event(), threading.Event()
        """Calls of threads wait for one; the other tells of their second."""
        self.gate.set()

    would_wait = False

    def settle(self):
        self.now_s += self.taking_in_s
        self.taking_in_s = 0.0

    def search_many(self, vectors, limit, *, ef=None, unit=False):
        if threading.current_thread() is threading.main_thread():
            self.here.append(len(vectors))
        else:
            self.there.append(len(vectors))
            if len(self.there) > 1:
                self.called_twice.set()
            assert self.gate.wait(10)
        self.settle()
        self.now_s += self.cost_s * len(vectors)
        if self.failure is not None:
            raise self.failure
        return self.index.search_many(vectors, limit, ef=ef, unit=unit)


class Turns:
    """Turns over a watched index, which know already what a search costs."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.index = Watched()
        self.calls = SearchCalls(lambda: self.index.now_s)
        self.turns = SearchTurns(SearchLanes(self.calls, pool, 2))

    def begin(self, x: float, *, limit=1, at_once=None, finish=None, index=None) -> asyncio.Future:
        answered = asyncio.get_running_loop().create_future()
        finish = finish or ids
        search = Search(near(x), finish, answered.set_result, at_once or finish)
        self.turns.begin((index or self.index, limit, None), search)
        return answered

    async def known(self, limit=1) -> "Turns":
        assert await self.ask(0, limit=limit) == [0]
        self.index.here.clear()
        self.index.there.clear()
        self.index.called_twice.clear()
        return self

    async def ask(self, x: float, **how):
        async with asyncio.timeout(10):
            return (await self.begin(x, **how))[:1]

    async def until_helped(self) -> None:
        """Wait until a thread has begun a call."""
        async with asyncio.timeout(10):
            while not self.index.there:
                await asyncio.sleep(0)

    async def all(self, asked) -> list:
        async with asyncio.timeout(10):
            return [await each for each in asked]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def near(x: float) -> np.ndarray:
    return np.array([x, 0], np.float32)


def ids(hits):
    return [int.from_bytes(hit.id[1:], "big") for hit in hits]


async def test_what_is_not_known_to_be_short_is_for_a_thread(pool):
    """The first search of a kind tells what such a search costs; the next is made here."""
    turns = Turns(pool)

    assert await turns.ask(7) == [7]
    assert (turns.index.here, turns.index.there) == ([], [1])
    assert await turns.ask(8) == [8]
    assert (turns.index.here, turns.index.there) == ([1], [1])


async def test_what_is_long_stays_with_the_threads_until_it_is_short(pool):
    """A kind of search that became cheaper comes back."""
    turns = Turns(pool)
    turns.index.cost_s = 2 * SHORT_S
    for n in range(4):
        assert await turns.ask(n) == [n]
    assert turns.index.here == []
    turns.index.cost_s = 0.0
    async with asyncio.timeout(10):
        while not turns.index.here:
            assert await turns.ask(5) == [5]


async def test_one_that_became_long_leaves(pool):
    """What a call took counts for the next one."""
    turns = await Turns(pool).known()
    turns.index.cost_s = 10 * SHORT_S
    for n in range(3):
        assert await turns.ask(n) == [n]

    assert turns.index.here == [1]
    assert turns.index.there == [1, 1]


async def test_requests_of_one_turn_share_a_call(pool):
    """They are read before any of them is searched."""
    turns = await Turns(pool).known()
    asked = [turns.begin(n) for n in range(COMPANY - 1)]

    assert turns.index.here == []
    assert await turns.all(asked) == [[n] for n in range(COMPANY - 1)]
    assert (turns.index.here, turns.index.there) == ([COMPANY - 1], [])


async def test_a_thread_takes_half_of_many(pool):
    """And the event loop the other half, at the same time."""
    turns = await Turns(pool).known()
    turns.index.gate.clear()
    asked = [turns.begin(n) for n in range(COMPANY)]
    async with asyncio.timeout(10):
        while not all(each.done() for each in asked[COMPANY // 2 :]):
            await asyncio.sleep(0)
        assert not any(each.done() for each in asked[: COMPANY // 2])
        turns.index.gate.set()

    assert await turns.all(asked) == [[n] for n in range(COMPANY)]
    assert (turns.index.here, turns.index.there) == ([COMPANY // 2], [COMPANY // 2])


async def test_a_thread_that_helps_goes_on_behind_a_crowd(pool):
    """While it has a share nobody else is asked; behind too many it takes another."""
    turns = await Turns(pool).known()
    turns.index.gate.clear()
    asked = [turns.begin(n) for n in range(COMPANY)]
    await turns.all(asked[-1:])
    await turns.until_helped()
    crowd = [turns.begin(n) for n in range(CROWD)]
    await turns.all(crowd[-1:])
    held = len(turns.index.there)
    more = [turns.begin(n) for n in range(2 * CROWD)]
    turns.index.gate.set()
    await turns.all(more)

    assert await turns.all(asked + crowd) == [[n] for n in [*range(COMPANY), *range(CROWD)]]
    assert held == 1
    assert sum(turns.index.here) + sum(turns.index.there) == COMPANY + 3 * CROWD
    assert max(turns.index.there) <= HELP_MAX


async def test_a_thread_takes_another_share_while_many_wait(pool):
    """It asks by itself: the event loop is at a call of its own meanwhile."""
    turns = await Turns(pool).known()
    turns.index.gate.clear()
    asked = [turns.begin(n) for n in range(COMPANY)]
    await turns.all(asked[-1:])
    await turns.until_helped()
    crowd = [turns.begin(n) for n in range(COUNT)]
    turns.index.gate.set()
    assert turns.index.called_twice.wait(10)  # the event loop stands still, and so do its turns
    before = list(turns.index.here)

    assert await turns.all(asked + crowd) == [[n] for n in [*range(COMPANY), *range(COUNT)]]
    assert before == [COMPANY // 2]
    assert max(turns.index.there) <= HELP_MAX


async def test_threads_help_where_every_search_is_of_another_kind(pool):
    """As with filters of which each tenant has its own: none of them comes in company."""
    turns = Turns(pool)
    for limit in range(1, 9):
        await turns.known(limit=limit)
    found = await turns.all([turns.begin(3, limit=limit) for limit in range(1, 9)])

    assert [len(each) for each in found] == list(range(1, 9))
    assert turns.index.there
    assert len(turns.index.here) + len(turns.index.there) == 8


async def test_to_take_rows_in_is_no_part_of_what_a_search_costs(pool):
    """One search that found many rows to take in does not send those after it to threads."""
    turns = await Turns(pool).known()
    turns.index.taking_in_s = 100 * SHORT_S
    for _ in range(2):
        assert await turns.ask(1) == [1]

    assert (turns.index.here, turns.index.there) == ([1, 1], [])


async def test_a_turn_is_due_from_when_somebody_asks_until_it_is_made(pool):
    """What gives way to searches sees them from the beginning, and none when there are none."""
    turns = await Turns(pool).known()
    assert not turns.turns.is_due()
    asked = turns.begin(1)
    assert turns.turns.is_due()
    await asked

    assert not turns.turns.is_due()


async def test_a_search_that_would_wait_is_for_a_thread(pool):
    """While the builder has the graph for itself, the event loop goes on with other things."""
    turns = await Turns(pool).known()
    turns.index.would_wait = True
    assert await turns.all([turns.begin(n) for n in range(3)]) == [[0], [1], [2]]
    assert turns.index.here == []
    turns.index.would_wait = False
    assert await turns.ask(5) == [5]
    assert turns.index.here == [1]


async def test_what_has_nothing_to_answer_with_at_once_is_for_a_thread(pool):
    """The event loop cannot tell whether something is to be read for it."""
    turns = await Turns(pool).known()
    answered = asyncio.get_running_loop().create_future()
    turns.turns.begin((turns.index, 1, None), Search(near(4), ids, answered.set_result))

    assert await turns.all([answered]) == [[4]]
    assert turns.index.here == []


class Endless:
    """An index whose every call sees to it that another search of it waits when it is over."""

    would_wait = False

    def __init__(self, turns: "Turns", loop: asyncio.AbstractEventLoop) -> None:
        self.turns, self.loop = turns, loop
        self.asked: list[asyncio.Future] = []
        self.ended = False

    def settle(self):
        """It has taken in all there is."""

    def line_up(self):
        self.asked += [self.turns.begin(1, index=self) for _ in range(3)]

    def search_many(self, vectors, limit, *, ef=None, unit=False):
        lined_up = threading.Event()

        def line_up():
            self.line_up()
            lined_up.set()

        if not self.ended:
            self.loop.call_soon_threadsafe(line_up)
            assert lined_up.wait(10)
        self.turns.index.now_s += 1.0
        return self.turns.index.index.search_many(vectors, limit, ef=ef, unit=unit)


async def test_long_searches_without_end_keep_no_short_one_waiting(pool):
    """Threads that make long searches take what helps the event loop in between."""
    turns = await Turns(pool).known()
    endless = Endless(turns, asyncio.get_running_loop())
    endless.line_up()
    try:
        for _ in range(10):
            asked = [turns.begin(n) for n in range(2 * COMPANY)]
            read = turns.begin(9, finish=ids, at_once=lambda hits: None)
            assert await turns.all([*asked, read]) == [[n] for n in [*range(2 * COMPANY), 9]]
    finally:
        endless.ended = True


async def test_a_turn_is_short_whatever_a_search_costs(pool):
    """The loop looks at its connections after few searches; the fewer, the longer they are."""
    turns = await Turns(pool).known()
    turns.index.gate.clear()
    await turns.all([turns.begin(n) for n in range(COMPANY)][COMPANY // 2 :])
    turns.index.here.clear()
    many = 2 * SEARCHES_PER_TURN_MAX
    await turns.all([turns.begin(n) for n in range(many)])
    assert turns.index.here == [SEARCHES_PER_TURN_MAX] * 2
    turns.index.cost_s, turns.index.here[:] = TURN_S / 2, []
    for _ in range(9):
        await turns.ask(1)
    turns.index.here.clear()
    await turns.all([turns.begin(n) for n in range(4)])
    turns.index.gate.set()

    assert turns.index.here == [2, 2]


async def test_kinds_take_turns(pool):
    """Another limit is another call, and a kind with many searches does not keep others waiting."""
    turns = await Turns(pool).known()
    await turns.known(limit=2)
    turns.index.gate.clear()
    helped = [turns.begin(n) for n in range(COMPANY)]
    await helped[-1]
    turns.index.here.clear()
    many = [turns.begin(n) for n in range(3 * SEARCHES_PER_TURN_MAX)]
    other = turns.begin(9, limit=2)
    found = await other
    before = sum(each.done() for each in many)
    turns.index.gate.set()
    await turns.all(many + helped)

    assert sorted(found) == [8, 9] or sorted(found) == [9, 10]
    assert before < len(many)


async def test_what_has_to_be_read_for_an_answer_is_read_on_a_thread(pool):
    """The event loop searches, and leaves what may wait for a disk to others."""
    turns = await Turns(pool).known()
    where = []

    def finish(hits):
        where.append(threading.current_thread() is threading.main_thread())
        return ids(hits)

    assert await turns.ask(3, finish=finish, at_once=lambda hits: None) == [3]
    assert turns.index.here == [1]
    assert where == [False]


async def test_a_failing_call_fails_its_searches_and_no_others(pool):
    """Each gets the error, and the next turn works."""
    turns = await Turns(pool).known()
    turns.index.failure = ValueError("broken")
    failed = await turns.all([turns.begin(n) for n in range(COMPANY)])
    turns.index.failure = None

    assert [str(each) for each in failed] == ["broken"] * COMPANY
    assert await turns.ask(5) == [5]


async def test_a_failing_answer_fails_its_own_search(pool):
    """The others of the same call get theirs."""
    turns = await Turns(pool).known()

    def broken(hits):
        raise ValueError("mine alone")

    good, bad = turns.begin(1), turns.begin(2, finish=broken)
    assert await good == [1]
    assert str(await bad) == "mine alone"


async def test_every_search_is_answered_once_with_its_own_hits(pool):
    """Many at once, of two kinds, while threads help and finish."""
    turns = await Turns(pool).known()
    await turns.known(limit=2)
    async with asyncio.timeout(30):
        for round_ in range(200):
            asked = [
                turns.begin(n, limit=1 + n % 2, at_once=(lambda _: None) if n % 5 == 0 else None)
                for n in range(round_ % 23)
            ]
            assert [(await each)[0] for each in asked] == list(range(round_ % 23))


def test_a_cost_rises_sooner_than_it_falls():
    """A kind of search that is long now and then is not taken for a short one soon after."""
    index = Watched()
    calls = SearchCalls(lambda: index.now_s)
    key = (index, 1, None)

    def search(cost_s):
        index.cost_s = cost_s
        calls.hits(key, [Search(near(1), ids, ids)])
        return calls.cost_s(key)

    assert search(0.001) == pytest.approx(0.001)
    assert search(0.201) == pytest.approx(0.101)
    assert search(0.001) == pytest.approx(0.096)
    assert all(search(0.001) > SHORT_S for _ in range(50))
    assert any(search(0.001) < SHORT_S for _ in range(50))


def test_costs_are_bounded():
    """Kinds of search come and go; what is remembered of them does not grow, nor keep them."""
    index, calls = Watched(), SearchCalls(lambda: 0.0)
    for limit in range(1, KINDS_MAX + 10):
        calls.hits((index, limit, None), [Search(near(1), ids, ids)])

    assert len(calls._cost_s) <= KINDS_MAX
    assert calls.cost_s((index, KINDS_MAX + 9, None)) == 0.0
