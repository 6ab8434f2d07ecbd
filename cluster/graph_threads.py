"""Threads for graphs. What takes long waits for its like, and nothing else waits for it.

Three kinds of work are kept apart. A long question ends in time, by its budget. An algorithm or an
export cannot be stopped half-way, so there is one at a time. A query that writes waits for neither,
and shares its threads with what is short, or has to be done before anything can be asked: parsing,
and making graphs in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

READ_THREADS: Final = 2
WRITE_THREADS: Final = 2


@dataclass(frozen=True, slots=True)
class GraphThreads:
    """See the module."""

    reads: Executor
    whole: Executor
    writes: Executor

    @classmethod
    def started(cls, threads: Callable[[int, str], Executor]) -> GraphThreads:
        """Return pools that `threads` gives, of so many threads and by name."""
        return cls(
            threads(READ_THREADS, "graph"),
            threads(1, "graph-whole"),
            threads(WRITE_THREADS, "graph-write"),
        )

    def shutdown(self) -> None:
        """Wait for what is under way, and end the threads."""
        for pool in (self.reads, self.whole, self.writes):
            pool.shutdown()
