"""Threads and timers around the group host: the only place where raft meets time and disks.

    event loop   steps the groups, sends, answers
    wal          writes and syncs one batch at a time; what gathers meanwhile is the next batch
    apply        state machines and the vector index: see `apply_lane`
    files        snapshots
    checkpoint   checkpoints of SQLite, before the log is cut (`cluster.raft.log_keeper`)
    spare        the log's next segment, made ahead

An error of the log's disk, or any broken invariant, ends the node: `run` raises. A full disk does
not: writes answer 507, entries that a state machine has no space for wait, and all goes on when
there is space again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from cluster.config import KIB, Config
from cluster.raft.apply_lane import ApplyLane, Observer
from cluster.raft.core import Timing
from cluster.raft.frames import ForeignPeer
from cluster.raft.host import GroupHost, Ready
from cluster.raft.log import GroupState
from cluster.raft.log_keeper import LogKeeper
from cluster.raft.log_memory import LogMemory
from cluster.raft.messages import Chunk, Manifest, Message, from_wire, to_wire
from cluster.raft.snapshot import Effect, Install, SendChunk, StoreChunk, WantSnapshot
from cluster.raft.snapshot_files import SnapshotStore
from cluster.raft.tcp import PeerPort
from cluster.raft.wal import Wal, WriteBatch
from cluster.replica import Replica
from cluster.surroundings import REAL, Surroundings

log = logging.getLogger("recollect.raft")

EXPORT_RETRY_S: Final = 5.0
SLOW_WRITE_S: Final = 0.5
SWEEP_S: Final = 5.0
OFFER_FORGOTTEN_S: Final = 60.0
"""How long a snapshot that nobody pulls is kept: it takes as much disk as the state."""


class Driver:
    """See the module. Made and run on the event loop."""

    def __init__(
        self,
        config: Config,
        port: PeerPort,
        observer: Observer,
        surroundings: Surroundings = REAL,
    ) -> None:
        self._config, self._port, self._observer = config, port, observer
        self._surroundings, self._clock = surroundings, surroundings.clock
        self._rng = random.Random(surroundings.random_bytes(16))
        self._wal = Wal(
            surroundings.log_disk(config.data_dir / "log"),
            config.segment_bytes,
            lambda: surroundings.random_number(4),
        )
        timing = Timing(
            election_timeout_s=config.election_timeout_ms / 1000,
            heartbeat_s=config.heartbeat_ms / 1000,
            append_bytes_max=config.append_bytes_max,
            inflight_bytes_max=config.inflight_bytes_max,
        )
        self.host = GroupHost(
            config.node_id,
            self._wal,
            clock=self._clock,
            timing=timing,
            memory=LogMemory(config.log_memory_bytes_max, config.command_bytes_max + KIB),
        )
        self.replicas: dict[int, Replica] = {}
        self._snapshots: dict[int, SnapshotStore] = {}
        self._exported: set[int] = set()
        self._wal_thread = surroundings.threads(1, "wal")
        self._apply_thread = surroundings.threads(1, "apply")
        self._files_thread = surroundings.threads(1, "files")
        self._checkpoint_thread = surroundings.threads(1, "checkpoint")
        self._spare_thread = surroundings.threads(1, "spare")
        self._loop = asyncio.get_running_loop()
        self._fatal: asyncio.Future[None] = self._loop.create_future()
        self.lane = ApplyLane(self._apply_thread, observer, clock=self._clock, fail=self.fail)
        self._planned = False
        self._written = asyncio.Event()
        self.keeper = LogKeeper(
            host=self.host,
            wal=self._wal,
            replicas=self.replicas,
            log_bytes_max=config.log_bytes_max,
            checkpoints=self._checkpoint_thread,
            spares=self._spare_thread,
            writer=self._wal_thread,
            clock=self._clock,
            on_loop=self._on_loop,
            fail=self.fail,
        )
        self.loop_lag_s = 0.0
        self._tick_s = config.tick_ms / 1000
        self._wake_s = -math.inf
        self._sooner = asyncio.Event()
        port.on_raft = self._received

    def open(self) -> None:
        """Recover the log; blocking. Raises CorruptLog or OSError."""
        self.host.open()

    async def begin(self, group: int, state: GroupState) -> None:
        """Let a group that the log does not know begin elsewhere than at the root; return when that
        is on disk. See `GroupHost.begin_group`."""
        sequence = self.host.begin_group(group, state)
        self._plan()
        while not self.host.is_synced(sequence):
            self._written.clear()
            await self._written.wait()

    def add(self, group: int, members: tuple[str, ...], machine: Any) -> Replica:
        """Start this node's replica of a group."""
        raft = self.host.open_group(group, members, machine.position(), self._rng)
        replica = Replica(group, raft, machine, lambda: self.touch(group), clock=self._clock)
        if replica.heavy:
            raft.commit_notice_s = 0.0  # rare, and every node waits for what it says
        self.replicas[group] = replica
        folder: Path = self._config.data_dir / "snapshots"
        self._snapshots[group] = self._surroundings.snapshots(folder / f"{group:04d}", machine)
        self._plan()
        return replica

    @property
    def log_full(self) -> bool:
        """Whether the log waits for space on the disk."""
        return self._wal.full

    @property
    def state_full(self) -> bool:
        """Whether committed entries wait for space on the disk."""
        return any(replica.storage_full for replica in self.replicas.values())

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
                tasks.create_task(self.keeper.run())
                tasks.create_task(self._sweep_for_ever())
                tasks.create_task(self._until_broken())
        finally:
            self.lane.close()
            for pool in (
                self._wal_thread,
                self._apply_thread,
                self._files_thread,
                self._checkpoint_thread,
                self._spare_thread,
            ):
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
        except msgspec.MsgspecError as error:
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
            self._step(self.host.ready())
        except Exception as error:  # noqa: BLE001  # a broken invariant: the node must stop
            self.fail(error)

    def _step(self, ready: Ready) -> None:
        if ready.persist is not None:
            self._wal_thread.submit(self._write, ready.persist)
        self._post(ready.send)
        for group, entries in ready.apply:
            self.replicas[group].take_committed(entries)
        for group, effect in ready.effects:
            self._perform(group, effect)
        for group in ready.stepped:
            replica = self.replicas[group]
            replica.observe()
            self.lane.look(replica)
            if replica.raft.due_s < self._wake_s - self._tick_s:
                self._sooner.set()
        self.keeper.refill()
        if not self.host.idle:
            self._plan()

    def _post(self, send: list[tuple[str, int, Message]]) -> None:
        last: Message | None = None
        wire: Any = None
        for peer, group, message in send:
            if message is not last:
                last, wire = message, to_wire(message)
            self._port.post_raft(peer, group, wire)

    def _write(self, batch: WriteBatch) -> None:
        began_s = self._clock()
        try:
            self._wal.write(batch)
        except Exception as error:  # noqa: BLE001  # nothing may follow an unwritten batch
            self._loop.call_soon_threadsafe(self.fail, error)
        else:
            took_s = self._clock() - began_s
            if took_s > SLOW_WRITE_S:
                log.warning("the log's disk took %.1f s for %d bytes", took_s, len(batch.data))
            self._on_loop(lambda: self._synced(batch.sequence))

    def _synced(self, sequence: int) -> None:
        self.host.synced(sequence)
        self._written.set()

    # -- snapshots ----------------------------------------------------------------------------

    def _perform(self, group: int, effect: Effect) -> None:
        files, replica = self._snapshots[group], self.replicas[group]
        if isinstance(effect, WantSnapshot):
            self._files_thread.submit(self._export, files, replica)
        elif isinstance(effect, SendChunk):
            self._files_thread.submit(self._send_chunk, files, replica, effect)
        elif isinstance(effect, StoreChunk):
            self._files_thread.submit(self._store_chunk, files, replica, effect)
        else:
            self._files_thread.submit(self._check_incoming, files, replica, effect)

    def _export(self, files: SnapshotStore, replica: Replica) -> None:
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
        self._exported.add(replica.group)
        replica.raft.snapshot_ready(manifest)
        self.touch(replica.group)

    def _send_chunk(self, files: SnapshotStore, replica: Replica, effect: SendChunk) -> None:
        data = files.read(effect.sha256, effect.offset, self._config.snapshot_chunk_bytes)
        if data:
            chunk = Chunk(effect.sha256, effect.offset, data)
            self._on_loop(lambda: self.host.post(effect.peer, replica.group, chunk), replica.group)

    def _store_chunk(self, files: SnapshotStore, replica: Replica, effect: StoreChunk) -> None:
        if not files.store(effect.offset, effect.data):
            self._on_loop(replica.raft.install_failed, replica.group)

    def _check_incoming(self, files: SnapshotStore, replica: Replica, effect: Install) -> None:
        if files.complete(effect.manifest):
            install = partial(self._install, files, replica, effect.manifest)
            self._on_loop(lambda: self.lane.submit(install))
        else:
            self._on_loop(replica.raft.install_failed, replica.group)

    def _install(
        self, files: SnapshotStore, replica: Replica, manifest: Manifest
    ) -> Callable[[], None]:
        """Replace the state, in the lane; what it returns tells the group."""
        try:
            replica.will_show(manifest.index)
            files.install()
            replica.discard_below(manifest.index)
            self._observer.installed(replica)
        except Exception as error:
            log.warning("group %d: snapshot not installed: %s", replica.group, error)
            if replica.machine.position() == (manifest.index, manifest.term):
                raise
            return partial(self._act, replica.raft.install_failed, replica.group)
        return partial(self._act, partial(self._installed, replica, manifest), replica.group)

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
        """Wake when the next timer of a group runs out: an idle node seldom wakes."""
        shortest_s, longest_s = self._tick_s, self._config.heartbeat_ms / 1000
        self._wake_s = math.inf
        while True:
            now_s = self._clock()
            wait_s = min(max(self.host.due_s - now_s, shortest_s), longest_s)
            self._wake_s = min(self._wake_s, now_s + wait_s)  # sooner, never later
            self._sooner.clear()
            try:
                async with asyncio.timeout(max(0.0, self._wake_s - now_s)):
                    await self._sooner.wait()
            except TimeoutError:
                self.loop_lag_s = max(0.0, self._clock() - self._wake_s)
                self._wake_s = math.inf
                self.host.elapse()
                self._plan()

    async def _sweep_for_ever(self) -> None:
        """Forget snapshots that nobody pulls any more."""
        while True:
            await asyncio.sleep(SWEEP_S)
            for group, replica in self.replicas.items():
                raft = replica.raft
                if self._clock() - raft.offer_used_s > OFFER_FORGOTTEN_S:
                    raft.offer = None
                if raft.offer is None and not raft.offer_wanted and group in self._exported:
                    self._exported.discard(group)
                    self._files_thread.submit(self._snapshots[group].discard)
