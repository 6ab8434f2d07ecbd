"""Clients: they write, read, delete and compare through any node, and write down what they saw.

A value is written at most once in a run, and the vector carries it too, so a torn or repeated
write shows. A request whose answer is lost has an unknown outcome, unless a repetition under the
same request id tells it. Ids are given up after a while: histories must stay short.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from cluster.errors import RecollectError, VersionConflict
from cluster.model import Options, Point, Record, Session, WriteAck
from cluster.node import Node
from cluster.ring import shard_of
from storage.ids import encode_id
from tests.linearizability import Operation
from tests.simulation.computer import Computer
from tests.simulation.node_checkers import Effects, NodeCheckers
from tests.simulation.virtual_loop import Process

COLLECTION = "simulated"
OPERATIONS_PER_ID = 50
UNKNOWN_PER_ID = 5
IDS = 4


class NoAnswer(Exception):
    """The node did not answer: it is down, it died, or it takes too long."""


@dataclass
class Trace:
    """One id: what clients did to it."""

    record_id: int
    shard: int
    history: list[Operation] = field(default_factory=list)
    unknown: int = 0
    last: Record | None = None
    """What somebody last saw; the start of the next compare-and-set."""

    def worn(self) -> bool:
        return len(self.history) >= OPERATIONS_PER_ID or self.unknown >= UNKNOWN_PER_ID


@dataclass
class Ledger:
    """What all clients share: the ids in use, the next value, what was done."""

    shards: int
    traces: list[Trace] = field(default_factory=list)
    in_use: list[Trace] = field(default_factory=list)
    value: int = 0
    operations: int = 0
    answered: int = 0

    def next_value(self) -> int:
        self.value += 1
        return self.value

    def pick(self, rng: random.Random) -> Trace:
        """Return an id in use; one that is worn is replaced by a new one."""
        self.in_use = [trace for trace in self.in_use if not trace.worn()]
        while len(self.in_use) < IDS:
            self.in_use.append(self.new())
        return rng.choice(self.in_use)

    def new(self) -> Trace:
        """Return an id that nobody used."""
        record_id = len(self.traces) + 1
        trace = Trace(record_id, shard_of(encode_id(record_id), self.shards))
        self.traces.append(trace)
        return trace

    def new_in(self, shard: int) -> Trace:
        """Return an id of a shard that nobody used."""
        while (trace := self.new()).shard != shard:
            pass
        return trace


async def ask(
    computer: Computer, client: Process, make: Callable[[Node], Awaitable[Any]], timeout_s: float
) -> Any:
    """Let a node do something, as its HTTP interface would; raises NoAnswer."""
    node, process = computer.node, computer.process
    if node is None or process is None or not hasattr(node, "router"):
        raise NoAnswer("not there")
    answer: asyncio.Future[Any] = computer.loop.create_future()

    async def work() -> None:
        try:
            result = await make(node)
        except RecollectError as error:
            _tell(answer, None, error)
        else:
            _tell(answer, result, None)

    task = process.start(work())
    assert not task.done()
    lost = lambda: _tell(answer, None, NoAnswer("died"))  # noqa: E731
    process.at_death.append(lost)
    try:
        async with asyncio.timeout(timeout_s):
            return await answer
    except TimeoutError:
        raise NoAnswer("too late") from None
    finally:
        process.at_death.remove(lost)


def _tell(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)


class Client:
    """One client; runs until `stop`."""

    def __init__(
        self,
        number: int,
        process: Process,
        computers: list[Computer],
        ledger: Ledger,
        checkers: NodeCheckers,
    ) -> None:
        self.number, self.process, self.rng = number, process, process.rng
        self.computers, self.ledger, self.checkers = computers, ledger, checkers
        self.session: dict[int, int] = {}
        self.stop = False
        self.pace_s = self.rng.choice((0.03, 0.1, 0.3))
        self.home = self.rng.choice(computers)
        self.patience_s: tuple[float, ...] = (0.3, 1.5, 4.5)

    async def focus(self, trace: Trace, act: str, seconds: float) -> None:
        """Do one thing to one id, as fast as it goes, for a while."""
        self.pace_s, self.patience_s = 0.02, (0.3,)
        end_s = self.now_s() + seconds
        while self.now_s() < end_s and not self.stop:
            await asyncio.sleep(self.rng.expovariate(1 / self.pace_s))
            self.ledger.operations += 1
            await getattr(self, act)(trace)

    async def run(self) -> None:
        acts = (self.write, self.write, self.compare, self.delete, self.strong_read,
                self.strong_read, self.session_read, self.default_read)  # fmt: skip
        while not self.stop:
            await asyncio.sleep(self.rng.expovariate(1 / self.pace_s))
            if self.rng.random() < 0.1:
                self.home = self.rng.choice(self.computers)
            self.ledger.operations += 1
            await self.rng.choice(acts)(self.ledger.pick(self.rng))

    def now_s(self) -> float:
        return self.process.loop.now_s

    def options(self, computer: Computer, **more: Any) -> Options:
        """Return the options of a request, as of that node's clock."""
        assert computer.process is not None
        return Options(computer.process.clock() + self.timeout_s, **more)

    # -- writes -------------------------------------------------------------------------------

    async def write(self, trace: Trace) -> None:
        await self._upsert(trace, "write", None)

    async def compare(self, trace: Trace) -> None:
        await self._upsert(trace, "cas", trace.last.version if trace.last else 0)

    async def _upsert(self, trace: Trace, kind: Any, if_version: int | None) -> None:
        value = self.ledger.next_value()
        expected = None
        if if_version:
            expected = self._effects(trace).values.get(if_version)
        vector = np.array([value, trace.record_id, 1.0, 0.5], "<f4")
        point = Point(trace.record_id, vector, {"value": value}, if_version)

        async def upsert(node: Node, options: Options) -> WriteAck:
            collection = await node.router.collection(COLLECTION, options)
            return await node.router.upsert(collection, [point], options)

        await self._change(trace, kind, value if kind == "write" else (expected, value), upsert)

    async def delete(self, trace: Trace) -> None:
        async def delete(node: Node, options: Options) -> WriteAck:
            collection = await node.router.collection(COLLECTION, options)
            return await node.router.delete(collection, [trace.record_id], options)

        await self._change(trace, "delete", None, delete)

    async def _change(self, trace: Trace, kind: Any, argument: Any, make: Any) -> None:
        """Ask, and ask again under the same request id while the outcome is unknown."""
        request_id = f"c{self.number}-{self.ledger.next_value()}"
        invoked_s, tried = self.now_s(), False
        for _ in range(self.rng.choice((1, 2, 4))):
            self.timeout_s = self.rng.choice(self.patience_s)
            computer = self.home
            try:
                if computer.up:
                    options = self.options(
                        computer, request_id=request_id, session=Session(dict(self.session))
                    )
                    tried = tried or computer.node is not None
                    act = partial(make, options=options)
                    ack = await ask(computer, self.process, act, self.timeout_s + 1)
                    self._acknowledged(trace, kind, ack)
                    result = True if kind == "cas" else None
                    self._record(trace, kind, argument, result, invoked_s, self.now_s())
                    return
            except VersionConflict:
                self._record(trace, kind, argument, False, invoked_s, self.now_s())
                return
            except (RecollectError, NoAnswer):
                pass
            await asyncio.sleep(self.rng.uniform(0.0, 0.5))
            self.home = self.rng.choice(self.computers)
        if tried:
            trace.unknown += 1
            self._record(trace, kind, argument, None, invoked_s, None)

    def _acknowledged(self, trace: Trace, kind: str, ack: WriteAck) -> None:
        self.session = dict(ack.session.indexes)
        computer = next(c for c in self.computers if c.node is not None)
        assert computer.node is not None
        view = computer.node.view()
        if view is not None:
            self.checkers.durable(trace.shard + 1, ack.version, view.shard_map[trace.shard])
        effects = self._effects(trace)
        if kind != "delete" or ack.version in effects.values:
            effects.acked.append((self.now_s(), ack.version))

    def _effects(self, trace: Trace) -> Effects:
        return self.checkers.effects.setdefault((trace.shard, trace.record_id), Effects())

    # -- reads --------------------------------------------------------------------------------

    async def strong_read(self, trace: Trace) -> None:
        invoked_s = self.now_s()
        found, record = await self._read(trace, strong=True)
        if found:
            value = None if record is None else self._value(record)
            self._record(trace, "read", None, value, invoked_s, self.now_s())
            self.checkers.saw(trace.shard, trace.record_id, record, 0)

    async def session_read(self, trace: Trace) -> None:
        floor = self.session.get(trace.shard, 0)
        found, record = await self._read(trace, session=Session(dict(self.session)))
        if found:
            self.checkers.saw(trace.shard, trace.record_id, record, floor)

    async def default_read(self, trace: Trace) -> None:
        asked_s = self.now_s()
        found, record = await self._read(trace)
        if found:
            self.checkers.saw(trace.shard, trace.record_id, record, 0)
            if record is not None:
                age_s = self.checkers.age_s(trace.shard, trace.record_id, record.version, asked_s)
                self.checkers.stalest_s = max(age_s, self.checkers.stalest_s)

    async def _read(self, trace: Trace, **terms: Any) -> tuple[bool, Record | None]:
        """Return whether there was an answer, and what it was."""
        self.timeout_s = self.rng.choice(self.patience_s)
        computer = self.home
        if not computer.up:
            self.home = self.rng.choice(self.computers)
            return False, None
        options = self.options(computer, **terms)

        async def retrieve(node: Node) -> list[Record]:
            collection = await node.router.collection(COLLECTION, options)
            return await node.router.retrieve(
                collection, [trace.record_id], with_payload=True, with_vector=True, options=options
            )

        try:
            records = await ask(computer, self.process, retrieve, self.timeout_s + 1)
        except (RecollectError, NoAnswer):
            self.home = self.rng.choice(self.computers)
            return False, None
        trace.last = records[0] if records else None
        return True, trace.last

    @staticmethod
    def _value(record: Record) -> int:
        assert record.payload is not None
        return int(record.payload["value"])

    def _record(
        self, trace: Trace, kind: Any, argument: Any, result: Any, invoked_s: float, returned_s: Any
    ) -> None:
        if returned_s is not None:
            self.ledger.answered += 1
        trace.history.append(Operation(self.number, kind, argument, result, invoked_s, returned_s))
        self.checkers.note(kind, trace.record_id, argument, result, invoked_s, returned_s)
