"""Filtered searches: one node over HTTP, beside hnswlib in process and without a filter.

`python -m bench.filters --data DIR` stores every vector with a random number and its `lex` (one of
45 classes), indexes both fields, and searches among 0.1, 1, 10, 50 and 90 % of the points; among
those of the same class as the nearest one, where all that pass are near; and among all others,
where what is near does not pass. Recall@10 is against exact search, each answer must have as many
hits as there are, and the load is wrk's where it is installed. DIR holds vectors.f16.npy,
queries.f16.npy and docs.jsonl.gz.
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import hnswlib
import numpy as np
import numpy.typing as npt
import orjson
from rich.console import Console
from rich.table import Table

from bench import load, posting
from bench.http_search import BATCH, call, until_green
from bench.nodes import running

K = 10
SHARES = (0.001, 0.01, 0.1, 0.5, 0.9)
PATH = "/collections/bench/points/query"
EF = 72

Matrix = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


class Points(NamedTuple):
    """What is stored: vectors, and of each a number from a permutation, and a class."""

    vectors: Matrix
    numbers: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]


class Case(NamedTuple):
    """A filter for each query, and which points pass it: one row for all, or one each."""

    name: str
    filters: list[dict[str, Any] | None]
    passing: Flags


class Measured(NamedTuple):
    """What one case gave."""

    name: str
    recall: float
    rate: float
    p50_ms: float
    p99_ms: float


def unit(path: Path, count: int) -> Matrix:
    """Return the first rows of a file as float32 of unit length."""
    rows: Matrix = np.load(path)[: count or None].astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def read_points(data: Path, count: int) -> Points:
    """Return the data set with a random number for each point."""
    vectors = unit(data / "vectors.f16.npy", count)
    with gzip.open(data / "docs.jsonl.gz") as lines:
        classes = [orjson.loads(line)["lex"] for _, line in zip(vectors, lines, strict=False)]
    numbers = np.random.default_rng(7).permutation(len(vectors))
    return Points(vectors, numbers, np.array(classes))


def store(port: int, points: Points) -> None:
    """Create the collection, its indexes and its points; return when all are in the graph."""
    size = points.vectors.shape[1]
    call(port, "PUT", "/collections/bench", {"vectors": {"size": size, "distance": "Cosine"}})
    for name in ("number", "lex"):
        field = {"field_name": name, "field_schema": "integer"}
        call(port, "PUT", "/collections/bench/index?wait=true", field)
    requests = []
    for first in range(0, len(points.vectors), BATCH):
        batch = [
            {"id": at, "vector": points.vectors[at], "payload": payload(points, at)}
            for at in range(first, min(first + BATCH, len(points.vectors)))
        ]
        body = orjson.dumps({"points": batch}, option=orjson.OPT_SERIALIZE_NUMPY)
        requests.append(load.request("PUT", "/collections/bench/points?wait=true", body))
        if len(requests) == 20:
            load.run(port, requests, 2)
            requests = []
    load.run(port, requests, 2)
    until_green(port, len(points.vectors))


def payload(points: Points, at: int) -> dict[str, int]:
    """Return a point's payload."""
    return {"number": int(points.numbers[at]), "lex": int(points.classes[at])}


def cases(points: Points, nearest: npt.NDArray[np.int64]) -> Iterator[Case]:
    """Yield the cases; `nearest` is each query's nearest point of all."""
    count, queries = len(points.vectors), len(nearest)
    yield Case("no filter", [None] * queries, np.ones((1, count), dtype=np.bool_))
    for share in SHARES:
        below = int(share * count)
        chosen = {"must": [{"key": "number", "range": {"lt": below}}]}
        yield Case(f"{100 * share:g} %", [chosen] * queries, points.numbers[None, :] < below)
    wanted = points.classes[nearest]
    for name, clause in (("class of the nearest", "must"), ("any other class", "must_not")):
        filters: list[dict[str, Any] | None] = [
            {clause: [{"key": "lex", "match": {"value": int(each)}}]} for each in wanted
        ]
        same = points.classes[None, :] == wanted[:, None]
        yield Case(name, filters, same if clause == "must" else ~same)


def truth(scores: Matrix, passing: Flags) -> list[set[int]]:
    """Return the nearest of those that pass, for each query."""
    found = []
    for at, row in enumerate(scores):
        passes = passing[at if len(passing) > 1 else 0]
        order = np.argpartition(np.where(passes, -row, np.inf), K)[:K]
        found.append({each for each in order.tolist() if passes[each]})
    return found


def bodies(queries: Matrix, filters: Sequence[dict[str, Any] | None]) -> list[bytes]:
    """Return one search for each query."""
    return [
        orjson.dumps(
            {"query": row, "limit": K, **({} if where is None else {"filter": where})},
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        for row, where in zip(queries, filters, strict=True)
    ]


def measure(port: int, case: Case, queries: Matrix, scores: Matrix, options: Any) -> Measured:
    """Check what is found, then see how often it is found in a second.

    A node learns from its searches; what it does when it has learnt is measured.
    """
    prepared = bodies(queries, case.filters)
    posting.run(port, PATH, prepared, options.connections, options.warm)
    requests = [load.request("POST", PATH, body) for body in prepared]
    checked = load.run(port, requests, options.connections)
    hits = wanted = 0
    for answer, near in zip(checked.answers, truth(scores, case.passing), strict=True):
        document = orjson.loads(answer)
        ids = {point["id"] for point in document["result"]["points"]}
        assert "usage" not in document, "the filter has its indexes"
        assert len(ids) == len(near), f"{case.name}: {len(ids)} hits, and {len(near)} pass"
        hits, wanted = hits + len(ids & near), wanted + len(near)
    runs = [
        posting.run(port, PATH, prepared, options.connections, options.seconds)
        for _ in range(options.repeat)
    ]
    runs.sort(key=lambda run: run.rate)
    median = runs[len(runs) // 2]
    return Measured(case.name, hits / wanted, median.rate, median.p50_ms, median.p99_ms)


def bare(points: Points, queries: Matrix, threads: int) -> float:
    """Return hnswlib's searches a second without a filter, in this process."""
    index = hnswlib.Index("ip", points.vectors.shape[1])
    index.init_index(len(points.vectors), M=16, ef_construction=200, random_seed=42)
    index.add_items(points.vectors)
    index.set_ef(EF)
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        done = list(pool.map(lambda row: index.knn_query(row, k=K, num_threads=1), queries))
        return len(done) / (time.perf_counter() - began)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="bench.filters")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=0, help="first rows only; 0: all")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=4, help="of load, each time")
    parser.add_argument("--warm", type=int, default=10, help="seconds of load before")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the median counts")
    options = parser.parse_args()
    points = read_points(options.data, options.rows)
    queries = unit(options.data / "queries.f16.npy", options.queries)
    scores = queries @ points.vectors.T
    with running(1) as (port,):
        store(port, points)
        results = [
            measure(port, case, queries, scores, options)
            for case in cases(points, scores.argmax(axis=1))
        ]
    limit = bare(points, queries, options.connections)
    count, size = points.vectors.shape
    table = Table(title=f"one node, HTTP, {count:,} x {size}, k={K}, Cosine")
    for column in ("filter", "recall", "searches/s", "p50 ms", "p99 ms", "to hnswlib"):
        table.add_column(column, justify="left" if column == "filter" else "right")
    for name, recall, rate, p50_ms, p99_ms in results:
        figures = f"{rate:,.0f}", f"{p50_ms:.2f}", f"{p99_ms:.2f}", f"{rate / limit:.2f}"
        table.add_row(name, f"{recall:.4f}", *figures)
    console = Console()
    console.print(table)
    console.print(f"{options.connections} connections")
    console.print(f"hnswlib in process, no filter, ef={EF}: {limit:,.0f} searches/s")


if __name__ == "__main__":
    main()
