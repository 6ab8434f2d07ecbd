"""A hostile world from a seed: faults of kinds drawn per seed, then healing, then liveness.

Each seed switches whole kinds of fault on or off ("swarm"), so that rare combinations get room.
Same seed, same run: the digest of all events is compared by the tests.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation.checkers import Checkers, Violation
from tests.simulation.nodes import Letter, Net

STEP_S = 0.02
HOSTILE_S = 12.0
CALM_S = 8.0
KINDS = (
    "kill",
    "power",
    "all_power",
    "partition",
    "one_way",
    "loss",
    "repeat",
    "reorder",
    "slow_disk",
    "pause",
    "bad_install",
    "compact",
)


@dataclass
class Outcome:
    """What a run gave."""

    seed: int
    faults: Counter[str]
    acked: int
    events: int
    digest: str
    virtual_s: float = HOSTILE_S + CALM_S


class World:
    """One run."""

    def __init__(self, seed: int, nodes: int = 3) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.net = Net("ABCDE"[:nodes], seed=seed + 1, groups=(1, 2), append_bytes_max=200)
        self.checkers = Checkers(self.net)
        self.checkers.watch()
        self.kinds = [kind for kind in KINDS if self.rng.random() < 0.5]
        self.down: dict[str, float] = {}
        self.paused: dict[str, float] = {}
        self.blocked: dict[tuple[str, str], float] = {}
        self.late: list[tuple[float, Letter]] = []
        self.faults: Counter[str] = Counter()
        self.written = 0
        self.trace = hashlib.blake2b()
        self.net.link_all()

    def run(self) -> Outcome:
        end = self.net.now_s + HOSTILE_S
        while self.net.now_s < end:
            self.step(hostile=True)
        self.heal()
        end = self.net.now_s + CALM_S
        while self.net.now_s < end:
            self.step(hostile=False, write=self.net.now_s < end - 4)
        self.demand_liveness()
        self.checkers.at_rest()
        return Outcome(
            self.seed,
            self.faults,
            len(self.checkers.acked),
            self.checkers.events,
            self.trace.hexdigest()[:16],
        )

    def step(self, *, hostile: bool, write: bool = True) -> None:
        if hostile:
            self.inject()
            self.recover()
        self.net.now_s += STEP_S
        names = list(self.net.names)
        self.rng.shuffle(names)
        for name in names:
            node = self.net.nodes[name]
            if node.up and name not in self.paused:
                if self.rng.random() < 0.7:
                    node.finish_sync()
                node.host.elapse()
                node.step()
                if write:
                    self.write_some(name)
        self.carry(hostile=hostile)
        self.checkers.after_step()
        self.note()

    def write_some(self, name: str) -> None:
        node = self.net.nodes[name]
        for group, raft in node.host.groups.items():
            if raft.is_leader and self.rng.random() < 0.3:
                self.written += 1
                size = self.rng.choice((4, 60, 250))
                command = f"k{self.written}={'v' * size}"
                place = self.net.put(name, command, group)
                if place is not None:
                    self.checkers.proposed[(group, *place)] = name

    # -- the network --------------------------------------------------------------------------

    def carry(self, *, hostile: bool) -> None:
        """Move letters: most now, some late, some twice, some never."""
        now = self.net.now_s
        letters, self.net.letters = self.net.letters, []
        due = [letter for at, letter in self.late if at <= now]
        self.late = [(at, letter) for at, letter in self.late if at > now]
        for letter in due + letters:
            self.carry_one(letter, hostile=hostile)

    def carry_one(self, letter: Letter, *, hostile: bool) -> None:
        way = (letter.source, letter.target)
        if letter.target in self.paused or self.blocked.get(way, 0) > self.net.now_s:
            return self.delay(letter, 0.05)
        if hostile and self.has("loss") and self.rng.random() < 0.03:
            self.faults["loss"] += 1
            return None
        if hostile and self.has("repeat") and self.rng.random() < 0.03:
            self.faults["repeat"] += 1
            self.delay(letter, self.rng.uniform(0.01, 2.0))
        if hostile and self.has("reorder") and self.rng.random() < 0.05:
            self.faults["reorder"] += 1
            return self.delay(letter, self.rng.uniform(0.02, 0.5))
        self.net.hand(letter)
        return None

    def delay(self, letter: Letter, seconds: float) -> None:
        self.late.append((self.net.now_s + seconds, letter))

    def has(self, kind: str) -> bool:
        return kind in self.kinds

    # -- faults -------------------------------------------------------------------------------

    def inject(self) -> None:
        acts: dict[str, tuple[float, Callable[[], None]]] = {
            "kill": (0.006, lambda: self.crash(power=False)),
            "power": (0.006, lambda: self.crash(power=True)),
            "all_power": (0.0015, self.crash_all),
            "partition": (0.015, self.partition),
            "one_way": (0.01, self.block_one_way),
            "slow_disk": (0.02, self.toggle_disk),
            "pause": (0.01, self.pause),
            "bad_install": (0.02, self.toggle_install),
            "compact": (0.05, self.compact),
        }
        for kind, (chance, act) in acts.items():
            if self.has(kind) and self.rng.random() < chance:
                self.faults[kind] += 1
                act()

    def up(self) -> list[str]:
        return [name for name, node in self.net.nodes.items() if node.up]

    def crash(self, *, power: bool) -> None:
        if self.up():
            self.kill(self.rng.choice(self.up()), power=power)

    def crash_all(self) -> None:
        for name in self.up():
            self.kill(name, power=True)

    def kill(self, name: str, *, power: bool) -> None:
        self.net.nodes[name].crash(power=power, rng=self.rng)
        self.paused.pop(name, None)
        self.down[name] = self.net.now_s + self.rng.uniform(0.1, 3.0)

    def partition(self) -> None:
        a, b = self.rng.sample(self.net.names, 2)
        self.net.cut(a, b)

    def block_one_way(self) -> None:
        a, b = self.rng.sample(self.net.names, 2)
        self.blocked[(a, b)] = self.net.now_s + self.rng.uniform(0.1, 3.0)

    def toggle_disk(self) -> None:
        node = self.net.nodes[self.rng.choice(self.net.names)]
        node.instant_disk = not node.instant_disk

    def toggle_install(self) -> None:
        node = self.net.nodes[self.rng.choice(self.net.names)]
        node.fail_install = not node.fail_install

    def pause(self) -> None:
        name = self.rng.choice(self.net.names)
        self.paused[name] = self.net.now_s + self.rng.uniform(0.1, 3.0)

    def compact(self) -> None:
        for name in self.up():
            if self.rng.random() < 0.7:
                self.net.nodes[name].compact(self.rng.choice((1, 2)))

    def recover(self) -> None:
        now = self.net.now_s
        for name in [name for name, at in self.down.items() if at <= now]:
            del self.down[name]
            self.net.nodes[name].start()
        self.paused = {name: at for name, at in self.paused.items() if at > now}
        if self.rng.random() < 0.05:
            self.net.link(*self.rng.sample(self.net.names, 2))

    def heal(self) -> None:
        for name in list(self.down):
            self.net.nodes[name].start()
        self.down.clear()
        self.paused.clear()
        self.blocked.clear()
        for node in self.net.nodes.values():
            node.instant_disk, node.fail_install = True, False
            node.finish_sync()
        self.net.link_all()

    def demand_liveness(self) -> None:
        """A majority can talk: each group must have a leader that commits."""
        for group in (1, 2):
            leaders = [n for n in self.net.nodes.values() if n.group(group).is_leader]
            if len(leaders) != 1:
                raise Violation(f"group {group} has {len(leaders)} leaders after {CALM_S:g} s calm")
            place = self.net.put(leaders[0].name, f"last{group}=1", group)
            assert place is not None, "a leader takes proposals"
            self.checkers.proposed[(group, *place)] = leaders[0].name
            self.net.settle(seconds=0.5)
            if leaders[0].machines[group].index < place[0]:
                raise Violation(f"group {group} does not commit after {CALM_S:g} s calm")

    def note(self) -> None:
        for name, node in self.net.nodes.items():
            if node.up:
                for number, raft in node.host.groups.items():
                    seen = (name, number, raft.term, raft.is_leader, raft.log.last_index)
                    self.trace.update(repr((*seen, raft.commit_index)).encode())
