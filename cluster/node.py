"""A node: the one place where its parts are made and joined, started and stopped.

    folder lock -> log recovery -> metadata replica -> peer port -> HTTP (answers 503)
      -> the cluster is formed, or known -> this node's shards -> indexes -> ready

Whatever breaks ends the process: a supervisor or an orchestrator starts it again, from what is
on disk. Stopping hands leadership over first, so that a restart costs no election.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp import web

from cluster.api.app import build_app
from cluster.api.server import ApiRunner
from cluster.balance import hand_over, keep_balanced
from cluster.channel import CallChannel
from cluster.config import Config
from cluster.control_group import ControlGroup
from cluster.data_lock import claim
from cluster.embedding_client import make_embedder
from cluster.formation import METADATA, Formation
from cluster.indexing import Indexing
from cluster.memory_guard import MemoryGuard
from cluster.memory_watch import MemoryWatch
from cluster.metadata import ClusterView, MetadataMachine
from cluster.peer import Peers
from cluster.raft.driver import Driver
from cluster.raft.pinned import install_clock
from cluster.raft.tcp import PeerPort
from cluster.readiness import Readiness
from cluster.replica import Replica
from cluster.router import Router
from cluster.shard import ShardMachine
from storage.embedding import BundledEmbedder
from storage.index_set import IndexSet

log = logging.getLogger("recollect.node")

READ_THREADS: Final = 4
JANITOR_S: Final = 1.0
CLOSE_S: Final = 5.0


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
        node = Node(config)
        await node.run()
    finally:
        os.close(lock)


class Node:
    """The parts of a node, by name."""

    def __init__(self, config: Config) -> None:
        self.config = config
        peers = config.peers()
        self.machines: dict[int, ShardMachine] = {}
        self.shards: dict[int, Replica] = {}
        self.indexes = IndexSet(config.data_dir / "indexes")
        self.indexing = Indexing(self.indexes, self.machines)
        self.port = PeerPort(
            me=config.node_id,
            peers=peers,
            listen=(config.peer_host, peers[config.node_id][1]),
            secret=config.peer_secret,
            frame_bytes_max=config.frame_bytes_max,
        )
        self.channel = CallChannel(self.port)
        self.driver = Driver(config, self.port, self.indexing, random.Random(os.urandom(16)))
        self.readers = ThreadPoolExecutor(READ_THREADS, "read")
        self.embedder = make_embedder(config)
        self.memory = MemoryGuard(config.node_id)
        self.metadata_members = config.metadata_members()
        self.metadata_machine: MetadataMachine | None = None
        self.metadata: Replica | None = None
        self._told: ClusterView | None = None

    def view(self) -> ClusterView | None:
        """Return the cluster as this node's metadata replica knows it, or as it was told."""
        return self._told if self.metadata_machine is None else self.metadata_machine.view

    def _learn(self, view: ClusterView) -> None:
        self._told = view

    async def run(self) -> None:
        """Start, serve, stop."""
        await asyncio.to_thread(self.driver.open)
        await asyncio.to_thread(self._load_embedder)
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
            clock=time.monotonic,
            wall_ms=lambda: time.time_ns() // 1_000_000,
            request_ids=lambda: uuid.uuid4().hex,
            view_learned=self._learn,
            memory=self.memory,
        )
        self.router.register_handlers()
        self.memory_watch = self._new_memory_watch()
        self.memory_watch.register()
        self.formation = Formation(self)
        self.readiness = Readiness(self)
        self.port.on_connected = self.driver.connected
        self.port.on_disconnected = self._disconnected
        runner = ApiRunner(
            build_app(
                router=self.router,
                config=self.config,
                embedder=self.embedder,
                readiness=self.readiness.reasons,
                memory=self.memory,
            )
        )
        await runner.setup()
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
            clock=time.monotonic,
        )

    def _load_embedder(self) -> None:
        """Read the bundled model now rather than during somebody's first search."""
        if isinstance(self.embedder, BundledEmbedder):
            self.embedder.embed([self.embedder.space])

    async def _open_metadata(self) -> None:
        if self.config.node_id not in self.metadata_members:
            return
        path = self.config.data_dir / "groups" / "metadata"
        path.parent.mkdir(parents=True, exist_ok=True)
        ttl_ms = self.config.request_id_ttl_ms
        machine = await asyncio.to_thread(MetadataMachine, path, request_id_ttl_ms=ttl_ms)
        self.metadata_machine = machine
        self.metadata = self.driver.add(METADATA, self.metadata_members, machine)

    def _disconnected(self, peer: str) -> None:
        self.driver.disconnected(peer)
        self.channel.disconnected(peer)

    async def _serve(self, runner: ApiRunner) -> None:
        started = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self.port.run(started)),
                tasks.create_task(self.driver.run()),
            ]
            await started.wait()
            await web.TCPSite(runner, self.config.http_host, self.config.http_port).start()
            log.info("%s listens on port %d", self.config.node_id, self.config.http_port)
            self.indexes.start()
            running.append(tasks.create_task(self.formation.run()))
            running.append(tasks.create_task(keep_balanced(self)))
            running.append(tasks.create_task(self._janitor()))
            running.append(tasks.create_task(self.memory_watch.run()))
            await self._until_signalled()
            await hand_over(self)
            await runner.cleanup()
            for task in running:
                task.cancel()

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
        for machine in self.machines.values():
            machine.close()
        if self.metadata_machine is not None:
            self.metadata_machine.close()
