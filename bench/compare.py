"""Searching side by side, in one run: hnswlib, a plain server, one node, three nodes, and peers.

    python -m bench [--data DIR] [--qdrant URL] [--json FILE] [--picture FILE]

Each system stores the vectors, then searches: for recall, with its default beam width, from 8
connections and from one, and with other beam widths for a curve. In-process hnswlib takes its turn
before every such round, and a ratio is within its round: a machine that others share differs from
itself from minute to minute. The medians of the rounds count. What of hnswlib a server can have at
all on a machine, a plain one shows (`bench.plain`). Peers are measured where they are
installed (`pip install -e '.[bench]'`), Qdrant where a URL says that it runs on this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench import dataset, peers
from bench.curves import draw
from bench.dataset import Dataset, recall
from bench.plain import plain
from bench.systems import InProcess, System, qdrant, recollect, until_indexed

CONNECTIONS: Final = 8
CURVE: Final = (16, 24, 32, 48, 64, 96, 128, 256)
RECALL_MIN: Final = 0.97
WIDTH_MIN: Final = 140
_RECALL_QUERIES: Final = 1000
_CURVE_S: Final = 2.0
_WARM_UP_S: Final = 15.0
"""A node measures how wide to search beside the first ten thousand searches."""
_COLUMNS: Final = (
    "system",
    "recall@10",
    "QPS 8",
    "of hnswlib",
    "p50 ms",
    "p99 ms",
    "one: p50 ms",
    "p99 ms",
    "acked/s",
    "indexed/s",
    "KB/vector",
)


@dataclass(frozen=True)
class Point:
    """One place on a curve."""

    ef: int
    recall: float
    rate: float


@dataclass(kw_only=True)
class Figures:
    """What was measured of one system; times in milliseconds."""

    system: str
    recall: float
    rate: float
    ratio: float
    """To in-process hnswlib with as many threads, at the beam width that has the same recall."""
    p50_ms: float
    p99_ms: float | None
    single_p50_ms: float
    single_p99_ms: float
    acked_per_s: float | None = None
    indexed_per_s: float | None = None
    """From the first write until all is in the index."""
    kb_per_vector: float | None = None
    curve: list[Point] = field(default_factory=list)


def main(words: Sequence[str] | None = None) -> int:
    """Measure everything, and show it."""
    options = _parser().parse_args(words)
    console = Console(stderr=True)
    data = dataset.opened(options.data, options.rows, options.queries)
    limit = InProcess(data.vectors.shape[1])
    console.print(f"{data.name}: {data.vectors.shape}, {len(data.queries)} queries")
    limit.store(data.vectors)
    bench = _Bench(data, limit, options.rounds, options.seconds, console)
    found = [bench.limit_figures()]
    for start in _systems(bench, options.qdrant, options.only):
        with start() as system:
            found.append(bench.measured(system))
        console.print(_line(found[-1]))
    report = {**_where(), "data": data.name, "rows": len(data.vectors)}
    shown = Console()
    shown.width = max(shown.width, WIDTH_MIN)
    shown.print(_table(found, report))
    if options.json:
        systems = [asdict(each) for each in found]
        options.json.write_text(json.dumps({**report, "systems": systems}, indent=2) + "\n")
    if options.picture:
        draw(options.picture, {each.system: each.curve for each in found}, str(report["data"]))
    return 0


class _Bench:
    """The rounds. `limit` is in-process hnswlib, whose index is built; `ef` gives it RECALL_MIN."""

    def __init__(
        self, data: Dataset, limit: InProcess, rounds: int, seconds: float, console: Console
    ) -> None:
        self._data = data
        self.limit = limit
        self._rounds = rounds
        self._seconds = seconds
        self._console = console
        self._asked = data.queries[:_RECALL_QUERIES]
        self.ef = next(
            (ef for ef in range(8, 513, 4) if self._recall(limit, ef) >= RECALL_MIN), 512
        )

    def limit_figures(self) -> Figures:
        """Return what in-process hnswlib does with the beam width that reaches RECALL_MIN."""
        runs = [self._limit_speed(CONNECTIONS) for _ in range(self._rounds)]
        singles = [self._limit_speed(1) for _ in range(self._rounds)]
        return Figures(
            system=f"{self.limit.name}, ef {self.ef}",
            recall=self._recall(self.limit, self.ef),
            rate=statistics.median(run.rate for run in runs),
            ratio=1.0,
            p50_ms=statistics.median(run.p50_ms for run in runs),
            p99_ms=None,
            single_p50_ms=statistics.median(run.p50_ms for run in singles),
            single_p99_ms=statistics.median(run.p99_ms for run in singles),
            curve=self._curve(self.limit),
        )

    def measured(self, system: System) -> Figures:
        """Store, wait, search; return the figures."""
        self._console.print(f"{system.name}: storing")
        total = len(self._data.vectors)
        before = system.memory_bytes()
        began = time.perf_counter()
        system.store(self._data.vectors)
        acked_s = time.perf_counter() - began
        until_indexed(system, total)
        indexed_s = time.perf_counter() - began
        self._console.print(f"{system.name}: searching")
        found = self._searched(system)
        after = system.memory_bytes()  # caches are full, and what storing took is given back
        if not system.stores:
            return found
        found.acked_per_s, found.indexed_per_s = total / acked_s, total / indexed_s
        if before is not None and after is not None:
            found.kb_per_vector = (after - before) / total / 1024
        return found

    def _searched(self, system: System) -> Figures:
        asked = self._data.queries
        system.speed(asked, None, CONNECTIONS, _WARM_UP_S)
        limits, runs, singles = [], [], []
        for _ in range(self._rounds):
            limits.append(self._limit_speed(CONNECTIONS))
            runs.append(system.speed(asked, None, CONNECTIONS, self._seconds))
            singles.append(system.speed(asked, None, 1, self._seconds / 2))
        pairs = zip(runs, limits, strict=True)
        return Figures(
            system=system.name,
            recall=self._recall(system, None),
            rate=statistics.median(run.rate for run in runs),
            ratio=statistics.median(run.rate / limit.rate for run, limit in pairs),
            p50_ms=statistics.median(run.p50_ms for run in runs),
            p99_ms=statistics.median(run.p99_ms for run in runs),
            single_p50_ms=statistics.median(run.p50_ms for run in singles),
            single_p99_ms=statistics.median(run.p99_ms for run in singles),
            curve=self._curve(system),
        )

    def _limit_speed(self, threads: int) -> Any:
        return self.limit.speed(self._data.queries, self.ef, threads, self._seconds / 2)

    def _recall(self, system: System, ef: int | None) -> float:
        return recall(system.find(self._asked, ef), self._data.truth)

    def _curve(self, system: System) -> list[Point]:
        return [
            Point(
                ef,
                self._recall(system, ef),
                system.speed(self._data.queries, ef, CONNECTIONS, _CURVE_S).rate,
            )
            for ef in CURVE
        ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--data", type=_folder, help="folder of the data set; else generated")
    parser.add_argument("--rows", type=int, default=0, help="first rows only; 0: all")
    parser.add_argument("--queries", type=int, default=0, help="first queries only; 0: all")
    parser.add_argument("--rounds", type=int, default=3, help="the medians of so many count")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a round's search")
    parser.add_argument("--qdrant", default="", help="URL of a Qdrant server on this machine")
    parser.add_argument("--only", default="", help="some of plain,one,three,qdrant,chroma,pgvector")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--picture", type=Path, help="file for the curves (.svg or .png)")
    return parser


def _folder(text: str) -> Path | None:
    return Path(text) if text else None


def _systems(
    bench: _Bench, qdrant_url: str, only: str
) -> list[Callable[[], AbstractContextManager[System]]]:
    """Return what starts each system that is there."""
    known: dict[str, Callable[[], AbstractContextManager[System]]] = {
        "plain": partial(plain, bench.limit, bench.ef),
        "one": partial(recollect, 1),
        "three": partial(recollect, 3),
    }
    if qdrant_url:
        known["qdrant"] = partial(qdrant, qdrant_url)
    program = peers.chroma_program()
    if program is not None:
        known["chroma"] = partial(peers.chroma, program)
    if peers.has_pgvector():
        known["pgvector"] = peers.pgvector
    wanted = only.split(",") if only else known
    return [start for name, start in known.items() if name in wanted]


def _where() -> dict[str, Any]:
    """Return the machine, the commit and the time."""
    processor = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line for line in lines if line.startswith("model name")), processor)
    words = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "machine": f"{os.cpu_count()} cores, {processor.partition(':')[2].strip() or processor}",
        "load": os.getloadavg()[0],
        "commit": commit,
        "at": time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime()),
    }


def _table(found: Sequence[Figures], report: dict[str, Any]) -> Table:
    title = f"{report['data']}, {report['rows']:,} vectors; {report['machine']}; {report['commit']}"
    table = Table(title=title)
    for heading in _COLUMNS:
        table.add_column(heading, justify="left" if heading == "system" else "right")
    for each in found:
        table.add_row(
            each.system,
            f"{each.recall:.4f}",
            f"{each.rate:,.0f}",
            f"{each.ratio:.2f}",
            f"{each.p50_ms:.2f}",
            _optional(each.p99_ms, ".2f"),
            *(f"{ms:.2f}" for ms in (each.single_p50_ms, each.single_p99_ms)),
            *(_optional(rate, ",.0f") for rate in (each.acked_per_s, each.indexed_per_s)),
            _optional(each.kb_per_vector, ".2f"),
        )
    return table


def _line(each: Figures) -> str:
    ratio = f"{each.ratio:.2f} of hnswlib in process"
    return f"{each.system}: recall {each.recall:.4f}, {each.rate:,.0f} searches/s, {ratio}"


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
