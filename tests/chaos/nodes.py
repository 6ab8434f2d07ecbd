"""The node processes: `recollect serve`, one a node, started, killed, watched."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.chaos.disks import Disk
from tests.chaos.network import Network

POLL_S: Final = 0.02
FAKETIME: Final = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
SMALL_LOGS: Final = {"RECOLLECT_LOG_BYTES_MAX": "65536", "RECOLLECT_SEGMENT_BYTES": "2097152"}
"""So that logs are cut, segments change and snapshots are sent within minutes."""


@dataclass
class Node:
    """One node: its place, and its process while it has one."""

    name: str
    folder: Path
    environment: dict[str, str]
    command: list[str]
    disk: Disk | None = None
    process: subprocess.Popen[bytes] | None = None
    stopped: bool = False
    expected_to_end: bool = False
    own_ends: list[str] = field(default_factory=list)
    """What it said when it ended by itself, which only a broken disk may make it do."""

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def clock(self) -> Path:
        """The file that says how wrong its wall clock is."""
        return self.folder / f"{self.name}.clock"

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} runs"
        return self.process.pid

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it; it ends when this process does."""
        assert self.process is None, "a node runs once"
        words = [sys.executable, "-P", "-m", "cluster.cli", "serve"]
        with self.log.open("ab") as log:
            log.write(f"=== started at {time.monotonic():.3f}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                [*self.command, *words, "--parent-pid", str(os.getpid())],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.runs:
            os.kill(self.pid, number)
            if number in {signal.SIGSTOP, signal.SIGCONT}:
                self.stopped = number == signal.SIGSTOP

    async def gone(self, timeout_s: float = 20.0) -> int:
        """Wait for the end of its process; returns its exit code."""
        assert self.process is not None, f"{self.name} runs"
        deadline_s = time.monotonic() + timeout_s
        while (code := self.process.poll()) is None:
            assert time.monotonic() < deadline_s, f"{self.name} does not end"
            await asyncio.sleep(POLL_S)
        self.process, self.stopped = None, False
        return code

    async def kill(self) -> None:
        """End it as `kill -9` does; it is gone when this returns."""
        if self.process is not None:
            self.signal(signal.SIGKILL)
            await self.gone()

    def reap(self) -> str | None:
        """Return the last words of a process that ended by itself since the last call."""
        if self.process is None or self.process.poll() is None:
            return None
        code = self.process.returncode
        self.process, self.stopped = None, False
        lines = self.log.read_text(errors="replace").splitlines()
        told = [line for line in lines[-80:] if "CRITICAL" in line or line.startswith("Error:")]
        return f"exit code {code}: {told[-1] if told else lines[-1]}"


def make_node(
    name: str, folder: Path, network: Network, common: dict[str, str], disk: Disk | None
) -> Node:
    """Return a node whose place is made from where it lives in the network and on which disk."""
    data = (disk.place if disk else folder / f"{name}-disk") / "data"
    host, port = network.http(name)
    peers = network.peers(name)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RECOLLECT_")}
    environment = {
        **kept,
        **common,
        "NODE_ID": name,
        "CLUSTER_NODES": ",".join(f"{each}={at[0]}:{at[1]}" for each, at in peers.items()),
        "RECOLLECT_DATA_DIR": str(data),
        "RECOLLECT_HTTP_HOST": host,
        "RECOLLECT_HTTP_PORT": str(port),
        "RECOLLECT_PEER_HOST": peers[name][0],
    }
    node = Node(name, folder, environment, network.command(name), disk)
    if FAKETIME.exists():
        node.clock.write_text("+0")
        node.environment |= {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(node.clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Its cure for waits on old systems turns every wait into a busy loop on this one.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "FAKETIME_DISABLE_SHM": "1",
        }
    return node


def set_clock(node: Node, offset_s: int) -> None:
    """Make a node's wall clock wrong by so much, from within a second on."""
    draft = node.clock.with_suffix(".draft")
    draft.write_text(f"{offset_s:+d}")
    draft.replace(node.clock)
