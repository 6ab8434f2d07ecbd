"""When to look for changes again: as soon as a shard went on, but not for every entry.

While somebody waits, this node compares how far its replicas are every `PACE_S`, once for all who
wait, and asks each node that has shards which this one has not to tell when one of them goes on.
While nobody waits, nothing is done. Who waits is woken at most once in `PACE_S`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from cluster.errors import NotReady, RecollectError
from cluster.peer_methods import MOVED, Moved
from cluster.routing import Routing

PACE_S: Final = 0.02
ASK_MS: Final = 5000
ASK_GRACE_S: Final = 1.0
PAUSE_S: Final = 0.25
"""Before a node is asked again that did not answer, or had nothing to tell."""


class ChangeSignal:
    """See the module. Nobody is woken unless `run` runs."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing
        self._elsewhere: dict[int, int] = {}
        self._here: dict[int, int] = {}
        self._watchers = 0
        self._watched = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    def register(self) -> None:
        """Tell other nodes when shards of this one go on."""
        self._routing.peers.serve(MOVED, self._tell)

    def index(self, shard: int) -> int:
        """Return how far a shard is, as far as this node knows."""
        replica = self._routing.replicas.get(shard)
        return self._elsewhere.get(shard, 0) if replica is None else replica.applied_index

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep watch while the block runs; needed to `wait`."""
        self._watchers += 1
        self._watched.set()
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._watched.clear()

    async def wait(self, seen: Mapping[int, int], timeout_s: float) -> None:
        """Return when a shard is beyond its index in `seen`, or the time is over.

        It takes `PACE_S` at least, in which more changes may gather; and it may be in vain.
        """
        assert self._watchers, "somebody keeps watch"
        if any(self.index(shard) > index for shard, index in seen.items()):
            await self._routing.sleep(PACE_S)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            pass
        finally:
            with suppress(ValueError):
                self._waiting.remove(future)

    async def run(self) -> None:
        """Watch while somebody waits, for ever."""
        others = [node for node in self._routing.config.peers() if node != self._routing.me]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_here())
            for node in others:
                tasks.create_task(self._watch(node))

    async def _watch_here(self) -> None:
        while True:
            await self._watched.wait()
            await self._routing.sleep(PACE_S)
            here = {shard: each.applied_index for shard, each in self._routing.replicas.items()}
            if here != self._here:
                self._here = here
                self._wake()

    async def _watch(self, node: str) -> None:
        while True:
            await self._watched.wait()
            if not await self._ask(node):
                await self._routing.sleep(PAUSE_S)

    async def _ask(self, node: str) -> bool:
        """Wait for news of the shards that are this node's to tell; whether there were some."""
        seen = {shard: self._elsewhere.get(shard, 0) for shard in self._told_by(node)}
        if not seen:
            return False
        deadline_s = self._routing.deadline_after(ASK_MS) + ASK_GRACE_S
        try:
            told = await self._routing.peers.call(node, MOVED, Moved(seen, ASK_MS), deadline_s)
        except RecollectError:
            return False
        news = {shard: told[shard] for shard in seen if told.get(shard, 0) > seen[shard]}
        self._elsewhere.update(news)
        if news:
            self._wake()
        return bool(news)

    def _told_by(self, node: str) -> list[int]:
        """Return the shards without a replica here whose first member in reach is this node."""
        try:
            members = self._routing.view().shard_map
        except NotReady:
            return []
        connected = self._routing.peers.connected
        return [
            shard
            for shard, nodes in enumerate(members)
            if shard not in self._routing.replicas
            and next((each for each in nodes if connected(each)), None) == node
        ]

    async def _tell(self, asked: Moved) -> dict[int, int]:
        replicas = self._routing.replicas
        seen = {shard: index for shard, index in asked.seen.items() if shard in replicas}
        with self.watching():
            if not any(self.index(shard) > index for shard, index in seen.items()):
                await self.wait(seen, asked.timeout_ms / 1000)
        return {shard: replicas[shard].applied_index for shard in seen if shard in replicas}

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
