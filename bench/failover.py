"""How long a shard takes no writes after its leader is killed with -9.

`python -m bench.failover --rounds 30` runs three nodes on this machine. In each round one writer
sends single points, all of one shard, one after another through a node that survives; the
shard's leader is killed; the gap is the time between the last acknowledgement before and the
first one after the kill. Then the node is started again.
"""

from __future__ import annotations

import argparse
import http.client
import random
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.helpers import Cluster, eventually, running_cluster

POINTS = "/collections/failover/points?wait=true"


class Writer:
    """Writes one point again and again; remembers when each acknowledgement came."""

    def __init__(self, url: str, point: int) -> None:
        self.acked_s: list[float] = []
        self._address = url.removeprefix("http://")
        self._body = orjson.dumps({"points": [{"id": point, "vector": [1.0, 2.0]}]})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=10)
        while not self._stop.is_set():
            connection.request("PUT", POINTS, self._body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                self.acked_s.append(time.monotonic())

    def stop(self) -> None:
        """End after the request under way."""
        self._stop.set()
        self._thread.join()


def leader_of(cluster: Cluster, shard: int, node: int) -> int:
    """Return the number of the node that leads a shard; 0: nobody known."""
    found: dict[str, Any] = cluster.call("GET", "/cluster", node=node).result["shards"][shard]
    return int(found["leader"].removeprefix("node")) if found["leader"] else 0


def one_round(cluster: Cluster, point: int, shard: int) -> float:
    """Kill the leader of a shard under writes; return the gap in seconds."""
    victim = eventually(lambda: leader_of(cluster, shard, 1), 30)
    survivor = next(node for node in (1, 2, 3) if node != victim)
    writer = Writer(cluster.url(survivor), point)
    eventually(lambda: len(writer.acked_s) > 20, 30)
    killed_s = time.monotonic()
    cluster.kill(victim)
    eventually(lambda: writer.acked_s[-1] > killed_s + 0.5, 30)
    writer.stop()
    cluster.restart(victim)
    eventually(lambda: all(cluster.is_ready(node) for node in (1, 2, 3)), 30)
    times = [at for at in writer.acked_s if at > killed_s - 1]
    return max(after - before for before, after in pairwise(times))


def main() -> None:
    """Measure and print."""
    from cluster.ring import shard_of
    from storage.ids import encode_id

    parser = argparse.ArgumentParser(prog="bench.failover")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    rng, gaps = random.Random(7), []
    with (
        tempfile.TemporaryDirectory() as folder,
        running_cluster(Path(folder)) as cluster,
    ):
        body = {"vectors": {"size": 2, "distance": "Dot"}}
        assert cluster.call("PUT", "/collections/failover", body).result
        for _ in track(range(options.rounds), "rounds", console=Console(stderr=True)):
            point = rng.randrange(10**6)
            gaps.append(one_round(cluster, point, shard_of(encode_id(point), 12)))
    gaps.sort()
    table = Table(title=f"time without writes after kill -9 of the leader, n={len(gaps)}")
    for column in ("p50 s", "p90 s", "p99 s", "max s"):
        table.add_column(column, justify="right")
    at = [min(len(gaps) - 1, int(quantile * len(gaps))) for quantile in (0.5, 0.9, 0.99, 1)]
    table.add_row(*(f"{gaps[position]:.2f}" for position in at))
    Console().print(table)


if __name__ == "__main__":
    main()
