"""What a cluster costs that does nothing: part of a core each node takes, by number of shards.

`python -m bench.idle` starts three nodes with 12 shards, then with 48 (and the metadata group), and
reads the nodes' processor time over a while in which nobody asks for anything.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.helpers import Cluster, running_cluster

SETTLE_S = 8.0


def processor_s(pid: int) -> float:
    """Return the processor time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def parts_of_a_core(cluster: Cluster, seconds: float) -> list[float]:
    """Return what each node takes, in percent of a core."""
    time.sleep(SETTLE_S)
    before, began = [processor_s(pid) for pid in cluster.pids], time.perf_counter()
    time.sleep(seconds)
    elapsed = time.perf_counter() - began
    after = [processor_s(pid) for pid in cluster.pids]
    return [100 * (b - a) / elapsed for a, b in zip(before, after, strict=True)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.idle")
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    table = Table(title="idle: percent of a core, by node")
    for column in ("shards", "node1", "node2", "node3"):
        table.add_column(column, justify="right")
    for shards in (12, 48):
        with (
            tempfile.TemporaryDirectory() as folder,
            running_cluster(Path(folder), "--shards", str(shards)) as cluster,
        ):
            parts = parts_of_a_core(cluster, options.seconds)
        table.add_row(str(shards), *(f"{part:.1f}" for part in parts))
    Console().print(table)


if __name__ == "__main__":
    main()
