"""Our figures, on this machine.

python -m bench [--data DIR] [...]     searching, side by side with others: `bench.compare`
python -m bench NAME [...]             one of the other measurements, such as `failover`
python -m bench all [--data DIR]       everything, one after the other
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec


def main(words: Sequence[str]) -> int:
    """Run what the words name."""
    if not words or words[0].startswith("-"):
        from bench.compare import main as compare

        return compare(words)
    name, *rest = words
    if name == "all":
        return _all(rest)
    if not name.isidentifier() or find_spec(f"bench.{name}") is None:
        sys.exit(f"there is no benchmark '{name}'")
    return _run([f"bench.{name}", *rest])


def _all(words: Sequence[str]) -> int:
    """Run the benchmarks as processes of their own, so that none warms the next."""
    parser = argparse.ArgumentParser(prog="bench all")
    parser.add_argument("--data", default="", help="folder of the embeddings")
    data = parser.parse_args(words).data
    runs = [
        ["bench.durable_writes"],
        ["bench.commits"],
        ["bench.failover", "--rounds", "30"],
        ["bench.idle"],
    ]
    if data:
        names = [
            "http_search",
            "filters",
            "batch_search",
            "ingest",
            "ingest_and_search",
            "backends",
            "checkpoints",
        ]
        names += ["graph_khop", "graph_http"]
        runs = [[f"bench.{name}", "--data", data] for name in names] + runs
        runs = [["bench", "--data", data], *runs]
    return max(map(_run, runs))


def _run(words: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
