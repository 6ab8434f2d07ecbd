"""The node's side of its workers: when they are forked, what they are lent, and what comes back.

The test is the workers: it has their side of each channel, and no process is forked.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import msgspec
import numpy as np
import pytest

from cluster.api.protocol import PATIENCE
from cluster.indexing import Changed
from cluster.workers import pool as pool_module
from cluster.workers.change_ring import RING_BYTES
from cluster.workers.channel import (
    MESSAGE_BYTES_MAX,
    Back,
    Channel,
    Leaving,
    Lent,
    Needed,
    Payloads,
    Ready,
    Report,
)
from cluster.workers.forking import Fork
from cluster.workers.pool import FRESH_FOR_MS, RENEWED_AFTER_S, RENEWED_ROWS, SearchWorkers
from cluster.workers.staffing import BUSY_PER_S, QUIET_S, UNUSED_S
from storage.ids import encode_id
from storage.index_set import IndexSet

TIME_S = 10.0
NO_PID = 2**22 - 3
UID = 1


class Side:
    """A worker's side of its channel."""

    def __init__(self, fork: Fork) -> None:
        self.fork = fork
        self.channel = Channel(fork.channel._socket.dup())
        self.channel.set_blocking(blocking=False)

    async def hear(self):
        """Return the next message, with its connection."""
        async with asyncio.timeout(TIME_S):
            while True:
                try:
                    return self.channel.receive()
                except BlockingIOError:
                    await asyncio.sleep(0)

    def is_told(self) -> bool:
        """Return whether there is something to hear."""
        try:
            return bool(self.channel._socket.recv(1, socket.MSG_PEEK)) or True
        except BlockingIOError:
            return False


class Node:
    """Implements `cluster.workers.surface.Surface`. `forks` says what the next forks do."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.indexes = IndexSet(None)
        self.indexes.open(UID, 2, "Euclid", 16, 200)
        self.fresh_ms = FRESH_FOR_MS
        self.memory = self.descriptors = True
        self.sides: list[Side] = []
        self.on_fork: Callable[[], int | None] = lambda: NO_PID
        self.adopted: list[tuple[bytes, int]] = []
        self.observed: list[tuple[str, float]] = []
        self.learned: list[Report] = []
        self.rows: list[tuple[bytes, int, bytes]] = []
        self.opened: list[socket.socket] = []

    def clock(self) -> float:
        return self.now_s

    def stays_fresh_ms(self, most_ms: int) -> int:
        return min(self.fresh_ms, most_ms)

    def has_memory(self) -> bool:
        return self.memory

    def has_descriptors(self, lent: int) -> bool:
        assert lent >= 0
        return self.descriptors

    def observe(self, route: str, seconds: float) -> None:
        self.observed.append((route, seconds))

    async def adopt(self, connection: socket.socket, unread: bytes, patience: int) -> None:
        self.opened.append(connection)
        self.adopted.append((unread, patience))

    async def payloads(self, uid, points):
        if uid != UID:
            raise RuntimeError("no such index")
        return self.rows, {shard: 7 for _, shard in points}

    def learn(self, report: Report) -> None:
        self.learned.append(report)

    def fork(self, fork: Fork) -> int | None:
        pid = self.on_fork()
        if pid is not None:
            self.sides.append(Side(fork))
        return pid


class Office:
    """A pool, looked after by the test instead of by time."""

    def __init__(self, count: int) -> None:
        self.node = Node()
        self.pool = SearchWorkers(count, self.node)
        self.searches_per_s = 0

    def look(self, seconds: float = 0.05) -> None:
        """Let some time pass in which searches come, and all workers go on."""
        self.node.now_s += seconds
        self.pool._demand.quick += round(self.searches_per_s * seconds)
        for side in self.node.sides:
            side.fork.shared.beat(side.fork.number)
        self.pool._look(self.node.now_s)

    async def staffed(self) -> list[Side]:
        """Have all workers there are to be, ready; lent to from now on."""
        self.searches_per_s = 2 * BUSY_PER_S
        self.look(QUIET_S)
        while len(self.node.sides) < self.pool._count:
            await self.ready(self.node.sides[-1])
            self.look()
        await self.ready(self.node.sides[-1])
        return self.node.sides

    async def ready(self, side: Side) -> None:
        side.channel.send(Ready())
        await self.until(lambda: all(each.is_ready for each in self.pool._hired))

    async def until(self, condition) -> None:
        async with asyncio.timeout(TIME_S):
            while not condition():
                await asyncio.sleep(0)

    def lend(self, unread: bytes = b"x", patience: int = PATIENCE) -> bool:
        near, far = socket.socketpair()
        self.node.opened += [near, far]
        return self.pool.lend(near.fileno(), unread, patience)


@contextlib.asynccontextmanager
async def office(count: int = 2) -> AsyncIterator[Office]:
    made = Office(count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_module, "TICK_S", 3600.0)
        patch.setattr(pool_module, "IDLE_TICK_S", 3600.0)
        running = asyncio.create_task(made.pool.run())
        await asyncio.sleep(0)
        try:
            yield made
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            for side in made.node.sides:
                side.channel.close()
            for hired in made.pool._hired:
                asyncio.get_running_loop().remove_reader(hired.channel.descriptor)
                hired.channel.close()
            for each in made.node.opened:
                each.close()


def rows(number: int, first: int = 0) -> Changed:
    made = [
        (first + n, 1, encode_id(first + n), np.array([n, 1], "<f4").tobytes())
        for n in range(number)
    ]
    return Changed(UID, 0, 5, made, [], [])


async def test_workers_are_forked_one_after_the_other_when_searches_are_many():
    """Not before, not while something else changes, and as many as were asked for."""
    async with office() as made:
        made.look(QUIET_S)
        assert made.node.sides == []
        made.searches_per_s = 2 * BUSY_PER_S
        made.pool.reshaped()
        made.look(1.0)
        assert made.node.sides == [], "something changed"
        made.look(QUIET_S)
        assert len(made.node.sides) == 1
        made.look()
        assert len(made.node.sides) == 1, "the first is not ready"
        await made.ready(made.node.sides[0])
        made.look()
        made.look()
        assert len(made.node.sides) == 2
        await made.ready(made.node.sides[1])
        made.look()
        assert len(made.node.sides) == 2
        assert made.pool.count == 2


async def test_connections_are_shared_out_once_all_are_there():
    """The first that is ready would have them all."""
    async with office() as made:
        made.searches_per_s = 2 * BUSY_PER_S
        made.look(QUIET_S)
        await made.ready(made.node.sides[0])
        assert not made.lend()
        made.look()
        await made.ready(made.node.sides[1])
        assert [made.lend() for _ in range(6)] == [True] * 6
        for side in made.node.sides:
            for _ in range(3):
                message, connection = await side.hear()
                assert message == Lent(b"x", PATIENCE)
                connection.close()
            assert not side.is_told()
        assert made.pool.lent == 6


async def test_one_worker_serves_when_another_does_not_come():
    """After a second."""
    async with office() as made:
        made.searches_per_s = 2 * BUSY_PER_S
        made.look(QUIET_S)
        await made.ready(made.node.sides[0])
        made.node.on_fork = lambda: None
        made.look(1.0)
        assert made.lend()


@pytest.mark.parametrize("what", ["ticket", "fresh", "descriptors", "size", "leaving"])
async def test_nothing_is_lent_that_could_not_be_answered(what):
    """A worker would give it back, or could not take it; a request must not go to and fro."""
    async with office(1) as made:
        (side,) = await made.staffed()
        assert made.lend()
        unread = b"x"
        if what == "ticket":
            made.pool.reshaped()
        elif what == "fresh":
            made.node.fresh_ms = 0
            made.look(FRESH_FOR_MS / 1000 + 0.01)
        elif what == "descriptors":
            made.node.descriptors = False
        elif what == "size":
            unread = b"x" * MESSAGE_BYTES_MAX
        else:
            side.channel.send(Leaving())
            await made.until(lambda: made.pool._hired[0].is_leaving)
        assert not made.lend(unread)
        assert made.pool.lent == 1


async def test_what_comes_back_is_served_or_goes_to_another_worker():
    """It moves only because its worker ends; else it is the node's."""
    async with office() as made:
        first, second = await made.staffed()
        made.look(1.1)
        assert made.lend(b"one")
        _, connection = await first.hear()
        first.channel.send(Back(b"one", 32, is_moving=False), connection.fileno())
        await made.until(lambda: made.node.adopted)
        assert made.node.adopted == [(b"one", 32)]
        assert made.pool.lent == 0

        assert made.lend(b"two")
        _, again = await first.hear()
        made.node.opened.append(again)
        first.channel.send(Leaving())
        first.channel.send(Back(b"two", PATIENCE, is_moving=True), connection.fileno())
        message, moved = await second.hear()
        assert message == Lent(b"two", PATIENCE)
        assert moved is not None
        moved.close()
        assert made.pool.lent == 1
        assert await first.hear() is None, "nothing more is lent to it"
        connection.close()


async def test_a_connection_for_which_there_was_no_descriptor_is_counted():
    """It is closed, and nothing else is harmed."""
    async with office(1) as made:
        (side,) = await made.staffed()
        assert made.lend()
        side.channel.send(Back(b"", PATIENCE, is_moving=False))
        await made.until(lambda: made.pool.lent == 0)
        assert made.node.adopted == []
        assert made.lend()


async def test_reports_are_taken_in():
    """Searches are counted as the node's own, and keep workers there."""
    async with office(1) as made:
        (side,) = await made.staffed()
        assert made.lend()
        report = Report({"/r": [0.1, 0.2]}, 1, [(UID, b"v")], [], [])
        side.channel.send(report)
        await made.until(lambda: made.node.learned)
        assert made.node.observed == [("/r", 0.1), ("/r", 0.2)]
        assert made.node.learned == [report]
        assert made.pool.lent == 0
        assert made.pool._demand.quick == 2


async def test_payloads_are_read_for_workers():
    """With how new they may be; what does not fit, or cannot be read, is said."""
    async with office(1) as made:
        (side,) = await made.staffed()
        made.node.rows = [(b"i", 3, b"{}")]
        side.channel.send(Needed(1, UID, [(b"i", 4)]))
        assert await side.hear() == (Payloads(1, made.node.rows, {4: 7}), None)
        made.node.rows = [(b"i" * 17, 3, b"{}")] * 20_000
        side.channel.send(Needed(2, UID, [(b"i", 4)]))
        assert await side.hear() == (Payloads(2, None, {}), None)
        side.channel.send(Needed(3, UID + 1, [(b"i", 4)]))
        assert await side.hear() == (Payloads(3, None, {}), None)


async def test_workers_that_were_soon_of_no_use_are_waited_for_longer():
    """Those that leave together count once."""
    async with office() as made:
        sides = await made.staffed()
        made.pool.reshaped()
        for side in sides:
            side.channel.send(Leaving())
            assert await side.hear() is None
            side.channel.close()
        await made.until(lambda: not made.pool._hired)
        assert made.pool._calm.needed_s == 2 * QUIET_S
        made.look()
        made.searches_per_s = 2 * BUSY_PER_S
        made.look(1.5 * QUIET_S)
        assert len(made.node.sides) == 2
        made.look(0.51 * QUIET_S)
        assert len(made.node.sides) == 3


async def test_a_worker_that_dies_is_forgotten_and_followed():
    """Its place in the ring, too: else writes would find no room some time."""
    async with office(1) as made:
        (side,) = await made.staffed()
        assert made.lend()
        side.channel.close()
        await made.until(lambda: not made.pool._hired)
        assert made.pool.lent == 0
        for number in range(0, 100_000, 10_000):
            made.pool.rows_changed(rows(10_000, number))
        assert not made.pool._ring.is_read
        made.searches_per_s = 100_000  # as many as such a load of rows asks for
        made.look(2 * QUIET_S)
        assert len(made.node.sides) == 2


async def test_a_worker_that_fails_before_it_is_ready_forgets_what_was_rehearsed():
    """It may have failed of it, and so would all that follow."""
    async with office(1) as made:
        await made.staffed()
        assert made.lend(b"fatal")
        index = made.node.indexes.get(UID)
        assert index is not None
        index._state.improved += 1
        made.look(RENEWED_AFTER_S)
        assert made.node.sides[1].fork.rehearsal == (b"fatal",)
        made.node.sides[1].channel.close()
        await made.until(lambda: made.pool.count == 1)
        made.look(RENEWED_AFTER_S)
        assert made.node.sides[2].fork.rehearsal == ()


async def test_what_goes_wrong_with_workers_is_not_the_nodes_end(monkeypatch):
    """It serves alone as well."""
    async with office(1) as made:
        monkeypatch.setattr(pool_module, "TICK_S", 0.0)
        monkeypatch.setattr(pool_module, "IDLE_TICK_S", 0.0)
        looks = []

        def fail(most_ms):
            looks.append(most_ms)
            raise RuntimeError("a bug")

        monkeypatch.setattr(made.node, "stays_fresh_ms", fail)
        running = asyncio.create_task(SearchWorkers(1, made.node).run())
        await made.until(lambda: len(looks) > 2)
        assert not running.done()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@pytest.mark.parametrize("how", ["nobody searches", "no memory"])
async def test_workers_end_when_they_are_of_no_use(how):
    """And the builder does not wait for them."""
    async with office() as made:
        sides = await made.staffed()
        made.node.indexes.pause(paused=True)
        made.node.memory = how != "no memory"
        made.searches_per_s = 0
        made.look(1.0)
        made.look(UNUSED_S)
        for side in sides:
            assert await side.hear() is None
        assert not made.node.indexes._paused


async def test_workers_with_connections_stay_though_few_search():
    """A connection is kept for the next search."""
    async with office() as made:
        await made.staffed()
        assert made.lend()
        made.searches_per_s = 0
        made.look(1.0)
        made.look(10 * UNUSED_S)
        assert not any(each.is_leaving for each in made.pool._hired)


async def test_the_builder_makes_room_for_a_fork_and_not_for_ever():
    """It is asked to wait, then forking is given up for a while."""
    async with office(1) as made:
        made.node.on_fork = lambda: None
        made.searches_per_s = 2 * BUSY_PER_S
        made.look(QUIET_S)
        waits = []
        for _ in range(3 * pool_module.TRIES_MAX):
            made.look(0.01)
            waits.append(made.node.indexes._paused)
        assert waits == sorted(waits, reverse=True), "it is not asked again before long"
        assert waits[0]
        assert not waits[-1]
        assert made.pool._ring.is_read is False


async def test_a_system_without_room_for_a_process_is_no_failure():
    """The node serves alone, and tries again later."""

    def fail() -> None:
        raise OSError(11, "no processes")

    async with office(1) as made:
        made.node.on_fork = fail
        made.searches_per_s = 2 * BUSY_PER_S
        made.look(QUIET_S)
        assert made.pool.count == 0
        assert not made.pool._ring.is_read
        made.node.on_fork = lambda: NO_PID
        made.look()
        assert made.pool.count == 1


async def test_what_changes_while_a_worker_is_forked_is_not_missed():
    """Its ticket is one from before; its place in the ring, too."""
    async with office(1) as made:

        def change() -> int:
            made.pool.rows_changed(rows(2))
            made.pool.reshaped()
            return NO_PID

        made.node.on_fork = change
        (side,) = await made.staffed()
        assert side.fork.shared.ticket != side.fork.ticket
        (record,) = side.fork.ring.read(side.fork.number)
        assert msgspec.msgpack.decode(record, type=Changed) == rows(2)
        assert not made.lend()


async def test_a_change_that_does_not_fit_into_the_ring_ends_the_copies():
    """Else they would lack it."""
    async with office(1) as made:
        (side,) = await made.staffed()
        before = side.fork.shared.ticket
        made.pool.rows_changed(rows(10))
        assert side.fork.shared.ticket == before
        large = rows(1)
        large.rows[0] = (1, 1, b"i", bytes(RING_BYTES))
        made.pool.rows_changed(large)
        assert side.fork.shared.ticket != before


async def test_a_copy_that_compares_many_rows_is_replaced_when_the_node_has_built_them():
    """The new one is there before the old one goes, and one at a time."""
    async with office() as made:
        first, second = await made.staffed()
        made.searches_per_s = 100_000  # as many as such a load of rows asks for
        index = made.node.indexes.get(UID)
        assert index is not None
        for number in range(0, RENEWED_ROWS + 1024, 1024):
            changed = rows(1024, number)
            index.defer(0, changed.rows)
            made.pool.rows_changed(changed)
        made.look(RENEWED_AFTER_S)
        assert len(made.node.sides) == 2, "the node compares them, too"
        while index.build(1024):
            pass
        made.look()
        made.look()
        assert len(made.node.sides) == 3
        assert not first.is_told()
        await made.ready(made.node.sides[2])
        assert await first.hear() is None
        made.look()
        assert len(made.node.sides) == 4
        await made.ready(made.node.sides[3])
        assert await second.hear() is None
        made.look()
        assert len(made.node.sides) == 4


async def test_a_copy_is_replaced_when_the_node_has_learned_something():
    """Not sooner than a while after it was forked."""
    async with office(1) as made:
        await made.staffed()
        index = made.node.indexes.get(UID)
        assert index is not None
        index._state.improved += 1
        made.look()
        assert len(made.node.sides) == 1
        made.look(RENEWED_AFTER_S)
        assert len(made.node.sides) == 2


async def test_new_workers_rehearse_what_was_asked_lately():
    """Requests that were lent, the last ones."""
    async with office(1) as made:
        (side,) = await made.staffed()
        assert side.fork.rehearsal == ()
        for number in range(pool_module.REHEARSAL + 3):
            assert made.lend(b"%d" % number)
        index = made.node.indexes.get(UID)
        assert index is not None
        index._state.improved += 1
        made.look(RENEWED_AFTER_S)
        expected = tuple(b"%d" % each for each in range(3, pool_module.REHEARSAL + 3))
        assert made.node.sides[1].fork.rehearsal == expected


async def test_closing_ends_all_workers(monkeypatch):
    """Their connections come back and are served to their end."""
    async with office() as made:
        sides = await made.staffed()
        assert made.lend()
        monkeypatch.setattr(pool_module, "TICK_S", 0.01)
        closing = asyncio.create_task(made.pool.close())
        _, connection = await sides[0].hear()
        sides[0].channel.send(Back(b"", PATIENCE, is_moving=True), connection.fileno())
        connection.close()
        for side in sides:
            assert await side.hear() is None
            side.channel.close()
        async with asyncio.timeout(TIME_S):
            await closing
        assert made.node.adopted == [(b"", PATIENCE)]
        made.look(QUIET_S)
        assert len(made.node.sides) == 2
