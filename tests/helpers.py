"""Real clusters for tests: `recollect up` as a process, driven from outside as a user would.

Nothing here knows the inside of a node. Waiting is always for a condition, with a deadline.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from cluster.data_folder import PARAMETERS_FILE, Parameters
from cluster.local_cluster import LocalCluster
from cluster.ports import free_base

READY_S: Final = 60.0
STOP_S: Final = 20.0
POLL_S: Final = 0.05

T = TypeVar("T")


def eventually(condition: Callable[[], T], timeout_s: float = 10.0, what: str = "") -> T:
    """Return the first truthy value of `condition`; fail when the time is over."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what or condition}"
        time.sleep(POLL_S)


def is_running(pid: int) -> bool:
    """Say whether a process still executes; one that only waits to be reaped does not.

    While other threads of it are still ending they hold its files and ports: it counts as running.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    place = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError):
        state = (place / "stat").read_text().rpartition(")")[2].split()[0]
        return state not in {"Z", "X"} or len(list((place / "task").iterdir())) > 1
    return not Path("/proc/self").exists()


@dataclass(frozen=True)
class Response:
    """An HTTP answer whose body was JSON; None: it was not."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def result(self) -> Any:
        """Return the result of a success; fail on anything else."""
        assert self.status == 200, (self.status, self.body)
        return self.body["result"]


def call(
    url: str,
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 15.0,
) -> Response:
    """Send one request on its own connection; raises OSError when nobody answers."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout_s)
    sent = {"Content-Type": "application/json", **(headers or {})}
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, sent)
        answer = connection.getresponse()
        raw = answer.read()
        try:
            value = json.loads(raw)
        except ValueError:
            value = None
        return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, value)
    finally:
        connection.close()


@dataclass
class Cluster:
    """A cluster that runs. Nodes are counted from 1."""

    folder: Path
    nodes: int
    port: int
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path
    restarted: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def urls(self) -> list[str]:
        """Return the nodes' URLs, in order."""
        return [self.url(number) for number in range(1, self.nodes + 1)]

    @property
    def pids(self) -> list[int]:
        """Return the process ids that the pid files tell, in order."""
        return [self.pid(number) for number in range(1, self.nodes + 1)]

    def url(self, node: int = 1) -> str:
        """Return a node's URL."""
        return f"http://127.0.0.1:{self.port + node}"

    def pid(self, node: int) -> int:
        """Return the process id that a node's pid file tells."""
        return int((self.folder / f"node{node}" / "pid").read_text())

    def call(self, method: str, path: str, body: Any = None, *, node: int = 1) -> Response:
        """Send a request to a node, with the cluster's key if it has one."""
        key = self.environment.get("RECOLLECT_API_KEY")
        return call(self.url(node), method, path, body, headers={"api-key": key} if key else {})

    def is_ready(self, node: int) -> bool:
        """Say whether a node answers that it can serve."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.call("GET", "/readyz", node=node).status == 200
        return False

    def until_ready(self) -> None:
        """Wait until every node can serve, which is of the moment: a leader may change."""
        for node in range(1, self.nodes + 1):
            eventually(lambda: self.is_ready(node), READY_S, f"node{node} to be ready")  # noqa: B023

    def kill(self, node: int, number: int = signal.SIGKILL) -> int:
        """Send a signal to a node; after SIGKILL it is gone when this returns. Returns its pid."""
        pid = self.pid(node)
        os.kill(pid, number)
        if number == signal.SIGKILL:
            if node in self.restarted:
                self.restarted.pop(node).wait()
            eventually(lambda: not is_running(pid), what=f"the end of node{node}")
        return pid

    def restart(self, node: int) -> None:
        """Start a dead node again, as `up` did, and wait until it is ready."""
        found = msgspec.json.decode((self.folder / PARAMETERS_FILE).read_bytes(), type=Parameters)
        layout = LocalCluster(
            folder=self.folder,
            nodes=self.nodes,
            port=self.port,
            shards=found.shards,
            peer_secret=self.environment.get("RECOLLECT_PEER_SECRET") or found.peer_secret,
        )
        name = f"node{node}"
        with layout.log_file(name).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cluster.cli", "serve"],
                env=layout.environment(name, self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.restarted[node] = process
        (self.folder / name / "pid").write_text(f"{process.pid}\n")
        eventually(lambda: self.is_ready(node), READY_S, f"the return of {name}")

    def stop(self) -> int:
        """End the cluster as Ctrl-C would and return the exit code of `up`."""
        for process in self.restarted.values():
            process.terminate()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        finally:
            self.process.kill()
            self.process.wait()
            for process in self.restarted.values():
                process.kill()
                process.wait()
            self.restarted.clear()

    def logs(self) -> str:
        """Return what `up` and the nodes wrote, for the message of a failed test."""
        files = [self.stdout, self.stderr, *sorted(self.folder.glob("node*/log"))]
        return "\n".join(
            f"--- {file}\n{file.read_text(errors='replace')[-4000:]}"
            for file in files
            if file.exists()
        )


def start_cluster(
    tmp_path: Path,
    *options: str,
    nodes: int = 3,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
    port: int | None = None,
    under: Sequence[str] = (),
) -> Cluster:
    """Start `recollect up` without waiting; `options` are further words of its command line.

    It runs no Postgres unless `env` sets RECOLLECT_CHECKPOINT_URL to nothing.
    `under` is a command that runs the words behind it in its own place, as `exec` would.
    """
    folder = folder or tmp_path / "data"
    port = free_base(nodes, random.Random()) if port is None else port
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RECOLLECT_")}
    environment = kept | {"RECOLLECT_CHECKPOINT_URL": "none"} | dict(env or {})
    number = len(list(tmp_path.glob("up.*.out")))
    stdout, stderr = tmp_path / f"up.{number}.out", tmp_path / f"up.{number}.err"
    words = ["--nodes", str(nodes), "--data", str(folder), "--port", str(port), *options]
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(
            [*under, sys.executable, "-P", "-m", "cluster.cli", "up", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    return Cluster(folder, nodes, port, environment, process, stdout, stderr)


def await_ready(cluster: Cluster) -> None:
    """Wait for the line `Ready`; fail with the logs when it does not come."""

    def is_ready() -> bool:
        assert cluster.process.poll() is None, cluster.logs()
        return "Ready" in cluster.stdout.read_text().splitlines()

    try:
        eventually(is_ready, READY_S, "the line Ready")
    except AssertionError:
        raise AssertionError(cluster.logs()) from None


@contextlib.contextmanager
def running_cluster(
    tmp_path: Path,
    *options: str,
    nodes: int = 3,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
    port: int | None = None,
) -> Iterator[Cluster]:
    """Run a cluster while the block runs; it is ready at its beginning and gone after its end."""
    cluster = start_cluster(tmp_path, *options, nodes=nodes, env=env, folder=folder, port=port)
    try:
        await_ready(cluster)
        yield cluster
    finally:
        cluster.stop()
