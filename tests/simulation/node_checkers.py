"""What must hold on whole nodes after every event, watched from outside.

Safety of Raft (paper, figure 3), of the log's durability, of the state machines, and of what
clients are told: whatever they see is a state that some replica had, at least as new as promised.
A check that fails is noted, and ends the run at its next step: raised where it is found, it would
be taken for an error of the node.
"""

from __future__ import annotations

import errno
import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from cluster.model import Record
from cluster.raft.host import Ready
from cluster.raft.messages import Append, from_wire
from cluster.state_machine import Entry
from storage.ids import INTEGER_TAG, decode_id
from tests.simulation.computer import Computer
from tests.simulation.durable_log import DurableLog
from tests.simulation.graph_checkers import GraphCheckers
from tests.simulation.states import SimulatedShard


@dataclass
class Effects:
    """What became of one id: version -> value (None: deleted), as replicas committed it."""

    values: dict[int, int | None] = field(default_factory=dict)
    acked: list[tuple[float, int]] = field(default_factory=list)
    """When which version was acknowledged to a client."""

    def newest_until(self, index: int) -> int:
        """Return the version that a state at log index `index` shows; 0: never written."""
        return max((version for version in self.values if version <= index), default=0)


class NodeCheckers:
    """See the module."""

    def __init__(self) -> None:
        self.computers: dict[str, Computer] = {}
        self.violation = ""
        self.logs: dict[str, DurableLog] = {}
        self.leaders: dict[tuple[int, int], str] = {}
        self.entries: dict[tuple[int, int], tuple[int, bytes]] = {}
        self.hashes: dict[tuple[int, int], bytes] = {}
        self.effects: dict[tuple[int, int], Effects] = {}
        self.took_effect: dict[int, int] = {}
        self.snapshots = self.acked = 0
        self.deaths: list[str] = []
        self.on_death: Callable[[Computer], object] = lambda _: None
        self.graphs: GraphCheckers | None = None
        self.stalest_s = 0.0
        self.trace = hashlib.blake2b(digest_size=8)

    def watch(self, computer: Computer) -> None:
        """Watch a machine from its first start on."""
        self.computers[computer.name] = computer
        self.logs[computer.name] = DurableLog(computer.disk)

    def fail(self, text: str) -> None:
        """Note the first violation."""
        self.violation = self.violation or text

    def note(self, *what: object) -> None:
        """Add to the trace, whose digest tells whether two runs were the same."""
        self.trace.update(repr(what).encode())

    # -- what nodes do ------------------------------------------------------------------------

    def ready(self, computer: Computer, ready: Ready) -> None:
        """Election safety; and no replica stopped itself."""
        assert computer.node is not None
        for group, raft in computer.node.driver.host.groups.items():
            if raft.failed:
                self.fail(f"{computer.name}: group {group} stopped: {raft.failed}")
            if raft.is_leader:
                self._leads(computer.name, group, raft.term)

    def _leads(self, name: str, group: int, term: int) -> None:
        first = self.leaders.setdefault((group, term), name)
        if first != name:
            self.fail(f"two leaders of group {group} in term {term}: {first} and {name}")

    def sent(self, computer: Computer, peer: str, group: int, raw: bytes) -> None:
        """What leaves a node is the trace."""
        message = from_wire(raw)
        self.note(computer.loop.now_s, computer.name, peer, group, hashlib.blake2b(raw).hexdigest())
        if isinstance(message, Append):
            self._leads(computer.name, group, message.term)

    def applied(self, node: str, machine: Any, entries: Sequence[Entry]) -> None:
        """State machine safety: one entry per index, one state per index."""
        group = machine.group
        for entry in entries:
            found = (entry.term, entry.command)
            if self.entries.setdefault((group, entry.index), found) != found:
                self.fail(f"{node}: group {group} applied another entry at {entry.index}")
        self.note("applied", node, group, entries[-1].index)
        self._compare(node, machine)
        if isinstance(machine, SimulatedShard):
            self._take_effects(node, machine)
            if self.graphs is not None:
                self.graphs.applied(node, machine, entries)

    def installed(self, node: str, machine: Any) -> None:
        """A state that came as a snapshot is the state of that index, too."""
        self.snapshots += 1
        self.note("installed", node, machine.group, machine.position())
        self._compare(node, machine)
        if self.graphs is not None and isinstance(machine, SimulatedShard):
            self.graphs.compare_rows(node, machine)

    def _compare(self, node: str, machine: Any) -> None:
        index, digest = machine.hashed_index()
        if self.hashes.setdefault((machine.group, index), digest) != digest:
            self.fail(f"{node}: group {machine.group} differs at index {index}")

    def _take_effects(self, node: str, machine: SimulatedShard) -> None:
        """Learn what became of each record; a value takes effect at most once."""
        shard = machine.group - 1
        for change in machine.peek_changes():
            if change.id[0] != INTEGER_TAG:
                continue  # of a graph, or beside one
            record_id, value = int(decode_id(change.id)), None
            if change.vector is not None:
                value = int(np.frombuffer(change.vector, "<f4")[0])
                if self.took_effect.setdefault(value, change.version) != change.version:
                    self.fail(f"{node}: value {value} took effect twice")
            effects = self.effects.setdefault((shard, record_id), Effects())
            if effects.values.setdefault(change.version, value) != value:
                self.fail(f"{node}: id {record_id} has two values at version {change.version}")

    def compare_logs(self) -> None:
        """Log matching: where two logs have an entry of one term, they are equal up to it."""
        logs: dict[int, list[tuple[str, dict[int, tuple[int, bytes]]]]] = {}
        for name, computer in self.computers.items():
            if computer.node is not None:
                for group, raft in computer.node.driver.host.groups.items():
                    held = {index: (term, command) for command, index, term in raft.log[1:]}
                    logs.setdefault(group, []).append((name, held))
        for group, held_by in logs.items():
            for (one, ours), (other, theirs) in pairwise(held_by):
                common = sorted(ours.keys() & theirs.keys())
                agreed = [index for index in common if ours[index][0] == theirs[index][0]]
                until = agreed[-1] if agreed else 0
                if any(ours[at] != theirs[at] for at in common if at <= until):
                    self.fail(f"the logs of group {group} at {one} and {other} do not match")

    def died(self, computer: Computer, error: BaseException) -> None:
        """A node may end itself for its disk's errors, and for nothing else."""
        for each in _causes(error):
            self.deaths.append(type(each).__name__)
            of_disk = isinstance(each, OSError) and each.errno in {errno.EIO, errno.ENOSPC}
            of_state = (
                isinstance(each, sqlite3.OperationalError)
                and each.sqlite_errorcode == sqlite3.SQLITE_IOERR
            )
            if not of_disk and not of_state:
                self.fail(f"{computer.name} died: {each!r}")
        self.on_death(computer)

    # -- what clients are told ----------------------------------------------------------------

    def durable(self, group: int, index: int, members: Sequence[str]) -> None:
        """An acknowledged entry is in the durable log of a majority, at this very moment."""
        self.acked += 1
        entry = self.entries.get((group, index))
        if entry is None:
            self.fail(f"group {group}: {index} was acknowledged, but nobody applied it")
            return
        holders = [name for name in members if self.logs[name].holds(group, index, entry[0])]
        if 2 * len(holders) <= len(members):
            self.fail(f"group {group}: {index} was acknowledged, but durable on {holders} alone")

    def saw(self, shard: int, record_id: int, record: Record | None, floor: int) -> None:
        """What was read is whole, existed, and is not older than log index `floor`."""
        effects = self.effects.get((shard, record_id), Effects())
        oldest = effects.newest_until(floor)
        if record is None:
            known = [version for version, value in effects.values.items() if value is None]
            if oldest and not any(version >= oldest for version in known):
                self.fail(f"id {record_id} was read as absent, though written at {oldest}")
            return
        value = record.payload["value"] if record.payload is not None else None
        whole = record.vector is not None and value == int(record.vector[0])
        if not whole or effects.values.get(record.version, -1) != value:
            self.fail(f"id {record_id} was read as {record}, which was never written")
        if record.version < oldest:
            self.fail(f"id {record_id} was read at {record.version}, older than {oldest}")

    def age_s(self, shard: int, record_id: int, version: int, asked_s: float) -> float:
        """Return for how long something newer than `version` had been acknowledged."""
        acked = self.effects.get((shard, record_id), Effects()).acked
        newer = [at for at, each in acked if each > version and at < asked_s]
        return asked_s - min(newer) if newer else 0.0


def _causes(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [cause for each in error.exceptions for cause in _causes(each)]
    return [error]
