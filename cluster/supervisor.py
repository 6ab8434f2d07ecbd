"""The processes of a local cluster: started, watched, ended. What `recollect up` stands on.

One thread starts all children and waits for them: the kernel ends a child when the thread that
started it ends, so no other thread may. A node that dies stays dead unless `restart` is set,
then it comes back after a delay that grows with each early death. Whoever leaves the `supervised`
block, by whatever way, leaves no process behind; a supervisor that is killed leaves none either
(`cluster.parent_death`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.client import Client
from cluster.config import Config
from cluster.data_folder import DataFolder, Parameters, open_folder
from cluster.errors import CommandFailed
from cluster.local_cluster import LocalCluster
from cluster.ports import taken

DEFAULT_NODES: Final = 3
STOP_GRACE_S: Final = 14.0
POLL_S: Final = 0.1
READY_TIMEOUT_S: Final = 1.0
RESTART_DELAY_MAX_S: Final = 30.0
RESTART_FORGIVEN_S: Final = 60.0
LOG_TAIL_BYTES: Final = 8192
COMPLAINT: Final = "Error: "

ChildCommand = Callable[[int, int], Sequence[str]]
"""(the supervisor's process id, descriptor of the parent pipe) -> arguments of a node."""


def serve_command(parent_pid: int, pipe: int) -> list[str]:
    """Return how a node is started: by this interpreter, whatever the current folder holds."""
    tie = ["--parent-pid", str(parent_pid), "--parent-pipe", str(pipe)]
    return [sys.executable, "-P", "-m", "cluster.cli", "serve", *tie]


@dataclass(frozen=True)
class Shape:
    """What is asked of a cluster; None: as its folder has it, else the usual number."""

    nodes: int | None = None
    shards: int | None = None


@dataclass(frozen=True)
class Death:
    """A node's process that ended although nobody asked it to."""

    name: str
    pid: int
    returncode: int

    @property
    def by_signal(self) -> bool:
        """Whether something killed it, rather than it giving up."""
        return self.returncode < 0

    def describe(self) -> str:
        """Return what happened, as a clause."""
        if self.by_signal:
            how = f"was killed by {signal.Signals(-self.returncode).name}"
        else:
            how = f"ended by itself with exit code {self.returncode}"
        return f"{self.name} (pid {self.pid}) {how}"


def restart_delay_s(early_deaths: int) -> float:
    """Return how long a node stays down after that many deaths in a row: 0.5 s, doubled, capped."""
    return min(RESTART_DELAY_MAX_S, 0.5 * float(1 << min(early_deaths, 16)))


def last_complaint(log: Path) -> str:
    """Return the last line of a log that is a complaint, else its last line."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").strip().splitlines()
    complaints = [line for line in lines if line.startswith(COMPLAINT)]
    return (complaints or lines or [""])[-1].removeprefix(COMPLAINT)


class Supervisor:
    """The nodes of one cluster, as child processes of this one."""

    def __init__(
        self,
        cluster: LocalCluster,
        folder: DataFolder,
        *,
        environment: Mapping[str, str],
        restart: bool = False,
        command: ChildCommand = serve_command,
    ) -> None:
        self.cluster = cluster
        self._folder = folder
        self._environment = environment
        self.restarts = restart
        self._command = command
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._started_s: dict[str, float] = {}
        self._early_deaths: dict[str, int] = {}
        self._due_s: dict[str, float] = {}
        self._pipe = os.pipe()

    def give(self, variable: str, value: str) -> None:
        """Set a variable in the environment of the nodes that are started from now on."""
        self._environment = {**self._environment, variable: value}

    @property
    def pids(self) -> dict[str, int]:
        """Return the process ids of the nodes that run, by name."""
        return {name: child.pid for name, child in self._children.items()}

    def start_all(self) -> None:
        """Start every node that does not run."""
        for name in self.cluster.names:
            if name not in self._children:
                self.start(name)

    def start(self, name: str) -> int:
        """Start one node; returns its process id, which is in DIR/nodeK/pid from now on."""
        assert name not in self._children, "a node runs once"
        self._folder.node(name)
        with self.cluster.log_file(name).open("ab") as log:
            child = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                self._command(os.getpid(), self._pipe[0]),
                env=self.cluster.environment(name, self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(self._pipe[0], self._folder.lock),
                process_group=0,
            )
        self._children[name] = child
        self._started_s[name] = time.monotonic()
        self._due_s.pop(name, None)
        self._folder.write_pid(name, child.pid)
        return child.pid

    def reap(self) -> list[Death]:
        """Return the nodes that died since the last call; they no longer count as running."""
        now_s = time.monotonic()
        deaths = []
        for name, child in list(self._children.items()):
            code = child.poll()
            if code is not None:
                del self._children[name]
                deaths.append(Death(name, child.pid, code))
                self._plan_restart(name, now_s)
        return deaths

    def restart_due(self) -> list[str]:
        """Start the dead nodes whose delay is over; returns their names."""
        now_s = time.monotonic()
        due = [name for name, at_s in self._due_s.items() if at_s <= now_s]
        for name in due:
            self.start(name)
        return due

    def kill(self, name: str) -> Death:
        """End a node at once, as `kill -9` does, and return when the process is gone."""
        child = self._children.pop(name)
        child.kill()
        return Death(name, child.pid, child.wait())

    def unready(self) -> dict[str, str]:
        """Return why a node cannot serve, by name, for each running node that cannot."""
        reasons = {}
        for name in self._children:
            try:
                with self.client(name, timeout_s=READY_TIMEOUT_S) as client:
                    client.get("/readyz")
            except CommandFailed as failure:
                reasons[name] = failure.message
        return reasons

    def client(self, name: str, *, timeout_s: float) -> Client:
        """Return a new client of one node, with the nodes' own key."""
        key = self._environment.get("RECOLLECT_API_KEY", "")
        return Client(self.cluster.url(name), api_key=key, timeout_s=timeout_s)

    def last_words(self, name: str) -> str:
        """Return a node's last complaint in its log, else its last line; empty: it wrote none."""
        return last_complaint(self.cluster.log_file(name))

    def stop(
        self, *, grace_s: float = STOP_GRACE_S, hurry: Callable[[], bool] = lambda: False
    ) -> list[str]:
        """End all nodes: asked first, killed after the grace or when `hurry` says so.

        Returns:
            The names of those that had to be killed.
        """
        self._due_s.clear()
        for child in self._children.values():
            child.terminate()
        deadline_s = time.monotonic() + grace_s
        while self._alive() and time.monotonic() < deadline_s and not hurry():
            time.sleep(POLL_S / 2)
        stubborn = self._alive()
        for name in stubborn:
            self._children[name].kill()
        for child in self._children.values():
            child.wait()
        self._children.clear()
        return stubborn

    def close(self) -> None:
        """Stop the nodes and let go of the pipe that tied them to this process."""
        self.stop()
        for descriptor in self._pipe:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _alive(self) -> list[str]:
        return [name for name, child in self._children.items() if child.poll() is None]

    def _plan_restart(self, name: str, now_s: float) -> None:
        if not self.restarts:
            return
        lived_s = now_s - self._started_s[name]
        early = 0 if lived_s >= RESTART_FORGIVEN_S else self._early_deaths.get(name, 0)
        self._due_s[name] = now_s + restart_delay_s(early)
        self._early_deaths[name] = early + 1


@contextlib.contextmanager
def supervised(
    data: Path,
    shape: Shape,
    *,
    port: int,
    environment: Mapping[str, str],
    restart: bool = False,
    command: ChildCommand = serve_command,
) -> Iterator[Supervisor]:
    """Prepare a new cluster in a folder, or the one that it holds; nothing is started yet.

    Raises:
        CommandFailed: the folder or a port is in use, or holds a cluster of another shape.
        ValueError: a setting in the environment is not valid; names it.
    """
    with open_folder(data) as folder:
        cluster = _arrange(folder, shape, port, environment)
        supervisor = Supervisor(
            cluster, folder, environment=environment, restart=restart, command=command
        )
        try:
            yield supervisor
        finally:
            supervisor.close()


def _arrange(
    folder: DataFolder, shape: Shape, port: int, environment: Mapping[str, str]
) -> LocalCluster:
    found = folder.parameters()
    if found:
        _require_same(folder.path, "nodes", found.nodes, shape.nodes)
        _require_same(folder.path, "shards", found.shards, shape.shards)
    else:
        folder.require_no_draft()
    kept = found or Parameters.drawn(shape.nodes or DEFAULT_NODES, shape.shards or Config.shards)
    cluster = LocalCluster(
        folder=folder.path,
        nodes=kept.nodes,
        port=port,
        shards=kept.shards,
        peer_secret=environment.get("RECOLLECT_PEER_SECRET") or kept.peer_secret,
    )
    config = Config.from_env(cluster.environment("node1", environment))
    if config.backend != "cluster":
        raise CommandFailed(
            f"RECOLLECT_BACKEND is {config.backend}, which needs no cluster",
            hint="use recollect serve, or unset it",
            code="other_backend",
        )
    _require_free(cluster)
    if not found:
        folder.save(kept)
    return cluster


def _require_same(folder: Path, what: str, found: int, wanted: int | None) -> None:
    if wanted is not None and wanted != found:
        raise CommandFailed(
            f"{folder} holds a cluster of {found} {what if found > 1 else what[:-1]}, not {wanted}",
            hint=f"leave out --{what} to resume it, or choose another --data",
            code="other_cluster",
        )


def _require_free(cluster: LocalCluster) -> None:
    used = taken(cluster.ports)
    if used:
        listed = ", ".join(str(port) for port in used)
        raise CommandFailed(
            f"port {listed} is in use" if len(used) == 1 else f"ports {listed} are in use",
            hint="choose another --port, or end what listens there",
            code="port_in_use",
        )
