"""Three hops of a graph: in the adjacency that a node has, beside a search over plain Python lists.

    python -m bench.graph_khop [--data DIR]

DIR holds `docs.jsonl.gz` and `edges.jsonl.gz` of WordNet: the first 20,000 synsets, joined by one
hyperedge for each pointer up or down. Without it a tree of the same size is grown, in which who
has many children gets more. All ways answer all starts in each round, rounds alternate, and the
median counts. The last row asks while the graph changes before every question.
"""

from __future__ import annotations

import gc
import gzip
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

import orjson
import typer
from rich.console import Console
from rich.table import Table

from graph.adjacency import Adjacency
from graph.budget import Budget
from graph.model import GraphDelta, StoredEdge, StoredNode
from graph.state import GraphState

HOPS = 3
NODES = 20_000
WRITES = 1000
EXPANSIONS_MAX = 100_000_000
POINTERS = ("@", "~")

Edges = list[tuple[str, str]]
Answer = Callable[[], int]
"""Answers all starts, and returns how many nodes were reached in all."""


class Way(NamedTuple):
    """One way to answer so many starts; `prepared` makes it ready for a round, untimed.

    A round takes at least `least_s`, in as many passes as that needs: what is quick is else
    measured by how well it gets going.
    """

    starts: int
    prepared: Callable[[], Answer]
    least_s: float = 0.3


def main(
    data: Annotated[Path | None, typer.Option(help="folder of WordNet; none: a grown tree")] = None,
    nodes: Annotated[int, typer.Option(help="use the first N synsets")] = NODES,
    batch: Annotated[int, typer.Option(help="starts in one question")] = NODES,
    rounds: Annotated[int, typer.Option(help="rounds, of which the median counts")] = 7,
) -> None:
    """Measure starts a second: plain lists, served one by one, served as a batch."""
    ids, edges = grown(nodes) if data is None else wordnet(data, nodes)
    state = stored(ids, edges)
    ways = {
        "breadth-first over plain lists": plain(ids, edges),
        "served, one start": one_by_one(state),
        f"served, batches of {min(batch, len(ids)):,}": in_batches(state, batch),
        "served, one start, a write before each": while_written(state),
    }
    rates = measured(ways, rounds)
    console = Console()
    console.print(f"{len(ids):,} nodes, {len(edges):,} hyperedges, {HOPS} hops, one thread")
    console.print(report(rates))


def wordnet(data: Path, count: int) -> tuple[list[str], Edges]:
    """Return the first synsets and the pointers among them."""
    with gzip.open(data / "docs.jsonl.gz") as lines:
        ids = [orjson.loads(line)["id"] for line, _ in zip(lines, range(count), strict=False)]
    # pointers call a satellite adjective by the letter of all adjectives
    names = {"a" + name[1:]: name for name in ids if name.startswith("s")}
    names |= {name: name for name in ids}
    with gzip.open(data / "edges.jsonl.gz") as lines:
        rows = (orjson.loads(line) for line in lines)
        return ids, [
            (names[source], names[target])
            for source, pointer, target in rows
            if pointer in POINTERS and source in names and target in names
        ]


def grown(count: int) -> tuple[list[str], Edges]:
    """Return a tree in which each new node chooses the parent of a random edge, or its child."""
    rng = random.Random(1)
    ids = [f"n{at}" for at in range(count)]
    ends = [0]
    edges = []
    for at in range(1, count):
        parent = rng.choice(ends)
        ends += (parent, at)
        edges += [(ids[at], ids[parent]), (ids[parent], ids[at])]
    return ids, edges


def stored(ids: Sequence[str], edges: Edges) -> GraphState:
    """Return the graph in memory."""
    nodes = [StoredNode(name, (), b"{}", 1, 0, 0) for name in ids]
    rows = [joined(f"e{at}", *edge) for at, edge in enumerate(edges)]
    return GraphState().apply(GraphDelta(1, nodes, rows))


def joined(edge_id: str, source: str, target: str) -> StoredEdge:
    """Return a hyperedge of two members."""
    return StoredEdge(
        edge_id, "IS_A", (source, target), (), b"{}", 1.0, (), None, None, version=1, created=0,
        updated=0,
    )  # fmt: skip


def plain(ids: Sequence[str], edges: Edges) -> Way:
    """Return the search that one would write without a store."""
    number = {name: at for at, name in enumerate(ids)}
    sets: list[dict[int, None]] = [{} for _ in ids]
    for source, target in edges:
        sets[number[source]][number[target]] = None
        sets[number[target]][number[source]] = None
    lists = [list(near) for near in sets]

    def search(start: int) -> list[int]:
        seen, front, found = {start}, [start], []
        for _ in range(HOPS):
            level = []
            for node in front:
                for near in lists[node]:
                    if near not in seen:
                        seen.add(near)
                        level.append(near)
            found += level
            front = level
        return found

    return Way(len(ids), lambda: lambda: sum(len(search(start)) for start in range(len(ids))))


def one_by_one(state: GraphState) -> Way:
    """Return the way of single questions, each with a budget of its own."""
    adjacency = Adjacency()

    def ask(start: int) -> int:
        found = adjacency.khop(state, (start,), HOPS, budget=Budget(EXPANSIONS_MAX))
        return len(found.neighbours[0])

    return Way(state.slots, lambda: lambda: sum(map(ask, range(state.slots))))


def in_batches(state: GraphState, size: int) -> Way:
    """Return the way of batches."""
    adjacency = Adjacency()
    starts = list(range(state.slots))

    def ask(part: list[int]) -> int:
        found = adjacency.khop_many(state, part, HOPS, budget=Budget(EXPANSIONS_MAX))
        return len(found.slots)

    def answer() -> int:
        return sum(ask(starts[at : at + size]) for at in range(0, len(starts), size))

    return Way(len(starts), lambda: answer)


def while_written(state: GraphState) -> Way:
    """Return the way of single questions about states that each differ by an edge.

    What is measured is how an adjacency follows: the states are made before the clock runs.
    """
    adjacency = Adjacency()
    rng = random.Random(2)
    ids = [node.id for node in state.nodes()]
    states = [state]

    def prepared() -> Answer:
        del states[:-1]
        while len(states) <= WRITES:
            edge = joined("moving", *rng.sample(ids, 2))
            changed = GraphDelta(states[-1].version + 1, [], [edge])
            states.append(states[-1].apply(changed))
        starts = [rng.randrange(state.slots) for _ in range(WRITES)]
        return lambda: sum(map(ask, starts, states[1:]))

    def ask(start: int, asked: GraphState) -> int:
        found = adjacency.khop(asked, (start,), HOPS, budget=Budget(EXPANSIONS_MAX))
        return len(found.neighbours[0])

    adjacency.khop_many(state, range(state.slots), HOPS, budget=Budget(EXPANSIONS_MAX))
    return Way(WRITES, prepared, least_s=1e-9)


def measured(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """Return starts a second of each way and round, after a round that is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    reached = [way.prepared()() for way in ways.values()]
    assert len(dict.fromkeys(reached[:3])) == 1, "all ways reach the same nodes"
    for _ in range(rounds):
        for name, way in ways.items():
            answer = way.prepared()
            gc.collect()
            passes, began = 0, time.perf_counter()
            elapsed_s = 0.0
            while elapsed_s < way.least_s:
                answer()
                passes, elapsed_s = passes + 1, time.perf_counter() - began
            rates[name].append(passes * way.starts / elapsed_s)
    return rates


def report(rates: dict[str, list[float]]) -> Table:
    """Return the results as a table; ratios are to the first way, of the same round."""
    table = Table("way", title=f"{HOPS}-hop neighbours")
    for heading in ("starts/s", "slowest", "fastest", "ratio"):
        table.add_column(heading, justify="right")
    (plain_rates, *_) = rates.values()
    for name, each in rates.items():
        ratio = median(rate / first for rate, first in zip(each, plain_rates, strict=True))
        table.add_row(
            name, f"{median(each):,.0f}", f"{min(each):,.0f}", f"{max(each):,.0f}", f"{ratio:.2f}"
        )
    return table


if __name__ == "__main__":
    typer.run(main)
