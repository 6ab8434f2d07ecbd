"""Run seeds: `python -m tests.simulation --seeds 200`, `--seconds 60` or `--seed 7`.

Two worlds: `groups` (raft groups, their log and a faulty disk; messages are also repeated and
reordered) and `nodes` (whole nodes under a router's clients). Both by default. The seeds that
once failed come first. A seed that fails says how to run it again.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import count, islice

from tests.simulation.node_world import NodeWorld
from tests.simulation.regressions import SEEDS
from tests.simulation.world import World

WORLDS = ("groups", "nodes")
SHARE = {"groups": 0.3, "nodes": 0.7}
"""Of the time, when there is a limit."""


@dataclass
class Report:
    """What one seed, or several of one world, gave."""

    world: str
    seeds: int = 0
    digest: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    operations: int = 0
    acked: int = 0
    violations: int = 0
    stuck: int = 0
    virtual_s: float = 0.0
    seconds: float = 0.0
    stalest_s: float = 0.0
    error: str = ""

    def add(self, other: Report) -> None:
        """Add another report of the same world."""
        self.seeds += other.seeds
        self.faults += other.faults
        for name in ("operations", "acked", "violations", "stuck", "virtual_s", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.stalest_s = max(self.stalest_s, other.stalest_s)

    def line(self) -> str:
        """Return the summary."""
        kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(self.faults.items()))
        return (
            f"simulation of {self.world}: {self.seeds} seeds, {self.faults.total()} faults "
            f"({kinds}), {self.operations} operations, {self.acked} acknowledged writes, "
            f"{self.violations} violations, {self.stuck} stuck, "
            f"{self.virtual_s / 3600:.2f} virtual hours, {self.seconds:.0f} s"
            + (f", oldest default read {self.stalest_s:.1f} s" if self.stalest_s else "")
        )


def run_one(world: str, seed: int) -> Report:
    """Run one seed of a world; what goes wrong is in the report."""
    began_s, report = time.monotonic(), Report(world, seeds=1)
    try:
        if world == "groups":
            _fill_from_groups(report, seed)
        else:
            _fill_from_nodes(report, seed)
    except AssertionError as error:
        report.violations = 1
        report.stuck = int("does not" in str(error))
        report.error = f"{type(error).__name__}: {error}"
        if not str(error):
            report.error += traceback.format_exc()
    report.seconds = time.monotonic() - began_s
    return report


def _fill_from_groups(report: Report, seed: int) -> None:
    outcome = World(seed, nodes=5 if seed % 5 == 4 else 3).run()
    report.digest, report.faults = outcome.digest, outcome.faults
    report.operations = report.acked = outcome.acked
    report.virtual_s = outcome.virtual_s


def _fill_from_nodes(report: Report, seed: int) -> None:
    outcome = NodeWorld(seed).run()
    report.digest, report.faults = outcome.digest, outcome.faults
    report.operations, report.acked = outcome.operations, outcome.acked
    report.virtual_s, report.stalest_s = outcome.virtual_s, outcome.stalest_s


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation")
    parser.add_argument("--seeds", type=int, default=0, help="seeds to run in each world")
    parser.add_argument("--seconds", type=float, default=0, help="run seeds for this long")
    parser.add_argument("--seed", type=int, default=None, help="run this seed alone")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--world", choices=(*WORLDS, "both"), default="both")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    worlds = WORLDS if options.world == "both" else (options.world,)
    if options.seed is not None:
        return replay(worlds, options.seed)
    return run_many(worlds, options)


def replay(worlds: tuple[str, ...], seed: int) -> int:
    """Run one seed and print what came of it."""
    failed = 0
    for world in worlds:
        report = run_one(world, seed)
        failed += report.violations
        print(f"{world} {seed}: digest {report.digest or '-'} {report.error}")
        print(report.line())
    return min(failed, 1)


def run_many(worlds: tuple[str, ...], options: argparse.Namespace) -> int:
    """Run seeds in each world and print one line for each; 1 when anything failed."""
    share = sum(SHARE[world] for world in worlds)
    failed = 0
    for world in worlds:
        seconds = options.seconds * SHARE[world] / share
        seeds: Iterator[int] = count(options.first)
        if options.seeds:
            seeds = islice(seeds, options.seeds)
        known = [seed for seed in SEEDS[world] if not options.first]
        total = _run_world(world, [known, seeds], seconds, options.jobs)
        failed += total.violations
        print(total.line(), flush=True)
    return min(failed, 1)


def _run_world(
    world: str, sources: list[list[int] | Iterator[int]], seconds: float, jobs: int
) -> Report:
    began_s, total = time.monotonic(), Report(world)
    with ProcessPoolExecutor(jobs) as pool:
        for source in sources:
            for seeds in _chunks(iter(source), 4 * jobs if jobs > 1 else 1):
                if seconds and time.monotonic() - began_s > seconds:
                    break
                runs = (
                    pool.map(run_one, [world] * len(seeds), seeds)
                    if jobs > 1
                    else map(run_one, [world], seeds)
                )
                for seed, report in zip(seeds, runs, strict=True):
                    total.add(report)
                    if report.error:
                        print(f"{world} {seed}: {report.error}")
                        print(f"  python -m tests.simulation --world {world} --seed {seed}")
    total.seconds = time.monotonic() - began_s
    return total


def _chunks(seeds: Iterator[int], size: int) -> Iterator[list[int]]:
    while chunk := list(islice(seeds, size)):
        yield chunk


if __name__ == "__main__":
    sys.exit(main())
