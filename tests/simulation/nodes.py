"""Real groups, real write-ahead log, on a virtual clock, network and disk.

`Net` carries messages between `SimNode`s as the bytes they would be on a wire. Tests may let
everything flow (`settle`), or hold, drop, repeat and reorder single messages (`deliver`).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgpack

from cluster.raft.core import Timing
from cluster.raft.group import RaftGroup
from cluster.raft.host import GroupHost
from cluster.raft.messages import Chunk, Entry, Manifest, Message, from_wire, to_wire
from cluster.raft.pinned import install_clock
from cluster.raft.snapshot import Install, SendChunk, StoreChunk, WantSnapshot
from cluster.raft.wal import Wal, WriteBatch
from tests.simulation.faulty_disk import FaultyDisk
from tests.simulation.register import Register

CHUNK_BYTES = 1024
SEGMENT_BYTES = 4096


@dataclass(frozen=True)
class Letter:
    """A message under way."""

    source: str
    target: str
    group: int
    frame: bytes

    @property
    def message(self) -> Message:
        return from_wire(msgpack.unpackb(self.frame))


class SimNode:
    """One node: disk and state machines outlive its host, which dies in a crash."""

    def __init__(self, name: str, net: Net, groups: Iterable[int]) -> None:
        self.name, self.net = name, net
        self.disk = FaultyDisk()
        self.machines = {group: Register() for group in groups}
        self.up = False
        self.fail_install = False
        self.instant_disk = True
        self.acks: list[tuple[int, int, int]] = []
        self.start()

    def start(self) -> None:
        """Boot from what the disk holds."""
        net = self.net
        self.wal = Wal(self.disk, SEGMENT_BYTES, lambda: net.rng.getrandbits(32))
        self.host = GroupHost(self.name, self.wal, clock=lambda: net.now_s, timing=net.timing)
        self.host.open()
        self.syncing: WriteBatch | None = None
        self.to_apply: list[tuple[int, list[Entry]]] = []
        self.incoming: dict[int, bytes] = {}
        self.outgoing: dict[int, bytes] = {}
        for group, machine in self.machines.items():
            self.host.open_group(group, net.names, machine.position(), net.rng)
        self.up = True

    def group(self, group: int = 1) -> RaftGroup:
        return self.host.groups[group]

    def crash(self, *, power: bool, rng: random.Random) -> None:
        """Die; with the power, unsynced writes and undurable commits go too."""
        self.up = False
        for other in self.net.names:
            if other != self.name:
                self.net.cut(self.name, other)
        if power:
            self.disk.lose_power(rng)
            for machine in self.machines.values():
                machine.lose_power(rng)

    # -- one step -----------------------------------------------------------------------------

    def step(self) -> None:
        """Persist, send, apply until nothing more happens now."""
        for _ in range(20):
            ready = self.host.ready()
            if ready.persist is not None:
                self.syncing = ready.persist
                if self.instant_disk:
                    self.finish_sync()
            for peer, group, message in ready.send:
                self.net.post(Letter(self.name, peer, group, msgpack.packb(to_wire(message))))
            self.to_apply += ready.apply
            self.apply_all()
            for group, effect in ready.effects:
                self.perform(group, effect)
            if self.host.idle and ready.persist is None:
                return

    def finish_sync(self) -> None:
        """The disk finished the batch under way."""
        batch, self.syncing = self.syncing, None
        if batch is not None:
            self.wal.write(batch)
            self.wal.refill()
            self.host.synced(batch.sequence)

    def apply_all(self) -> None:
        """Apply what was handed over; acks are what the leader's clients would now hear."""
        waiting, self.to_apply = self.to_apply, []
        for group, entries in waiting:
            for entry in entries:
                self.net.on_applied(self.name, group, entry)
            self.machines[group].apply(entries)
            self.net.on_state(self.name, group, self.machines[group])

    def perform(self, group: int, effect: object) -> None:
        """Do what a group asked its node to do about snapshots."""
        raft, machine = self.group(group), self.machines[group]
        if isinstance(effect, WantSnapshot):
            image = machine.dump()
            self.outgoing[group] = image
            raft.snapshot_ready(
                Manifest(machine.index, machine.term, len(image), hashlib.sha256(image).digest())
            )
        elif isinstance(effect, SendChunk):
            image = self.outgoing[group]
            if hashlib.sha256(image).digest() == effect.sha256:
                data = image[effect.offset : effect.offset + CHUNK_BYTES]
                chunk = Chunk(effect.sha256, effect.offset, data)
                self.net.post(Letter(self.name, effect.peer, group, msgpack.packb(to_wire(chunk))))
        elif isinstance(effect, StoreChunk):
            before = b"" if effect.offset == 0 else self.incoming[group]
            assert len(before) == effect.offset, "pieces come in order"
            self.incoming[group] = before + effect.data
        elif isinstance(effect, Install):
            image = self.incoming[group]
            good = hashlib.sha256(image).digest() == effect.manifest.sha256
            if self.fail_install or not good:
                raft.install_failed()
            else:
                machine.load(image)
                self.net.on_state(self.name, group, machine)
                raft.installed(effect.manifest)
        self.host.touch(group)

    def compact(self, group: int = 1) -> None:
        """Make the state durable and cut the log below it."""
        self.group(group).compact(self.machines[group].make_durable())
        self.host.touch(group)


class Net:
    """The clock, the network and the nodes."""

    def __init__(
        self, names: str = "ABC", *, seed: int = 0, groups: Iterable[int] = (1,), **timing: float
    ) -> None:
        self.now_s = 1000.0
        self.rng = random.Random(seed)
        self.names = tuple(names)
        self.timing = Timing(**timing)  # type: ignore[arg-type]
        self.letters: list[Letter] = []
        self.links: set[frozenset[str]] = set()
        self.on_applied: Callable[[str, int, Entry], None] = lambda *_: None
        self.on_state: Callable[[str, int, Register], None] = lambda *_: None
        install_clock(lambda: self.now_s)
        groups = tuple(groups)
        self.nodes = {name: SimNode(name, self, groups) for name in self.names}

    def post(self, letter: Letter) -> None:
        if frozenset((letter.source, letter.target)) in self.links:
            self.letters.append(letter)

    def link(self, a: str, b: str) -> None:
        """Connect two nodes that are up."""
        pair = frozenset((a, b))
        if pair in self.links or not (self.nodes[a].up and self.nodes[b].up):
            return
        self.links.add(pair)
        self.nodes[a].host.connected(b)
        self.nodes[b].host.connected(a)

    def cut(self, a: str, b: str) -> None:
        """Close a connection; what is under way on it is lost."""
        pair = frozenset((a, b))
        if pair not in self.links:
            return
        self.links.discard(pair)
        self.letters = [x for x in self.letters if frozenset((x.source, x.target)) != pair]
        for here, there in ((a, b), (b, a)):
            if self.nodes[here].up:
                self.nodes[here].host.disconnected(there)

    def link_all(self, names: str = "") -> None:
        chosen = names or "".join(self.names)
        for i, a in enumerate(chosen):
            for b in chosen[i + 1 :]:
                self.link(a, b)

    def deliver(
        self, chosen: Callable[[Letter], bool] = lambda _: True, limit: int = 10**9
    ) -> list[Letter]:
        """Deliver chosen letters in order; a refused one blocks its direction."""
        done: list[Letter] = []
        kept: list[Letter] = []
        blocked: set[tuple[str, str]] = set()
        letters, self.letters = self.letters, []
        for letter in letters:
            way = (letter.source, letter.target)
            if len(done) >= limit or way in blocked or not chosen(letter):
                blocked.add(way)
                kept.append(letter)
            else:
                done.append(letter)
                self.hand(letter)
        self.letters = kept + self.letters
        return done

    def hand(self, letter: Letter) -> None:
        """Give a letter to its addressee, whatever the links say (a late or repeated one)."""
        node = self.nodes[letter.target]
        if node.up:
            node.host.receive(letter.source, letter.group, letter.message)
            node.step()

    def tick(self, names: str = "", dt_s: float = 0.02) -> None:
        """Let time pass for some nodes; every group steps, whatever a test did to it."""
        self.now_s += dt_s
        for name in names or self.names:
            if self.nodes[name].up:
                for group in self.nodes[name].host.groups:
                    self.nodes[name].host.touch(group)
                self.nodes[name].step()

    def settle(
        self,
        names: str = "",
        seconds: float = 1.0,
        chosen: Callable[[Letter], bool] = lambda _: True,
    ) -> None:
        """Let time pass and everything chosen flow."""
        end = self.now_s + seconds
        while self.now_s < end:
            self.tick(names)
            self.deliver(chosen)

    def elect(self, name: str, names: str = "", group: int = 1) -> None:
        """Make `name` the leader: the others' stickiness has run out, and it stands first."""
        everyone = names or "".join(self.names)
        self.now_s += 2 * self.timing.election_timeout_s
        for other in everyone:
            self.nodes[other].group(group).election.arm(self.now_s)
        self.nodes[name].group(group).election.deadline_s = self.now_s
        self.settle(everyone, 0.5)
        assert self.nodes[name].group(group).is_leader, f"{name} did not win"

    def put(self, name: str, command: str, group: int = 1) -> tuple[int, int] | None:
        """Propose `key=value` at a node."""
        place = self.nodes[name].group(group).propose(command.encode())
        self.nodes[name].host.touch(group)
        self.nodes[name].step()
        return place
