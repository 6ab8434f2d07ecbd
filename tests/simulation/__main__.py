"""Run seeds: `python -m tests.simulation --seeds 200` or `--seconds 60` or `--seed 7`."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.world import Outcome, World


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation")
    parser.add_argument("--seeds", type=int, default=0, help="number of seeds to run")
    parser.add_argument("--seconds", type=float, default=0, help="run seeds for this long")
    parser.add_argument("--seed", type=int, default=None, help="run this seed alone")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    options = parser.parse_args()
    if options.seed is not None:
        print(run_one(options.seed))
        return 0
    return run_many(options.first, options.seeds, options.seconds)


def run_one(seed: int) -> Outcome:
    return World(seed, nodes=5 if seed % 5 == 4 else 3).run()


def run_many(first: int, seeds: int, seconds: float) -> int:
    began, seed = time.monotonic(), first
    faults = acked = violations = 0
    while (seeds and seed < first + seeds) or (seconds and time.monotonic() - began < seconds):
        try:
            outcome = run_one(seed)
        except AssertionError as violation:
            violations += 1
            print(f"seed {seed}: {type(violation).__name__}: {violation}", flush=True)
        else:
            faults += outcome.faults
            acked += outcome.acked
        seed += 1
    print(
        f"simulation: {seed - first} seeds, {faults} faults, {acked} acknowledged writes, "
        f"{violations} violations, {time.monotonic() - began:.0f} s"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
