"""Which fault comes when: the kind that was seen least, in an order drawn from the seed.

A round is one fault, sometimes two on different nodes, then healing: the next one begins when all
nodes serve again and every shard takes writes, and not within `HEAL_S` is a violation. So each
kind gets its turn, and a majority exists most of the time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from tests.chaos.arena import Arena
from tests.chaos.faults import Fault, NotPermitted

TWO_AT_ONCE: Final = 0.25
REST_S: Final = (0.3, 1.2)


@dataclass
class Tally:
    """What is known of one kind of fault.

    Seconds of writes missing and of healing are those of rounds in which it came alone; `skipped`
    says why it cannot be done here.
    """

    fault: Fault
    skipped: str
    times: int = 0
    gaps_s: list[float] = field(default_factory=list)
    heals_s: list[float] = field(default_factory=list)


class Schedule:
    """Does faults in rounds."""

    def __init__(
        self,
        arena: Arena,
        faults: Sequence[Fault],
        rng: random.Random,
        tell: Callable[[str], None],
    ) -> None:
        self._arena, self._rng, self._tell = arena, rng, tell
        self.gap_s = 0.0
        """Longest time in which some shard acknowledged nothing, during the rounds."""
        self.tallies = [Tally(fault, fault.lacking(arena)) for fault in faults]

    async def run(self, until_s: float) -> None:
        """Do rounds until that time, at least one."""
        while True:
            await self.round(self._draw())
            if time.monotonic() >= until_s:
                return

    async def repeat(self, name: str, times: int) -> None:
        """Do one kind again and again, if it can be done."""
        for tally in self.tallies:
            if tally.fault.name == name and not tally.skipped:
                for _ in range(times):
                    await self.round([tally])

    def _draw(self) -> list[Tally]:
        possible = [tally for tally in self.tallies if not tally.skipped]
        assert possible, "some kind of fault can be done"
        least = min(tally.times for tally in possible)
        first = self._rng.choice([tally for tally in possible if tally.times == least])
        beside = [tally for tally in possible if tally is not first and not tally.fault.everywhere]
        if first.fault.everywhere or not beside or self._rng.random() >= TWO_AT_ONCE:
            return [first]
        least = min(tally.times for tally in beside)
        return [first, self._rng.choice([tally for tally in beside if tally.times == least])]

    async def round(self, tallies: Sequence[Tally]) -> None:
        """Do these faults at once, heal, and note how long a shard took no writes."""
        began_s = time.monotonic()
        free = list(self._arena.nodes)
        async with asyncio.TaskGroup() as tasks:
            for tally in tallies:
                victims = await self._victims(tally.fault, free)
                free = [name for name in free if name not in victims]
                tasks.create_task(self._act(tally, victims))
        try:
            heal_s = await self._arena.settled()
        except TimeoutError:
            heal_s = float("inf")
            names = " and ".join(tally.fault.name for tally in tallies)
            self._arena.violations.append(f"no recovery after {names}")
        gap_s = self._gap_s(began_s)
        for tally in tallies:
            if not tally.skipped and len(tallies) == 1:
                tally.gaps_s.append(gap_s)
                tally.heals_s.append(heal_s)
        self.gap_s = max(self.gap_s, gap_s)
        names = " + ".join(tally.fault.name for tally in tallies)
        self._tell(f"{names}: writes missing {gap_s:.1f} s, healed after {heal_s:.1f} s")
        await asyncio.sleep(self._rng.uniform(*REST_S))

    async def _victims(self, fault: Fault, free: list[str]) -> list[str]:
        if fault.everywhere:
            return list(self._arena.nodes)
        leader = await self._arena.leader(self._rng) if fault.at_leader else None
        return [leader if leader in free else self._rng.choice(free)]

    async def _act(self, tally: Tally, victims: list[str]) -> None:
        nodes = [self._arena.nodes[name] for name in victims]
        try:
            await tally.fault.act(self._arena, nodes, self._rng)
            tally.times += 1
        except NotPermitted as reason:
            tally.skipped = str(reason)

    def _gap_s(self, began_s: float) -> float:
        """Return the longest time since `began_s` in which some shard acknowledged nothing."""
        now_s = time.monotonic()
        gaps = [0.0]
        for times in self._arena.history.acks.values():
            recent = [began_s, *(at for at in times[-20_000:] if at > began_s), now_s]
            gaps.append(max(after - before for before, after in pairwise(recent)))
        return max(gaps)
