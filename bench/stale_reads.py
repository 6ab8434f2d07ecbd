"""Does a leader that lost touch with the others answer from the past, and how long does it err?

`python -m bench.stale_reads --rounds 20` runs three nodes with one shard. In each round four
clients read strongly, without pause, through the node that leads; one writes through another node.
Then the leader is cut off (wholly, or so that it only hears or only speaks) or stopped for three
seconds. A read is stale when it shows less than what was acknowledged before it began. The other
figure is the time until the leader no longer says that it leads, from the cut, or from the moment
it goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.chaos.arena import Arena, open_arena
from tests.chaos.history import vector_of
from tests.chaos.http_client import Answer, NoAnswer, NotSent
from tests.chaos.leftovers import make_folder
from tests.chaos.load import COLLECTION

KINDS: Final = ("cut off", "hears nobody", "nobody hears it", "stopped")
KEY: Final = 1
COLUMNS: Final = (
    "rounds",
    "reads answered",
    "of them meanwhile",
    "writes acked meanwhile",
    "stale reads",
    "says it leads, p50 s",
    "max s",
)
READERS: Final = 4
CUT_S: Final = 3.0
POLL_S: Final = 0.02
QUIET_S: Final = 0.5
CLAIM_S_MAX: Final = 2.0


@dataclass
class Round:
    """What one round showed. Times are of one monotonic clock; versions come from answers."""

    leader: str
    acked_version: int = 0
    acked_s: list[float] = field(default_factory=list)
    answered_s: list[float] = field(default_factory=list)
    stale: int = 0
    claims: list[tuple[float, bool]] = field(default_factory=list)
    hurt_s: float = 0.0
    healed_s: float = 0.0
    awake_s: float = 0.0
    """From when on it can know: the cut, or the end of its stop."""

    @property
    def claimed_for_s(self) -> float:
        """Seconds until it said for the last time that it leads; 0: it did not say so again."""
        return max((at - self.awake_s for at, claims in self.claims if claims), default=0.0)

    def answered_meanwhile(self) -> int:
        """Return how many strong reads it answered between the cut and its healing."""
        return sum(self.hurt_s < at < self.healed_s for at in self.answered_s)

    def acked_meanwhile(self) -> int:
        """Return how many writes the others acknowledged in that time."""
        return sum(self.hurt_s < at < self.healed_s for at in self.acked_s)


async def write(arena: Arena, node: str, seen: Round, until: asyncio.Event) -> None:
    """Write one point again and again through a node that keeps its peers."""
    connection = arena.target.connection(node)
    while not until.is_set():
        value = arena.history.fresh_value()
        body = {"points": [{"id": KEY, "vector": vector_of(KEY, value)}]}
        try:
            answer = await connection.call("PUT", f"{COLLECTION}/points?timeout=1", body)
        except (NoAnswer, NotSent):
            continue
        if answer.status == 200:
            seen.acked_version = max(seen.acked_version, answer.body["result"]["version"])
            seen.acked_s.append(time.monotonic())
    connection.close()


async def read(arena: Arena, seen: Round, until: asyncio.Event) -> None:
    """Read strongly through the leader, and compare with what was acknowledged before."""
    connection = arena.target.connection(seen.leader)
    path = f"{COLLECTION}/points?consistency=strong&timeout=1"
    while not until.is_set():
        floor = seen.acked_version
        try:
            answer = await connection.call("POST", path, {"ids": [KEY]})
        except (NoAnswer, NotSent):
            continue
        if answer.status == 200:
            seen.answered_s.append(time.monotonic())
            found = answer.body["result"]
            seen.stale += (found[0]["version"] if found else 0) < floor
    connection.close()


async def ask_for_ever(arena: Arena, seen: Round, until: asyncio.Event) -> None:
    """Ask the leader all the time whether it leads.

    It waits for its peers before it answers, but says what was true of it when it was asked.
    """

    async def ask() -> None:
        asked_s = time.monotonic()
        answer: Answer | None = await arena.ask(seen.leader, "GET", "/cluster")
        if answer is not None and answer.status == 200:
            leads = answer.body["result"]["shards"][0]["leader"] == seen.leader
            seen.claims.append((asked_s, leads))

    async with asyncio.TaskGroup() as tasks:
        while not until.is_set():
            tasks.create_task(ask())
            await asyncio.sleep(POLL_S)


async def hurt(arena: Arena, kind: str, seen: Round) -> None:
    """Do it for a while, and note when."""
    others = [name for name in arena.nodes if name != seen.leader]
    inward = {(other, seen.leader) for other in others}
    outward = {(seen.leader, other) for other in others}
    if kind == "stopped":
        arena.nodes[seen.leader].signal(signal.SIGSTOP)
        seen.hurt_s = time.monotonic()
        await asyncio.sleep(CUT_S)
        arena.nodes[seen.leader].signal(signal.SIGCONT)
        seen.healed_s = seen.awake_s = time.monotonic()
        await asyncio.sleep(1)
    else:
        links = {KINDS[0]: inward | outward, KINDS[1]: inward, KINDS[2]: outward}[kind]
        await arena.cut(links)
        seen.hurt_s = seen.awake_s = time.monotonic()
        await asyncio.sleep(CUT_S)
        seen.healed_s = time.monotonic()


async def one_round(arena: Arena, kind: str, rng: random.Random) -> Round:
    """Return what a round showed."""
    seen = Round(await steady_leader(arena))
    writer = rng.choice([name for name in arena.nodes if name != seen.leader])
    until, asking = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write(arena, writer, seen, until))
        for _ in range(READERS):
            tasks.create_task(read(arena, seen, until))
        await asyncio.sleep(QUIET_S)
        claims = tasks.create_task(ask_for_ever(arena, seen, asking))
        await hurt(arena, kind, seen)
        asking.set()
        await claims
        await arena.join(set(arena.cuts))
        await asyncio.sleep(QUIET_S)
        until.set()
    return seen


async def steady_leader(arena: Arena) -> str:
    """Return who leads, once all nodes serve and name the same one for a while."""
    names: list[str | None] = []
    async with asyncio.timeout(60):
        while len(names) < 12 or len(set(names[-12:])) > 1 or not names[-1]:
            for node in arena.nodes:
                answer = await arena.ask(node, "GET", "/cluster")
                if answer is None or answer.status != 200 or not await arena.ready(node):
                    names.append(None)
                else:
                    names.append(answer.body["result"]["shards"][0]["leader"])
            await asyncio.sleep(0.1)
    assert names[-1], "the loop ends with a leader"
    return names[-1]


def line(kind: str, rounds: list[Round]) -> list[str]:
    """Return a kind's line of the table."""
    claims = [seen.claimed_for_s for seen in rounds]
    return [
        kind,
        str(len(rounds)),
        f"{sum(len(seen.answered_s) for seen in rounds):,}",
        f"{sum(seen.answered_meanwhile() for seen in rounds):,}",
        f"{sum(seen.acked_meanwhile() for seen in rounds):,}",
        str(sum(seen.stale for seen in rounds)),
        f"{median(claims):.2f}",
        f"{max(claims):.2f}",
    ]


async def measure(options: argparse.Namespace, folder: Path, console: Console) -> bool:
    """Do all rounds and print the table; returns whether nothing was stale or claimed for long."""
    rng = random.Random(options.seed)
    privileged = os.geteuid() == 0 and not options.unprivileged
    arena = await open_arena(folder, privileged=privileged, shards=1, rng=rng)
    rounds: dict[str, list[Round]] = {kind: [] for kind in KINDS}
    try:
        await arena.start()
        for number in range(options.rounds):
            for kind in KINDS:
                rounds[kind].append(await one_round(arena, kind, rng))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    finally:
        await arena.close()
    table = Table(title=f"strong reads through a leader without its peers, {arena.network.name}")
    table.add_column("the leader")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for kind, found in rounds.items():
        table.add_row(*line(kind, found))
    console.print(table)
    return all(
        seen.stale == 0 and seen.claimed_for_s <= CLAIM_S_MAX
        for found in rounds.values()
        for seen in found
    )


def main() -> None:
    """Measure; exit code 1 when a read was stale or a leader erred for too long."""
    parser = argparse.ArgumentParser(prog="bench.stale_reads")
    parser.add_argument("--rounds", type=int, default=20, help="of each kind")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--unprivileged", action="store_true", help="as if not root")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    folder = make_folder()
    try:
        kept = asyncio.run(measure(options, folder, console))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
