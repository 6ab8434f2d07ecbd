"""How soon a node that was killed answers again, and answers right.

`python -m bench.restart --data DIR [--nodes 3]` stores all vectors and waits until they are
indexed. Then, for each round, it kills one node with SIGKILL, starts it, and asks it until an
answer is right: the time runs from the start of the process. Two cases take turns:

    saved   the node had ended in order before, so that its index file has every row
    newer   rows were acknowledged since, which the file lacks: the search is for one of them

A folder that is given and has the vectors is used as it is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.dataset import Dataset, K, Matrix, opened, recall
from bench.served import Served, ask, serving
from bench.systems import Points, until_indexed

_PATH: Final = "/collections/bench/points"
_POLL_S: Final = 0.01
_GIVE_UP_S: Final = 120.0
_ASKED: Final = 200
_BATCH: Final = 256

Case = tuple[str, int, float, float]
"""(case, node, seconds until the right answer, recall right after)."""


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = _parser().parse_args(words)
    data = opened(options.data, options.rows)
    with serving(options.nodes, options.folder) as cluster:
        _stored(cluster, data)
        rounds = [
            case
            for number in range(options.rounds)
            for case in _round(cluster, data, 1 + number % options.nodes, options.newer)
        ]
    Console().print(_table(rounds, data, options))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.restart")
    parser.add_argument("--data", type=Path, help="folder of the data set; else generated")
    parser.add_argument("--rows", type=int, default=0, help="first rows only; 0: all")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="each kills the next node, twice")
    parser.add_argument("--newer", type=int, default=5_000, help="rows that the index file lacks")
    parser.add_argument("--folder", type=Path, help="where the nodes' folders are kept")
    return parser


def _stored(cluster: Served, data: Dataset) -> None:
    system = Points("Recollect", list(cluster.ports.values()), None)
    if ask(cluster.ports[1], "GET", "/collections/bench") is None:
        system.store(data.vectors)
    for port in cluster.ports.values():
        until_indexed(Points("Recollect", [port], None), len(data.vectors))


def _round(cluster: Served, data: Dataset, number: int, newer: int) -> list[Case]:
    port = cluster.ports[number]
    cluster.stop(number)
    cluster.start(number)
    cluster.until_ready()
    query, wanted = _certain(port, data)
    cluster.kill(number)
    saved = ("saved", number, *_restarted(cluster, number, query, wanted, data))
    until_indexed(Points("Recollect", [port], None), len(data.vectors))
    fresh = _apart(newer, data.vectors.shape[1], seed=number)
    first = len(data.vectors)
    _write(cluster.ports[1], fresh, first)
    cluster.kill(number)
    last = [first + newer - 1]
    newest = ("newer", number, *_restarted(cluster, number, fresh[-1], last, data))
    ids = list(range(first, first + newer))
    ask(cluster.ports[1], "POST", f"{_PATH}/delete?wait=true", {"points": ids})
    until_indexed(Points("Recollect", [port], None), len(data.vectors))
    return [saved, newest]


def _apart(rows: int, dimension: int, seed: int) -> Matrix:
    """Return vectors that are near to nothing: no other answer changes by them."""
    drawn = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    unit: Matrix = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit


def _certain(port: int, data: Dataset) -> tuple[Matrix, list[int]]:
    """Return a query whose answer is the true one, and that answer."""
    for query, truth in zip(data.queries, data.truth.tolist(), strict=True):
        found = _found(port, query, K)
        if found == truth:
            return query, found
    raise RuntimeError("no search finds what it should")


def _write(port: int, vectors: Matrix, first_id: int) -> None:
    for first in range(0, len(vectors), _BATCH):
        points = [
            {"id": first_id + first + at, "vector": row, "payload": {"row": first + at}}
            for at, row in enumerate(vectors[first : first + _BATCH])
        ]
        if ask(port, "PUT", f"{_PATH}?wait=true", {"points": points}) is None:
            raise RuntimeError("a write was refused")


def _restarted(
    cluster: Served, number: int, query: Matrix, wanted: list[int], data: Dataset
) -> tuple[float, float]:
    began = time.perf_counter()
    port = cluster.ports[number]
    cluster.start(number)
    while _found(port, query, len(wanted)) != wanted:
        if time.perf_counter() - began > _GIVE_UP_S:
            raise TimeoutError(f"node{number} does not find what was acknowledged")
        time.sleep(_POLL_S)
    right_s = time.perf_counter() - began
    found = [_found(port, each, K) for each in data.queries[:_ASKED]]
    return right_s, recall(found, data.truth)


def _found(port: int, query: Matrix, limit: int) -> list[int]:
    answer: Any = ask(port, "POST", f"{_PATH}/query", {"query": query, "limit": limit})
    return [hit["id"] for hit in answer["result"]["points"]] if answer else []


def _table(rounds: list[Case], data: Dataset, options: argparse.Namespace) -> Table:
    title = f"{len(data.vectors):,} vectors, {options.nodes} nodes, kill -9; seconds from the start"
    table = Table(title=title)
    for heading in ("case", "node", "first right answer", "recall@10 then"):
        table.add_column(heading, justify="right")
    for case, number, right_s, found in rounds:
        table.add_row(case, str(number), f"{right_s:.2f}", f"{found:.4f}")
    for case in ("saved", "newer"):
        median = statistics.median(each[2] for each in rounds if each[0] == case)
        table.add_row(f"{case}, median", "", f"{median:.2f}", "")
    return table


if __name__ == "__main__":
    raise SystemExit(main())
