"""A checkpoint of three nodes, restored into clusters of other sizes, each proved and asked.

`python -m tests.checkpoint_sizes --data DIR` stores the vectors of DIR (vectors.f16.npy) in three
nodes and makes a checkpoint. Of each size the restored cluster is started; `recollect verify` must
find every shard equal, the counts must be the old ones, and exact searches, for the vectors of
queries.f16.npy, must find the same through its first node and its last. What is the same: equal
points with equal scores, up to the last digits, which depend on where in memory a vector lies; of
points that are equally far the limit may cut off either.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from bench import load
from bench.http_search import call, store, until_green
from storage.embedded_postgres import EmbeddedPostgres
from tests.helpers import Cluster, running_cluster

SIZES: Final = (1, 3, 5)
LIMIT: Final = 10
TOLERANCE: Final = 1e-5

Hits = list[tuple[int, float]]


@dataclass(frozen=True)
class Content:
    """What a cluster says that it holds: points, and hits of each question."""

    points: int
    answers: list[Hits]


def content(port: int, queries: np.ndarray) -> Content:
    """Ask a node."""
    requests = [
        load.request(
            "POST",
            "/collections/bench/points/query",
            orjson.dumps(
                {"query": row, "limit": LIMIT, "params": {"exact": True}},
                option=orjson.OPT_SERIALIZE_NUMPY,
            ),
        )
        for row in queries
    ]
    answers = [
        [(hit["id"], hit["score"]) for hit in orjson.loads(answer)["result"]["points"]]
        for answer in load.run(port, requests, 2).answers
    ]
    count = call(port, "POST", "/collections/bench/points/count", {"exact": True})["count"]
    return Content(count, answers)


def are_same(one: Hits, other: Hits) -> bool:
    """Say whether two answers are the same; see the module."""
    if len(one) != len(other):
        return False
    pairs = zip(one, other, strict=True)
    near = all(abs(mine - theirs) <= TOLERANCE for (_, mine), (_, theirs) in pairs)
    return near and _clear(one) <= _ids(other) and _clear(other) <= _ids(one)


def _ids(hits: Hits) -> set[int]:
    return {point for point, _ in hits}


def _clear(hits: Hits) -> set[int]:
    """Return the points that are nearer than the last one by more than what is not determined."""
    return {point for point, score in hits if score > hits[-1][1] + 2 * TOLERANCE}


def command(environment: dict[str, str], *words: str) -> dict[str, Any]:
    """Run the command line; return what it says. Raises RuntimeError when it fails."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cluster.cli", *words, "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{words[0]}: {done.stdout.decode()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def verdicts(cluster: Cluster, number: str) -> set[str]:
    """Return how a cluster's shards stand to a checkpoint, which is proved on the way."""
    words = ("verify", "--checkpoint", number, "--url", cluster.url())
    return {shard["live"] for shard in command(cluster.environment, *words)["shards"]}


def run(folder: Path, vectors: np.ndarray, queries: np.ndarray, url: str) -> list[Sequence[str]]:
    """Do it all; return a line for each size. Raises AssertionError when anything differs."""
    environment = {
        "RECOLLECT_CHECKPOINT_URL": url,
        "RECOLLECT_CHECKPOINT_INTERVAL_S": "0",
        "RECOLLECT_REQUEST_TIMEOUT_MS": "60000",
    }
    with running_cluster(folder, env=environment) as cluster:
        store(cluster.port + 1, vectors, 2)
        until_green(cluster.port + 1, len(vectors))
        made = command(cluster.environment, "checkpoint", "--url", cluster.url())
        assert made["state"] == "finished", made
        number = str(made["id"])
        assert verdicts(cluster, number) == {"equal"}
        wanted = content(cluster.port + 1, queries)
    assert wanted.points == len(vectors)
    lines: list[Sequence[str]] = []
    for size in SIZES:
        place, began_s = folder / f"restored-{size}", time.perf_counter()
        words = ("restore", "--checkpoint", number, "--into", str(size), "--data", str(place))
        command(cluster.environment, *words)
        restored_s = time.perf_counter() - began_s
        with running_cluster(folder, nodes=size, env=environment, folder=place) as copy:
            assert verdicts(copy, number) == {"equal"}
            for node in sorted({1, size}):
                found = content(copy.port + node, queries)
                assert found.points == wanted.points
                pairs = zip(wanted.answers, found.answers, strict=True)
                same = sum(are_same(one, other) for one, other in pairs)
                assert same == len(queries), f"{len(queries) - same} answers differ"
        shards, answers = f"{len(made['shards'])} equal", f"{len(queries)} the same"
        lines.append((str(size), f"{restored_s:.1f} s", shards, f"{wanted.points:,}", answers))
    return lines


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="tests.checkpoint_sizes", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=0, help="first rows only; 0: all")
    parser.add_argument("--queries", type=int, default=500)
    options = parser.parse_args()
    vectors = np.load(options.data / "vectors.f16.npy")[: options.rows or None].astype(np.float32)
    queries = np.load(options.data / "queries.f16.npy")[: options.queries].astype(np.float32)
    table = Table(title=f"{len(vectors):,} x {vectors.shape[1]}, three nodes, restored into")
    for column in ("nodes", "restored in", "shards", "points", "exact answers"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory(prefix="recollect-sizes-") as folder:
        Path(folder).chmod(0o755)
        server = EmbeddedPostgres(Path(folder) / "postgres")
        server.start()
        try:
            for line in run(Path(folder), vectors, queries, server.url):
                table.add_row(*line)
        finally:
            server.stop()
    Console().print(table)


if __name__ == "__main__":
    main()
