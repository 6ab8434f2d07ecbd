"""A machine that a node runs on: what it keeps through crashes, and the node's process.

The node is the product's own `Node`, but for HTTP: its surroundings are the simulation's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Protocol

from cluster.config import Config
from cluster.node import Node
from cluster.raft.host import Ready
from cluster.surroundings import Surroundings
from storage.index_set import IndexSet
from tests.simulation.faulty_disk import FaultyDisk
from tests.simulation.network import Network
from tests.simulation.states import States, Watcher
from tests.simulation.virtual_loop import Process, Threads, VirtualLoop

EPOCH_MS = 1_700_000_000_000
POOL_RATES = {"wal": 2000.0, "apply": 4000.0, "files": 300.0, "read": 3000.0, "search": 3000.0}
"""Work done per second of a thread, when the disk is well."""


class Embedder:
    """What the node asks about embeddings when it forms a cluster."""

    dimension = 4
    space = "simulated"


class NodeWatcher(Watcher, Protocol):
    """Is told what happens on every node; a check that fails raises."""

    def ready(self, computer: Computer, ready: Ready) -> None: ...

    def sent(self, computer: Computer, peer: str, group: int, raw: bytes) -> None: ...

    def died(self, computer: Computer, error: BaseException) -> None: ...


class Computer:
    """See the module."""

    def __init__(
        self,
        config: Config,
        loop: VirtualLoop,
        network: Network,
        rng: random.Random,
        watcher: NodeWatcher,
    ) -> None:
        self.config, self.loop, self.network, self.rng = config, loop, network, rng
        self.name, self.watcher = config.node_id, watcher
        self.disk = FaultyDisk()
        self.states = States(self.name, rng, watcher)
        self.wall_offset_ms = rng.randrange(-1000, 1000)
        self.slow_disk = 1.0
        self.process: Process | None = None
        self.node: Node | None = None
        self.boots = 0

    @property
    def up(self) -> bool:
        return self.process is not None

    def boot(self) -> None:
        """Start the node's process."""
        assert self.process is None, "one process at a time"
        self.boots += 1
        rng = random.Random(self.rng.getrandbits(64))
        self.process = self.states.process = Process(self.loop, self.name, rng)
        self.disk.budget = None
        self.network.has_power(self.name)
        self.process.main = self.process.start(self._run(self.process))

    async def _run(self, process: Process) -> None:
        try:
            await self._serve(process)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the process ends
            if process.dead:
                return
            self.crash(power=False)
            self.watcher.died(self, error)

    async def _serve(self, process: Process) -> None:
        node = Node(self.config, self._surroundings(process))
        node.embedder = Embedder()  # type: ignore[assignment]
        await node.open()
        self._watch(node)
        self.node = node
        started = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for each in node.connecting(started):
                tasks.create_task(each)
            await started.wait()
            for each in node.serving():
                tasks.create_task(each)

    def _surroundings(self, process: Process) -> Surroundings:
        return Surroundings(
            clock=process.clock,
            thread_clock=lambda: 0.0,
            wall_ms=self.wall_ms,
            pause=lambda: None,
            random_bytes=process.rng.randbytes,
            threads=lambda count, name: Threads(process, count, name, self._delay_of(name)),
            call_threads=lambda count, name: Threads(process, count, name, self._delay_of(name)),
            log_disk=lambda _: self.disk,
            snapshots=self.states.snapshots,
            shard=self.states.shard,
            metadata=self.states.metadata,
            indexes=lambda _: IndexSet(None, clock=None),
        )

    def wall_ms(self) -> int:
        return EPOCH_MS + int(self.loop.now_s * 1000) + self.wall_offset_ms

    def _delay_of(self, name: str) -> Callable[[], float]:
        rate = POOL_RATES.get(name, 1000.0)
        return lambda: self.rng.expovariate(rate) * self.slow_disk

    def _watch(self, node: Node) -> None:
        """Let the watcher see what the raft groups decide and send."""
        process, driver, watcher = self.process, node.driver, self.watcher
        ready, post = driver.host.ready, node.port.post_raft

        def watched_ready() -> Ready:
            made = ready()
            if process is not None and not process.dead:
                watcher.ready(self, made)
            return made

        def watched_post(peer: str, group: int, message: bytes) -> None:
            if process is not None and not process.dead:
                watcher.sent(self, peer, group, message)
            post(peer, group, message)

        driver.host.ready = watched_ready  # type: ignore[method-assign]
        node.port.post_raft = watched_post  # type: ignore[method-assign]

    def crash(self, *, power: bool) -> None:
        """The process dies; with the power, what was not durable goes too."""
        process, self.process, self.node = self.process, None, None
        if process is None:
            return
        process.dead = True
        for pool in process.pools:
            self.disk.budget = self.rng.randrange(4)
            pool.interrupt(self.rng.random() < 0.5)
        self.disk.budget = None
        if power:
            self.network.lost_power(process)
        else:
            self.network.killed(process)
        process.end()
        if power:
            self.disk.lose_power(self.rng)
        self.states.crash(power=power)
