"""Nodes of this checkout as processes of the benchmark itself, which may kill and start each."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from cluster.ports import PEER_OFFSET, free_base

_POLL_S: Final = 0.02
_READY_S: Final = 60.0
_NO_BYTECODE: Final = "PYTHONDONTWRITEBYTECODE"
"""An installed node has its modules compiled; here the first start compiles them."""


class Served:
    """A cluster in a folder; nodes have numbers from 1 on."""

    def __init__(self, nodes: int, folder: Path) -> None:
        self.folder = folder
        base = free_base(nodes, random.Random())
        self.ports = {number: base + number for number in range(1, nodes + 1)}
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, number: int) -> None:
        """Start a node; what it says is in the file `nodeK.log` of the folder."""
        name = f"node{number}"
        peers = [f"node{k}=127.0.0.1:{p + PEER_OFFSET}" for k, p in self.ports.items()]
        words = ["--node-id", name, "--cluster-nodes", ",".join(peers)]
        words += ["--http-port", str(self.ports[number]), "--data", str(self.folder / name)]
        with Path(self.folder, f"{name}.log").open("ab") as log:
            self.processes[number] = subprocess.Popen(
                [sys.executable, "-P", "-m", "cluster.cli", "serve", *words],
                env={name: value for name, value in os.environ.items() if name != _NO_BYTECODE},
                stderr=log,
            )

    def kill(self, number: int) -> None:
        """End a node as `kill -9` does."""
        process = self.processes.pop(number)
        process.kill()
        process.wait()

    def stop(self, *numbers: int) -> None:
        """End nodes in order; none named: all."""
        ending = [self.processes.pop(number) for number in numbers or tuple(self.processes)]
        for process in ending:
            process.terminate()
        for process in ending:
            process.wait(60)

    def until_ready(self) -> None:
        """Wait until every node can serve."""
        deadline = time.monotonic() + _READY_S
        for number in self.ports:
            while ask(self.ports[number], "GET", "/readyz") is None:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"node{number} is not ready")
                time.sleep(_POLL_S)


def ask(port: int, method: str, path: str, body: Any = None) -> Any:
    """Send one request; return the decoded answer, or None for any that is no success."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    content = None if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    with contextlib.closing(connection):
        try:
            connection.request(method, path, content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            raw = answer.read()
        except OSError:
            return None
    return orjson.loads(raw) if answer.status == 200 and raw else None


@contextlib.contextmanager
def serving(nodes: int, folder: Path | None = None) -> Iterator[Served]:
    """Run a cluster; in a folder that is given it finds, and leaves, what is there."""
    place = folder or Path(tempfile.mkdtemp(prefix="recollect-bench-"))
    place.mkdir(exist_ok=True)
    cluster = Served(nodes, place)
    try:
        for number in cluster.ports:
            cluster.start(number)
        cluster.until_ready()
        yield cluster
    finally:
        cluster.stop()
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """Return a process and the processes that it has started, as a node starts search workers."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                found += map(int, task.read_text().split())
    return found


def resident_bytes(pid: int) -> int:
    """Return what a process and those that it has started have of the machine's memory.

    Each has its share of the pages that several have (PSS), so that no page counts twice.
    """
    total = 0
    for each in family(pid):
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text()
            total += int(rollup.split("\nPss:", 1)[1].split()[0]) * 1024
    return total
