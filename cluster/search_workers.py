"""The search workers of one node: what they take from it, put together."""

from __future__ import annotations

import asyncio
import math
import os
import resource
import socket
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from cluster.api.quick_route import QuickRoute
from cluster.api.server import QUICK_ROUTE, ApiRunner
from cluster.control_group import ControlGroup
from cluster.quick_search import Payload
from cluster.search_calls import SearchCalls
from cluster.workers.channel import Report
from cluster.workers.copied import CopiedIndexes
from cluster.workers.forking import Fork, fork
from cluster.workers.pool import SearchWorkers
from cluster.workers.turn import WorkerTurn
from cluster.workers.worker import Parts, Tally, Worker
from storage.vector_index import VectorIndex

if TYPE_CHECKING:
    from cluster.node import Node

USUAL_MAX: Final = 8
"""More are not started unless somebody asks for them."""


def workers_of(node: Node, runner: ApiRunner) -> SearchWorkers | None:
    """Return the workers of a node, None when it has none; after the runner's `setup`."""
    route, count = runner.app.get(QUICK_ROUTE), _count(node.config.search_workers)
    if route is None or count == 0 or sys.platform != "linux":
        return None
    workers = SearchWorkers(count, NodeSurface(node, runner, route))
    node.indexing.audience = workers
    runner.lend_to(workers)
    return workers


def _count(asked: int) -> int:
    """Return how many workers there are to be: where nobody says, one for each processor."""
    if asked >= 0:
        return asked
    processors = ControlGroup().processors() or math.inf
    return min(len(os.sched_getaffinity(0)), math.ceil(min(processors, USUAL_MAX)))


COUNTED_S: Final = 1.0
DESCRIPTORS_SPARED: Final = 64
"""For files that are opened for a while."""


class NodeSurface:
    """Implements `cluster.workers.pool.Surface`."""

    def __init__(self, node: Node, runner: ApiRunner, route: QuickRoute) -> None:
        self._node, self._route, self._runner = node, route, runner
        self.indexes = node.indexes
        self.clock = node.surroundings.clock
        self.stays_fresh_ms = node.router.local.stays_fresh_ms
        self.observe = route.observed_elsewhere
        self._counted_s, self._others = -math.inf, 0
        """When descriptors were counted, and how many of them are no connections of clients."""

    def has_memory(self) -> bool:
        """Return whether there is memory for workers."""
        return not self._node.memory.full

    async def adopt(self, connection: socket.socket, unread: bytes, patience: int) -> None:
        """Serve a connection that came back."""
        await self._runner.adopt(connection, unread, patience)

    async def payloads(
        self, uid: int, points: Sequence[tuple[bytes, int]]
    ) -> tuple[list[Payload], dict[int, int]]:
        """Return the payloads of points that are there, and what of each shard they may show."""
        read, threads = self._node.router.quick.read, self._node.readers
        rows = await asyncio.get_running_loop().run_in_executor(threads, read, uid, points)
        shards = sorted({shard for _, shard in points})
        return rows, {shard: self._node.shards[shard].shown_index for shard in shards}

    def has_descriptors(self, lent: int) -> bool:
        """Return whether there is room for all connections that workers have to come back."""
        served, now_s = self._runner.served, self.clock()
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if now_s >= self._counted_s + COUNTED_S:
            self._counted_s = now_s
            try:
                self._others = sum(1 for _ in Path("/proc/self/fd").iterdir()) - served
            except OSError:  # there is none left even to count them
                self._others = most
        return self._others + served + lent < most - DESCRIPTORS_SPARED

    def learn(self, report: Report) -> None:
        """Let indexes have what searches in copies have shown."""
        for uid in report.searched:
            if (index := self.indexes.get(uid)) is not None:
                index.flood.searched = True
        for uid, vector in report.samples:
            index = self.indexes.get(uid)
            if index is not None:
                index.tuning.add_samples([np.frombuffer(vector, "<f4")])
        for asked, is_graph in ((report.to_gather, False), (report.to_make, True)):
            for uid, text in asked:
                index, where = self.indexes.get(uid), self._route.filter_of(text)
                rows = None if index is None or where is None else index.payloads.plan(text, where)
                if index is not None and rows is not None:
                    (index.filtered.own.make if is_graph else index.filtered.gather)(rows)

    def fork(self, asked: Fork) -> int | None:
        """Fork a worker, with the indexes that searches may have now."""
        indexes = self.indexes.opened()
        work = partial(self._work, asked, indexes)
        return fork(list(indexes.values()), asked.channel, work, self.clock)

    def _work(self, asked: Fork, indexes: Mapping[int, VectorIndex]) -> None:
        """Serve, in the child: no lock may be taken here that another thread may have held."""
        node, tally = self._node, Tally()

        def show(shard: int, index: int) -> None:
            node.shards[shard].will_show(index)

        calls = SearchCalls(node.surroundings.thread_clock)
        turn = WorkerTurn(calls, node.router.quick, self.clock)
        parts = Parts(
            number=asked.number,
            ticket=asked.ticket,
            shared=asked.shared,
            channel=asked.channel,
            desk=self._route.in_worker(turn, tally),
            turn=turn,
            copy=CopiedIndexes(indexes, asked.ring, asked.number, show),
            tally=tally,
            clock=self.clock,
            rehearsal=asked.rehearsal,
            pause=node.surroundings.pause,
        )
        Worker(parts).run()
