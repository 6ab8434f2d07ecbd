"""`make bench DATA=folder`: our figures, one after the other, on this machine.

Without DATA only what needs no data set is measured.
"""

from __future__ import annotations

import argparse
import subprocess
import sys


def main() -> int:
    """Run the benchmarks as processes of their own, so that none warms the next."""
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--data", default="", help="folder of the embeddings")
    options = parser.parse_args()
    runs = [
        ["bench.durable_writes"],
        ["bench.commits"],
        ["bench.failover", "--rounds", "30"],
        ["bench.idle"],
    ]
    if options.data:
        names = ("bench.http_search", "bench.backends", "bench.graph_khop", "bench.graph_http")
        runs = [[name, "--data", options.data] for name in names] + runs
    worst = 0
    for words in runs:
        worst = max(worst, subprocess.run([sys.executable, "-m", *words], check=False).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
