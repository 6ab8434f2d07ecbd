"""What is measured side by side: hnswlib in this process, Recollect, and peers that are there.

Each system stores the vectors, says when all of them are in its index, and answers searches of a
beam width `ef`; None is its own default. All use M 16 and ef_construction 200, cosine, K results.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import hnswlib
import numpy as np
import orjson

from bench import load, packed, posting
from bench.dataset import K, Matrix
from bench.nodes import started
from bench.posting import Speed
from bench.served import resident_bytes

M: Final = 16
EF_CONSTRUCTION: Final = 200
BATCH: Final = 256
STORING_CLIENTS: Final = 4
_BATCHES_AT_A_TIME: Final = 120
JSON: Final = "application/json"
_POLL_S: Final = 0.2
_START_S: Final = 60.0

Found = list[list[int]]


class System(Protocol):
    """Something that stores vectors and finds the nearest."""

    name: str
    stores: bool
    """Whether it takes vectors, so that it can be timed."""

    def store(self, vectors: Matrix) -> None:
        """Store all vectors under their row numbers; returns when the last is acknowledged."""

    def is_indexed(self, total: int) -> bool:
        """Return whether all vectors are in the index."""

    def find(self, queries: Matrix, ef: int | None) -> Found:
        """Return the ids of the K nearest to each query."""

    def speed(self, queries: Matrix, ef: int | None, connections: int, seconds: float) -> Speed:
        """Search with the queries, round and round, over so many connections (or threads)."""

    def memory_bytes(self) -> int | None:
        """Return the resident memory of its processes; None when it runs elsewhere."""


def until_indexed(system: System, total: int) -> None:
    """Wait until all vectors are in the index."""
    while not system.is_indexed(total):
        time.sleep(_POLL_S)


class InProcess:
    """hnswlib alone: what no server can surpass."""

    name = "hnswlib in process"
    stores = True

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._index = hnswlib.Index("ip", dimension)

    def store(self, vectors: Matrix) -> None:
        """Build the graph, on all cores."""
        self._index.init_index(len(vectors), M=M, ef_construction=EF_CONSTRUCTION, random_seed=42)
        self._index.add_items(vectors, num_threads=os.cpu_count() or 1)

    def is_indexed(self, total: int) -> bool:
        """Return whether all vectors are in the graph."""
        return bool(self._index.get_current_count() == total)

    def find(self, queries: Matrix, ef: int | None) -> Found:
        """Return the ids of the K nearest to each query."""
        self._index.set_ef(ef or K)
        found: Found = self._index.knn_query(queries, k=K)[0].tolist()
        return found

    def speed(self, queries: Matrix, ef: int | None, connections: int, seconds: float) -> Speed:
        """One thread makes one call a query; several threads share one call for all queries."""
        self._index.set_ef(ef or K)
        step = 1 if connections == 1 else len(queries)
        took_s: list[float] = []
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            start = (len(took_s) * step) % len(queries)
            sent = time.perf_counter()
            self._index.knn_query(queries[start : start + step], k=K, num_threads=connections)
            took_s.append(time.perf_counter() - sent)
        rate = step * len(took_s) / (time.perf_counter() - began)
        if connections > 1:  # a thread's share of the time is what a query took
            return Speed(rate, 1000 * connections / rate, float("nan"))
        p50_ms, p99_ms = np.quantile(took_s, (0.5, 0.99)) * 1000
        return Speed(rate, float(p50_ms), float(p99_ms))

    def memory_bytes(self) -> int | None:
        """Return None: this process holds the data set, too."""
        return None

    def save(self, path: Path) -> None:
        """Write the index to a file of hnswlib's own form."""
        self._index.save_index(str(path))


class OverHttp:
    """A server that takes JSON; what is its own is how bodies and answers look."""

    stores = True

    def __init__(self, name: str, ports: Sequence[int], pids: Sequence[int] | None) -> None:
        self.name = name
        self.ports = ports
        self._pids = pids

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request to the first port; return the decoded answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[0], timeout=300)
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else orjson.dumps(body), headers)
            answer = connection.getresponse()
            raw = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {raw[:300]!r}")
        return orjson.loads(raw) if raw else None

    def until_up(self, path: str, process: subprocess.Popen[bytes]) -> None:
        """Wait until GET of a path is answered; raises OSError when its process ended instead."""
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self.call("GET", path)
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)
            else:
                return

    def send_batches(
        self, method: str, path: str, bodies: Iterator[bytes], media_type: str = JSON
    ) -> None:
        """Send bodies over several connections, some at a time: all together fill the memory."""
        while batches := list(itertools.islice(bodies, _BATCHES_AT_A_TIME)):
            requests = [load.request(method, path, body, media_type) for body in batches]
            load.run(self.ports[0], requests, STORING_CLIENTS, patient=True)

    def memory_bytes(self) -> int | None:
        """Return the resident memory of all its processes."""
        if self._pids is None:
            return None
        return sum(map(resident_bytes, self._pids))


class Points(OverHttp):
    """Recollect, and Qdrant, whose HTTP API it shares."""

    takes_msgpack = True
    """Whether bodies may be MessagePack, with vectors as float32."""

    _PATH: Final = "/collections/bench/points"

    def store(self, vectors: Matrix) -> None:
        """Store batches over several connections; each is acknowledged when it is durable."""
        settings = {"m": M, "ef_construct": EF_CONSTRUCTION}
        shape = {"size": vectors.shape[1], "distance": "Cosine"}
        body = {"vectors": shape, "hnsw_config": settings}
        self.call("PUT", "/collections/bench", body)
        path = f"{self._PATH}?wait=true"
        if self.takes_msgpack:
            starts = range(0, len(vectors), BATCH)
            bodies = (packed.points(vectors[at : at + BATCH], at) for at in starts)
            self.send_batches("PUT", path, bodies, packed.MEDIA_TYPE)
        else:
            self.send_batches("PUT", path, _point_batches(vectors))

    def is_indexed(self, total: int) -> bool:
        """Return whether the collection is green with everything in it."""
        info = self.call("GET", "/collections/bench")["result"]
        return bool(info["status"] == "green" and info["points_count"] == total)

    def find(self, queries: Matrix, ef: int | None) -> Found:
        """Return the ids of the K nearest to each query."""
        sent = [load.request("POST", f"{self._PATH}/query", each) for each in _queries(queries, ef)]
        answers = load.run(self.ports[0], sent, STORING_CLIENTS).answers
        return [[hit["id"] for hit in orjson.loads(raw)["result"]["points"]] for raw in answers]

    def speed(self, queries: Matrix, ef: int | None, connections: int, seconds: float) -> Speed:
        """Search through the first node."""
        path = f"{self._PATH}/query"
        return posting.run(self.ports[0], path, _queries(queries, ef), connections, seconds)


@contextlib.contextmanager
def recollect(nodes: int) -> Iterator[Points]:
    """Run a cluster of this checkout with default settings; every node has every point."""
    name = "Recollect, one node" if nodes == 1 else f"Recollect, {nodes} nodes"
    with started(nodes) as cluster:
        yield Points(name, cluster.ports, cluster.pids)


@contextlib.contextmanager
def qdrant(url: str) -> Iterator[Points]:
    """Use a Qdrant server on this machine, and take away what was stored in it."""
    system = Points("Qdrant", [urlsplit(url).port or 6333], None)
    system.takes_msgpack = False
    try:
        yield system
    finally:
        system.call("DELETE", "/collections/bench")


def _point_batches(vectors: Matrix) -> Iterator[bytes]:
    for first in range(0, len(vectors), BATCH):
        points = [
            {"id": first + at, "vector": row, "payload": {"row": first + at}}
            for at, row in enumerate(vectors[first : first + BATCH])
        ]
        yield orjson.dumps({"points": points}, option=orjson.OPT_SERIALIZE_NUMPY)


def _queries(queries: Matrix, ef: int | None) -> list[bytes]:
    params = {} if ef is None else {"params": {"hnsw_ef": ef}}
    return [
        orjson.dumps({"query": row, "limit": K, **params}, option=orjson.OPT_SERIALIZE_NUMPY)
        for row in queries
    ]
