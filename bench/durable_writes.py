"""The price of a durable write: three nodes on this machine, single points over HTTP.

`python -m bench.durable_writes` stores points of 384 dimensions one a request, through one node,
with wrk at 20 connections and at one; every answer waits for the fsynced logs of a majority.
Then it writes commands of 150 KB (100 points of 384 dimensions), 16 in flight, and commands of
almost 1 MiB, 16 in flight, and says whether any shard changed its leader meanwhile.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from bench import load
from tests.helpers import Cluster, running_cluster

DIMENSION = 384
SETTLE_S = 6.0
"""Until leaders have gone to their preferred nodes, one after the other."""
PATH = "/collections/bench/points?wait=true"
SCRIPT = """
local bodies = {}
for line in io.lines("%s") do bodies[#bodies + 1] = line end
local at, requests = 0, {}
function init(args)
  for k, body in ipairs(bodies) do
    requests[k] = wrk.format("PUT", "%s", {["Content-Type"] = "application/json"}, body)
  end
end
function request()
  at = at + 1
  return requests[(at - 1) %% #requests + 1]
end
"""


@dataclass(frozen=True)
class Figures:
    """What a load gave; latencies in milliseconds."""

    rate: float
    p50_ms: float
    p99_ms: float


def points(rng: np.random.Generator, first: int, count: int, dimension: int) -> bytes:
    """Return the body of a request that stores `count` points."""
    vectors = np.round(rng.standard_normal((count, dimension)), 6).astype(np.float32)
    rows = [{"id": first + k, "vector": row} for k, row in enumerate(vectors)]
    return orjson.dumps({"points": rows}, option=orjson.OPT_SERIALIZE_NUMPY)


def with_wrk(
    url: str, folder: Path, bodies: Sequence[bytes], connections: int, seconds: int
) -> Any:
    """Run wrk; raises when any answer was not a success."""
    lines, script = folder / "bodies", folder / "write.lua"
    lines.write_bytes(b"\n".join(bodies) + b"\n")
    script.write_text(SCRIPT % (lines, PATH))
    words = ["-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    text = subprocess.run(["wrk", *words], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert rate is not None, text
    return Figures(float(rate[1]), _latency(text, "50%"), _latency(text, "99%"))


def _latency(text: str, quantile: str) -> float:
    found = re.search(rf"{re.escape(quantile)}\s+([\d.]+)(us|ms|s)\s", text)
    assert found is not None, text
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def with_batches(port: int, bodies: Sequence[bytes], connections: int) -> Figures:
    """Send prepared batches with the lean client."""
    requests = [load.request("PUT", PATH, body) for body in bodies]
    done = load.run(port, requests, connections)
    return Figures(done.rate, done.latency_ms(0.5), done.latency_ms(0.99))


def terms(cluster: Cluster) -> list[tuple[str, int]]:
    """Return each shard's (leader, term)."""
    shards = cluster.call("GET", "/cluster").result["shards"]
    return [(shard["leader"], shard["term"]) for shard in shards]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.durable_writes")
    parser.add_argument("--seconds", type=int, default=15)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("this benchmark needs wrk", file=sys.stderr)
        return 2
    rng, table = np.random.default_rng(7), Table(title="durable writes, three nodes, HTTP")
    for column in ("load", "in flight", "writes/s", "p50 ms", "p99 ms", "leader changes"):
        table.add_column(column, justify="left" if column == "load" else "right")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_cluster(Path(folder)) as cluster,
    ):
        body = {"vectors": {"size": DIMENSION, "distance": "Cosine"}}
        assert cluster.call("PUT", "/collections/bench", body).result
        url, port = cluster.url(1), cluster.port + 1
        singles = [
            points(rng, random.Random(k).randrange(10**9), 1, DIMENSION) for k in range(4000)
        ]
        with_wrk(url, Path(folder), singles, 20, 3)
        time.sleep(SETTLE_S)
        for connections in (20, 1):
            before = terms(cluster)
            got = with_wrk(url, Path(folder), singles, connections, options.seconds)
            row("single points, 384-d", connections, got, before != terms(cluster), table)
        for name, count, batches in (("150 KB batches", 100, 600), ("1 MiB batches", 640, 120)):
            bodies = [points(rng, 10**9 + k * count, count, DIMENSION) for k in range(batches)]
            before = terms(cluster)
            got = with_batches(port, bodies, 16)
            row(name, 16, got, before != terms(cluster), table)
    Console().print(table)
    return 0


def row(name: str, in_flight: int, got: Figures, changed: bool, table: Table) -> None:  # noqa: FBT001
    """Add one line to the table."""
    rates = f"{got.rate:,.0f}", f"{got.p50_ms:.1f}", f"{got.p99_ms:.1f}"
    table.add_row(name, str(in_flight), *rates, "some" if changed else "none")


if __name__ == "__main__":
    sys.exit(main())
