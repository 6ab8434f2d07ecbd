"""What search workers need of their node."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from cluster.quick_search import Payload
from cluster.workers.channel import Report
from cluster.workers.forking import Fork
from storage.index_set import IndexSet


class Surface(Protocol):
    """What the pool needs of its node."""

    indexes: IndexSet

    @property
    def clock(self) -> Callable[[], float]:
        """The node's clock: monotonic, in seconds."""
        ...

    def stays_fresh_ms(self, most_ms: int) -> int:
        """Return for how long copies of this node's replicas may be believed; 0: not at all."""
        ...

    def has_memory(self) -> bool:
        """Return whether there is memory for workers."""
        ...

    def observe(self, route: str, seconds: float) -> None:
        """Count a search that a worker answered."""
        ...

    async def adopt(self, connection: socket.socket, unread: bytes, patience: int) -> None:
        """Serve a connection that came back: its unread bytes, and for how long to watch it."""
        ...

    async def payloads(
        self, uid: int, points: Sequence[tuple[bytes, int]]
    ) -> tuple[list[Payload], dict[int, int]]:
        """Return the payloads of points (id, shard) that are there, and up to which log index of
        each shard they may be."""
        ...

    def has_descriptors(self, lent: int) -> bool:
        """Return whether so many connections that are lent could all come back."""
        ...

    def learn(self, report: Report) -> None:
        """Take in what a report says of searches."""
        ...

    def fork(self, fork: Fork) -> int | None:
        """Fork a worker; return its process id, None when it is not the moment for it.

        Raises OSError when the system has no room for another process.
        """
        ...
