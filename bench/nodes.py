"""A cluster of this checkout's nodes for a benchmark: started, ready, and gone afterwards."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from cluster.ports import free_base


@contextlib.contextmanager
def running(nodes: int) -> Iterator[list[int]]:
    """Run a cluster; gives the ports of its nodes' HTTP API."""
    folder = tempfile.mkdtemp(prefix="recollect-bench-")
    base = free_base(nodes, random.Random())
    words = ["up", "--nodes", str(nodes), "--data", folder, "--port", str(base)]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "cluster.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "Ready":
                break
        yield [base + number for number in range(1, nodes + 1)]
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
