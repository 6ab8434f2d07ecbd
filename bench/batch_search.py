"""Batches of searches over HTTP beside bare hnswlib in this process, in one run.

`python -m bench.batch_search --data DIR` starts a durable single-node cluster, stores the vectors
and measures searches per second in batches, as JSON and as MessagePack with binary vectors. The
limit is hnswlib alone, given whole batches and eight threads. Rounds alternate, so that what else
the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hnswlib
import msgspec
import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from bench import load
from bench.http_search import recall, store, until_green
from bench.nodes import running

PATH = "/collections/bench/points/search/batch"
MSGPACK = "application/msgpack"
THREADS = 8
BARE = f"hnswlib, {THREADS} threads"
FORMS: dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], Any], str]] = {
    "JSON": (orjson.dumps, orjson.loads, "application/json"),
    "MessagePack": (msgspec.msgpack.encode, msgspec.msgpack.decode, MSGPACK),
}


def batches(
    queries: np.ndarray, size: int, limit: int, encode: Callable[[Any], bytes], media_type: str
) -> list[bytes]:
    """Return one request for each `size` queries."""
    packed = media_type == MSGPACK
    requests = []
    for start in range(0, len(queries), size):
        searches = [
            {"vector": row.tobytes() if packed else row.tolist(), "limit": limit}
            for row in queries[start : start + size]
        ]
        requests.append(load.request("POST", PATH, encode({"searches": searches}), media_type))
    return requests


def ids(answers: list[bytes], decode: Callable[[bytes], Any]) -> list[list[int]]:
    """Return the ids that each search found."""
    return [
        [point["id"] for point in points]
        for answer in answers
        for points in decode(answer)["result"]
    ]


def read(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return vectors, queries and each query's true nearest, by comparing all."""
    vectors = np.load(options.data / "vectors.f16.npy")[: options.rows or None].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = np.load(options.data / "queries.f16.npy")[: options.queries].astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    parts = np.array_split(queries, 50)
    nearest = [np.argsort(-(part @ vectors.T), axis=1)[:, : options.limit] for part in parts]
    return vectors, queries, np.concatenate(nearest)


def filled(vectors: np.ndarray, ef: int) -> hnswlib.Index:
    """Return hnswlib's index of the vectors, of the shape that a collection has."""
    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), M=16, ef_construction=200, random_seed=42)
    index.add_items(vectors, num_threads=os.cpu_count() or 1)
    index.set_ef(ef)
    return index


def bare(
    index: hnswlib.Index, queries: np.ndarray, options: argparse.Namespace
) -> tuple[float, list[list[int]]]:
    """Return hnswlib's searches per second, given whole batches and threads, and the ids."""
    began = time.perf_counter()
    found = [
        index.knn_query(queries[at : at + options.size], k=options.limit, num_threads=THREADS)[0]
        for at in range(0, len(queries), options.size)
    ]
    return len(queries) / (time.perf_counter() - began), np.concatenate(found).tolist()


def measure(
    options: argparse.Namespace, vectors: np.ndarray, queries: np.ndarray, truth: np.ndarray
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return searches per second of each round, and recall, by system."""
    from storage.vector_index import DEFAULT_EF

    index = filled(vectors, DEFAULT_EF)
    rates: dict[str, list[float]] = {name: [] for name in (BARE, *FORMS)}
    recalls: dict[str, float] = {}
    with running(1) as (port,):
        store(port, vectors, 2)
        until_green(port, len(vectors))
        for _ in range(options.repeat):
            rate, found = bare(index, queries, options)
            rates[BARE].append(rate)
            recalls[BARE] = recall(found, truth)
            for name, (encode, decode, media_type) in FORMS.items():
                requests = batches(queries, options.size, options.limit, encode, media_type)
                run = load.run(port, requests, options.connections)
                rates[name].append(len(queries) / run.elapsed_s)
                recalls[name] = recall(ids(run.answers, decode), truth)
    return rates, recalls


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="bench.batch_search")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=0, help="first rows only; 0: all")
    parser.add_argument("--queries", type=int, default=5888)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=5, help="rounds; the median counts")
    options = parser.parse_args()
    vectors, queries, truth = read(options)
    rates, recalls = measure(options, vectors, queries, truth)
    table = Table(title=f"{len(vectors):,} x {vectors.shape[1]}, batches of {options.size}")
    for column in ("system", "recall", "searches/s", "of hnswlib"):
        table.add_column(column, justify="left" if column == "system" else "right")
    limit = statistics.median(rates[BARE])
    for name, measured in rates.items():
        rate = statistics.median(measured)
        table.add_row(name, f"{recalls[name]:.4f}", f"{rate:,.0f}", f"{rate / limit:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
