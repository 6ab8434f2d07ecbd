"""Breaks a real cluster under load and proves that it kept its promises.

`python -m tests.chaos --minutes 10` runs three node processes, clients that record all they do,
and a schedule of faults; at the end every history is checked, and one table says what was found.
As root each node has a network and a disk of its own; others get what they are permitted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.chaos.arena import NAMES, Arena, open_arena
from tests.chaos.checks import examine, write_histories
from tests.chaos.faults import FAULTS
from tests.chaos.leftovers import make_folder
from tests.chaos.load import Client, Keys
from tests.chaos.report import failures, fault_table, summary_table
from tests.chaos.schedule import Schedule

FULL_MINUTES: Final = 10
TIMES_EACH: Final = 5
WARM_UP_S: Final = 2.0
POWER_CUT_ALL: Final = "power cut all"


def parse(words: list[str]) -> argparse.Namespace:
    """Read the command line."""
    names = [fault.name for fault in FAULTS]
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="of the schedule")
    parser.add_argument("--seed", type=int, help="of the schedule and the clients")
    parser.add_argument("--power-cuts", type=int, default=0, help="of all nodes, before it")
    parser.add_argument("--kinds", help="faults, by comma: " + ", ".join(names))
    parser.add_argument("--clients", type=int, default=18)
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--pause-ms", type=float, default=20, help="of a client, on average")
    parser.add_argument("--unprivileged", action="store_true", help="as if not root")
    parser.add_argument("--keep", action="store_true", help="keep the run's folder")
    options = parser.parse_args(words)
    options.kinds = names if options.kinds is None else options.kinds.split(",")
    if unknown := set(options.kinds) - set(names):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    if options.power_cuts and POWER_CUT_ALL not in options.kinds:
        options.kinds.append(POWER_CUT_ALL)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    return options


@contextlib.asynccontextmanager
async def load(
    arena: Arena, options: argparse.Namespace, rng: random.Random
) -> AsyncIterator[None]:
    """Let the clients work while the block runs. Two of three stay with one node."""
    until, keys = asyncio.Event(), Keys(random.Random(rng.random()))
    async with asyncio.TaskGroup() as tasks:
        for number in range(options.clients):
            home = NAMES[number % 3] if number < options.clients * 2 // 3 else None
            own = random.Random(rng.random())
            pause_s = options.pause_ms / 1000
            client = Client(number, home, arena.target, arena.history, keys, own, pause_s)
            tasks.create_task(client.run(until))
        try:
            yield
        finally:
            until.set()


async def run(options: argparse.Namespace, folder: Path, console: Console) -> bool:
    """Do it all; returns whether every promise was kept."""
    rng = random.Random(options.seed)
    privileged = os.geteuid() == 0 and not options.unprivileged
    arena = await open_arena(folder, privileged=privileged, shards=options.shards, rng=rng)
    began_s = time.monotonic()

    def tell(text: str) -> None:
        done = sum(arena.history.times.values())
        console.print(f"{time.monotonic() - began_s:6.0f} s {done:8,} operations  {text}")

    faults = [fault for fault in FAULTS if fault.name in options.kinds]
    schedule = Schedule(arena, faults, rng, tell)
    try:
        await arena.start()
        tell(f"seed {options.seed}, {arena.network.name}, in {folder}")
        async with load(arena, options, rng):
            await asyncio.sleep(WARM_UP_S)
            await schedule.repeat(POWER_CUT_ALL, options.power_cuts)
            if options.minutes:
                await schedule.run(time.monotonic() + 60 * options.minutes)
        tell("faults are over; judging")
        findings = await examine(arena)
    finally:
        await arena.close()
    title = f"faults, seed {options.seed}, {options.minutes:g} minutes, {arena.network.name}"
    console.print(fault_table(schedule.tallies, title))
    console.print(summary_table(arena, findings, schedule.gap_s))
    for name, times in sorted(arena.history.refusals.items()):
        console.print(f"refused, which is permitted: {times:,} x {name}")
    for node in arena.nodes.values():
        for words in node.own_ends:
            console.print(f"{node.name} ended by itself: {words}", markup=False)
    wrong = [*arena.violations, *arena.history.surprises, *findings.hashes, *findings.searches]
    for text in wrong[:20]:
        console.print(f"wrong: {text}", markup=False, style="red")
    for file in write_histories(arena.history, findings, folder):
        console.print(f"history: {file}")
    scarce = [t.fault.name for t in schedule.tallies if not t.skipped and t.times < TIMES_EACH]
    if scarce and options.minutes >= FULL_MINUTES:
        console.print(f"fewer than {TIMES_EACH} times: {', '.join(scarce)}", style="red")
        return False
    return not any(failures(arena, findings).values())


def main() -> None:
    """Run, print, and end with 1 when something was wrong."""
    options = parse(sys.argv[1:])
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False, soft_wrap=True)
    folder = make_folder()

    async def until_interrupted() -> bool:
        task = asyncio.current_task()
        assert task is not None, "this is a task"
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await run(options, folder, console)

    kept = False
    try:
        kept = asyncio.run(until_interrupted())
    except asyncio.CancelledError:
        console.print("interrupted")
    if kept and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        console.print(f"logs and histories: {folder}")
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
