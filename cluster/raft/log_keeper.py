"""Keeps a node's log within its bounds: of memory, by cutting it; of the disk, by a spare segment.

A log is cut below what SQLite has made durable, so a cut is a checkpoint first. Which logs are
due: those beyond their usual size, those that keep old segments on disk, the largest ones when all
together take too much memory, and all of them while the disk is full, for whole segments to go.

A spare segment is made as soon as the last one was taken, on a thread of its own. Without space it
is tried again every second: that is how a node notices that there is some again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Final

from cluster.raft.host import GroupHost
from cluster.raft.log_memory import cuts
from cluster.raft.wal import Spare, Wal
from cluster.replica import Replica
from storage.connections import out_of_space

log = logging.getLogger("recollect.raft")

LOOK_S: Final = 0.1
SPARE_RETRY_S: Final = 1.0
FULL_CUT_S: Final = 5.0
FOLLOWERS_WAIT: Final = 4
"""How many times a log's usual size may be kept for a slow follower before it gets a snapshot."""

OnLoop = Callable[[Callable[[], object], int | None], object]
"""From a thread: do something on the loop, then let a group step."""


@dataclass(kw_only=True)
class LogKeeper:
    """See the module. Its methods belong to the event loop; `fail` ends the node."""

    host: GroupHost
    wal: Wal
    replicas: Mapping[int, Replica]
    log_bytes_max: int
    checkpoints: Executor
    spares: Executor
    writer: Executor
    """The thread that writes batches: a spare that was replaced is removed before the next one."""
    clock: Callable[[], float]
    on_loop: OnLoop
    fail: Callable[[BaseException], None]
    _running: set[int] = field(default_factory=set)
    _after_cut: dict[int, int] = field(default_factory=dict)
    _cut_for_space_s: float = 0.0
    _retry_s: float = 0.0

    async def run(self) -> None:
        """Look after the log until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.refill()
            for group, urgent in self.due().items():
                self._running.add(group)
                self.checkpoints.submit(self._checkpoint, self.replicas[group], urgent)

    # -- memory -------------------------------------------------------------------------------

    def due(self) -> dict[int, bool]:
        """Return the groups to cut now, and whether regardless of what followers lack."""
        held = {group: each.raft.log.size_bytes for group, each in self.replicas.items()}
        pinning = self.host.pinning()
        large = [group for group, size in held.items() if size > self.log_bytes_max]
        chosen = {
            group: self._is_urgent(group)
            for group in (*large, *cuts(held, self._after_cut, self.host.memory))
        }
        chosen.update({group: True for group in pinning if group in held})
        if self.wal.full and self.clock() >= self._cut_for_space_s + FULL_CUT_S:
            self._cut_for_space_s = self.clock()
            chosen.update(dict.fromkeys(held, True))
        return {group: chosen[group] for group in sorted(chosen) if group not in self._running}

    def _is_urgent(self, group: int) -> bool:
        """Whether a follower lacks so much that it had better get a snapshot."""
        owed, memory = self.replicas[group].raft.owed_bytes, self.host.memory
        return owed > FOLLOWERS_WAIT * self.log_bytes_max or (
            memory.pressed and 2 * owed > memory.share
        )

    def _checkpoint(self, replica: Replica, urgent: bool) -> None:  # noqa: FBT001
        durable = 0
        try:
            durable = replica.machine.make_durable()
        except Exception as error:  # noqa: BLE001  # what is durable is in doubt
            if not out_of_space(error):
                self.on_loop(lambda error=error: self.fail(error), None)  # type: ignore[misc]
                return
            log.warning("group %d: no space for a checkpoint; its log stays", replica.group)
        self.on_loop(lambda: self._cut(replica, durable, urgent=urgent), replica.group)

    def _cut(self, replica: Replica, durable: int, *, urgent: bool) -> None:
        self._running.discard(replica.group)
        replica.raft.compact(durable, urgent=urgent)
        self._after_cut[replica.group] = replica.raft.log.size_bytes

    # -- the disk -----------------------------------------------------------------------------

    def refill(self) -> None:
        """Have a spare segment made if there is none; called after every step."""
        if self.wal.full and self.clock() < self._retry_s:
            return
        spare = self.wal.order()
        if spare is not None:
            self.spares.submit(self._make, spare)

    def _make(self, spare: Spare) -> None:
        try:
            success = self.wal.make(spare)
        except Exception as error:  # noqa: BLE001  # a disk that fails is not trusted any more
            self.on_loop(lambda error=error: self.fail(error), None)  # type: ignore[misc]
        else:
            self.on_loop(lambda: self._made(spare, success=success), None)

    def _made(self, spare: Spare, *, success: bool) -> None:
        if success == self.wal.full:
            outcome = "there is space for the log again" if success else "no space for the log"
            log.warning("%s", outcome)
        self._retry_s = self.clock() + SPARE_RETRY_S
        replaced = self.wal.made(spare, success=success)
        if replaced:
            self.writer.submit(self._discard, replaced)

    def _discard(self, names: tuple[str, ...]) -> Any:
        try:
            self.wal.discard(names)
        except OSError as error:
            self.on_loop(lambda error=error: self.fail(error), None)  # type: ignore[misc]
