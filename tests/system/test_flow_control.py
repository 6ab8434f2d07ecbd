"""Real nodes under commands of a megabyte, many at a time: leaders stay, memory stays bounded."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Cluster, eventually, running_cluster
from tests.system.test_faults import COLLECTION, hashes_agree, make_collection

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

SHARDS = 1
CONCURRENT = 16
POINTS = 16
TEXT = "x" * 62_000
ENOUGH = 150
LOG_MEMORY_BYTES_MAX = 64 << 20


class LargeWriters:
    """Threads that each write a megabyte, one command, again and again."""

    def __init__(self, cluster: Cluster, nodes: tuple[int, ...]) -> None:
        self.cluster, self.acked, self.statuses = cluster, 0, dict[int, int]()
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(nodes[n % len(nodes)],), daemon=True)
            for n in range(CONCURRENT)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, node: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.cluster.port + node, timeout=30)
        while not self._stop.is_set():
            points = [
                {"id": next(self._numbers), "vector": [1.0, 2.0, 3.0, 4.0], "payload": {"t": TEXT}}
                for _ in range(POINTS)
            ]
            try:
                connection.request(
                    "PUT",
                    f"{COLLECTION}/points?wait=true",
                    json.dumps({"points": points}),
                    {"Content-Type": "application/json"},
                )
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                continue
            self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
            self.acked += answer.status == 200
        connection.close()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(40)
            assert not thread.is_alive(), "a request hangs"


def shards(cluster: Cluster, node: int = 1) -> list[dict[str, Any]]:
    """Return leader and term of each shard, once all have one."""

    def all_led() -> list[dict[str, Any]] | None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            found = cluster.call("GET", "/cluster", node=node).result["shards"]
            return found if all(shard["leader"] for shard in found) else None
        return None

    return eventually(all_led, 20, "a leader of every shard") or []


def office(cluster: Cluster, node: int = 1) -> dict[int, tuple[str, int]]:
    return {shard["shard"]: (shard["leader"], shard["term"]) for shard in shards(cluster, node)}


def balanced(cluster: Cluster) -> bool:
    """Whether no leadership is left to be moved: the first replica is the preferred leader."""
    return all(shard["leader"] == shard["replicas"][0]["node"] for shard in shards(cluster))


def metric(cluster: Cluster, node: int, name: str) -> float:
    """Return one figure of a node's metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", cluster.port + node, timeout=15)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    (line,) = [line for line in text.splitlines() if line.startswith(f"recollect_{name} ")]
    return float(line.split()[1])


def assert_memory_bounded(cluster: Cluster) -> None:
    for node in (1, 2, 3):
        peak = metric(cluster, node, "log_memory_peak_bytes")
        assert peak <= LOG_MEMORY_BYTES_MAX, f"node{node} held {peak} bytes of log"


def test_sixteen_commands_of_a_megabyte_unseat_nobody(tmp_path: Path) -> None:
    """For as long as they come, every shard keeps its leader and its term."""
    with running_cluster(tmp_path, "--shards", str(SHARDS)) as cluster:
        make_collection(cluster)
        eventually(lambda: balanced(cluster), 30, "every shard at its preferred leader")
        before = office(cluster)
        writers = LargeWriters(cluster, (1, 2, 3))
        eventually(lambda: writers.acked >= ENOUGH, 120, "writes of a megabyte")
        writers.stop()

        assert office(cluster) == before
        assert_memory_bounded(cluster)
        eventually(lambda: hashes_agree(cluster), 30, "equal state hashes")


def test_a_follower_that_stands_still_under_load_unseats_nobody(tmp_path: Path) -> None:
    """The leader goes on with the other one, within its memory; it is refilled afterwards."""
    with running_cluster(tmp_path, "--shards", str(SHARDS)) as cluster:
        make_collection(cluster)
        eventually(lambda: balanced(cluster), 30, "every shard at its preferred leader")
        before = office(cluster)
        leader = int(before[0][0].removeprefix("node"))
        stopped = 1 + leader % 3
        others = tuple(node for node in (1, 2, 3) if node != stopped)
        cluster.kill(stopped, signal.SIGSTOP)
        try:
            writers = LargeWriters(cluster, others)
            eventually(lambda: writers.acked >= ENOUGH, 120, "writes with a follower that stands")
            assert office(cluster, others[0]) == before
        finally:
            cluster.kill(stopped, signal.SIGCONT)
        seen = writers.acked
        eventually(lambda: writers.acked >= seen + 30, 120, "writes while it catches up")
        assert office(cluster) == before
        writers.stop()
        # All three build what came, too, while the one that stood still takes in what it missed.
        eventually(lambda: hashes_agree(cluster), 180, "equal state hashes")
        assert_memory_bounded(cluster)
