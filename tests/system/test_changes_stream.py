"""The stream of changes from real nodes: under killed leaders, killed listeners, slow listeners."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.change_listener import Connection, Listener, order_is_kept
from tests.helpers import Cluster, eventually, running_cluster

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

COLLECTION = "/collections/load"


class Writers:
    """Threads that write points of ever new ids through any node, some to an entry, and delete
    every tenth again; what was acknowledged is remembered."""

    def __init__(self, cluster: Cluster, threads: int = 2) -> None:
        self.cluster = cluster
        self.acked: set[int] = set()
        self.deleted: set[int] = set()
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(node,), daemon=True)
            for node in range(1, threads + 1)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20.0)

    def _run(self, node: int) -> None:
        while not self._stop.is_set():
            first = next(self._numbers) * 10
            points = [{"id": first + each, "vector": [1.0, 2.0]} for each in range(10)]
            node = node % self.cluster.nodes + 1
            with contextlib.suppress(OSError):
                if self._write("PUT", f"{COLLECTION}/points", {"points": points}, node):
                    self.acked.update(first + each for each in range(10))
                if self._write("POST", f"{COLLECTION}/points/delete", {"points": [first]}, node):
                    self.deleted.add(first)

    def _write(self, method: str, path: str, body: object, node: int) -> bool:
        return self.cluster.call(method, path, body, node=node).status == 200


def test_each_change_once_while_leaders_and_listeners_die(tmp_path: Path):
    """Two nodes die under load, the listener changes nodes all the time: no gap, nothing twice."""
    with running_cluster(tmp_path) as cluster:
        body = {"vectors": {"size": 2, "distance": "Dot"}}
        assert cluster.call("PUT", COLLECTION, body).result is True
        listener = Listener(cluster.urls, "/changes?collection=load", leave_after=400)
        steady = Listener(cluster.urls, "/changes")
        writers = Writers(cluster)
        for node in (1, 2):
            _await_more(listener, 1000)
            cluster.kill(node)
            cluster.restart(node)
        _await_more(listener, 500)
        writers.stop()

        for each in (listener, steady):
            _expect_all(each, writers)
        assert listener.streams > 5


def _await_more(listener: Listener, count: int) -> None:
    wanted = len(listener.taken) + count
    eventually(lambda: len(listener.taken) >= wanted, 60.0, f"{count} more changes")


def _expect_all(listener: Listener, writers: Writers) -> None:
    """Wait until a listener has all that was acknowledged, and hold it against its promises."""

    def missing() -> set[int]:
        written = {each.data["id"] for each in list(listener.taken)}
        gone = {each.data["id"] for each in list(listener.taken) if each.kind == "delete"}
        return (writers.acked - written) | (writers.deleted - gone)

    eventually(lambda: not missing(), 30.0, "everything that was acknowledged")
    times = Counter((event.kind, event.data["id"]) for event in listener.taken)

    assert max(times.values()) == 1
    assert order_is_kept(listener.taken)
    assert len(times) >= len(writers.acked)


def test_a_listener_that_takes_nothing_goes_on_where_it_was(tmp_path: Path):
    """A listener that sleeps holds up nobody; what waits for it comes in order, also elsewhere."""
    with running_cluster(tmp_path) as cluster:
        body = {"vectors": {"size": 2, "distance": "Dot"}}
        assert cluster.call("PUT", COLLECTION, body).result is True
        asleep = Connection(cluster.url(1), "/changes?collection=load")
        payload = {"text": "x" * 20_000}
        for first in range(0, 2000, 50):
            points = [
                {"id": first + each, "vector": [1, 2], "payload": payload} for each in range(50)
            ]
            answer = cluster.call("PUT", f"{COLLECTION}/points", {"points": points}, node=2)
            assert answer.status == 200
        taken = list(itertools.islice(asleep.events(), 500))
        asleep.close()
        elsewhere = Connection(cluster.url(3), "/changes?collection=load", asleep.position)
        taken += list(itertools.islice(elsewhere.events(), 1500))
        elsewhere.close()

        assert sorted(event.data["id"] for event in taken) == list(range(2000))
        assert order_is_kept(taken)


def test_the_example_in_the_documents_works(tmp_path: Path):
    """The consumer of docs/API.md tells what is written, and goes on when its node dies."""
    text = (Path(__file__).parents[2] / "docs" / "API.md").read_text()
    (example,) = re.findall(r"```python\n(import json, time.*?)```", text, re.DOTALL)
    with running_cluster(tmp_path) as cluster:
        body = {"vectors": {"size": 2, "distance": "Dot"}}
        assert cluster.call("PUT", COLLECTION, body).result is True
        for port, node in ((5001, 1), (5002, 2)):
            example = example.replace(f"http://localhost:{port}", cluster.url(node))
        with _running(example, tmp_path / "told") as told:
            eventually(lambda: "recollect_streams 1.0" in _metrics(cluster), 20.0, "a listener")
            for number in (1, 2):
                points = [{"id": number, "vector": [1, 2]}]
                answer = cluster.call("PUT", f"{COLLECTION}/points", {"points": points}, node=3)
                assert answer.status == 200
                _await_text(told, f"'id': {number}")
                if number == 1:
                    cluster.kill(1)

            assert told.read_text().count("'version'") == 2


def _await_text(file: Path, text: str) -> None:
    eventually(lambda: text in file.read_text(), 20.0, text)


def _metrics(cluster: Cluster) -> str:
    with urllib.request.urlopen(f"{cluster.url(1)}/metrics") as answer:
        text: str = answer.read().decode()
        return text


@contextlib.contextmanager
def _running(program: str, output: Path) -> Iterator[Path]:
    """Run a program while the block runs; what it prints is in the file."""
    with output.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-u", "-c", program], stdout=out)
    try:
        yield output
    finally:
        process.kill()
        process.wait()
