"""Searching one node while vectors are stored in it at a steady pace.

`python -m bench.ingest_and_search --data DIR` stores all vectors in one node and waits until they
are in its graph. Then searches come at a steady pace, alone, then beside writes of new vectors.
Each latency counts from the moment at which its request was due, whatever the ones before took: a
client that waits for its answers would send less while the node is slow, and see less of it.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import uvloop
from rich.console import Console

from bench import load, packed
from bench.http_search import call
from bench.ingest import opened
from bench.nodes import started

CONNECTIONS: Final = 8
WRITERS: Final = 2
BATCH: Final = 100
NOISE: Final = 0.02
POLL_S: Final = 0.5
START_S: Final = 60.0
"""What the writing process gets to start."""
PATH: Final = "/collections/bench"


async def _paced(
    port: int, requests: Sequence[bytes], pace_s: float, connections: int
) -> list[float]:
    """Send each request when it is due, on whichever connection is free; return latencies.

    A task is made when its request is due: to make all of them first takes so long, 75 ms for
    6,000, that the first requests would be late by it.
    """
    free: asyncio.Queue[Any] = asyncio.Queue()
    for _ in range(connections):
        free.put_nowait(await asyncio.open_connection("127.0.0.1", port, limit=1 << 22))

    async def send(request: bytes, due: float) -> float:
        reader, writer = await free.get()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        at = lower.index(b"content-length:") + 15
        answer = await reader.readexactly(int(lower[at : lower.index(b"\r\n", at)]))
        free.put_nowait((reader, writer))
        if not head.startswith(b"HTTP/1.1 20"):
            raise RuntimeError(f"{head[:40]!r} {answer[:300]!r}")
        return time.perf_counter() - due

    began = time.perf_counter()
    sent = []
    async with asyncio.TaskGroup() as tasks:
        for number, request in enumerate(requests):
            due = began + number * pace_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent.append(tasks.create_task(send(request, due)))
    return [task.result() for task in sent]


def paced(port: int, requests: Sequence[bytes], pace_s: float, connections: int) -> list[float]:
    """Send requests at a pace; return the seconds that each took from when it was due."""
    return uvloop.run(_paced(port, requests, pace_s, connections))


def write(port: int, requests: Sequence[bytes], pace_s: float, together: Barrier) -> None:
    """Be the process that stores vectors; it begins when the searches do."""
    together.wait()
    shown(Console(), "writes", paced(port, requests, pace_s, WRITERS))


def shown(console: Console, name: str, latencies_s: Sequence[float]) -> float:
    """Print quantiles; return the p99 in milliseconds."""
    p50, p99, longest = np.quantile(latencies_s, (0.5, 0.99, 1.0)) * 1000
    count = len(latencies_s)
    console.print(
        f"{name}: {count:,}, p50 {p50:.2f} ms, p99 {p99:.2f} ms, longest {longest:.0f} ms"
    )
    return float(p99)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.ingest_and_search")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=0, help="first rows only; 0: all")
    parser.add_argument("--searches", type=float, default=200.0, help="searches a second")
    parser.add_argument("--vectors", type=float, default=2000.0, help="vectors stored a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    console = Console()
    vectors = opened(options.data, options.rows)
    queries = np.load(options.data / "queries.f16.npy").astype(np.float32)
    count = int(options.searches * options.seconds)
    searches = [_search(queries[number % len(queries)]) for number in range(count)]
    writes = _writes(vectors, int(options.vectors * options.seconds / BATCH))
    with started(1) as cluster:
        port = cluster.ports[0]
        _fill(port, vectors)
        pace_s = 1 / options.searches
        paced(port, searches[: len(searches) // 3], pace_s, CONNECTIONS)
        alone = shown(console, "searches alone", paced(port, searches, pace_s, CONNECTIONS))
        together = multiprocessing.Barrier(2, timeout=START_S)
        arguments = (port, writes, BATCH / options.vectors, together)
        writer = multiprocessing.Process(target=write, args=arguments)
        writer.start()
        together.wait()
        beside = shown(console, "beside writes", paced(port, searches, pace_s, CONNECTIONS))
        writer.join()
        console.print(f"p99 beside writes to alone: {beside / alone:.1f}")


def _fill(port: int, vectors: np.ndarray) -> None:
    shape = {"size": vectors.shape[1], "distance": "Cosine"}
    call(port, "PUT", PATH, {"vectors": shape})
    starts = range(0, len(vectors), 256)
    load.run(port, [_write(vectors[start : start + 256], start) for start in starts], 4)
    while call(port, "GET", PATH)["status"] != "green":
        time.sleep(POLL_S)


def _writes(vectors: np.ndarray, count: int) -> list[bytes]:
    """Return requests that store vectors near those that are there, under new ids."""
    chance = np.random.default_rng(7)
    requests = []
    for number in range(count):
        rows = vectors[chance.integers(0, len(vectors), BATCH)]
        moved = rows + NOISE * chance.standard_normal(rows.shape, dtype=np.float32)
        requests.append(_write(moved, len(vectors) + number * BATCH))
    return requests


def _write(vectors: np.ndarray, first: int) -> bytes:
    path = f"{PATH}/points?wait=true"
    return load.request("PUT", path, packed.points(vectors, first), packed.MEDIA_TYPE)


def _search(query: np.ndarray) -> bytes:
    body = orjson.dumps({"query": query, "limit": 10}, option=orjson.OPT_SERIALIZE_NUMPY)
    return load.request("POST", f"{PATH}/points/query", body)


if __name__ == "__main__":
    main()
