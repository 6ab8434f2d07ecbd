"""Real nodes on real, small disks that run full: nothing acknowledged is lost, nobody dies."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.helpers import Cluster, Response, eventually
from tests.small_disks import small_disks
from tests.system.test_faults import (
    COLLECTION,
    Writers,
    hashes_agree,
    make_collection,
    missing,
    point,
)

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

REFUSED_S = 20.0
RECOVERED_S = 20.0


class Numbers:
    """Ids that no writer uses."""

    def __init__(self) -> None:
        self._next = itertools.count(10**9)

    def write(self, cluster: Cluster, node: int) -> tuple[int, Response | None]:
        """Write one new point through a node; None: nobody knows what became of it."""
        number = next(self._next)
        with contextlib.suppress(OSError, http.client.HTTPException):
            body = {"points": [point(number)]}
            path = f"{COLLECTION}/points?wait=true"
            return number, cluster.call("PUT", path, body, node=node)
        return number, None


def refuses(cluster: Cluster, numbers: Numbers, node: int, acked: set[int]) -> bool:
    """Whether a write through a node is refused as it must be."""
    number, answer = numbers.write(cluster, node)
    if answer is not None and answer.status == 200:
        acked.add(number)
    if answer is None or answer.status != 507:
        return False
    assert answer.body["error"]["code"] == "storage_full"
    assert answer.body["error"]["retryable"] is True
    assert float(answer.headers["retry-after"]) > 0
    return True


def accepts(cluster: Cluster, numbers: Numbers, node: int, acked: set[int]) -> bool:
    """Whether a write through a node is acknowledged."""
    number, answer = numbers.write(cluster, node)
    good = answer is not None and answer.status == 200
    if good:
        acked.add(number)
    return good


def everywhere(holds: Callable[[int], bool], timeout_s: float, what: str) -> None:
    """Wait until something holds for each node, one after the other."""
    for node in (1, 2, 3):
        eventually(partial(holds, node), timeout_s, f"{what} at node{node}")


def assert_reads_served(cluster: Cluster, known: int) -> None:
    """Every node answers default and strong reads and searches, and is alive.

    Under writers that press on, a strong read may be told to come again (503) before it is served.
    """

    def served(node: int, consistency: str) -> bool:
        path = f"{COLLECTION}/points{consistency}"
        found = cluster.call("POST", path, {"ids": [known]}, node=node)
        if found.status == 503 and consistency:
            assert found.body["error"]["retryable"]
            return False
        assert [record["id"] for record in found.result] == [known], (node, consistency)
        return True

    for node in (1, 2, 3):
        for consistency in ("", "?consistency=majority"):
            eventually(partial(served, node, consistency), 60, f"reads at node{node}{consistency}")
        query = {"query": point(known)["vector"], "limit": 1}
        assert cluster.call("POST", f"{COLLECTION}/points/query", query, node=node).status == 200
        assert cluster.call("GET", "/healthz", node=node).status == 200


def test_a_full_disk_of_one_node_and_then_of_all(tmp_path: Path) -> None:
    """Writes answer 507 while a holder is full, reads go on, space is noticed, nothing is lost."""
    with small_disks(tmp_path, "--restart", size_mib=400) as disks:
        cluster, numbers, acked = disks.cluster, Numbers(), set[int]()
        make_collection(cluster)
        pids = cluster.pids
        writers = Writers(cluster)
        eventually(lambda: len(writers.acked) > 200, 60, "two hundred acknowledged writes")
        known = min(writers.acked)

        disks.fill(3)
        everywhere(lambda node: refuses(cluster, numbers, node, acked), REFUSED_S, "507")
        assert_reads_served(cluster, known)
        disks.free(3)
        everywhere(lambda node: accepts(cluster, numbers, node, acked), RECOVERED_S, "200")

        for node in (1, 2, 3):
            disks.fill(node)
        everywhere(lambda node: refuses(cluster, numbers, node, acked), REFUSED_S, "507")
        assert_reads_served(cluster, known)
        assert cluster.pids == pids
        body = {"points": [10**12]}
        gone = cluster.call("POST", f"{COLLECTION}/points/delete?wait=true", body, node=1)
        assert gone.status == 200, gone.body

        cluster.kill(2, signal.SIGKILL)
        eventually(
            lambda: reads_at(cluster, 2, known), 60, "reads at a node started on a full disk"
        )
        assert_reads_served(cluster, known)
        for node in (1, 2, 3):
            disks.free(node)
        everywhere(lambda node: accepts(cluster, numbers, node, acked), RECOVERED_S, "200")
        acked |= writers.stop()
        assert [cluster.pids[0], cluster.pids[2]] == [pids[0], pids[2]]
        assert_nothing_lost(cluster, acked)


def reads_at(cluster: Cluster, node: int, known: int) -> bool:
    """Whether a node serves a read."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        body = {"ids": [known]}
        answer = cluster.call("POST", f"{COLLECTION}/points", body, node=node)
        return answer.status == 200 and len(answer.result) == 1
    return False


def assert_nothing_lost(cluster: Cluster, acked: set[int]) -> None:
    eventually(lambda: hashes_agree(cluster), 60, "equal state hashes")
    for node in (1, 2, 3):
        assert missing(cluster, acked, node) == set()


class HeavyWriters:
    """Threads that fill the disks with points of large payloads, and remember what was told."""

    def __init__(self, cluster: Cluster, threads: int = 4) -> None:
        self.cluster, self.acked, self.statuses = cluster, set[int](), list[int]()
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def _write(self, thread: int) -> None:
        while not self._stop.is_set():
            ids = [next(self._numbers) for _ in range(20)]
            points = [{**point(i), "payload": {"number": i, "text": "x" * 20_000}} for i in ids]
            path = f"{COLLECTION}/points?wait=true"
            try:
                answer = self.cluster.call("PUT", path, {"points": points}, node=1 + thread % 3)
            except (OSError, http.client.HTTPException):
                continue
            self.statuses.append(answer.status)
            if answer.status == 200:
                self.acked.update(ids)

    def full(self) -> bool:
        """Whether the latest answers were all refusals for want of space."""
        return len(self.statuses) > 30 and set(self.statuses[-12:]) == {507}

    def stop(self) -> set[int]:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a request hangs"
        return self.acked


def has_all(cluster: Cluster, acked: set[int], node: int) -> bool:
    found: set[int] = set()
    wanted = sorted(acked)
    for start in range(0, len(wanted), 200):
        body = {"ids": wanted[start : start + 200], "with_payload": True}
        path = f"{COLLECTION}/points?consistency=majority"
        for record in cluster.call("POST", path, body, node=node).result:
            assert record["payload"]["number"] == record["id"]
            found.add(record["id"])
    return found >= acked


@pytest.mark.parametrize("uneven", [False, True])
def test_writing_until_nothing_more_fits(tmp_path: Path, uneven: bool) -> None:
    """Without any floor everything meets the full disk: log, states, checkpoints, indexes."""
    env = {
        "RECOLLECT_DISK_FREE_BYTES_MIN": "0",
        "RECOLLECT_SEGMENT_BYTES": "2097152",
        "RECOLLECT_LOG_BYTES_MAX": "262144",
    }
    with small_disks(tmp_path, "--restart", size_mib=300, env=env) as disks:
        cluster, numbers = disks.cluster, Numbers()
        make_collection(cluster)
        pids = cluster.pids
        for node in (1, 2, 3):
            disks.fill(node, leave_bytes=(40 + 10 * node * uneven) << 20)
        heavy = HeavyWriters(cluster)
        eventually(heavy.full, 120, "507 again and again")
        known = min(heavy.acked)
        assert_alive(cluster, pids, known)
        cluster.kill(2, signal.SIGKILL)
        eventually(
            lambda: reads_at(cluster, 2, known), 60, "reads at a node started on a full disk"
        )
        eventually(heavy.full, 60, "507 again and again")
        eventually(lambda: not lagging(cluster), 30, "reads at every node")
        assert_reads_served(cluster, known)
        for node in (1, 2, 3):
            disks.free(node)
        before = len(heavy.acked)
        eventually(lambda: len(heavy.acked) > before + 100, 30, "writes after there is space")
        acked = heavy.stop()
        everywhere(lambda node: accepts(cluster, numbers, node, set()), RECOVERED_S, "200")
        eventually(lambda: hashes_agree(cluster), 60, "equal state hashes")
        for node in (1, 2, 3):
            assert has_all(cluster, acked, node)
        assert [cluster.pids[0], cluster.pids[2]] == [pids[0], pids[2]]


def lagging(cluster: Cluster) -> bool:
    """Whether some node does not answer a default read yet."""
    body = {"ids": [1]}
    path = f"{COLLECTION}/points"
    return any(cluster.call("POST", path, body, node=node).status != 200 for node in (1, 2, 3))


def assert_alive(cluster: Cluster, pids: list[int], known: int) -> None:
    assert_reads_served(cluster, known)
    assert cluster.pids == pids
