"""A graph over HTTP on three nodes: loading, neighbourhoods, and a query that runs away.

`python -m bench.graph_http --data DIR` loads all of WordNet into a three-node cluster and measures,
in one run: hyperedges acknowledged a second; 3-hop neighbourhoods on the first 20,000 synsets with
their hypernyms and hyponyms, one start a request and 1,000; and the searches of a collection beside
`MATCH (a)-[*]->(b)` on the whole graph, which must end at its limit. DIR holds docs.jsonl.gz,
edges.jsonl.gz and vectors.f16.npy.
"""

from __future__ import annotations

import argparse
import gzip
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from bench import load
from bench.http_search import call
from bench.nodes import running

NODES_BATCH = 2_000
EDGES_BATCH = 1_500
SMALL = 20_000
RUN_AWAY = {"query": "MATCH (a)-[*]->(b) RETURN count(*)", "timeout_ms": 1500}
SEARCHED = 20_000


def lines(path: Path) -> Iterator[Any]:
    """Yield the values of a gzipped file of JSON lines."""
    with gzip.open(path) as file:
        for line in file:
            yield orjson.loads(line)


def read_graph(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return nodes and edges as the API takes them."""
    nodes = [
        {
            "id": doc["id"],
            "labels": ["Synset"],
            "properties": {key: doc[key] for key in ("pos", "lex", "words", "text")},
        }
        for doc in lines(folder / "docs.jsonl.gz")
    ]
    known = {node["id"] for node in nodes}

    def named(name: str) -> str:
        return name if name in known else f"s{name[1:]}"  # satellite adjectives

    edges = [
        {
            "id": f"{source} {symbol} {target}",
            "label": symbol,
            "members": [named(source), named(target)],
        }
        for source, symbol, target in lines(folder / "edges.jsonl.gz")
    ]
    return nodes, edges


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of at most `size`."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def store(port: int, name: str, nodes: Sequence[Any], edges: Sequence[Any]) -> tuple[float, float]:
    """Load a graph; return nodes and edges acknowledged per second."""
    call(port, "PUT", f"/graph/{name}", {"vectors": None})
    rates = []
    for kind, items, size in (("nodes", nodes, NODES_BATCH), ("edges", edges, EDGES_BATCH)):
        requests = [
            load.request("POST", f"/graph/{name}/{kind}", orjson.dumps({kind: batch}))
            for batch in batches(items, size)
        ]
        rates.append(len(items) / load.run(port, requests, 4).elapsed_s)
    return rates[0], rates[1]


def khop(ids: Sequence[str], starts: int) -> list[bytes]:
    """Return requests for 3-hop neighbourhoods, so many starts each."""
    return [
        load.request(
            "POST", "/graph/small/khop", orjson.dumps({"ids": part, "hops": 3, "direction": "out"})
        )
        for part in batches(ids, starts)
    ]


def store_vectors(port: int, folder: Path) -> list[bytes]:
    """Fill a collection; return searches in it."""
    vectors = np.load(folder / "vectors.f16.npy", mmap_mode="r")[:SEARCHED].astype(np.float32)
    size = vectors.shape[1]
    call(port, "PUT", "/collections/bench", {"vectors": {"size": size, "distance": "Cosine"}})
    for part in batches(enumerate(vectors), 500):
        points = [{"id": at, "vector": row.tolist()} for at, row in part]
        call(port, "PUT", "/collections/bench/points", {"points": points})
    while call(port, "GET", "/collections/bench")["status"] != "green":
        time.sleep(0.5)
    return [
        load.request(
            "POST",
            "/collections/bench/points/query",
            orjson.dumps({"query": row, "limit": 10}, option=orjson.OPT_SERIALIZE_NUMPY),
        )
        for row in vectors[:6000]
    ]


class RunAway:
    """Keeps a node busy with a query that never ends by itself."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers: list[tuple[float, dict[str, Any]]] = []

    def __enter__(self) -> RunAway:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.perf_counter()
            body = {**RUN_AWAY, "expansions_max": 10_000_000, "limit": 10_000}
            answer = call(self._port, "POST", "/graph/whole/cypher", body)
            self.answers.append((time.perf_counter() - began, answer))


def neighbourhoods(port: int, ids: Sequence[str], rounds: int) -> list[tuple[str, str]]:
    """Measure 3-hop neighbourhoods, one start a request and many; the median of the rounds."""
    single = [load.run(port, khop(ids[:3000], 1), 1) for _ in range(rounds)]
    single.sort(key=lambda run: run.latency_ms(0.5))
    middle = single[len(single) // 2]
    many = [load.run(port, khop(ids, 1000), 2) for _ in range(rounds)]
    rates = sorted(len(ids) / run.elapsed_s for run in many)
    figures = f"{middle.latency_ms(0.5):.2f} / {middle.latency_ms(0.99):.2f}"
    return [
        ("3-hop, one start, p50 / p99 ms", figures),
        ("3-hop, 1,000 starts a request, starts a second", f"{rates[len(rates) // 2]:,.0f}"),
    ]


def beside_a_run_away(port: int, searches: list[bytes], rounds: int) -> list[tuple[str, str]]:
    """Measure searches alone and beside a query that never ends by itself."""
    load.run(port, searches[:1000], 4)
    runs = []
    for _ in range(rounds):
        idle = load.run(port, searches, 4)
        with RunAway(port) as away:
            time.sleep(0.5)
            busy = load.run(port, searches, 4)
        runs.append((busy.latency_ms(0.99) / idle.latency_ms(0.99), idle, busy, away))
    runs.sort(key=lambda each: each[0])
    ratio, idle, busy, away = runs[len(runs) // 2]
    seconds, answer = away.answers[0]
    return [
        (f"search {name}, p50 / p99 ms", f"{run.latency_ms(0.5):.2f} / {run.latency_ms(0.99):.2f}")
        for name, run in (("alone", idle), ("beside a run-away query", busy))
    ] + [
        ("p99 ratio", f"{ratio:.2f}"),
        ("run-away query answered after, s", f"{seconds:.2f}"),
        ("its rows, and what ended it", f"{len(answer['rows']):,}, {answer['truncated_by']}"),
    ]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="bench.graph_http")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3, help="the median counts")
    options = parser.parse_args()
    nodes, edges = read_graph(options.data)
    few = {node["id"] for node in nodes[:SMALL]}
    near = [edge for edge in edges if edge["label"] in "@~" and few.issuperset(edge["members"])]
    table = Table(title=f"three nodes; {len(nodes):,} nodes, {len(edges):,} hyperedges")
    for column in ("what", "figure"):
        table.add_column(column, justify="left" if column == "what" else "right")
    with running(3) as (port, *_):
        node_rate, edge_rate = store(port, "whole", nodes, edges)
        table.add_row("nodes acknowledged a second", f"{node_rate:,.0f}")
        table.add_row("hyperedges acknowledged a second", f"{edge_rate:,.0f}")
        store(port, "small", nodes[:SMALL], near)
        ids = [node["id"] for node in nodes[:SMALL]]
        rows = neighbourhoods(port, ids, options.rounds)
        rows += beside_a_run_away(port, store_vectors(port, options.data), options.rounds)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
