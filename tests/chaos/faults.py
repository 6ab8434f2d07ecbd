"""The faults: each hurts some nodes for a while and heals them before it returns.

Every function takes the arena, the nodes it may hurt (the first is its victim) and the run's
randomness. What it started it undoes, whatever happens, since a fault may be cancelled.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from tests.chaos.arena import Arena
from tests.chaos.nodes import Node, set_clock

ATTACH_S: Final = 0.5
END_S: Final = 2.0
HOUR_S: Final = 3600


class NotPermitted(Exception):
    """This user, or this machine, cannot do that fault."""


@dataclass(frozen=True)
class Fault:
    """A kind of fault. `everywhere`: it hurts all nodes, so nothing else may go on beside it."""

    name: str
    act: Callable[[Arena, list[Node], random.Random], Awaitable[None]]
    everywhere: bool = False
    at_leader: bool = False
    lacking: Callable[[Arena], str] = lambda _: ""
    """Why it cannot be done here; empty: it can."""


async def kill(arena: Arena, victims: list[Node], rng: random.Random) -> None:
    """`kill -9`, and a new start after a while."""
    for node in victims:
        node.signal(signal.SIGKILL)
    for node in victims:
        await node.gone()
    await asyncio.sleep(rng.uniform(0, 2.5))
    for node in victims:
        node.start()


async def pause(arena: Arena, victims: list[Node], rng: random.Random) -> None:
    """SIGSTOP for 1 to 8 seconds."""
    victims[0].signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(rng.uniform(1, 8))
    finally:
        victims[0].signal(signal.SIGCONT)


async def cut_off(arena: Arena, victims: list[Node], rng: random.Random) -> None:
    """Nothing passes between a node and the others."""
    victim = victims[0].name
    others = [name for name in arena.nodes if name != victim]
    links = {(victim, other) for other in others} | {(other, victim) for other in others}
    await _cut(arena, links, rng.uniform(1.5, 6))


async def cut_one_way(arena: Arena, victims: list[Node], rng: random.Random) -> None:
    """A node is not heard by the others, or does not hear them, or one of them only."""
    victim = victims[0].name
    others = [name for name in arena.nodes if name != victim]
    if rng.random() < 0.3:
        others = [rng.choice(others)]
    deaf = rng.random() < 0.5
    links = {(other, victim) if deaf else (victim, other) for other in others}
    await _cut(arena, links, rng.uniform(1.5, 6))


async def _cut(arena: Arena, links: set[tuple[str, str]], seconds: float) -> None:
    try:
        await arena.cut(links)
        await asyncio.sleep(seconds)
    finally:
        await arena.join(links)


async def power_cut(arena: Arena, victims: list[Node], rng: random.Random) -> None:
    """All that was not synced is gone, and nobody lives to tell."""
    disks = [node.disk for node in victims if node.disk]
    for node in victims:
        node.expected_to_end = True
    for disk in disks:
        disk.mark()
    for node in victims:
        node.signal(signal.SIGKILL)
    for disk in disks:
        disk.cut_power()
    for node, disk in zip(victims, disks, strict=True):
        await node.gone()
        await disk.restore_power()
        arena.marks += 1
        arena.marks_lost += disk.lost_the_mark()
    await asyncio.sleep(rng.uniform(0, 1.5))
    for node in victims:
        node.start()


async def sync_fails(arena: Arena, victims: list[Node], rng: random.Random) -> None:
    """EIO for every fsync and fdatasync. The node must stop rather than acknowledge."""
    async with _may_end(victims[0]):
        await _inject(victims[0], "fsync,fdatasync", "EIO", rng.uniform(0.2, 1.0))


async def write_fails(arena: Arena, victims: list[Node], rng: random.Random) -> None:
    """ENOSPC for every pwrite: no space, and no room that was reserved either."""
    async with _may_end(victims[0]):
        await _inject(victims[0], "pwrite64", "ENOSPC", rng.uniform(0.2, 1.0))


async def full_disk(arena: Arena, victims: list[Node], rng: random.Random) -> None:
    """Not a byte is left for some seconds. The node must live."""
    disk = victims[0].disk
    assert disk is not None, "only disks of our own are filled"
    try:
        await asyncio.to_thread(disk.fill)
        await asyncio.sleep(rng.uniform(2, 6))
    finally:
        disk.empty()


async def clock_jump(arena: Arena, victims: list[Node], rng: random.Random) -> None:
    """The wall clock jumps an hour, forth or back, and some seconds later to where it was."""
    try:
        set_clock(victims[0], rng.choice((-HOUR_S, HOUR_S)))
        await asyncio.sleep(rng.uniform(2.5, 6))
    finally:
        set_clock(victims[0], 0)


@asynccontextmanager
async def _may_end(node: Node) -> AsyncIterator[None]:
    """Let a node end by itself until all have healed; wait a moment for that."""
    node.expected_to_end = True
    yield
    for _ in range(int(END_S / 0.1)):
        if not node.runs:
            break
        await asyncio.sleep(0.1)


async def _inject(node: Node, calls: str, error: str, seconds: float) -> None:
    """Make system calls of a running node fail for a while."""
    tracer = await asyncio.create_subprocess_exec(
        "strace", "-f", "-qq", "-o", "/dev/null", "-p", str(node.pid),
        "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await asyncio.wait_for(tracer.wait(), ATTACH_S + seconds)
    except TimeoutError:
        tracer.send_signal(signal.SIGINT)
        await tracer.wait()
    else:
        if node.runs:
            raise NotPermitted("strace may not attach to a process")


def _disks(arena: Arena) -> str:
    return "" if arena.has_disks else "needs root"


def _clocks(arena: Arena) -> str:
    return "" if arena.has_clocks else "needs libfaketime"


def _strace(arena: Arena) -> str:
    return "" if shutil.which("strace") else "needs strace"


FAULTS: Final = (
    Fault("kill leader", kill, at_leader=True),
    Fault("kill node", kill),
    Fault("kill all", kill, everywhere=True),
    Fault("pause", pause),
    Fault("pause leader", pause, at_leader=True),
    Fault("cut off", cut_off),
    Fault("cut off leader", cut_off, at_leader=True),
    Fault("cut one way", cut_one_way),
    Fault("power cut", power_cut, lacking=_disks),
    Fault("power cut all", power_cut, everywhere=True, lacking=_disks),
    Fault("fsync EIO", sync_fails, lacking=_strace),
    Fault("pwrite ENOSPC", write_fails, lacking=_strace),
    Fault("full disk", full_disk, lacking=_disks),
    Fault("clock jump", clock_jump, lacking=_clocks),
)
