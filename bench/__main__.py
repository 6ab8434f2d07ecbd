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
        names = ("http_search", "filters", "backends", "graph_khop", "graph_http", "checkpoints")
        runs = [[f"bench.{name}", "--data", options.data] for name in names] + runs
    worst = 0
    for words in runs:
        worst = max(worst, subprocess.run([sys.executable, "-m", *words], check=False).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
