"""Search workers of real nodes: whichever process answers, it is as if the node itself did."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cluster.api.protocol import PATIENCE
from tests.helpers import Cluster, eventually, is_running, running_cluster

SIZE = 8
QUERY = "/collections/{}/points/query"
TIME_S = 30.0


class Line:
    """A connection that is kept, and what goes over it."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIME_S)

    def call(self, method, path, body=None):
        """Return status, headers and decoded body."""
        raw = None if body is None else json.dumps(body)
        self._connection.request(method, path, raw, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        decoded = json.loads(answer.read() or b"null")
        return answer.status, answer.headers, decoded

    def search(self, name, vector, limit=3, **more):
        """Return the hits; fail on anything else."""
        body = {"query": vector, "limit": limit, **more}
        status, _, decoded = self.call("POST", QUERY.format(name), body)
        assert status == 200, decoded
        return decoded["result"]["points"]

    def close(self):
        self._connection.close()


def vector_of(number):
    chance = random.Random(number)
    return [chance.gauss(0, 1) for _ in range(SIZE)]


def point(number, **payload):
    return {"id": number, "vector": vector_of(number), "payload": {"n": number, **payload}}


def fill(cluster, name, numbers):
    shape = {"vectors": {"size": SIZE, "distance": "Cosine"}}
    assert cluster.call("PUT", f"/collections/{name}", shape).status == 200
    put(cluster, name, [point(number) for number in numbers])


def put(cluster, name, points):
    path = f"/collections/{name}/points?wait=true"
    assert cluster.call("PUT", path, {"points": points}).status == 200


def is_green(cluster, name):
    return cluster.call("GET", f"/collections/{name}").result["status"] == "green"


def metric(cluster, name, node=1):
    line = http.client.HTTPConnection(urlsplit(cluster.url(node)).netloc, timeout=TIME_S)
    with contextlib.closing(line):
        line.request("GET", "/metrics")
        text = line.getresponse().read().decode()
    return sum(float(each) for each in re.findall(rf"^{name} (\S+)$", text, re.MULTILINE))


def workers(pid):
    """Return the process ids of a node's search workers."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(each) for each in (task / "children").read_text().split()]
    with_name = []
    for each in found:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{each}/comm").read_text() == "search-worker\n":
                with_name.append(each)
    return with_name


@contextlib.contextmanager
def searched(cluster: Cluster, name: str, node: int = 1, lines: int = 4) -> Iterator[None]:
    """Search all the time, each over a connection that is kept, until workers have them."""
    stop, failures = threading.Event(), []

    def search() -> None:
        line = Line(cluster.url(node))
        while not stop.is_set():
            try:
                line.search(name, vector_of(random.randrange(1 << 30)), limit=1)
            except (OSError, http.client.HTTPException):
                line.close()
            except AssertionError as error:
                failures.append(error)
                return
        line.close()

    threads = [threading.Thread(target=search) for _ in range(lines)]
    for thread in threads:
        thread.start()
    try:
        lent = "recollect_search_workers_connections"
        eventually(lambda: metric(cluster, lent, node) >= lines, TIME_S, "connections with workers")
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def lent_line(cluster, name, node=1):
    """Return a connection that a worker has, while the node is searched."""
    line, lent = Line(cluster.url(node)), "recollect_search_workers_connections"
    before = metric(cluster, lent, node)
    for _ in range(2 * PATIENCE):
        line.search(name, vector_of(1))
    eventually(lambda: line.search(name, vector_of(1)) and metric(cluster, lent, node) > before)
    return line


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One node with two workers, whatever the machine has."""
    folder = tmp_path_factory.mktemp("workers")
    env = {"RECOLLECT_SEARCH_WORKERS": "2"}
    with running_cluster(folder, nodes=1, env=env) as cluster:
        yield cluster


def test_what_was_acknowledged_is_found_by_workers(one):
    """Points that were just written, changed or deleted, over a connection that a worker has."""
    fill(one, "written", range(500))
    with searched(one, "written"):
        line = lent_line(one, "written")
        for number in range(1000, 1200):
            put(one, "written", [point(number)])
            hits = line.search("written", vector_of(number), limit=2, with_payload=True)
            assert hits[0]["id"] == number
            assert hits[0]["payload"] == {"n": number}
            assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
            moved = {**point(-number % 977), "id": number}
            put(one, "written", [moved])
            assert line.search("written", moved["vector"], limit=1)[0]["score"] > 0.9999
            if number % 2:
                path = "/collections/written/points/delete?wait=true"
                assert one.call("POST", path, {"points": [number]}).status == 200
                found = line.search("written", moved["vector"], limit=600)
                assert number not in [hit["id"] for hit in found]
        assert metric(one, "recollect_search_workers") == 2
        line.close()


def test_answers_of_workers_are_those_of_the_node(one):
    """With every header but the date, and counted as the node's own.

    A row's score has other last digits while it is compared one by one: all are to be in the graph.
    """
    fill(one, "alike", range(300))
    eventually(lambda: is_green(one, "alike"), TIME_S, "all rows in the graph")
    counted = r'recollect_http_requests_total\{.*points/query".*\}'
    body = {"query": vector_of(5), "limit": 7, "with_payload": True}
    alone = Line(one.url())
    status, headers, expected = alone.call("POST", QUERY.format("alike"), body)
    assert status == 200
    with searched(one, "alike"):
        line = lent_line(one, "alike")
        _, its_headers, found = line.call("POST", QUERY.format("alike"), body)
        line.close()
    alone.close()

    assert found["result"] == expected["result"]
    assert found.keys() == expected.keys()
    assert its_headers.keys() == headers.keys()
    assert its_headers["X-Recollect-Session"] == headers["X-Recollect-Session"]
    before = eventually(lambda: settled(one, counted), TIME_S, "the last report")
    line = Line(one.url())
    for _ in range(3):
        line.search("alike", vector_of(1))
    line.close()
    assert settled(one, counted) == before + 3


def settled(cluster, name):
    """Return a count that has stopped to grow; None while it grows."""
    first = metric(cluster, name)
    time.sleep(0.6)  # reports come four times a second
    return first if metric(cluster, name) == first else None


def test_a_collection_that_was_dropped_is_not_found(one):
    """Nor are its points when there is another one of its name."""
    fill(one, "dropped", range(300))
    for _ in range(2):
        with searched(one, "alike"):
            line = lent_line(one, "dropped")
            assert one.call("DELETE", "/collections/dropped").status == 200
            status, _, decoded = line.call("POST", QUERY.format("dropped"), {"query": vector_of(1)})
            assert status == 404, decoded
            fill(one, "dropped", range(1000, 1003))
            hits = line.search("dropped", vector_of(1), limit=10)
            assert sorted(hit["id"] for hit in hits) == [1000, 1001, 1002]
            line.close()


def test_a_killed_worker_takes_its_connections_alone(one):
    """Clients connect again and are served; other workers come in its place."""
    with searched(one, "alike"):
        (node,) = one.pids
        eventually(lambda: len(workers(node)) == 2, TIME_S, "two workers")
        first = workers(node)
        os.kill(first[0], signal.SIGKILL)
        eventually(lambda: not is_running(first[0]))
        line = Line(one.url())
        assert line.search("alike", vector_of(1))
        line.close()
        eventually(lambda: len(set(workers(node)) - {first[0]}) == 2, TIME_S, "two workers")
    assert "is gone" in (one.folder / "node1" / "log").read_text()


def test_workers_end_when_nobody_searches(one):
    """An idle node has no more processes than it needs."""
    with searched(one, "alike"):
        assert workers(one.pids[0])
    eventually(lambda: not workers(one.pids[0]), 2 * TIME_S, "the end of the workers")
    assert metric(one, "recollect_search_workers") == 0


def test_connections_with_all_kinds_of_requests_mixed(one):
    """Each answer is that of its request, while connections come and go."""
    fill(one, "mixed", range(400))
    failures = []

    def talk(seed):
        chance = random.Random(seed)
        line = Line(one.url())
        try:
            for step in range(600):
                number = chance.randrange(400)
                if chance.random() < 0.9:
                    assert line.search("mixed", vector_of(number))[0]["id"] == number
                elif chance.random() < 0.5:
                    status, _, found = line.call("GET", f"/collections/mixed/points/{number}")
                    assert (status, found["result"]["id"]) == (200, number)
                else:
                    own = 10_000 * (seed + 1) + step
                    path = "/collections/mixed/points?wait=true"
                    assert line.call("PUT", path, {"points": [point(own)]})[0] == 200
                    assert line.search("mixed", vector_of(own))[0]["id"] == own
                if chance.random() < 0.01:
                    line.close()
        except BaseException as error:  # noqa: BLE001 - it is shown below
            failures.append(error)
        line.close()

    with searched(one, "mixed"):
        threads = [threading.Thread(target=talk, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_node(tmp_path, how):
    """However that ends, and whatever its workers are at."""
    env = {"RECOLLECT_SEARCH_WORKERS": "2"}
    with running_cluster(tmp_path, nodes=1, env=env) as cluster:
        fill(cluster, "ending", range(100))
        (node,) = cluster.pids
        stack = contextlib.ExitStack()
        stack.enter_context(searched(cluster, "ending"))
        found = workers(node)
        assert found
        os.kill(node, how)
        eventually(lambda: not is_running(node), TIME_S, "the end of the node")
        eventually(lambda: not any(map(is_running, found)), TIME_S, "the end of its workers")
        stack.close()


def test_every_node_of_a_cluster_has_workers(shared):
    """What is acknowledged by one is found by the workers of that one, and soon by all."""
    fill(shared, "workers-everywhere", range(200))
    name = "workers-everywhere"
    with contextlib.ExitStack() as stack:
        for node in (1, 2, 3):
            stack.enter_context(searched(shared, name, node, lines=2))
        lines = [lent_line(shared, name, node) for node in (1, 2, 3)]
        for number in range(5000, 5030):
            put(shared, name, [point(number)])
            assert lines[0].search(name, vector_of(number))[0]["id"] == number
            for line in lines[1:]:
                eventually(lambda: line.search(name, vector_of(number))[0]["id"] == number)  # noqa: B023
        for line in lines:
            line.close()
