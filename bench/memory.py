"""What a vector takes of a node's memory, and where it lies.

`python -m bench.memory --data DIR [--nodes 3]` stores all vectors with a small payload, waits
until they are indexed, searches for a moment, and reads /proc/PID/smaps (Linux) before, between
and after. `--folder` keeps the nodes' folders for another measurement.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.dataset import opened
from bench.served import Served, family, processor_seconds, serving
from bench.systems import Points, until_indexed

_REGION: Final = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)$")
_ALL: Final = "all (PSS)"
_CONNECTIONS: Final = 8


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.memory")
    parser.add_argument("--data", type=Path, help="folder of the data set; else generated")
    parser.add_argument("--rows", type=int, default=0, help="first rows only; 0: all")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the searching")
    parser.add_argument("--folder", type=Path, help="where the nodes' folders are kept")
    options = parser.parse_args(words)
    data = opened(options.data, options.rows)
    console = Console()
    with serving(options.nodes, options.folder) as cluster:
        system = Points("Recollect", list(cluster.ports.values()), None)
        seen = {"start": _regions(cluster)}
        began, used = time.perf_counter(), _used(cluster)
        system.store(data.vectors)
        stored_s, seen["stored"] = time.perf_counter() - began, _regions(cluster)
        until_indexed(system, len(data.vectors))
        green_s, seen["indexed"] = time.perf_counter() - began, _regions(cluster)
        spent = _used(cluster) - used
        speed = system.speed(data.queries, None, _CONNECTIONS, options.seconds)
        seen["searched"] = _regions(cluster)
        console.print(_table(seen, len(data.vectors)))
        console.print(f"acknowledged in {stored_s:.1f} s, indexed in {green_s:.1f} s,")
        console.print(f"processor {spent:.1f} s, {speed.rate:,.0f} searches/s")
    return 0


def _used(cluster: Served) -> float:
    return sum(processor_seconds(process.pid) for process in cluster.processes.values())


def _regions(cluster: Served) -> Counter[str]:
    """Return the resident bytes of all nodes together, by what they are."""
    total: Counter[str] = Counter()
    for process in cluster.processes.values():
        for pid in family(process.pid):
            total += _regions_of(pid)
    total[_ALL] = total.total()
    return total


def _regions_of(pid: int) -> Counter[str]:
    """Return a process's bytes, with its share of what several have, by what they are."""
    found: Counter[str] = Counter()
    kind = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        region = _REGION.match(line)
        if region is not None:
            kind = _kind(region[1])
        elif line.startswith("Pss:"):
            found[kind] += int(line.split()[1]) * 1024
    return found


def _kind(name: str) -> str:
    if not name:
        return "memory of its own"
    if name.startswith("["):
        return {"[heap]": "heap"}.get(name, "stack and kernel")
    return "SQLite files" if "/groups/" in name else "programs and other files"


def _table(seen: dict[str, Counter[str]], rows: int) -> Table:
    table = Table(title=f"{rows:,} vectors; KB a vector above the start, MB at the start")
    table.add_column("what")
    for moment in seen:
        table.add_column(moment, justify="right")
    start = seen["start"]
    for kind in sorted({kind for each in seen.values() for kind in each}):
        cells = [f"{(each[kind] - start[kind]) / rows / 1024:.2f}" for each in seen.values()]
        table.add_row(kind, f"{start[kind] / 1e6:.0f}", *cells[1:])
    return table


if __name__ == "__main__":
    raise SystemExit(main())
