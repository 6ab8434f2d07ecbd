"""Who writes while changes are followed, and what a listener must have heard of it in the end."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter

from tests.change_listener import Listener, order_is_kept
from tests.helpers import Cluster, eventually

COLLECTION = "/collections/load"


class Writers:
    """Threads that write points of ever new ids through any node, `entry` at a time, and delete
    the first of them again; what was acknowledged is remembered."""

    def __init__(self, cluster: Cluster, threads: int = 2, entry: int = 10) -> None:
        self.cluster = cluster
        self.acked: set[int] = set()
        self.deleted: set[int] = set()
        self._entry = entry
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(node,), daemon=True)
            for node in range(1, threads + 1)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End when what is under way is answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join(20.0)

    def _run(self, node: int) -> None:
        while not self._stop.is_set():
            first = next(self._numbers) * self._entry
            ids = range(first, first + self._entry)
            points = [{"id": each, "vector": [1.0, 2.0]} for each in ids]
            node = node % self.cluster.nodes + 1
            with contextlib.suppress(OSError):
                if self._write("PUT", f"{COLLECTION}/points", {"points": points}, node):
                    self.acked.update(ids)
                if self._write("POST", f"{COLLECTION}/points/delete", {"points": [first]}, node):
                    self.deleted.add(first)

    def _write(self, method: str, path: str, body: object, node: int) -> bool:
        return self.cluster.call(method, path, body, node=node).status == 200


def make_collection(cluster: Cluster) -> None:
    """Make the collection that `Writers` write to."""
    body = {"vectors": {"size": 2, "distance": "Dot"}}
    assert cluster.call("PUT", COLLECTION, body).result is True


def await_more(listener: Listener, count: int, timeout_s: float = 60.0) -> None:
    """Wait until a listener has heard of `count` more changes."""
    wanted = len(listener.taken) + count
    eventually(lambda: len(listener.taken) >= wanted, timeout_s, f"{count} more changes")


def expect_all(listener: Listener, writers: Writers) -> None:
    """Wait until a listener has all that was acknowledged, and hold it against its promises."""

    def missing() -> set[int]:
        written = {each.data["id"] for each in list(listener.taken)}
        gone = {each.data["id"] for each in list(listener.taken) if each.kind == "delete"}
        return (writers.acked - written) | (writers.deleted - gone)

    eventually(lambda: not missing(), 30.0, "everything that was acknowledged")
    times = Counter((event.kind, event.data["id"]) for event in listener.taken)

    assert max(times.values()) == 1, "a change came twice"
    assert order_is_kept(listener.taken), "a shard's changes came out of order"
    assert len(times) >= len(writers.acked)
