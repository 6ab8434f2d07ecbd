"""Threads and timers around the group host: the only place where raft meets time and disks.

    event loop   steps the groups, sends, answers
    wal          writes and syncs one batch at a time; what gathers meanwhile is the next batch
    apply        state machines and the vector index, many entries to a transaction
    files        snapshots and checkpoints of SQLite

An error of the log's disk, or any broken invariant, ends the node: `run` raises. A full disk
under a state machine does not: the entries wait, writes answer 507, and it goes on when there is
space again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from cluster.config import Config
from cluster.raft.core import Timing
from cluster.raft.disk import FolderDisk
from cluster.raft.frames import ForeignPeer
from cluster.raft.host import GroupHost
from cluster.raft.messages import Chunk, Manifest, from_wire, to_wire
from cluster.raft.snapshot import Effect, Install, SendChunk, StoreChunk, WantSnapshot
from cluster.raft.snapshot_files import SnapshotFiles
from cluster.raft.tcp import PeerPort
from cluster.raft.wal import Wal, WriteBatch
from cluster.replica import Replica

log = logging.getLogger("recollect.raft")

APPLY_BYTES_MAX: Final = 8 << 20
MAINTENANCE_S: Final = 0.5
DISK_FULL_RETRY_S: Final = 1.0
EXPORT_RETRY_S: Final = 5.0
FOLLOWERS_WAIT: Final = 4
"""How many times its usual size a log may reach before a slow follower is left to a snapshot."""


class Observer(Protocol):
    """Who is told, on the apply thread, what happened to a replica's state."""

    def applied(self, replica: Replica) -> None:
        """A batch was committed; `machine.take_changes` says what it changed."""

    def installed(self, replica: Replica) -> None:
        """The state became another replica's."""


class Driver:
    """See the module. Made and run on the event loop."""

    def __init__(
        self, config: Config, port: PeerPort, observer: Observer, rng: random.Random
    ) -> None:
        self._config, self._port, self._observer, self._rng = config, port, observer, rng
        self._wal = Wal(
            FolderDisk(config.data_dir / "log"),
            config.segment_bytes,
            lambda: secrets.randbits(32),
        )
        timing = Timing(
            election_timeout_s=config.election_timeout_ms / 1000,
            heartbeat_s=config.heartbeat_ms / 1000,
            append_bytes_max=config.append_bytes_max,
            inflight_bytes_max=config.inflight_bytes_max,
        )
        self.host = GroupHost(config.node_id, self._wal, clock=time.monotonic, timing=timing)
        self.replicas: dict[int, Replica] = {}
        self._snapshots: dict[int, SnapshotFiles] = {}
        self._wal_thread = ThreadPoolExecutor(1, "wal")
        self.apply_thread = ThreadPoolExecutor(1, "apply")
        self._files_thread = ThreadPoolExecutor(1, "files")
        self._loop = asyncio.get_running_loop()
        self._fatal: asyncio.Future[None] = self._loop.create_future()
        self._planned = False
        self._checkpointing: set[int] = set()
        self.loop_lag_s = 0.0
        port.on_raft = self._received

    def open(self) -> None:
        """Recover the log; blocking. Raises CorruptLog or OSError."""
        self.host.open()

    def add(self, group: int, members: tuple[str, ...], machine: Any) -> Replica:
        """Start this node's replica of a group."""
        raft = self.host.open_group(group, members, machine.position(), self._rng)
        replica = Replica(group, raft, machine, lambda: self.touch(group))
        self.replicas[group] = replica
        folder: Path = self._config.data_dir / "snapshots"
        self._snapshots[group] = SnapshotFiles(folder / f"{group:04d}", machine)
        self._plan()
        return replica

    def touch(self, group: int) -> None:
        """Let a group step soon."""
        self.host.touch(group)
        self._plan()

    def connected(self, peer: str) -> None:
        """A connection is up."""
        self.host.connected(peer)
        self._plan()

    def disconnected(self, peer: str) -> None:
        """A connection closed."""
        self.host.disconnected(peer)
        self._plan()

    async def run(self) -> None:
        """Run until cancelled; raises what broke the node."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tick_for_ever())
                tasks.create_task(self._maintain_for_ever())
                tasks.create_task(self._until_broken())
        finally:
            for pool in (self._wal_thread, self.apply_thread, self._files_thread):
                await asyncio.to_thread(pool.shutdown)

    def fail(self, error: BaseException) -> None:
        """Stop the node: going on could break a promise."""
        if not self._fatal.done():
            log.critical("the node stops: %s", error)
            self._fatal.set_exception(error)

    async def _until_broken(self) -> None:
        await self._fatal

    # -- stepping -----------------------------------------------------------------------------

    def _received(self, peer: str, group: int, raw: Any) -> None:
        try:
            message = from_wire(raw)
        except msgspec.ValidationError as error:
            raise ForeignPeer(f"{peer} sent a malformed message") from error
        self._act(lambda: self.host.receive(peer, group, message), None)

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Persist, send, apply: in this order, from one `Ready`."""
        self._planned = False
        if self._fatal.done():
            return
        try:
            ready = self.host.ready()
        except Exception as error:  # noqa: BLE001  # a broken invariant: the node must stop
            self.fail(error)
            return
        if ready.persist is not None:
            self._wal_thread.submit(self._write, ready.persist)
        for peer, group, message in ready.send:
            self._port.post_raft(peer, group, to_wire(message))
        for group, entries in ready.apply:
            self.replicas[group].inbox.extend(entries)
            if not self.replicas[group].retrying:
                self.apply_thread.submit(self._apply, self.replicas[group])
        for group, effect in ready.effects:
            self._perform(group, effect)
        for replica in self.replicas.values():
            replica.observe()
        if not self.host.idle:
            self._plan()

    def _write(self, batch: WriteBatch) -> None:
        try:
            self._wal.write(batch)
        except Exception as error:  # noqa: BLE001  # nothing may follow an unwritten batch
            self._loop.call_soon_threadsafe(self.fail, error)
        else:
            self._on_loop(lambda: self.host.synced(batch.sequence))

    # -- applying -----------------------------------------------------------------------------

    def _apply(self, replica: Replica) -> None:
        entries = replica.take_inbox(APPLY_BYTES_MAX)
        if not entries:
            return
        try:
            results = self._commit(replica, entries)
        except Exception as error:  # noqa: BLE001  # the state is in doubt: the node must stop
            self._loop.call_soon_threadsafe(self.fail, error)
            return
        if results is None:
            self._loop.call_soon_threadsafe(self._stalled, replica)
        else:
            self._on_loop(lambda: self._applied(replica, entries, results))

    def _commit(self, replica: Replica, entries: list[Any]) -> list[Any] | None:
        """Apply in one transaction; None when the disk is full, and nothing was applied."""
        try:
            results: list[Any] = replica.machine.apply(entries)
        except sqlite3.OperationalError as error:
            if not _disk_full(error):
                raise
            replica.give_back(entries)
            return None
        self._observer.applied(replica)
        return results

    def _applied(self, replica: Replica, entries: list[Any], results: list[Any]) -> None:
        replica.storage_full = False
        replica.applied(entries, results)
        if replica.inbox:
            self.apply_thread.submit(self._apply, replica)

    def _stalled(self, replica: Replica) -> None:
        if not replica.storage_full:
            log.error("group %d waits for space: the disk is full", replica.group)
        replica.storage_full = replica.retrying = True
        self._loop.call_later(DISK_FULL_RETRY_S, self._retry, replica)

    def _retry(self, replica: Replica) -> None:
        replica.retrying = False
        self.apply_thread.submit(self._apply, replica)

    # -- snapshots ----------------------------------------------------------------------------

    def _perform(self, group: int, effect: Effect) -> None:
        files, replica = self._snapshots[group], self.replicas[group]
        if isinstance(effect, WantSnapshot):
            self._files_thread.submit(self._export, files, replica)
        elif isinstance(effect, SendChunk):
            self._files_thread.submit(self._send_chunk, files, replica, effect)
        elif isinstance(effect, StoreChunk):
            self._files_thread.submit(files.store, effect.offset, effect.data)
        else:
            self._files_thread.submit(self._check_incoming, files, replica, effect)

    def _export(self, files: SnapshotFiles, replica: Replica) -> None:
        manifest: Manifest | None = None
        try:
            manifest = files.export()
        except (OSError, sqlite3.Error) as error:
            log.warning("group %d: no snapshot could be made: %s", replica.group, error)
        except Exception as error:  # noqa: BLE001  # the state is in doubt: the node must stop
            self._loop.call_soon_threadsafe(self.fail, error)
            return
        wait_s = 0.0 if manifest is not None else EXPORT_RETRY_S
        self._on_loop(
            lambda: self._loop.call_later(wait_s, self._snapshot_ready, replica, manifest)
        )

    def _snapshot_ready(self, replica: Replica, manifest: Manifest | None) -> None:
        replica.raft.snapshot_ready(manifest)
        self.touch(replica.group)

    def _send_chunk(self, files: SnapshotFiles, replica: Replica, effect: SendChunk) -> None:
        data = files.read(effect.sha256, effect.offset, self._config.snapshot_chunk_bytes)
        if data:
            chunk = Chunk(effect.sha256, effect.offset, data)
            self._on_loop(lambda: self.host.post(effect.peer, replica.group, chunk), replica.group)

    def _check_incoming(self, files: SnapshotFiles, replica: Replica, effect: Install) -> None:
        if files.complete(effect.manifest):
            self.apply_thread.submit(self._install, files, replica, effect.manifest)
        else:
            self._on_loop(replica.raft.install_failed, replica.group)

    def _install(self, files: SnapshotFiles, replica: Replica, manifest: Manifest) -> None:
        try:
            replica.machine.install(files.incoming)
            replica.discard_below(manifest.index)
            self._observer.installed(replica)
        except Exception as error:  # noqa: BLE001  # whatever it is, nothing is acknowledged
            log.warning("group %d: snapshot not installed: %s", replica.group, error)
            if replica.machine.position() == (manifest.index, manifest.term):
                self._loop.call_soon_threadsafe(self.fail, error)
                return
            self._on_loop(replica.raft.install_failed, replica.group)
        else:
            self._on_loop(lambda: self._installed(replica, manifest), replica.group)

    def _installed(self, replica: Replica, manifest: Manifest) -> None:
        log.info("group %d: refilled by a snapshot at %d", replica.group, manifest.index)
        replica.raft.installed(manifest)
        replica.installed()

    def _on_loop(self, act: Callable[[], object], group: int | None = None) -> None:
        """From a thread: do something on the loop, then let the group step."""
        self._loop.call_soon_threadsafe(self._act, act, group)

    def _act(self, act: Callable[[], object], group: int | None) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001  # a broken invariant: the node must stop
            self.fail(error)
            return
        if group is not None:
            self.host.touch(group)
        self._plan()

    # -- timers -------------------------------------------------------------------------------

    async def _tick_for_ever(self) -> None:
        period_s = self._config.tick_ms / 1000
        while True:
            before = time.monotonic()
            await asyncio.sleep(period_s)
            self.loop_lag_s = max(0.0, time.monotonic() - before - period_s)
            self.host.elapse()
            self._plan()

    async def _maintain_for_ever(self) -> None:
        """Cut logs that grew, or that keep old segments, below what SQLite has made durable."""
        while True:
            await asyncio.sleep(MAINTENANCE_S)
            pinning = self.host.pinning()
            for group, replica in self.replicas.items():
                size = replica.raft.log.size_bytes
                large = size > self._config.log_bytes_max
                if (large or group in pinning) and group not in self._checkpointing:
                    self._checkpointing.add(group)
                    urgent = group in pinning or size > FOLLOWERS_WAIT * self._config.log_bytes_max
                    self._files_thread.submit(self._checkpoint, replica, urgent)

    def _checkpoint(self, replica: Replica, urgent: bool) -> None:  # noqa: FBT001
        durable = 0
        try:
            durable = replica.machine.make_durable()
        except Exception as error:  # noqa: BLE001  # what is durable is in doubt
            if not _disk_full(error):
                self._loop.call_soon_threadsafe(self.fail, error)
                return
            log.warning("group %d: no space for a checkpoint; its log stays", replica.group)
        self._on_loop(lambda: self._cut(replica, durable, urgent=urgent), replica.group)

    def _cut(self, replica: Replica, durable: int, *, urgent: bool) -> None:
        self._checkpointing.discard(replica.group)
        replica.raft.compact(durable, urgent=urgent)


def _disk_full(error: BaseException) -> bool:
    return (
        isinstance(error, sqlite3.OperationalError)
        and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL
    )
