"""The compose deployment for tests: `make up` under a name, ports and secrets of its own.

Containers are reached through the ports published on 127.0.0.1, as a user would; faults are made
through the engine. Whatever happens, `remove` leaves no container, network or volume.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import docker
from docker.errors import APIError, DockerException
from docker.models.containers import Container

from cluster.ports import free_base
from tests.helpers import Response, call, eventually

ROOT: Final = Path(__file__).parents[1]
NODES: Final = (1, 2, 3)
NODE_MEMORY: Final = "512m"
IMAGE: Final = "recollect:test"
BASE: Final = "python:3.11-slim-bookworm"
RETURN_S: Final = 90.0
ENGINE_S: Final = 120
CLIENT_S: Final = 12.0
ANSWER_S: Final = 8.0
"""A node answers within its deadline of 4.5 s and 0.25 s of grace; the rest is for a machine that
does other things too."""
_LABEL: Final = "com.docker.compose.project"

_KILL_THE_NODE: Final = """
import os, pathlib, signal
for place in pathlib.Path("/proc").glob("[0-9]*"):
    words = (place / "cmdline").read_bytes().split(b"\\0")
    if words[-2:-1] == [b"serve"] and b"python" in words[0]:
        os.kill(int(place.name), signal.SIGKILL)
"""

_STORE_FROM_INSIDE: Final = """
import http.client, json, os, time
began = time.monotonic()
node = http.client.HTTPConnection("127.0.0.1", int(os.environ["RECOLLECT_HTTP_PORT"]), timeout=20)
sent = {"api-key": os.environ["RECOLLECT_API_KEY"], "Content-Type": "application/json"}
node.request("POST", "/patterns/store", '{"task": "does anybody hear me"}', sent)
answer = node.getresponse()
print(json.dumps([answer.status, answer.getheader("Retry-After"), time.monotonic() - began]))
"""


def why_not() -> str:
    """Return why the compose deployment cannot be tested here; empty when it can."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    for command in (["docker", "compose", "version"], ["docker-compose", "version"]):
        with contextlib.suppress(FileNotFoundError):
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                break
    else:
        return "Docker Compose is not installed"
    try:
        client = docker.from_env()
    except DockerException as error:
        return f"no Docker engine answers: {error}"
    client.close()
    return ""


@dataclass
class Deployment:
    """Three nodes and a Postgres. Nodes are counted from 1."""

    project: str
    port: int
    environment: dict[str, str]
    engine: Any

    @property
    def key(self) -> str:
        """The API key."""
        return self.environment["RECOLLECT_API_KEY"]

    def make(self, target: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a make target as a user of this deployment would."""
        return subprocess.run(
            ["make", "--no-print-directory", target],
            cwd=ROOT,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def recollect(self, *words: str, node: int = 1) -> subprocess.CompletedProcess[str]:
        """Run a command of the command line on the host, told the node by the environment."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "cluster.cli", *words],
            env=self.environment | {"RECOLLECT_URL": self.url(node)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def url(self, node: int) -> str:
        """Return a node's URL on the host."""
        return f"http://127.0.0.1:{self.port + node}"

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        node: int = 1,
        headers: dict[str, str] | None = None,
        timeout_s: float = 15.0,
    ) -> Response:
        """Send a request to a node, with the key."""
        sent = {"api-key": self.key, **(headers or {})}
        return call(self.url(node), method, path, body, headers=sent, timeout_s=timeout_s)

    def put_text(self, path: str, text: str, *, node: int) -> Response:
        """Send a body that is JSON already."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port + node, timeout=CLIENT_S)
        sent = {"api-key": self.key, "Content-Type": "application/json"}
        try:
            connection.request("PUT", path, text, sent)
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return Response(answer.status, headers, json.loads(answer.read()))
        finally:
            connection.close()

    def containers(self) -> list[Container]:
        """Return every container of the project, also those that do not run."""
        found = self.engine.containers.list(all=True, filters={"label": f"{_LABEL}={self.project}"})
        return list(found)

    def container(self, service: str | int) -> Container:
        """Return a service's container, freshly inspected; a number is a node's."""
        name = f"node{service}" if isinstance(service, int) else service
        wanted = {"label": [f"{_LABEL}={self.project}", f"com.docker.compose.service={name}"]}
        (found,) = self.engine.containers.list(all=True, filters=wanted)
        return found

    def network(self) -> Any:
        """Return the project's only network."""
        wanted = {"label": f"{_LABEL}={self.project}"}
        (found,) = self.engine.networks.list(filters=wanted)
        return found

    def volumes(self) -> list[str]:
        """Return the names of the project's volumes."""
        wanted = {"label": f"{_LABEL}={self.project}"}
        return [volume.name for volume in self.engine.volumes.list(filters=wanted)]

    def is_ready(self, node: int) -> bool:
        """Say whether a node answers that it can serve."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.call("GET", "/readyz", node=node, timeout_s=5).status == 200
        return False

    def await_ready(self) -> None:
        """Wait until every node can serve."""
        for node in NODES:
            eventually(lambda: self.is_ready(node), RETURN_S, f"node{node} to be ready")  # noqa: B023

    def health(self, service: str | int) -> str:
        """Return what the engine says of a container's health."""
        return str(self.container(service).attrs["State"]["Health"]["Status"])

    def restarts(self) -> list[int]:
        """Return how often the engine has restarted each node."""
        return [self.container(node).attrs["RestartCount"] for node in NODES]

    def kill_9(self, node: int) -> None:
        """Kill a node's process, not its container: whether it returns is the engine's affair."""
        self.container(node).exec_run(["python", "-I", "-c", _KILL_THE_NODE])

    def store_from_inside(self, node: int) -> tuple[int, str | None, float]:
        """Store a pattern inside a container; return status, Retry-After and the seconds taken."""
        found = self.container(node).exec_run(["python", "-I", "-c", _STORE_FROM_INSIDE])
        assert found.exit_code == 0, found.output
        status, retry_after, seconds = json.loads(found.output)
        return status, retry_after, seconds

    @contextlib.contextmanager
    def cut_off(self, node: int) -> Iterator[None]:
        """Take a node off the network while the block runs."""
        network, container = self.network(), self.container(node)
        network.disconnect(container)
        try:
            yield
        finally:
            network.connect(container, aliases=[f"node{node}"])

    @contextlib.contextmanager
    def paused(self, node: int) -> Iterator[None]:
        """Freeze a node while the block runs."""
        container = self.container(node)
        container.pause()
        try:
            yield
        finally:
            container.unpause()

    def postgres(self, statement: str) -> str:
        """Run SQL in the database and return what it prints."""
        words = ["psql", "-h", "127.0.0.1", "-U", "recollect", "-d", "recollect", "-Atqc"]
        code, output = self.container("postgres").exec_run(
            [*words, statement], environment={"PGPASSWORD": self.environment["POSTGRES_PASSWORD"]}
        )
        assert code == 0, output
        return str(output.decode().strip())

    def recollect_inside(self, *words: str, node: int = 1) -> Any:
        """Run a command in a node's container, where Postgres can be reached; return its JSON."""
        url = ["--url", "http://127.0.0.1:5000"]
        found = self.container(node).exec_run(["recollect", *words, *url, "--json"], demux=True)
        assert found.exit_code == 0, found.output
        return json.loads(found.output[0])

    def lose_nodes(self) -> None:
        """Remove the nodes and their volumes; Postgres stays."""
        for node in NODES:
            self.container(node).remove(force=True)
            self.engine.volumes.get(f"{self.project}_node{node}").remove()

    def logs(self) -> str:
        """Return the end of what every container wrote, for the message of a failed test."""
        return "\n".join(
            f"--- {container.name} {container.status}\n{container.logs(tail=40).decode()}"
            for container in self.containers()
        )

    def remove(self) -> None:
        """Remove all there is of the project, paused or cut off as it may be."""
        for container in self.containers():
            with contextlib.suppress(APIError):
                container.unpause()
        done = self.make("down", VOLUMES="1")
        for container in self.containers():
            container.remove(force=True, v=True)
        wanted = {"label": f"{_LABEL}={self.project}"}
        for left in (
            *self.engine.networks.list(filters=wanted),
            *self.engine.volumes.list(filters=wanted),
        ):
            left.remove()
        assert done.returncode == 0, done.stderr


def new_deployment() -> Deployment:
    """Return a deployment that is not up yet. Close its engine."""
    rng = random.Random()
    project, port = f"recollect-test-{secrets.token_hex(4)}", free_base(len(NODES), rng)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RECOLLECT_")}
    environment = kept | {
        "COMPOSE_PROJECT_NAME": project,
        "NODE_IMAGE": IMAGE,
        "NODE_MEMORY": NODE_MEMORY,
        "RECOLLECT_API_KEY": secrets.token_hex(16),
        "RECOLLECT_PEER_SECRET": secrets.token_hex(16),
        "POSTGRES_PASSWORD": secrets.token_hex(16),
        **{f"NODE{node}_PORT": str(port + node) for node in NODES},
    }
    return Deployment(project, port, environment, docker.from_env(timeout=ENGINE_S))


@dataclass
class Load:
    """A writer and a searcher at each node; what was acknowledged, and who was kept waiting.

    `point(number)` makes the points. `away` are nodes under a fault: of requests that meet one of
    them, nothing is expected.
    """

    deployment: Deployment
    collection: str
    point: Callable[[int], dict[str, Any]]
    acked: set[int] = field(default_factory=set)
    away: set[int] = field(default_factory=set)
    searches: int = 0
    slowest_s: float = 0.0
    unexpected: list[str] = field(default_factory=list)
    _next: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _mutex: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin."""
        self._stop.clear()
        self.slowest_s, self.searches = 0.0, 0
        work = [(node, task) for node in NODES for task in (self._write, self._search)]
        self._threads = [
            threading.Thread(target=self._run, args=each, daemon=True) for each in work
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; fail if a request hangs."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * CLIENT_S)
            assert not thread.is_alive(), "a request hangs"

    @contextlib.contextmanager
    def without(self, node: int) -> Iterator[None]:
        """Expect nothing of a node while the block runs; it ends when the node is ready again."""
        self.away.add(node)
        yield
        eventually(lambda: self.deployment.is_ready(node), RETURN_S, f"node{node} to return")
        self.away.discard(node)

    def grow_by(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait until so many more points are acknowledged."""
        goal = len(self.acked) + count
        eventually(lambda: len(self.acked) >= goal, timeout_s, f"{count} more writes")

    def _run(self, node: int, task: Callable[[int], bool]) -> None:
        while not self._stop.is_set():
            if not task(node):
                self._stop.wait(0.1)

    def _write(self, node: int) -> bool:
        with self._mutex:
            numbers = range(self._next, self._next + 5)
            self._next += 5
        body = {"points": [self.point(number) for number in numbers]}
        good = self._send(node, "PUT", f"{self.collection}/points?wait=true", body)
        if good:
            self.acked.update(numbers)
        return good

    def _search(self, node: int) -> bool:
        body = {"query": self.point(self._next // 2)["vector"], "limit": 3}
        good = self._send(node, "POST", f"{self.collection}/points/query", body)
        self.searches += good
        self._stop.wait(0.05)
        return good

    def _send(self, node: int, method: str, path: str, body: Any) -> bool:
        """Send a request and judge the answer; False: it was not done."""
        excused, began = node in self.away, time.monotonic()
        problem, answer = "", None
        try:
            answer = self.deployment.call(method, path, body, node=node, timeout_s=CLIENT_S)
        except (OSError, http.client.HTTPException) as error:
            problem = repr(error)
        if answer is not None and answer.status != 200:
            retryable = answer.status in {503, 507} and "retry-after" in answer.headers
            problem = "" if retryable else f"{answer.status} {answer.body}"
        if not excused and node not in self.away:
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            if problem:
                self.unexpected.append(f"{method} at node{node}: {problem}")
        return answer is not None and answer.status == 200
