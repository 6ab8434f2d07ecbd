"""Take out every rule of the Raft layer, one at a time, and see that a test notices.

`python -m tests.mutants`, or `--only D3`, `--only wal.py`, `--jobs 2`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

from rich.console import Console
from rich.table import Table

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant, Rotten
from tests.mutants.workshop import Verdict, Workshop

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="mutants")
    parser.add_argument("--only", default="", help="a defect (D3), a rule or a file (wal.py)")
    parser.add_argument("--jobs", type=int, default=2, help="mutants that run at once")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if matches(mutant, options.only)]
    if not chosen:
        print(f"no mutant of {options.only}")
        return 2
    began = time.monotonic()
    try:
        verdicts = run(chosen, options.jobs)
    except Rotten as reason:
        print(f"refused: {reason}")
        return 2
    show(verdicts, time.monotonic() - began)
    return 0 if all(verdict.good for verdict in verdicts) else 1


def matches(mutant: Mutant, wanted: str) -> bool:
    """Whether `wanted` names the mutant's defect, rule or file; nothing names all."""
    return not wanted or wanted in {mutant.defect, mutant.file, *mutant.defect.split()}


def run(chosen: Sequence[Mutant], jobs: int) -> list[Verdict]:
    """Return a verdict on each mutant, in order.

    Raises:
        Rotten: a mutant does not fit the code, or its tests fail without it.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ExitStack() as closing:
        free: SimpleQueue[Workshop] = SimpleQueue()
        source = ROOT
        for number in range(jobs):
            shop = Workshop(source, Path(folder) / str(number), healthy=source != ROOT)
            closing.callback(shop.close)
            if source == ROOT:
                shop.check(chosen)
                source = shop.place
            free.put(shop)

        def judged(mutant: Mutant) -> Verdict:
            shop = free.get()
            try:
                return shop.run(mutant)
            finally:
                free.put(shop)

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(judged, chosen))


def show(verdicts: Sequence[Verdict], seconds: float) -> None:
    """Print the table, what pytest said to those that got away, and the count."""
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console.width = 170
    table = Table(title="Rules taken out of the Raft layer")
    for heading in ("defect", "removed", "file", "noticed by", "outcome"):
        table.add_column(heading, overflow="fold")
    for verdict in verdicts:
        mutant, colour = verdict.mutant, "green" if verdict.good else "bold red"
        outcome = f"[{colour}]{verdict.outcome.value}[/]"
        table.add_row(mutant.defect, mutant.removed, mutant.file, verdict.noticed, outcome)
    console.print(table)
    for verdict in verdicts:
        if not verdict.good:
            console.print(f"{verdict.mutant.removed}:\n{verdict.output[-1500:]}", markup=False)
    killed = sum(verdict.good for verdict in verdicts)
    print(f"{len(verdicts)} mutants, {killed} killed ({seconds:.0f} s)")


if __name__ == "__main__":
    sys.exit(main())
