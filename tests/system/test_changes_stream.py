"""The stream of changes from real nodes: under killed leaders, killed listeners, slow listeners."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.change_listener import Connection, Listener, order_is_kept
from tests.change_writers import COLLECTION, Writers, await_more, expect_all, make_collection
from tests.helpers import Cluster, eventually, running_cluster

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


def test_each_change_once_while_leaders_and_listeners_die(tmp_path: Path):
    """Two nodes die under load, the listener changes nodes all the time: no gap, nothing twice."""
    with running_cluster(tmp_path) as cluster:
        make_collection(cluster)
        listener = Listener(cluster.urls, "/changes?collection=load", leave_after=400)
        steady = Listener(cluster.urls, "/changes")
        writers = Writers(cluster)
        for node in (1, 2):
            await_more(listener, 1000)
            cluster.kill(node)
            cluster.restart(node)
        await_more(listener, 500)
        writers.stop()

        for each in (listener, steady):
            expect_all(each, writers)
        assert listener.streams > 5


def test_a_listener_that_takes_nothing_goes_on_where_it_was(tmp_path: Path):
    """A listener that sleeps holds up nobody; what waits for it comes in order, also elsewhere."""
    with running_cluster(tmp_path) as cluster:
        make_collection(cluster)
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
        make_collection(cluster)
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
