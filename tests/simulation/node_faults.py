"""Faults on whole nodes: which kinds a seed has, when they strike, and how they end.

Each seed switches kinds on or off ("swarm") and draws how often they strike, so that rare
combinations get room. What lasts ends by itself; `heal` ends all at once.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import Counter
from collections.abc import Callable, Sequence

from tests.simulation.computer import Computer
from tests.simulation.network import Network

RATES_HZ = {
    "kill": 0.35,
    "power": 0.35,
    "power_all": 0.08,
    "pause": 0.4,
    "cut": 0.6,
    "refuse": 0.4,
    "one_way": 0.5,
    "partition": 0.25,
    "usurp": 0.3,
    "latency": 0.5,
    "narrow": 0.3,
    "corrupt": 0.3,
    "slow_disk": 0.5,
    "log_eio": 0.2,
    "state_eio": 0.15,
    "log_full": 0.25,
    "state_full": 0.3,
    "bad_install": 0.3,
    "clock_jump": 0.4,
    "transfer": 0.6,
    "compact": 1.5,
}
TAKES_NODE = frozenset({"kill", "power", "power_all", "pause", "log_eio", "state_eio"})
MERCY = 0.85
"""How often a majority that is barely there is left alone: a cluster that is down learns little."""
WALL_JUMP_MS = 120_000
"""Below the time for which request ids are remembered: beyond it a repetition is a new request."""


class Faults:
    """See the module."""

    def __init__(self, computers: Sequence[Computer], network: Network, rng: random.Random) -> None:
        self.computers, self.network, self.rng = list(computers), network, rng
        self.loop = network.loop
        self.counts: Counter[str] = Counter()
        self.active = False
        self.on_usurp: Callable[[Computer], object] = lambda _: None
        share = rng.choice((0.25, 0.5, 0.8))
        self.kinds = [kind for kind in RATES_HZ if rng.random() < share]
        self.pressure = rng.choice((1.0, 2.0, 3.0))

    async def strike(self) -> None:
        """Strike again and again until cancelled."""
        self.active = True
        rates = {kind: RATES_HZ[kind] * self.pressure for kind in self.kinds}
        total_hz = sum(rates.values())
        while total_hz:
            await asyncio.sleep(self.rng.expovariate(total_hz))
            (kind,) = self.rng.choices(list(rates), list(rates.values()))
            if kind in TAKES_NODE and self._few_left() and self.rng.random() < MERCY:
                continue
            act: Callable[[], object] = getattr(self, f"_{kind}")
            act()

    def heal(self) -> None:
        """End everything."""
        self.active = False
        self.network.heal()
        for computer in self.computers:
            computer.disk.fail_once.clear()
            computer.disk.free_bytes = float("inf")
            self._fast_disk(computer)
            faults = computer.states.faults
            faults.full_s = faults.fail_installs_s = 0.0
            faults.fail_apply = False
            if computer.process is not None and computer.process.paused:
                computer.process.resume()
            elif computer.process is None:
                computer.boot()

    def _count(self, kind: str) -> None:
        self.counts[kind] += 1

    def _up(self) -> list[Computer]:
        return [computer for computer in self.computers if computer.up]

    def _lasting_s(self, longest_s: float) -> float:
        """Draw a duration: mostly short, at times as long as a timeout."""
        return 0.1 + longest_s * self.rng.random() ** 3

    def _few_left(self) -> bool:
        serving = [each for each in self._up() if each.process and not each.process.paused]
        return len(serving) <= len(self.computers) // 2 + 1

    def _some(self) -> Computer:
        return self.rng.choice(self.computers)

    def _pair(self) -> tuple[str, str]:
        a, b = self.rng.sample([computer.name for computer in self.computers], 2)
        return a, b

    # -- crashes ------------------------------------------------------------------------------

    def _kill(self) -> None:
        if self._up():
            self.crash(self.rng.choice(self._up()), power=False)
            self._count("kill")

    def _power(self) -> None:
        if self._up():
            self.crash(self.rng.choice(self._up()), power=True)
            self._count("power")

    def _power_all(self) -> None:
        for computer in self._up():
            self.crash(computer, power=True)
        self._count("power_all")

    def crash(self, computer: Computer, *, power: bool) -> None:
        """End a node's process; it is started again later."""
        computer.crash(power=power)
        self.restart_later(computer)

    def restart_later(self, computer: Computer) -> None:
        wait_s = self.rng.choice((0.05, 0.2, 1.0, 4.0)) * self.rng.uniform(0.5, 1.5)
        self.loop.call_later(wait_s, self._restart, computer, context=contextvars.Context())

    @staticmethod
    def _restart(computer: Computer) -> None:
        if not computer.up:
            computer.boot()

    def _pause(self) -> None:
        for computer in self.rng.sample(self._up(), min(1, len(self._up()))):
            process = computer.process
            assert process is not None
            process.paused = True
            self.loop.call_later(self._lasting_s(4.0), process.resume)
            self._count("pause")

    # -- the network --------------------------------------------------------------------------

    def _cut(self) -> None:
        self.network.cut(*self._pair())
        self._count("cut")

    def _refuse(self) -> None:
        pair = self._pair()
        self.network.cut(*pair)
        self.network.links[pair].refused_s = self.loop.now_s + self.rng.uniform(0.5, 5.0)
        self._count("refuse")

    def _one_way(self) -> None:
        self.network.block(*self._pair(), self._lasting_s(6.0))
        self._count("one_way")

    def _partition(self) -> None:
        """One machine, or two, see none of the others, or are not seen by them."""
        names = [computer.name for computer in self.computers]
        inside = self.rng.sample(names, self.rng.randint(1, len(names) // 2))
        seconds, ways = self._lasting_s(6.0), self.rng.choice(("both", "in", "out"))
        for a in inside:
            for b in names:
                if b not in inside:
                    if ways != "in":
                        self.network.block(a, b, seconds)
                    if ways != "out":
                        self.network.block(b, a, seconds)
        self._count("partition")

    def _usurp(self) -> None:
        """A leader is deposed and does not know it: nothing it says arrives, while old answers
        keep coming in, late, as if it were still followed."""
        computers = [each for each in self._up() if self._leads(each)]
        if not computers:
            return
        computer = self.rng.choice(computers)
        leader = computer.name
        others = [computer.name for computer in self.computers if computer.name != leader]
        for other in others:
            link = self.network.links[other, leader]
            link.slow_s, link.extra_s = self.loop.now_s + 4.0, self.rng.uniform(0.2, 0.8)
        self.loop.call_later(self.rng.uniform(0.0, 1.0), self._silence, leader, others)
        self.on_usurp(computer)
        self._count("usurp")

    @staticmethod
    def _leads(computer: Computer) -> bool:
        node = computer.node
        return node is not None and any(each.is_leader for each in node.shards.values())

    def _silence(self, leader: str, others: Sequence[str]) -> None:
        if self.active:
            for other in others:
                self.network.block(leader, other, 2.5)

    def _latency(self) -> None:
        link = self.network.links[self._pair()]
        link.slow_s = self.loop.now_s + self.rng.uniform(0.5, 4.0)
        link.extra_s = self.rng.choice((0.01, 0.1, 0.6))
        self._count("latency")

    def _narrow(self) -> None:
        link = self.network.links[self._pair()]
        link.narrow_s = self.loop.now_s + self.rng.uniform(0.5, 3.0)
        self._count("narrow")

    def _corrupt(self) -> None:
        self.network.links[self._pair()].corrupt = 1
        self._count("corrupt")

    # -- disks --------------------------------------------------------------------------------

    def _slow_disk(self) -> None:
        computer = self._some()
        computer.slow_disk = self.rng.choice((10.0, 50.0, 300.0))
        computer.states.slow = True
        self.loop.call_later(self.rng.uniform(0.5, 4.0), self._fast_disk, computer)
        self._count("slow_disk")

    @staticmethod
    def _fast_disk(computer: Computer) -> None:
        computer.slow_disk = 1.0
        computer.states.slow = False

    def _log_eio(self) -> None:
        self._some().disk.fail_once.add(self.rng.choice(("write", "sync")))
        self._count("log_eio")

    def _state_eio(self) -> None:
        self._some().states.faults.fail_apply = True
        self._count("state_eio")

    def _log_full(self) -> None:
        computer = self._some()
        computer.disk.free_bytes = 0
        self.loop.call_later(self.rng.uniform(0.5, 5.0), self._log_has_space, computer)
        self._count("log_full")

    @staticmethod
    def _log_has_space(computer: Computer) -> None:
        computer.disk.free_bytes = float("inf")

    def _state_full(self) -> None:
        self._some().states.faults.full_s = self.loop.now_s + self.rng.uniform(0.5, 5.0)
        self._count("state_full")

    def _bad_install(self) -> None:
        faults = self._some().states.faults
        faults.fail_installs_s = self.loop.now_s + self.rng.uniform(0.5, 5.0)
        self._count("bad_install")

    # -- what a node does to itself -----------------------------------------------------------

    def _clock_jump(self) -> None:
        self._some().wall_offset_ms = self.rng.randint(-WALL_JUMP_MS, WALL_JUMP_MS)
        self._count("clock_jump")

    def _transfer(self) -> None:
        for computer in self._up():
            node, process = computer.node, computer.process
            if node is None or process is None:
                continue
            for replica in node.driver.replicas.values():
                if replica.is_leader and self.rng.random() < 0.5:
                    peer = self.rng.choice([p for p in replica.raft.members if p != computer.name])
                    context = process.context
                    self.loop.call_soon(replica.raft.transfer_to, peer, context=context)
                    self.loop.call_soon(node.driver.touch, replica.group, context=context)
                    self._count("transfer")
                    return

    def _compact(self) -> None:
        """Cut some group's log on some node, whatever its followers still need."""
        computers = [computer for computer in self._up() if computer.node is not None]
        if not computers:
            return
        computer = self.rng.choice(computers)
        assert computer.node is not None
        driver = computer.node.driver
        if driver.replicas:
            replica = driver.replicas[self.rng.choice(sorted(driver.replicas))]
            keeper = driver.keeper
            if replica.group not in keeper._running:
                keeper._running.add(replica.group)
                keeper.checkpoints.submit(keeper._checkpoint, replica, True)
                self._count("compact")
