"""What a node takes from the machine that it runs on: time, chance, threads and disks.

A node reads clocks, draws random bytes, starts threads and opens files through one value of this
kind and through its event loop (which also brings streams and timers), and in no other way. The
simulation gives other surroundings, in which all of it follows from a seed.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.call_threads import Calls, CallThreads
from cluster.metadata import MetadataMachine
from cluster.raft.disk import FolderDisk
from cluster.raft.snapshot_files import Exporter, SnapshotFiles, SnapshotStore
from cluster.raft.wal import Disk
from cluster.shard import ShardMachine
from storage.index_set import IndexSet

PAUSE_S: Final = 0.0001


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """See the module. The defaults are the real ones."""

    clock: Callable[[], float] = time.monotonic  # noqa: TID251 - the clock that is an input
    """Seconds; never runs back, and means nothing to another node."""
    thread_clock: Callable[[], float] = time.thread_time
    """Seconds for which the thread that asks has had a processor."""
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    """Milliseconds of the calendar; may jump."""
    pause: Callable[[], None] = lambda: time.sleep(PAUSE_S)
    """Lets other threads in while one of them computes for long."""
    random_bytes: Callable[[int], bytes] = os.urandom
    threads: Callable[[int, str], Executor] = ThreadPoolExecutor
    """Gives a pool of so many threads, by name."""
    call_threads: Callable[[int, str], Calls] = CallThreads
    """Gives so many threads for calls without a result, by name."""
    log_disk: Callable[[Path], Disk] = FolderDisk
    snapshots: Callable[[Path, Exporter], SnapshotStore] = SnapshotFiles
    shard: Callable[[Path, int], ShardMachine] = lambda path, ttl_ms: ShardMachine(
        path, request_id_ttl_ms=ttl_ms
    )
    """Opens a shard's state, given its path and for how long request ids are remembered."""
    metadata: Callable[[Path, int], MetadataMachine] = lambda path, ttl_ms: MetadataMachine(
        path, request_id_ttl_ms=ttl_ms
    )
    indexes: Callable[[Path], IndexSet] = IndexSet

    def random_number(self, size_bytes: int) -> int:
        """Return a random number of so many bytes."""
        return int.from_bytes(self.random_bytes(size_bytes), "little")

    def identifier(self) -> str:
        """Return 32 hexadecimal digits that nobody else will draw."""
        return uuid.UUID(bytes=self.random_bytes(16), version=4).hex


REAL: Final = Surroundings()
