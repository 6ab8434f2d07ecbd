"""A node: the one place where its parts are made and joined, started and stopped.

    folder lock -> log recovery -> metadata replica -> peer port -> HTTP (answers 503)
      -> the cluster is formed, or known -> this node's shards -> indexes -> ready

Whatever breaks ends the process: a supervisor or an orchestrator starts it again, from what is
on disk. Stopping hands leadership over first, so that a restart costs no election.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from aiohttp import web

from cluster.api.app import build_app
from cluster.api.server import ApiRunner
from cluster.balance import hand_over, keep_balanced
from cluster.channel import CallChannel
from cluster.checkpoints import checkpoints_of
from cluster.config import Config
from cluster.control_group import ControlGroup
from cluster.data_lock import claim
from cluster.disk_guard import DiskGuard
from cluster.disk_reserve import DiskReserve, make_room
from cluster.disk_watch import DiskWatch
from cluster.embedding_client import make_embedder
from cluster.formation import METADATA, Formation
from cluster.graph_cypher import parsed
from cluster.graph_threads import GraphThreads
from cluster.indexing import Indexing
from cluster.memory_guard import MemoryGuard
from cluster.memory_watch import MemoryWatch
from cluster.metadata import ClusterView, MetadataMachine
from cluster.node_metrics import node_metrics
from cluster.opening import when_there_is_space
from cluster.outbox import outbox_of
from cluster.peer import Peers
from cluster.raft.driver import Driver
from cluster.raft.pinned import install_clock
from cluster.raft.tcp import PeerPort
from cluster.readiness import Readiness
from cluster.replica import Replica
from cluster.router import Router
from cluster.search_lanes import SEARCH_LANES
from cluster.search_workers import workers_of
from cluster.shard import ShardMachine
from cluster.surroundings import REAL, Surroundings
from cluster.workers.pool import SearchWorkers
from storage.embedding import BundledEmbedder

log = logging.getLogger("recollect.node")

READ_THREADS: Final = 4
JANITOR_S: Final = 1.0


async def run_node(config: Config) -> None:
    """Run one node until SIGTERM or SIGINT.

    Raises:
        FolderRefused: the data folder is in use, or not this node's.
        CorruptLog, CorruptState: what is on disk must not be trusted.
        OSError: an address is taken, or the disk failed.
    """
    install_clock(time.monotonic)
    lock = await asyncio.to_thread(
        claim, config.data_dir, config.node_id, config.metadata_members()
    )
    try:
        await asyncio.to_thread(make_room, config.data_dir)
        node = Node(config)
        await node.run()
    finally:
        os.close(lock)


class Node:
    """The parts of a node, by name."""

    def __init__(self, config: Config, surroundings: Surroundings = REAL) -> None:
        self.config, self.surroundings = config, surroundings
        peers = config.peers()
        self.machines: dict[int, ShardMachine] = {}
        self.shards: dict[int, Replica] = {}
        self.indexes = surroundings.indexes(config.data_dir / "indexes")
        self.indexes.before_giving_back = self._shrink
        self.graph_threads = GraphThreads.started(surroundings.threads)
        self.indexing = Indexing(
            self.indexes,
            self.machines,
            lambda machine: self.on_graph_threads(machine.load_graphs),
        )
        self.port = PeerPort(
            me=config.node_id,
            peers=peers,
            listen=(config.peer_host, peers[config.node_id][1]),
            secret=config.peer_secret,
            frame_bytes_max=config.frame_bytes_max,
            clock=surroundings.clock,
            random_bytes=surroundings.random_bytes,
        )
        self.channel = CallChannel(
            self.port, clock=surroundings.clock, random_bytes=surroundings.random_bytes
        )
        self.driver = Driver(config, self.port, self.indexing, surroundings)
        self.readers = surroundings.threads(READ_THREADS, "read")
        self.searchers = surroundings.call_threads(SEARCH_LANES, "search")
        self.embedder = make_embedder(config)
        self.memory = MemoryGuard(config.node_id)
        self.disk = DiskGuard(config.node_id, config.disk_free_bytes_min)
        self.metadata_members = config.metadata_members()
        self.metadata_machine: MetadataMachine | None = None
        self.metadata: Replica | None = None
        self.workers: SearchWorkers | None = None
        self._told: ClusterView | None = None

    def _shrink(self) -> None:
        for machine in list(self.machines.values()):
            try:
                machine.shrink()
            except sqlite3.Error as error:
                log.warning("a state keeps its cache: %s", error)

    def on_graph_threads(self, work: Callable[[], None]) -> None:
        """Do work on a graph in memory some time; what it fails with is in the log."""

        def logged() -> None:
            try:
                work()
            except Exception:
                log.exception("a graph could not be made in memory; it is tried again when asked")

        self.graph_threads.writes.submit(logged)

    @property
    def search_workers(self) -> int:
        """Processes that share this node's searches just now."""
        return 0 if self.workers is None else self.workers.count

    @property
    def lent_connections(self) -> int:
        """Connections that they serve."""
        return 0 if self.workers is None else self.workers.lent

    def view(self) -> ClusterView | None:
        """Return the cluster as this node's metadata replica knows it, or as it was told."""
        return self._told if self.metadata_machine is None else self.metadata_machine.view

    def _learn(self, view: ClusterView) -> None:
        self._told = view
        if self.workers is not None:
            self.workers.reshaped()

    async def open(self) -> None:
        """Recover what is on disk, and join the parts; raises CorruptLog or OSError."""
        await asyncio.to_thread(self.driver.open)
        await self._open_metadata()
        self.router = Router(
            config=self.config,
            node=self.config.node_id,
            metadata=self.metadata,
            view=self.view,
            replicas=self.shards,
            channel=self.channel,
            indexes=self.indexes,
            executor=self.readers,
            search_threads=self.searchers,
            thread_clock=self.surroundings.thread_clock,
            clock=self.surroundings.clock,
            wall_ms=self.surroundings.wall_ms,
            request_ids=self.surroundings.identifier,
            view_learned=self._learn,
            memory=self.memory,
            disk=self.disk,
            graph_threads=self.graph_threads,
            pause=self.surroundings.pause,
        )
        self.driver.lane.give_way_to(self.router.turns.is_due)
        self.router.register_handlers()
        if self.config.checkpoint_url:
            self.router.add_checkpoints(partial(checkpoints_of, self))
        if self.config.outbox_url:
            self.router.add_outbox(partial(outbox_of, self))
        self.memory_watch = self._new_memory_watch()
        self.memory_watch.register()
        self.disk_watch = self._new_disk_watch()
        self.disk_watch.register()
        self.formation = Formation(self)
        self.port.on_connected = self.driver.connected
        self.port.on_disconnected = self._disconnected

    async def run(self) -> None:
        """Start, serve, stop."""
        await asyncio.to_thread(self._warm_up)
        await self.open()
        gc.freeze()  # what is here now stays: the collector need not look at it again and again
        self.readiness = Readiness(self)
        runner = ApiRunner(
            build_app(
                router=self.router,
                config=self.config,
                embedder=self.embedder,
                readiness=self.readiness.reasons,
                memory=self.memory,
                registry=node_metrics(self),
            )
        )
        await runner.setup()
        self.workers = workers_of(self, runner)
        try:
            await self._serve(runner)
        finally:
            await self._close(runner)

    def _new_memory_watch(self) -> MemoryWatch:
        return MemoryWatch(
            guard=self.memory,
            read=ControlGroup(),
            indexes=self.indexes,
            me=self.config.node_id,
            others=[node for node in self.config.peers() if node != self.config.node_id],
            peers=Peers(self.channel),
            clock=self.surroundings.clock,
        )

    def _new_disk_watch(self) -> DiskWatch:
        config = self.config
        return DiskWatch(
            guard=self.disk,
            folder=config.data_dir,
            reserve=DiskReserve(config.data_dir),
            log_full=lambda: self.driver.log_full,
            state_full=lambda: self.driver.state_full,
            me=config.node_id,
            others=[node for node in config.peers() if node != config.node_id],
            peers=Peers(self.channel),
            clock=self.surroundings.clock,
        )

    def _warm_up(self) -> None:
        """Read the bundled model, and the grammar, now rather than during somebody's first use."""
        parsed("RETURN 1")
        if isinstance(self.embedder, BundledEmbedder):
            self.embedder.embed([self.embedder.space])

    async def _open_metadata(self) -> None:
        if self.config.node_id not in self.metadata_members:
            return
        path = self.config.data_dir / "groups" / "metadata"
        ttl_ms = self.config.request_id_ttl_ms
        machine = await when_there_is_space(
            partial(self.surroundings.metadata, path, ttl_ms), "the metadata group"
        )
        self.metadata_machine = machine
        self.metadata = self.driver.add(METADATA, self.metadata_members, machine)

    def _disconnected(self, peer: str) -> None:
        self.driver.disconnected(peer)
        self.channel.disconnected(peer)

    async def _serve(self, runner: ApiRunner) -> None:
        started = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each) for each in self.connecting(started)]
            await started.wait()
            await web.TCPSite(runner, self.config.http_host, self.config.http_port).start()
            log.info("%s listens on port %d", self.config.node_id, self.config.http_port)
            self.indexes.start()
            running += [tasks.create_task(each) for each in self.serving()]
            running.append(tasks.create_task(self.memory_watch.run()))
            running.append(tasks.create_task(self.disk_watch.run()))
            if self.workers is not None:
                running.append(tasks.create_task(self.workers.run()))
            if self.router.checkpoints is not None:
                running.append(tasks.create_task(self.router.checkpoints.run()))
            if self.router.outbox is not None:
                running.append(tasks.create_task(self.router.outbox.run()))
            await self._until_signalled()
            await hand_over(self)
            if self.workers is not None:
                await self.workers.close()
            await runner.cleanup()
            for task in running:
                task.cancel()

    def connecting(self, started: asyncio.Event) -> list[Coroutine[Any, Any, None]]:
        """Return what joins this node to its peers; `started` is set when it listens."""
        return [self.port.run(started), self.driver.run()]

    def serving(self) -> list[Coroutine[Any, Any, None]]:
        """Return what makes this node part of the cluster, once it listens."""
        return [
            self.formation.run(),
            keep_balanced(self),
            self._janitor(),
            self.router.changes.run(),
        ]

    async def _until_signalled(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await stop.wait()
        log.info("%s stops", self.config.node_id)

    async def _janitor(self) -> None:
        """Finish the dropping of collections, as long as this node leads the metadata group."""
        while True:
            await asyncio.sleep(JANITOR_S)
            if self.metadata is not None and self.metadata.is_leader:
                await self.router.purge_dropped()

    async def _close(self, runner: ApiRunner) -> None:
        await runner.cleanup()
        await asyncio.to_thread(self._close_files)

    def _close_files(self) -> None:
        self.indexes.stop()
        self.indexes.save_all()
        self.readers.shutdown()
        self.searchers.shutdown()
        self.graph_threads.shutdown()
        if self.router.checkpoints is not None:
            self.router.checkpoints.writer.close()
        for machine in self.machines.values():
            machine.close()
        if self.metadata_machine is not None:
            self.metadata_machine.close()
