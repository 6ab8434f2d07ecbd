"""Real processes, killed: what was acknowledged is there, and nobody waits for ever."""

from __future__ import annotations

import http.client
import threading
import time
from pathlib import Path

import pytest

from tests.helpers import Cluster, Response, await_ready, eventually, running_cluster, start_cluster

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

COLLECTION = "/collections/load"
ANSWER_S = 5.5


def vector(number: int) -> list[float]:
    """A vector that says which point it belongs to."""
    return [float(1 + (number >> shift) % 7) for shift in (0, 2, 4, 6)]


def point(number: int) -> dict[str, object]:
    return {"id": number, "vector": vector(number), "payload": {"number": number}}


def make_collection(cluster: Cluster) -> None:
    body = {"vectors": {"size": 4, "distance": "Euclid"}}
    assert cluster.call("PUT", COLLECTION, body).result is True


class Writers:
    """Threads that write small batches through every node and remember what was acknowledged."""

    def __init__(self, cluster: Cluster, threads: int = 3) -> None:
        self.cluster = cluster
        self.acked: set[int] = set()
        self.refused: list[Response] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(number, threads), daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, first: int, stride: int) -> None:
        number = first
        while not self._stop.is_set():
            ids = [number, number + stride]
            number += 2 * stride
            try:
                answer = self.cluster.call(
                    "PUT",
                    f"{COLLECTION}/points?wait=true",
                    {"points": [point(i) for i in ids]},
                    node=1 + first % self.cluster.nodes,
                )
            except (OSError, http.client.HTTPException):
                continue  # unknown: neither acknowledged nor lost
            if answer.status == 200:
                self.acked.update(ids)
            else:
                self.refused.append(answer)

    def stop(self) -> set[int]:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive(), "a request hangs"
        return self.acked


def missing(cluster: Cluster, acked: set[int], node: int) -> set[int]:
    """Return the acknowledged ids that a node does not have, payload and vector included."""
    found: set[int] = set()
    wanted = sorted(acked)
    for start in range(0, len(wanted), 1000):
        body = {"ids": wanted[start : start + 1000], "with_payload": True, "with_vector": True}
        path = f"{COLLECTION}/points?consistency=majority"
        for record in cluster.call("POST", path, body, node=node).result:
            assert record["payload"] == {"number": record["id"]}
            assert record["vector"] == pytest.approx(vector(record["id"]))
            found.add(record["id"])
    return acked - found


def hashes_agree(cluster: Cluster, replicas: int = 3) -> bool:
    """Whether all replicas of each shard stand at one index with one state hash."""
    shards = cluster.call("GET", "/cluster").result["shards"]
    return all(
        len(shard["replicas"]) == replicas
        and all(replica["state_hash"] for replica in shard["replicas"])
        and len({(r["applied_index"], r["state_hash"]) for r in shard["replicas"]}) == 1
        for shard in shards
    )


def test_kill_9_of_all_nodes_under_load_loses_nothing(tmp_path: Path) -> None:
    """Every acknowledged record is there after the restart, and the state hashes are equal."""
    small_logs = {"RECOLLECT_LOG_BYTES_MAX": "65536", "RECOLLECT_SEGMENT_BYTES": "2097152"}
    cluster = start_cluster(tmp_path, env=small_logs)
    try:
        await_ready(cluster)
        make_collection(cluster)
        acked: set[int] = set()
        writers = Writers(cluster)
        eventually(lambda: len(writers.acked) > 400, 60, "four hundred acknowledged writes")
        for node in (1, 2, 3):
            cluster.kill(node)
        acked |= writers.stop()
        cluster.stop()
        cluster = start_cluster(tmp_path, env=small_logs, port=cluster.port)
        await_ready(cluster)
        for node in (1, 2, 3):
            assert missing(cluster, acked, node) == set()
        eventually(lambda: hashes_agree(cluster), 20, "equal state hashes")
    finally:
        cluster.stop()


def test_one_node_killed_and_then_two(tmp_path: Path) -> None:
    """With one of three dead everything goes on; with two dead writes are refused in time."""
    with running_cluster(tmp_path) as cluster:
        make_collection(cluster)
        writers = Writers(cluster)
        eventually(lambda: len(writers.acked) > 100, 60, "a hundred acknowledged writes")
        cluster.kill(3)
        before = len(writers.acked)
        eventually(lambda: len(writers.acked) > before + 100, 30, "writes with one node dead")
        query = {"query": vector(5), "limit": 3}
        answer = cluster.call("POST", f"{COLLECTION}/points/query", query, node=1)
        assert len(answer.result["points"]) == 3
        acked = writers.stop()
        assert missing(cluster, acked, 1) == set()

        cluster.kill(2)
        for number in range(3):
            began = time.monotonic()
            refused = cluster.call(
                "PUT", f"{COLLECTION}/points?wait=true", {"points": [point(10**6 + number)]}
            )
            assert time.monotonic() - began < ANSWER_S
            assert refused.status == 503
            assert refused.body["error"]["retryable"] is True
            assert float(refused.headers["retry-after"]) > 0

        cluster.restart(2)
        cluster.restart(3)
        for node in (1, 2, 3):
            assert missing(cluster, acked, node) == set()
        eventually(lambda: hashes_agree(cluster), 30, "equal state hashes")


def test_a_node_that_missed_more_than_the_log_is_refilled(tmp_path: Path) -> None:
    """A snapshot brings back what is no longer in the leaders' logs."""
    tiny = {"RECOLLECT_LOG_BYTES_MAX": "16384", "RECOLLECT_SEGMENT_BYTES": "2097152"}
    with running_cluster(tmp_path, "--shards", "3", env=tiny) as cluster:
        make_collection(cluster)
        cluster.kill(3)
        batches = 60
        for batch in range(batches):
            points = [point(batch * 50 + number) for number in range(50)]
            path = f"{COLLECTION}/points?wait=true"
            assert cluster.call("PUT", path, {"points": points}).status == 200
        cluster.restart(3)
        eventually(lambda: hashes_agree(cluster), 60, "equal state hashes")
        log = (cluster.folder / "node3" / "log").read_text()
        assert "refilled by a snapshot" in log
        assert missing(cluster, set(range(batches * 50)), 3) == set()
        query = {"query": vector(77), "limit": 1, "with_payload": True}
        found = cluster.call("POST", f"{COLLECTION}/points/query", query, node=3).result["points"]
        assert found[0]["score"] == pytest.approx(0.0, abs=1e-6)
