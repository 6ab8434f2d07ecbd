"""Storing vectors in a cluster: how many are acknowledged a second, and what each costs.

`python -m bench.ingest --data DIR` starts a cluster, stores vectors in batches over a few
connections, and counts the processor time of every thread of every node while it does. That time
says more than the rate on a machine that is busy with something else.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from pathlib import Path

import msgpack
import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from bench import load
from bench.http_search import call
from bench.nodes import running

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
COLLECTION = "/collections/bench"


def served_by(port: int) -> int:
    """Return the process that listens on a port of this machine."""
    wanted = f"0100007F:{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    inode = next(f[9] for f in map(str.split, lines) if f[1] == wanted and f[3] == "0A")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()) == f"socket:[{inode}]":
                    return int(process.name)
        except OSError:
            continue
    raise RuntimeError(f"nobody listens on {port}")


def thread_seconds(pid: int) -> dict[tuple[str, int], float]:
    """Return the processor seconds of each thread of a process, by name and number."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name, fields = (task / "stat").read_text().split("(", 1)[1].rsplit(") ", 1)
        parts = fields.split()
        found[name, int(task.name)] = (int(parts[11]) + int(parts[12])) * TICK_S
    return found


def packed(vectors: np.ndarray, batch: int) -> list[bytes]:
    """Return the requests that store all vectors, MessagePack with vectors as float32."""
    requests = []
    for first in range(0, len(vectors), batch):
        rows = vectors[first : first + batch]
        ids = list(range(first, first + len(rows)))
        columns = {
            "ids": ids,
            "vectors": rows.astype("<f4").tobytes(),
            "payloads": [{"row": number} for number in ids],
        }
        body = msgpack.packb({"batch": columns})
        requests.append(
            load.request("PUT", f"{COLLECTION}/points?wait=true", body, "application/msgpack")
        )
    return requests


def bodies(vectors: np.ndarray, batch: int) -> list[bytes]:
    """Return the requests that store all vectors."""
    requests = []
    for first in range(0, len(vectors), batch):
        points = [
            {"id": first + k, "vector": row, "payload": {"row": first + k}}
            for k, row in enumerate(vectors[first : first + batch])
        ]
        body = orjson.dumps({"points": points}, option=orjson.OPT_SERIALIZE_NUMPY)
        requests.append(load.request("PUT", f"{COLLECTION}/points?wait=true", body))
    return requests


def spent(before: dict[tuple[str, int], float], pid: int) -> dict[str, float]:
    """Return the seconds since `before`, by kind of thread."""
    total: dict[str, float] = defaultdict(float)
    main = min(number for _, number in before)
    for (name, number), seconds in thread_seconds(pid).items():
        kind = "loop" if number == main else _kind(number)
        total[kind] += seconds - before.get((name, number), 0.0)
    return total


def _kind(thread: int) -> str:
    return "index builder" if os.getpriority(os.PRIO_PROCESS, thread) else "other threads"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.ingest")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--form", choices=["json", "msgpack"], default="msgpack")
    options = parser.parse_args()
    vectors = np.load(options.data / "vectors.f16.npy")[: options.rows].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    requests = (packed if options.form == "msgpack" else bodies)(vectors, options.batch)
    console = Console()
    with running(options.nodes) as ports:
        call(
            ports[0],
            "PUT",
            COLLECTION,
            {"vectors": {"size": vectors.shape[1], "distance": "Cosine"}},
        )
        pids = [served_by(port) for port in ports]
        before = [thread_seconds(pid) for pid in pids]
        began = time.perf_counter()
        run = load.run(ports[0], requests, options.connections)
        table = Table(title=f"{len(vectors):,} x {vectors.shape[1]}, {options.nodes} nodes")
        table.add_column("microseconds a vector")
        kinds = [spent(old, pid) for old, pid in zip(before, pids, strict=True)]
        for number in range(options.nodes):
            table.add_column(f"node{number + 1}", justify="right")
        for kind in sorted({kind for each in kinds for kind in each}):
            cells = [f"{each[kind] / len(vectors) * 1e6:.1f}" for each in kinds]
            table.add_row(kind, *cells)
        totals = [f"{sum(each.values()) / len(vectors) * 1e6:.1f}" for each in kinds]
        table.add_row("all", *totals)
        console.print(table)
        rate = len(vectors) / run.elapsed_s
        console.print(f"acknowledged {rate:,.0f} vectors/s, p99 {run.latency_ms(0.99):.0f} ms")
        while call(ports[0], "GET", COLLECTION)["status"] != "green":
            time.sleep(0.2)
        console.print(f"green at {len(vectors) / (time.perf_counter() - began):,.0f} vectors/s")


if __name__ == "__main__":
    main()
