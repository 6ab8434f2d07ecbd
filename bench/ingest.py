"""Storing vectors in a cluster: how fast, what it costs, and whether they are found at once.

`python -m bench.ingest --data DIR` starts a cluster and stores vectors in batches over a few
connections to one node, each acknowledged by a majority's disks and applied at that node. Bodies
are MessagePack, or JSON, made before the clock starts. The first moment after the last
acknowledgement a vector of every batch is searched at the node that took it, while nearly all wait
for the graph; then all three nodes build it, until the collection is green.

In a second collection each batch is searched as soon as it is acknowledged, by the client that sent
it. Searches keep the nodes from putting off the graph, so that run is slower.

The processor time of every thread says more than the rate on a machine that is busy with something
else.
"""

from __future__ import annotations

import argparse
import http.client
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from bench import load, packed
from bench.http_search import call
from bench.nodes import Running, started

JSON: Final = "application/json"
LIMIT: Final = 10
POLL_S: Final = 0.2
Seconds = dict[int, float]
"""Of processor time, by thread."""


def seconds_of(pid: int) -> Seconds:
    """Return the processor time of each thread of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {
        int(task.name): int((task / "schedstat").read_text().split()[0]) / 1e9 for task in tasks
    }


def spent(before: Seconds, pid: int) -> dict[str, float]:
    """Return the seconds since `before`, by kind of thread."""
    total: dict[str, float] = defaultdict(float)
    for number, seconds in seconds_of(pid).items():
        total[_kind(pid, number)] += seconds - before.get(number, 0.0)
    return total


def _kind(pid: int, thread: int) -> str:
    if thread == pid:
        return "event loop"
    return "index builder" if os.getpriority(os.PRIO_PROCESS, thread) else "other threads"


def in_json(vectors: np.ndarray, first: int) -> bytes:
    """Return the JSON body that stores vectors under their row numbers from `first`."""
    points = [
        {"id": first + at, "vector": row, "payload": {"row": first + at}}
        for at, row in enumerate(vectors)
    ]
    return orjson.dumps({"points": points}, option=orjson.OPT_SERIALIZE_NUMPY)


class Ingest:
    """One cluster, and the vectors to store in it."""

    def __init__(self, cluster: Running, vectors: np.ndarray, options: argparse.Namespace) -> None:
        self._cluster = cluster
        self._port = cluster.ports[0]
        self._vectors = vectors
        self._connections = options.connections
        self._media_type = packed.MEDIA_TYPE if options.form == "msgpack" else JSON
        make = packed.points if options.form == "msgpack" else in_json
        firsts = range(0, len(vectors), options.batch)
        self._firsts = list(firsts)
        self._bodies = [make(vectors[first : first + options.batch], first) for first in firsts]

    def create(self, name: str) -> None:
        """Make an empty collection."""
        shape = {"size": self._vectors.shape[1], "distance": "Cosine"}
        call(self._port, "PUT", f"/collections/{name}", {"vectors": shape})

    def store(self, name: str, console: Console) -> None:
        """Store everything, look for a vector of every batch, and wait for the graphs; print."""
        path = f"/collections/{name}/points?wait=true"
        requests = [load.request("PUT", path, body, self._media_type) for body in self._bodies]
        total = len(self._vectors)
        before = [seconds_of(pid) for pid in self._cluster.pids]
        began = time.perf_counter()
        run = load.run(self._port, requests, self._connections)
        kinds = [spent(*each) for each in zip(before, self._cluster.pids, strict=True)]
        console.print(costs(kinds, total))
        rate, p99_ms = total / run.elapsed_s, run.latency_ms(0.99)
        console.print(f"acknowledged {rate:,.0f} vectors/s, a batch p99 {p99_ms:.0f} ms")
        sent = [self._search(name, first) for first in self._firsts]
        answers = load.run(self._port, sent, self._connections).answers
        found = sum(map(_holds, answers, self._firsts))
        console.print(f"found right after the last of them: {found} of {len(sent)} sampled")
        while call(self._port, "GET", f"/collections/{name}")["status"] != "green":
            time.sleep(POLL_S)
        indexed = total / (time.perf_counter() - began)
        console.print(f"in the graph of every node: {indexed:,.0f} vectors/s from the first write")

    def store_and_look(self, name: str, rows: int, console: Console) -> None:
        """Store some rows; look for a vector of each batch when it is acknowledged; print."""
        count = sum(first < rows for first in self._firsts)
        began = time.perf_counter()
        with ThreadPoolExecutor(self._connections) as pool:
            starts = range(self._connections)
            found = sum(pool.map(partial(self._look, name, count), starts))
        rate = min(rows, len(self._vectors)) / (time.perf_counter() - began)
        console.print(f"found by the client whose batch was just acknowledged: {found} of {count}")
        console.print(f"that run: {rate:,.0f} vectors/s, a search for each batch among them")

    def _look(self, name: str, count: int, start: int) -> int:
        """Be one client; return how many of its batches were found at once."""
        found = 0
        headers = {"Content-Type": self._media_type}
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)) as client:
            for at in range(start, count, self._connections):
                path = f"/collections/{name}/points"
                client.request("PUT", f"{path}?wait=true", self._bodies[at], headers)
                _read(client)
                question = self._question(self._firsts[at])
                client.request("POST", f"{path}/search", question, {"Content-Type": JSON})
                found += _holds(_read(client), self._firsts[at])
        return found

    def _search(self, name: str, row: int) -> bytes:
        return load.request("POST", f"/collections/{name}/points/search", self._question(row))

    def _question(self, row: int) -> bytes:
        body = {"vector": self._vectors[row], "limit": LIMIT}
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _read(client: http.client.HTTPConnection) -> bytes:
    answer = client.getresponse()
    raw = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status} {raw[:300]!r}")
    return raw


def _holds(answer: bytes, row: int) -> bool:
    """Whether a search for a row's own vector found the row."""
    return row in {hit["id"] for hit in orjson.loads(answer)["result"]}


def costs(kinds: Sequence[dict[str, float]], vectors: int) -> Table:
    """Return what the threads of each node spent on each vector."""
    table = Table(title=f"{vectors:,} vectors, {len(kinds)} nodes")
    table.add_column("microseconds a vector")
    for number in range(len(kinds)):
        table.add_column(f"node{number + 1}", justify="right")
    for kind in sorted({kind for each in kinds for kind in each}):
        table.add_row(kind, *(f"{each[kind] / vectors * 1e6:.1f}" for each in kinds))
    table.add_row("all", *(f"{sum(each.values()) / vectors * 1e6:.1f}" for each in kinds))
    return table


def opened(folder: Path, rows: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the first rows of a data set (0: all), scaled to length 1."""
    vectors = np.load(folder / "vectors.f16.npy")
    vectors = vectors[: rows or len(vectors)].astype(np.float32)
    scaled: np.ndarray[Any, np.dtype[np.float32]] = vectors / np.linalg.norm(
        vectors, axis=1, keepdims=True
    )
    return scaled


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.ingest")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=0, help="first rows only; 0: all")
    parser.add_argument("--looked-for", type=int, default=20_000, help="rows of the second run")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--form", choices=["msgpack", "json"], default="msgpack")
    options = parser.parse_args()
    console = Console()
    vectors = opened(options.data, options.rows)
    with started(options.nodes) as cluster:
        ingest = Ingest(cluster, vectors, options)
        ingest.create("bench")
        ingest.store("bench", console)
        ingest.create("looked-for")
        ingest.store_and_look("looked-for", options.looked_for, console)


if __name__ == "__main__":
    main()
