"""`RECOLLECT_BACKEND=postgres recollect serve` as a process, driven from outside."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.ports import free_base
from tests.helpers import READY_S, STOP_S, Response, call, eventually


@dataclass
class PatternServer:
    """One server; it can be killed and started again on its port."""

    database_url: str
    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RECOLLECT_")}
        own = {
            "RECOLLECT_BACKEND": "postgres",
            "RECOLLECT_CHECKPOINT_URL": self.database_url,
            "RECOLLECT_HTTP_PORT": str(self.port),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cluster.cli", "serve"],
                env=kept | own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def readiness(self) -> Response | None:
        """Return what /readyz says; None while nobody answers."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return call(self.url, "GET", "/readyz")
        return None

    def is_ready(self) -> bool:
        found = self.readiness()
        return found is not None and found.status == 200

    def await_ready(self) -> None:
        eventually(self.is_ready, READY_S, "a server that is ready")

    def kill(self) -> None:
        """End it as kill -9 does."""
        assert self.process is not None, "it runs"
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it as an orchestrator would, and return its exit code."""
        assert self.process is not None, "it runs"
        self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        finally:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def running_patterns(database_url: str, folder: Path) -> Iterator[PatternServer]:
    """Run a server while the block runs, without waiting for it."""
    port = free_base(1, random.Random()) + 1
    server = PatternServer(database_url, port, folder / "patterns.log")
    server.start()
    try:
        yield server
    finally:
        server.stop()
