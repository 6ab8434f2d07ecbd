"""One node over HTTP beside bare hnswlib in this process, in one run, on real embeddings.

`python -m bench.http_search --data DIR` starts a durable single-node cluster, stores every
vector through the log, waits until the collection is green, and measures recall@10 and searches
per second. DIR holds vectors.f16.npy, queries.f16.npy and neighbors.i32.npy.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import time
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import orjson
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import load
from bench.nodes import running

BATCH = 500


def call(port: int, method: str, path: str, body: Any = None) -> Any:
    """Send one request; return the result."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    content = None if body is None else orjson.dumps(body)
    connection.request(method, path, content, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    raw = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {raw[:300]!r}")
    return json.loads(raw)["result"]


def store(port: int, vectors: np.ndarray, connections: int) -> float:
    """Store all vectors in batches; return points per second until acknowledged."""
    call(
        port,
        "PUT",
        "/collections/bench",
        {"vectors": {"size": vectors.shape[1], "distance": "Cosine"}},
    )
    elapsed = 0.0
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("storing", total=len(vectors))
        for start in range(0, len(vectors), 20 * BATCH):
            requests = []
            for first in range(start, min(start + 20 * BATCH, len(vectors)), BATCH):
                points = [
                    {"id": first + k, "vector": row, "payload": {"row": first + k}}
                    for k, row in enumerate(vectors[first : first + BATCH])
                ]
                body = orjson.dumps({"points": points}, option=orjson.OPT_SERIALIZE_NUMPY)
                requests.append(load.request("PUT", "/collections/bench/points?wait=true", body))
            elapsed += load.run(port, requests, connections).elapsed_s
            progress.update(task, completed=min(start + 20 * BATCH, len(vectors)))
    return len(vectors) / elapsed


def until_green(port: int, total: int) -> float:
    """Wait until everything is in the search graph; return the seconds."""
    began = time.perf_counter()
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("indexing", total=total)
        while True:
            info = call(port, "GET", "/collections/bench")
            progress.update(task, completed=info["indexed_vectors_count"])
            if info["status"] == "green" and info["points_count"] == total:
                return time.perf_counter() - began
            time.sleep(0.5)


def searches(queries: np.ndarray, limit: int) -> list[bytes]:
    """Return one search request per query."""
    return [
        load.request(
            "POST",
            "/collections/bench/points/query",
            orjson.dumps({"query": row, "limit": limit}, option=orjson.OPT_SERIALIZE_NUMPY),
        )
        for row in queries
    ]


def recall(found: list[list[int]], truth: np.ndarray) -> float:
    """Mean share of the true nearest that were found."""
    k = truth.shape[1]
    hits = sum(len(set(ids) & set(row.tolist())) for ids, row in zip(found, truth, strict=True))
    return float(hits / (k * len(found)))


def bare(
    vectors: np.ndarray, queries: np.ndarray, truth: np.ndarray, ef: int
) -> tuple[float, float]:
    """hnswlib alone: one thread, one query a call; (recall, queries per second)."""
    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), M=16, ef_construction=200, random_seed=42)
    index.add_items(vectors, num_threads=os.cpu_count() or 1)
    index.set_ef(ef)
    found = []
    began = time.perf_counter()
    for row in queries:
        labels, _ = index.knn_query(row, k=truth.shape[1], num_threads=1)
        found.append(labels[0].tolist())
    elapsed = time.perf_counter() - began
    return recall(found, truth), len(queries) / elapsed


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="bench.http_search")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=0, help="first rows only; 0: all")
    parser.add_argument("--queries", type=int, default=6000)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the median counts")
    options = parser.parse_args()
    vectors = np.load(options.data / "vectors.f16.npy")[: options.rows or None].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = np.load(options.data / "queries.f16.npy")[: options.queries].astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    if options.rows:
        truth = np.argsort(-(queries @ vectors.T), axis=1)[:, : options.limit]
    else:
        truth = np.load(options.data / "neighbors.i32.npy")[: options.queries, : options.limit]
    from storage.vector_index import DEFAULT_EF

    table = Table(title=f"{len(vectors):,} x {vectors.shape[1]}, k={options.limit}, Cosine")
    for column in ("system", "recall", "searches/s", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "system" else "right")
    with running(1) as (port,):
        rate = store(port, vectors, 2)
        seconds = until_green(port, len(vectors))
        requests = searches(queries, options.limit)
        load.run(port, requests[:500], options.connections)
        runs = [load.run(port, requests, options.connections) for _ in range(options.repeat)]
    runs.sort(key=lambda run: run.rate)
    median = runs[len(runs) // 2]
    found = [
        [point["id"] for point in orjson.loads(answer)["result"]["points"]]
        for answer in median.answers
    ]
    name = f"one node, HTTP, {options.connections} connections"
    figures = (f"{median.latency_ms(0.5):.2f}", f"{median.latency_ms(0.99):.2f}")
    table.add_row(name, f"{recall(found, truth):.4f}", f"{median.rate:,.0f}", *figures)
    bare_recall, bare_rate = bare(vectors, queries, truth, DEFAULT_EF)
    table.add_row(f"hnswlib in process, ef={DEFAULT_EF}", f"{bare_recall:.4f}", f"{bare_rate:,.0f}")
    console = Console()
    console.print(table)
    console.print(f"ratio to in-process hnswlib: {median.rate / bare_rate:.2f}")
    console.print(f"stored {rate:,.0f} points/s; green {seconds:.0f} s after the last write")


if __name__ == "__main__":
    main()
