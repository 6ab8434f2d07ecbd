"""Checkpoints of three nodes into a real Postgres, beside a bare COPY of the same rows.

`python -m bench.checkpoints --data DIR` stores the vectors of DIR (vectors.f16.npy) and then, in
turns and in one run: a full checkpoint, a bare COPY of what it wrote, and checkpoints after one
percent of the points has changed. The bare COPY is one statement on one connection into a table
without an index. Then a paced client writes single points, with and without checkpoints running
one after the other; at the end `recollect verify` and `recollect restore` are timed. The client,
the nodes and Postgres, with its default settings, share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from bench import load
from bench.http_search import call, store, until_green
from bench.paced_writes import paced_writes
from storage.embedded_postgres import EmbeddedPostgres
from tests.helpers import Cluster, eventually, running_cluster

PATH: Final = "/collections/bench/points?wait=true"
TABLES: Final = (
    "checkpoints, manifests, records, tombstones, nodes, hyperedges, graph_counts, "
    "dropped_collections, reasoning_patterns, pattern_progress"
)
PIECE_BYTES: Final = 256 << 10
SHARE: Final = 0.01
PACE_S: Final = 0.01
GREEN_S: Final = 60.0
TIDY_S: Final = 60.0
"""After a checkpoint the patterns' table follows, and old checkpoints go."""

T = TypeVar("T")


@dataclass
class Times:
    """Seconds of each kind, a figure a turn."""

    full: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    increment: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    """An increment as its caller sees it, over HTTP."""


@dataclass
class Bench:
    """A running cluster that holds `vectors`, and the Postgres that it writes into."""

    cluster: Cluster
    url: str
    vectors: np.ndarray
    rng: np.random.Generator

    @property
    def port(self) -> int:
        """Return the port of a node's API."""
        return self.cluster.port + 1

    def checkpoint(self) -> tuple[float, float, int]:
        """Make one; return its seconds, those that its caller waited, and the rows written."""
        began_s = time.perf_counter()
        made = call(self.port, "POST", "/cluster/checkpoint", {})
        asked_s = time.perf_counter() - began_s
        if made["state"] != "finished":
            raise RuntimeError(f"a checkpoint takes longer than a request: {made}")
        eventually(lambda: self.on_postgres(_is_idle), TIDY_S, "the end of what comes after it")
        return made["seconds"], asked_s, sum(each["rows_written"] for each in made["shards"])

    def change(self, count: int) -> None:
        """Write points anew, chosen at random; ends when all nodes have them in their graphs."""
        chosen = self.rng.choice(len(self.vectors), count, replace=False)
        for part in np.array_split(chosen, max(1, count // 500)):
            points = [
                {"id": int(row), "vector": self.vectors[row], "payload": {"row": int(row)}}
                for row in part
            ]
            body = orjson.dumps({"points": points}, option=orjson.OPT_SERIALIZE_NUMPY)
            load.run(self.port, [load.request("PUT", PATH, body)], 1)
        eventually(self._is_green, GREEN_S, "all nodes have indexed what changed")

    def _is_green(self) -> bool:
        ports = [self.cluster.port + node for node in range(1, self.cluster.nodes + 1)]
        return all(call(port, "GET", "/collections/bench")["status"] == "green" for port in ports)

    def on_postgres(self, work: Callable[[Any], Any]) -> Any:
        """Return what a coroutine function makes of a connection."""

        async def run() -> Any:
            connection = await asyncpg.connect(self.url)
            try:
                return await work(connection)
            finally:
                await connection.close()

        return asyncio.run(run())


async def _is_idle(connection: Any) -> bool:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = 'recollect' AND state <> 'idle'"
    )
    busy: int = await connection.fetchval(query)
    return busy == 0


async def _empty(connection: Any) -> None:
    await connection.execute(f"TRUNCATE {TABLES}")


async def _bare_copy(connection: Any) -> tuple[float, int]:
    """Copy all records into a table without an index; return the seconds, and the bytes."""
    pieces: list[bytes] = []

    async def keep(piece: bytes) -> None:
        pieces.append(piece)

    async def sent() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    await connection.copy_from_table("records", output=keep, format="binary")
    whole = b"".join(pieces)
    pieces = [whole[at : at + PIECE_BYTES] for at in range(0, len(whole), PIECE_BYTES)]
    await connection.execute("DROP TABLE IF EXISTS bare")
    await connection.execute("CREATE TABLE bare (LIKE records INCLUDING STORAGE)")
    began_s = time.perf_counter()
    await connection.copy_to_table("bare", source=sent(), format="binary")
    elapsed_s = time.perf_counter() - began_s
    await connection.execute("DROP TABLE bare")
    return elapsed_s, len(whole)


def in_turns(bench: Bench, rounds: int, increments: int) -> Times:
    """Measure full checkpoints, bare copies and increments, one after the other."""
    times, count = Times(), round(SHARE * len(bench.vectors))
    for _ in range(rounds):
        bench.on_postgres(_empty)
        full_s, _, rows = bench.checkpoint()
        assert rows >= len(bench.vectors), "all rows were written"
        times.full.append(full_s)
        times.bare.append(bench.on_postgres(_bare_copy)[0])
        for _ in range(increments):
            bench.change(count)
            increment_s, asked_s, rows = bench.checkpoint()
            assert count <= rows < 2 * count, f"{rows} rows were written, {count} had changed"
            times.increment.append(increment_s)
            times.asked.append(asked_s)
    return times


@contextlib.contextmanager
def repeated(work: Callable[[], object]) -> Iterator[list[int]]:
    """Do something again and again while the block runs; gives a list with how often."""
    done, over = [0], threading.Event()

    def run() -> None:
        while not over.is_set():
            work()
            done[0] += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def beside_writes(bench: Bench, rounds: int, seconds: float) -> tuple[list[float], list[float]]:
    """Return write latencies without checkpoints and with them, measured in turns."""
    idle: list[float] = []
    busy: list[float] = []
    vectors = bench.vectors[: len(bench.vectors) // 10]
    for _ in range(rounds):
        with paced_writes(bench.port, PATH, vectors, PACE_S) as latencies:
            time.sleep(seconds)
        idle += latencies
        with (
            repeated(bench.checkpoint) as made,
            paced_writes(bench.port, PATH, vectors, PACE_S) as latencies,
        ):
            time.sleep(seconds)
        assert made[0], "checkpoints were made meanwhile"
        busy += latencies
    return idle, busy


def full_beside_writes(bench: Bench, rounds: int) -> list[float]:
    """Return write latencies while full checkpoints are made."""
    found: list[float] = []
    vectors = bench.vectors[: len(bench.vectors) // 10]
    for _ in range(rounds):
        bench.on_postgres(_empty)
        with paced_writes(bench.port, PATH, vectors, PACE_S) as latencies:
            bench.checkpoint()
        found += latencies
    return found


def command(bench: Bench, *words: str) -> float:
    """Run a command on the newest checkpoint; return its seconds."""
    began_s = time.perf_counter()
    subprocess.run(
        [sys.executable, "-P", "-m", "cluster.cli", *words, "--json"],
        env=bench.cluster.environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - began_s


def p99_ms(latencies: Sequence[float]) -> float:
    """Return the latency, in milliseconds, that one write in a hundred exceeds."""
    return sorted(latencies)[int(0.99 * len(latencies))] * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.checkpoints")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=0, help="first rows only; 0: all")
    parser.add_argument("--rounds", type=int, default=5, help="the median counts")
    parser.add_argument("--increments", type=int, default=5, help="in each round")
    parser.add_argument("--write-seconds", type=float, default=5.0, help="of each turn of writes")
    options = parser.parse_args()
    vectors = np.load(options.data / "vectors.f16.npy")[: options.rows or None].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="recollect-bench-") as folder:
        Path(folder).chmod(0o755)
        server = EmbeddedPostgres(Path(folder) / "postgres")
        server.start()
        environment = {
            "RECOLLECT_CHECKPOINT_URL": server.url,
            "RECOLLECT_CHECKPOINT_INTERVAL_S": "0",
            "RECOLLECT_REQUEST_TIMEOUT_MS": "60000",
        }
        try:
            with running_cluster(Path(folder), env=environment) as cluster:
                bench = Bench(cluster, server.url, vectors, np.random.default_rng(7))
                store(bench.port, vectors, 2)
                until_green(bench.port, len(vectors))
                measure(bench, options, Path(folder), console)
        finally:
            server.stop()


def measure(bench: Bench, options: argparse.Namespace, folder: Path, console: Console) -> None:
    """Measure everything on a cluster that is filled, and print it."""
    bench.checkpoint()
    times = in_turns(bench, options.rounds, options.increments)
    idle, busy = beside_writes(bench, options.rounds, options.write_seconds)
    full_busy = full_beside_writes(bench, options.rounds)
    verify_s = command(bench, "verify")
    restore_s = command(bench, "restore", "--into", "3", "--data", str(folder / "restored"))
    rows = len(bench.vectors)
    full_s, bare_s = statistics.median(times.full), statistics.median(times.bare)
    increment_s, asked_s = statistics.median(times.increment), statistics.median(times.asked)
    table = Table(title=f"checkpoints of {rows:,} x {bench.vectors.shape[1]}, three nodes")
    for column in ("what", "median", "all", "ratio"):
        table.add_column(column, justify="left" if column == "what" else "right")
    table.add_row("full", f"{full_s:.2f} s", _all(times.full), f"{bare_s / full_s:.2f} of COPY")
    table.add_row("bare COPY", f"{bare_s:.2f} s", _all(times.bare), "")
    share = f"{increment_s / full_s:.1%} of full"
    table.add_row("1 % changed", f"{increment_s * 1000:.0f} ms", _all(times.increment), share)
    asked = f"{asked_s / full_s:.1%} of full"
    table.add_row("the same as asked for", f"{asked_s * 1000:.0f} ms", _all(times.asked), asked)
    table.add_row("write p99, no checkpoint", f"{p99_ms(idle):.1f} ms", f"{len(idle)} writes", "")
    for what, found in (("increments", busy), ("full checkpoints", full_busy)):
        ratio = f"{p99_ms(found) / p99_ms(idle):.2f}"
        table.add_row(
            f"write p99, {what}", f"{p99_ms(found):.1f} ms", f"{len(found)} writes", ratio
        )
    table.add_row("verify", f"{verify_s:.1f} s", "", f"{rows / verify_s:,.0f} rows/s")
    table.add_row("restore into 3", f"{restore_s:.1f} s", "", f"{rows / restore_s:,.0f} rows/s")
    console.print(table)


def _all(seconds: Sequence[float]) -> str:
    return " ".join(f"{each:.3f}" for each in sorted(seconds))


if __name__ == "__main__":
    main()
