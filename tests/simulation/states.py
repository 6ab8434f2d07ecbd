"""Replicas' states as a machine keeps them: SQLite in memory, with what a crash may leave.

`kill -9` leaves the latest commit. A power cut leaves any commit between the one that was made
durable last and the latest; of those between, a few drawn ones are kept as images. While the disk
is full, SQLite raises as it does then; a broken disk raises what ends the node.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cluster.command import Result
from cluster.metadata import MetadataMachine
from cluster.raft.messages import Manifest
from cluster.raft.snapshot_files import Exporter
from cluster.shard import ShardMachine
from cluster.state_machine import Change, Entry
from storage.state_file import CorruptState
from tests.simulation.virtual_loop import Process

IMAGES_MAX = 3
IMAGE_CHANCE = 0.2


@dataclass
class Faults:
    """What is wrong with a machine's disk for its states. Times are those of the loop."""

    full_s: float = 0.0
    fail_apply: bool = False
    fail_installs_s: float = 0.0


@dataclass
class Stored:
    """One replica's state."""

    latest: bytes | None = None
    durable: bytes | None = None
    durable_index: int = 1
    between: list[bytes] = field(default_factory=list)
    machine: Any = None
    """What the running node has opened."""

    def crash(self, rng: random.Random, *, power: bool) -> None:
        """Keep of the state what the crash leaves."""
        machine, self.machine = self.machine, None
        if machine is None:
            return
        self.latest = machine.dump()
        machine.close()
        if power:
            assert self.durable is not None
            self.latest = rng.choice([self.durable, *self.between, self.latest])
        self.durable, self.between = self.latest, []


class States:
    """All replicas' states of one machine, by name, and who watches them."""

    def __init__(self, node: str, rng: random.Random, watcher: Watcher) -> None:
        self.node, self.rng, self.watcher = node, rng, watcher
        self.faults = Faults()
        self.stored: dict[str, Stored] = {}
        self.process: Process | None = None
        self.slow = False

    def now_s(self) -> float:
        assert self.process is not None
        return self.process.loop.now_s

    def shard(self, path: Path, ttl_ms: int) -> SimulatedShard:
        return SimulatedShard(self, path.name, ttl_ms)

    def metadata(self, path: Path, ttl_ms: int) -> SimulatedMetadata:
        return SimulatedMetadata(self, path.name, ttl_ms)

    def snapshots(self, stem: Path, machine: Exporter) -> Snapshots:
        assert isinstance(machine, SimulatedState)
        return Snapshots(self, machine)

    def crash(self, *, power: bool) -> None:
        for stored in self.stored.values():
            stored.crash(self.rng, power=power)

    def failing_installs(self) -> bool:
        return self.faults.fail_installs_s > self.now_s()

    def refuse_if_full(self) -> None:
        if self.faults.full_s > self.now_s():
            raise sqlite_error("database or disk is full", sqlite3.SQLITE_FULL)


class Watcher(Protocol):
    """Is told of every commit, on whichever node."""

    def applied(self, node: str, machine: SimulatedState, entries: Sequence[Entry]) -> None: ...

    def installed(self, node: str, machine: SimulatedState) -> None: ...


def sqlite_error(text: str, code: int) -> sqlite3.OperationalError:
    """Return an error as SQLite raises it."""
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


class SimulatedState:
    """What both machines have in common; comes before the product's class."""

    states: States
    stored: Stored
    name: str
    results: list[Result]

    def attach(self: Any, states: States, name: str) -> None:
        """Continue from what the machine's disk holds."""
        self.states, self.name = states, name
        if states.rng.random() < 0.5:
            states.refuse_if_full()
        self.stored = states.stored.setdefault(name, Stored())
        if self.stored.latest is not None:
            self.load(self.stored.latest)
        else:
            self.stored.durable = self.dump()
        self.stored.durable_index = self.position()[0]
        self.stored.machine = self

    @property
    def busy(self: Any) -> bool:
        """Now and then a checkpoint is in the way; of a slow disk, always."""
        states: States = self.states
        return states.slow or states.rng.random() < 0.2

    @property
    def group(self: Any) -> int:
        """The raft group: the metadata is 0, shard s is s + 1."""
        return 0 if self.name == "metadata" else int(self.name.rpartition("-")[2]) + 1

    def apply(self: Any, entries: Sequence[Entry]) -> list[Result]:
        states, stored = self.states, self.stored
        states.refuse_if_full()
        if states.faults.fail_apply:
            states.faults.fail_apply = False
            raise sqlite_error("disk I/O error", sqlite3.SQLITE_IOERR)
        self.results = super().apply(entries)  # type: ignore[misc]
        if len(stored.between) < IMAGES_MAX and states.rng.random() < IMAGE_CHANCE:
            stored.between.append(self.dump())
        states.watcher.applied(states.node, self, entries)
        results: list[Result] = self.results
        return results

    def make_durable(self: Any) -> int:
        """Checkpoint; now and then a reader is in the way, and nothing more becomes durable."""
        states, stored = self.states, self.stored
        states.refuse_if_full()
        if states.rng.random() < 0.8:
            self.keep_durable()
        return int(stored.durable_index)

    def keep_durable(self: Any) -> None:
        stored = self.stored
        stored.durable, stored.durable_index = self.dump(), self.position()[0]
        stored.between = []


class SimulatedShard(SimulatedState, ShardMachine):
    """A shard's state on a simulated disk."""

    def __init__(self, states: States, name: str, ttl_ms: int) -> None:
        ShardMachine.__init__(self, None, request_id_ttl_ms=ttl_ms)
        self.attach(states, name)

    def peek_changes(self) -> list[Change]:
        """Return what the last apply changed, without taking it from the vector index."""
        return list(self._changes)


class SimulatedMetadata(SimulatedState, MetadataMachine):
    """The metadata on a simulated disk."""

    def __init__(self, states: States, name: str, ttl_ms: int) -> None:
        MetadataMachine.__init__(self, None, request_id_ttl_ms=ttl_ms)
        self.attach(states, name)


class Snapshots:
    """Implements `cluster.raft.snapshot_files.SnapshotStore` in memory."""

    def __init__(self, states: States, machine: SimulatedState) -> None:
        self.states, self.machine = states, machine
        self.outgoing = self.sha256 = b""
        self.incoming = bytearray()

    def export(self) -> Manifest:
        self.states.refuse_if_full()
        machine: Any = self.machine
        index, term = machine.position()
        self.outgoing = machine.dump()
        self.sha256 = hashlib.sha256(self.outgoing).digest()
        return Manifest(index, term, len(self.outgoing), self.sha256)

    def read(self, sha256: bytes, offset: int, size: int) -> bytes:
        return self.outgoing[offset : offset + size] if sha256 == self.sha256 else b""

    def store(self, offset: int, data: bytes) -> bool:
        if offset == 0:
            self.incoming.clear()
        stored = self.states.faults.full_s <= self.states.now_s() and offset == len(self.incoming)
        if stored:
            self.incoming += data
        return stored

    def discard(self) -> None:
        self.outgoing = self.sha256 = b""

    def complete(self, manifest: Manifest) -> bool:
        if self.states.failing_installs() and self.states.rng.random() < 0.5:
            return False
        return hashlib.sha256(self.incoming).digest() == manifest.sha256

    def install(self) -> None:
        if self.states.failing_installs():
            raise CorruptState("damaged: the snapshot cannot be read")
        machine: Any = self.machine
        machine.load(bytes(self.incoming))
        machine.keep_durable()
        self.states.watcher.installed(self.states.node, machine)
