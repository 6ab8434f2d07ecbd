"""What rewriting everything again and again does to recall, memory and speed.

`python -m bench.rewrites --data DIR` stores vectors in one node, and rewrites all of them ten
times in each of these ways, one after the other:

    same      every row gets the vector that it has
    swapped   every row gets another row's vector
    moved     every row gets a vector that is near its own and was never there
    readded   every row is deleted and added again

After each way recall@10 is measured against exact neighbours of what is stored then, with a beam
of fixed width, so that nothing makes up for a graph that has got worse.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from bench import load
from bench.dataset import Dataset, Matrix, neighbours, opened, recall
from bench.served import Served, processor_seconds, resident_bytes, serving
from bench.systems import Points, until_indexed

_PATH: Final = "/collections/bench/points"
_WAYS: Final = ("same", "swapped", "moved", "readded")
_EF: Final = 72
_BATCH: Final = 256
_CLIENTS: Final = 4
_SEARCHING: Final = 8
_SEARCH_S: Final = 2.0
_COLUMNS: Final = (
    *("", "recall@10", "searches/s", "processor us a search"),
    *("MB of memory", "seconds", "processor s"),
)
_STEP: Final = 0.02
"""How far a vector moves, of its length."""


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.rewrites")
    parser.add_argument("--data", type=Path, help="folder of the data set; else generated")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--rewrites", type=int, default=10, help="of all rows, in each way")
    parser.add_argument("--ways", default=",".join(_WAYS))
    options = parser.parse_args(words)
    data = opened(options.data, options.rows, options.queries)
    table = Table(title=f"{len(data.vectors):,} vectors, {options.rewrites} rewrites in each way")
    for heading in _COLUMNS:
        table.add_column(heading, justify="right")
    with serving(1) as cluster:
        rewriting = _Rewriting(cluster, data)
        table.add_row("stored", *rewriting.figures(rewriting.store))
        for way in options.ways.split(","):
            cells = rewriting.figures(lambda way=way: rewriting.rewrite(way, options.rewrites))
            table.add_row(way, *cells)
    Console().print(table)
    return 0


class _Rewriting:
    """One node, and what is stored in it."""

    def __init__(self, cluster: Served, data: Dataset) -> None:
        self._port = cluster.ports[1]
        self._pid = cluster.processes[1].pid
        self._queries = data.queries
        self._original = self._stored = data.vectors
        self._system = Points("Recollect", [self._port], None)
        self._rng = np.random.default_rng(11)

    def store(self) -> None:
        """Store all rows for the first time."""
        self._system.store(self._original)

    def rewrite(self, way: str, times: int) -> None:
        """Rewrite all rows; when that ends, all are acknowledged."""
        for _ in range(times):
            if way == "swapped":
                self._stored = self._stored[self._rng.permutation(len(self._stored))]
            elif way == "moved":
                self._stored = self._near(self._original)
            elif way == "readded":
                self._send("POST", f"{_PATH}/delete?wait=true", _ids(len(self._stored)))
            self._send("PUT", f"{_PATH}?wait=true", _points(self._stored))

    def figures(self, act: Any) -> list[str]:
        """Return the cells of a row: what an action leaves, and what it takes."""
        began, used = time.perf_counter(), processor_seconds(self._pid)
        act()
        until_indexed(self._system, len(self._stored))
        took_s, spent_s = time.perf_counter() - began, processor_seconds(self._pid) - used
        found = self._system.find(self._queries, _EF)
        right = recall(found, neighbours(self._stored, self._queries))
        memory = resident_bytes(self._pid) / 1e6
        cells = (f"{memory:.0f}", f"{took_s:.1f}", f"{spent_s:.1f}")
        return [f"{right:.4f}", *self._search_cost(), *cells]

    def _search_cost(self) -> tuple[str, str]:
        used = processor_seconds(self._pid)
        rate = self._system.speed(self._queries, _EF, _SEARCHING, _SEARCH_S).rate
        spent_us = (processor_seconds(self._pid) - used) / (rate * _SEARCH_S) * 1e6
        return f"{rate:,.0f}", f"{spent_us:.0f}"

    def _near(self, vectors: Matrix) -> Matrix:
        scale = _STEP / np.sqrt(vectors.shape[1])
        drawn = self._rng.standard_normal(vectors.shape, dtype=np.float32)
        moved: Matrix = vectors + scale * drawn
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        return moved

    def _send(self, method: str, path: str, bodies: list[bytes]) -> None:
        requests = [load.request(method, path, body) for body in bodies]
        load.run(self._port, requests, _CLIENTS, patient=True)


def _ids(rows: int) -> list[bytes]:
    return [
        orjson.dumps({"points": list(range(first, min(first + _BATCH, rows)))})
        for first in range(0, rows, _BATCH)
    ]


def _points(vectors: Matrix) -> list[bytes]:
    return [
        orjson.dumps(
            {
                "points": [
                    {"id": first + at, "vector": row, "payload": {"row": first + at}}
                    for at, row in enumerate(vectors[first : first + _BATCH])
                ]
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        for first in range(0, len(vectors), _BATCH)
    ]


if __name__ == "__main__":
    raise SystemExit(main())
