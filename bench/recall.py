"""Recall and speed of the vector index beside bare hnswlib, in one process and on one thread.

    python -m bench.recall --data DIR [--rows N]

DIR holds `vectors.f16.npy`, `queries.f16.npy` and, with the true neighbours of the whole set by
cosine, `neighbors.i32.npy`. Both sides search the same graph with the same M and beam width, so
the difference is what the index adds: validation, locks, the fresh tail, liveness, and hits that
are resolved to ids. Rounds alternate, and the fastest counts.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import hnswlib
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from storage.beam_width import DEFAULT_EF
from storage.ids import encode_id
from storage.vector_index import VectorIndex

K = 10
ROUNDS = 3
BATCH = 32
M = 16
EF_CONSTRUCT = 200

Matrix = npt.NDArray[np.float32]
Neighbours = list[set[int]]
Found = list[list[int]]


class Measured(NamedTuple):
    """One way to search: the share of true neighbours found, and how long searches took."""

    name: str
    recall: float
    per_second: float
    p50_ms: float
    p99_ms: float


def main(
    data: Annotated[Path, typer.Option(help="folder of the data set")],
    rows: Annotated[int, typer.Option(help="use the first N vectors; 0: all")] = 0,
    queries: Annotated[int, typer.Option(help="use the first N queries; 0: all")] = 2000,
    ef: Annotated[int, typer.Option(help="beam width")] = DEFAULT_EF,
    threads: Annotated[int, typer.Option(help="threads that build")] = 1,
) -> None:
    """Measure recall@10, searches a second and build speed."""
    console = Console()
    vectors = unit(np.load(data / "vectors.f16.npy"), rows)
    asked = unit(np.load(data / "queries.f16.npy"), queries)
    truth = neighbours(data, vectors, asked)
    index = VectorIndex(
        dimension=vectors.shape[1],
        distance="Cosine",
        m=M,
        ef_construct=EF_CONSTRUCT,
        clock=time.perf_counter,
        build_threads=threads,
    )
    written_s = fill(index, vectors)
    built_s = build(index, console)
    results = compare(index, bare_copy(index, ef), asked, truth, ef)
    console.print(
        f"{len(vectors):,} x {vectors.shape[1]}, M={M}, ef_construct={EF_CONSTRUCT}, ef={ef}: "
        f"{len(vectors) / written_s:,.0f} rows/s searchable, "
        f"{len(vectors) / built_s:,.0f} rows/s built by {threads} thread(s)"
    )
    console.print(report(results))


def unit(raw: npt.NDArray[np.float16], count: int) -> Matrix:
    """Return the first rows as float32 of unit length."""
    wide = raw[: count or None].astype(np.float32)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return wide


def neighbours(data: Path, vectors: Matrix, asked: Matrix) -> Neighbours:
    """Return the true nearest rows of each query: from the file, or computed for a part."""
    known = data / "neighbors.i32.npy"
    whole = len(np.load(data / "vectors.f16.npy", mmap_mode="r")) == len(vectors)
    if whole and known.exists():
        return [set(row.tolist()) for row in np.load(known)[: len(asked), :K]]
    truth: Neighbours = []
    for start in range(0, len(asked), 200):
        scores = asked[start : start + 200] @ vectors.T
        truth += [set(row.tolist()) for row in np.argpartition(-scores, K, axis=1)[:, :K]]
    return truth


def fill(index: VectorIndex, vectors: Matrix) -> float:
    """Write all rows; returns the seconds until the last was searchable."""
    started = time.perf_counter()
    for start in range(0, len(vectors), 1000):
        batch = range(start, min(start + 1000, len(vectors)))
        index.upsert(0, [(n, 1, encode_id(n), vectors[n].tobytes()) for n in batch])
    return time.perf_counter() - started


def build(index: VectorIndex, console: Console) -> float:
    """Move all rows into the graph; returns the seconds it took."""
    started = time.perf_counter()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("building", total=index.tail_size)
        while moved := index.build(500):
            progress.advance(task, moved)
    return time.perf_counter() - started


def bare_copy(index: VectorIndex, ef: int) -> hnswlib.Index:
    """Return the same graph as hnswlib alone would search it."""
    bare = hnswlib.Index(space="ip", dim=index.shape.dimension)
    with tempfile.TemporaryDirectory() as folder, index.frozen() as image:
        assert image is not None, "the graph was built"
        path = Path(folder) / "graph.bin"
        image.graph.save(path)
        bare.load_index(str(path))
    bare.set_num_threads(1)
    bare.set_ef(ef)
    return bare


def compare(
    index: VectorIndex, bare: hnswlib.Index, asked: Matrix, truth: Neighbours, ef: int
) -> list[Measured]:
    """Measure each way to search, in alternating rounds."""

    def by_hnswlib(part: Matrix) -> Found:
        labels, _ = bare.knn_query(part[0], k=K)
        return [labels[0].tolist()]

    def by_index(part: Matrix) -> Found:
        return [[hit.seq for hit in index.search(part[0], K, ef=ef)]]

    def by_batch(part: Matrix) -> Found:
        return [[hit.seq for hit in hits] for hits in index.search_many(part, K, ef=ef)]

    ways: list[tuple[str, Callable[[Matrix], Found], int]] = [
        ("hnswlib", by_hnswlib, 1),
        ("VectorIndex.search", by_index, 1),
        (f"VectorIndex.search_many, {BATCH} at once", by_batch, BATCH),
    ]
    best: dict[str, Measured] = {}
    for _ in range(ROUNDS):
        for name, search, size in ways:
            measured = measure(name, search, size, asked, truth)
            if name not in best or measured.per_second > best[name].per_second:
                best[name] = measured
    return [best[name] for name, _, _ in ways]


def measure(
    name: str, search: Callable[[Matrix], Found], size: int, asked: Matrix, truth: Neighbours
) -> Measured:
    """Search for all queries, `size` at a time."""
    found: Found = []
    took_s = []
    gc.collect()
    for start in range(0, len(asked), size):
        part = asked[start : start + size]
        started = time.perf_counter()
        answers = search(part)
        took_s.append(time.perf_counter() - started)
        found += answers
    hits = sum(len(right & set(rows)) for right, rows in zip(truth, found, strict=True))
    p50_ms, p99_ms = np.quantile(took_s, (0.5, 0.99)) * 1000
    return Measured(name, hits / (K * len(asked)), len(asked) / sum(took_s), p50_ms, p99_ms)


def report(results: list[Measured]) -> Table:
    """Return the results as a table; the ratio is to the first."""
    table = Table("search", title="recall and speed, one thread")
    for heading in (f"recall@{K}", "searches/s", "p50 ms", "p99 ms", "ratio"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            result.name,
            f"{result.recall:.4f}",
            f"{result.per_second:,.0f}",
            f"{result.p50_ms:.3f}",
            f"{result.p99_ms:.3f}",
            f"{result.per_second / results[0].per_second:.2f}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
