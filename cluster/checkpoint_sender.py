"""Small cuts of one node, sent together: what a transaction costs is paid once, not for each shard.

Shards are asked for at once, and their cuts are ready within moments. So whoever has one waits
until no other one of the same checkpoint is on its way, and sends all that are there. What comes
meanwhile goes with the next transaction.

A sender that is cancelled leaves the cuts of the others where they are: the next one sends them,
and finds in Postgres what the first one had committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from storage.checkpoint.cut import Cut
from storage.checkpoint.database import Database
from storage.checkpoint.errors import CheckpointError
from storage.checkpoint.model import Manifest
from storage.checkpoint.writing import write_shards


@dataclass(eq=False, slots=True)
class _Waiting:
    cut: Cut
    outcome: Manifest | CheckpointError | None = None


class Sender:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._turn = asyncio.Lock()
        self._coming = 0
        self._none_coming = asyncio.Event()
        self._none_coming.set()

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Let those who are ready to send wait for a cut that is made in this block."""
        self._coming += 1
        self._none_coming.clear()
        try:
            yield
        finally:
            self._coming -= 1
            if not self._coming:
                self._none_coming.set()

    async def send(self, database: Database, cut: Cut) -> Manifest:
        """Write a cut; return the manifest that is in Postgres now. Raises CheckpointError."""
        mine = _Waiting(cut)
        self._waiting.append(mine)
        try:
            async with self._turn:
                if mine.outcome is None:
                    await self._none_coming.wait()
                    await self._send_all(database, mine)
        finally:
            self._waiting.remove(mine)
        assert mine.outcome is not None, "a cut that was sent has an outcome"
        if isinstance(mine.outcome, CheckpointError):
            raise mine.outcome
        return mine.outcome

    async def _send_all(self, database: Database, mine: _Waiting) -> None:
        """Send a cut, and of each other shard one of the same checkpoint."""
        together = {mine.cut.task.shard: mine}
        for each in self._waiting:
            if each.outcome is None and each.cut.task.checkpoint == mine.cut.task.checkpoint:
                together.setdefault(each.cut.task.shard, each)
        outcomes = await write_shards(database, [each.cut for each in together.values()])
        for each, outcome in zip(together.values(), outcomes, strict=True):
            each.outcome = outcome
