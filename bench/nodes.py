"""A cluster of this checkout's nodes for a benchmark: started, ready, and gone afterwards."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cluster.ports import free_base


class Running(NamedTuple):
    """A cluster that runs: the ports of its nodes' HTTP API, and their processes."""

    ports: list[int]
    pids: list[int]


@contextlib.contextmanager
def started(nodes: int) -> Iterator[Running]:
    """Run a cluster."""
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
        numbers = range(1, nodes + 1)
        pids = [int(Path(folder, f"node{number}", "pid").read_text()) for number in numbers]
        yield Running([base + number for number in numbers], pids)
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running(nodes: int) -> Iterator[list[int]]:
    """Run a cluster; gives the ports of its nodes' HTTP API."""
    with started(nodes) as cluster:
        yield cluster.ports
