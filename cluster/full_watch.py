"""Looks again and again whether this node is full, and tells the peers while it is.

Nothing is sent while there is room. The guard that the readings go to is asked by the write path.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from cluster.disk_guard import DiskGuard
from cluster.fan_out import fan_out
from cluster.full_nodes import NOTICE_S
from cluster.memory_guard import MemoryGuard
from cluster.peer import Method, Peers
from cluster.peer_methods import NodeFull

log = logging.getLogger("recollect.full")

TELL_S: Final = NOTICE_S / 5


class FullWatch:
    """One node's watch over one guard, which `look` gives a reading every `look_s` seconds."""

    def __init__(  # noqa: PLR0913 - each part comes by name
        self,
        *,
        guard: DiskGuard | MemoryGuard,
        method: Method[NodeFull, bool],
        look: Callable[[], Awaitable[None]],
        look_s: float,
        me: str,
        others: Sequence[str],
        peers: Peers,
        clock: Callable[[], float],
    ) -> None:
        self._guard, self._method = guard, method
        self._look, self.look_s = look, look_s
        self._is_full = asyncio.Event()
        self._me, self._others, self._peers, self._clock = me, others, peers, clock

    def register(self) -> None:
        """Listen to the peers."""
        self._peers.serve(self._method, self._hear)

    async def run(self) -> None:
        """Watch until cancelled. A peer that does not answer keeps no reading waiting."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_for_ever())
            tasks.create_task(self._tell_for_ever())

    async def _look_for_ever(self) -> None:
        while True:
            was_full = self._guard.full
            await self._look()
            if self._guard.full != was_full:
                outcome = "are taken again" if was_full else "are refused"
                log.warning("writes %s: %s", outcome, self._guard.describe())
            if self._guard.full:
                self._is_full.set()
            else:
                self._is_full.clear()
            await asyncio.sleep(self.look_s)

    async def _tell_for_ever(self) -> None:
        while True:
            await self._is_full.wait()
            await self.tell()
            await asyncio.sleep(TELL_S)

    async def tell(self) -> None:
        """Tell all peers that this node is full; one that is away takes no writes to pass on."""
        reached = [node for node in self._others if self._peers.connected(node)]
        until_s = self._clock() + TELL_S
        notice = NodeFull(self._me)
        if reached:
            await fan_out(
                [self._peers.call(node, self._method, notice, until_s) for node in reached]
            )

    async def _hear(self, notice: NodeFull) -> bool:
        if notice.node in self._others:
            self._guard.hear(notice.node, self._clock())
        return True
