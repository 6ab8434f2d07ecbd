"""Patterns from a cluster's node and from Postgres, beside each other in one run.

`python -m bench.backends --data DIR` starts a durable single node and a server over an embedded
Postgres, stores the same patterns in both through the patterns API, each with its own embedding,
and searches both in turns: recall@10, searches a second, and latencies, with and without a filter.
DIR holds vectors.f16.npy and queries.f16.npy.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from bench import load
from bench.http_search import call, recall
from bench.nodes import running
from cluster.ports import free_base
from storage.embedded_postgres import EmbeddedPostgres

SYSTEMS = ("cluster, one node", "postgres")
REWARDS = 20
"""Rewards are 0 .. 19, so the filter lets one pattern in twenty through."""
FILTERS: dict[str, dict[str, Any]] = {"none": {}, "reward >= 19 (5 %)": {"minReward": REWARDS - 1}}
FILTERED_SHARE: int = 10
"""Of so many queries one is asked with a filter, which takes a node many times as long."""
K = 10


@contextlib.contextmanager
def patterns_in_postgres(dimension: int) -> Iterator[int]:
    """Run a server over a new Postgres with its default settings; gives its port."""
    port = free_base(1, random.Random()) + 1
    with tempfile.TemporaryDirectory(prefix="recollect-bench-") as folder:
        Path(folder).chmod(0o755)
        database = EmbeddedPostgres(Path(folder) / "postgres")
        database.start()
        kept = {name: value for name, value in os.environ.items() if name[:10] != "RECOLLECT_"}
        own = {
            "RECOLLECT_BACKEND": "postgres",
            "RECOLLECT_CHECKPOINT_URL": database.url,
            "RECOLLECT_HTTP_PORT": str(port),
            **embedding_space(dimension),
        }
        words = [sys.executable, "-P", "-m", "cluster.cli", "serve"]
        process = subprocess.Popen(words, env=kept | own, stderr=subprocess.DEVNULL)
        try:
            until_ready(port)
            yield port
        finally:
            process.terminate()
            process.wait(30)
            database.stop()


def embedding_space(dimension: int) -> dict[str, str]:
    """Return settings for embeddings of this size; nobody asks that endpoint for any."""
    return {
        "RECOLLECT_EMBEDDING_URL": "http://127.0.0.1:1/v1/embeddings",
        "RECOLLECT_EMBEDDING_MODEL": "given",
        "RECOLLECT_EMBEDDING_DIMENSION": str(dimension),
    }


def until_ready(port: int) -> None:
    """Wait for a server, a minute at most."""
    deadline = time.perf_counter() + 60
    while True:
        with contextlib.suppress(OSError, RuntimeError):
            call(port, "GET", "/readyz")
            return
        if time.perf_counter() > deadline:
            raise RuntimeError("the server is not ready")
        time.sleep(0.1)


def unit_rows(file: Path, count: int) -> np.ndarray:
    """Return the first rows of a file, each of norm 1."""
    rows = np.asarray(np.load(file)[:count], dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def post(path: str, body: Any) -> bytes:
    """Return a request's bytes."""
    return load.request("POST", path, orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY))


def stores(vectors: np.ndarray) -> list[bytes]:
    """Return one store for each vector."""
    return [
        post(
            "/patterns/store",
            {"id": row, "task": f"task {row}", "reward": row % REWARDS, "embedding": vector},
        )
        for row, vector in enumerate(vectors)
    ]


def nearest(vectors: np.ndarray, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the true nearest K of some rows to each query."""
    return rows[np.argsort(-(queries @ vectors[rows].T), axis=1)[:, :K]]


def median(runs: Sequence[load.Load]) -> load.Load:
    """Return the run of median rate."""
    return sorted(runs, key=lambda run: run.rate)[len(runs) // 2]


def searched(
    ports: Sequence[int], requests: list[bytes], connections: int, repeat: int
) -> list[load.Load]:
    """Return each server's median run; the servers take turns, after a warm-up."""
    for port in ports:
        load.run(port, requests[:100], connections)
    runs = [[load.run(port, requests, connections) for port in ports] for _ in range(repeat)]
    return [median([turn[place] for turn in runs]) for place in range(len(ports))]


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(prog="bench.backends")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the median counts")
    options = parser.parse_args()
    vectors = unit_rows(options.data / "vectors.f16.npy", options.rows)
    queries = unit_rows(options.data / "queries.f16.npy", options.queries)
    dimension = vectors.shape[1]
    os.environ.update(embedding_space(dimension))
    with running(1) as (node,), patterns_in_postgres(dimension) as port:
        measure((node, port), vectors, queries, options)


def measure(
    ports: Sequence[int], vectors: np.ndarray, queries: np.ndarray, options: argparse.Namespace
) -> None:
    """Fill both, search both, print."""
    writing = Table(title=f"{len(vectors):,} x {vectors.shape[1]}: one pattern a request")
    reading = Table(title=f"k={K}, {options.connections} connections")
    for column in ("system", "stores/s", "p50 ms", "ratio"):
        writing.add_column(column)
    for column in ("filter", "system", "recall@10", "searches/s", "p50 ms", "p99 ms", "ratio"):
        reading.add_column(column)
    requests = stores(vectors)
    first = 0.0
    for name, port in zip(SYSTEMS, ports, strict=True):
        run = load.run(port, requests, options.connections)
        first = first or run.rate
        ratio = f"{run.rate / first:.2f}"
        writing.add_row(name, f"{run.rate:,.0f}", f"{run.latency_ms(0.5):.2f}", ratio)
    time.sleep(5)  # the node's graph is complete
    for title, more in FILTERS.items():
        rows = np.arange(len(vectors))
        rows = rows[rows % REWARDS >= more.get("minReward", 0)]
        few = queries[::FILTERED_SHARE] if more else queries
        truth = nearest(vectors, few, rows)
        asked = [post("/patterns/search", {"embedding": each, "k": K, **more}) for each in few]
        runs = searched(ports, asked, options.connections, options.repeat)
        for name, run in zip(SYSTEMS, runs, strict=True):
            found = [[hit["id"] for hit in orjson.loads(each)["result"]] for each in run.answers]
            figures = (run.latency_ms(0.5), run.latency_ms(0.99), run.rate / runs[0].rate)
            shown = [f"{figure:.2f}" for figure in figures]
            reading.add_row(title, name, f"{recall(found, truth):.4f}", f"{run.rate:,.0f}", *shown)
    console = Console()
    console.print(writing)
    console.print(reading)


if __name__ == "__main__":
    main()
