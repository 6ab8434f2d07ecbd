"""Answers of several graphs made one, against sorting all that they hold."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cluster.api.graph_merging import merged_recall, merged_rows
from graph.budget import Budget
from graph.cypher import RunContext, parse, run
from graph.model import GraphDelta, StoredNode
from graph.state import GraphState

NAMES = ["red", "green", "blue"]
ROWS_MAX = 6

_counts = st.integers(0, 8)


def answered(text: str, numbers: list[int], parameters: dict[str, Any]) -> dict[str, Any]:
    """Return what a graph of nodes with these numbers answers to be merged."""
    nodes = [
        StoredNode(str(at), (), b'{"n":%d}' % number, 1, 0, 0) for at, number in enumerate(numbers)
    ]
    context = RunContext(
        parameters=parameters,
        budget=Budget(10_000),
        rows_max=ROWS_MAX,
        now_ms=0,
        new_id=lambda: "new",
        unsliced=True,
    )
    outcome = run(parse(text), GraphState().apply(GraphDelta(1, nodes)), context)
    return {
        "columns": outcome.columns,
        "rows": outcome.rows,
        "truncated": outcome.cut is not None,
        "truncated_by": outcome.cut,
        "order_keys": outcome.order_keys,
    }


@given(
    held=st.lists(st.lists(st.integers(0, 9), max_size=9), min_size=3, max_size=3),
    skip=_counts,
    limit=_counts,
)
def test_rows_of_several_graphs_are_sliced_once(
    held: list[list[int]], skip: int, limit: int
) -> None:
    """Order, SKIP and LIMIT are of the whole, written out or given as parameters."""
    parameters = {"skip": skip, "limit": limit}
    whole = sorted(number for numbers in held for number in numbers)
    for words in (f"SKIP {skip} LIMIT {limit}", "SKIP $skip LIMIT $limit"):
        text = f"MATCH (a) RETURN a.n AS n ORDER BY n {words}"
        found = [answered(text, numbers, parameters) for numbers in held]
        merged = merged_rows(parse(text), parameters, NAMES, found, ROWS_MAX)
        rows = [number for _, number in merged["rows"]]

        assert merged["columns"] == ["graph", "n"]
        assert len(rows) <= ROWS_MAX
        assert merged["truncated"] is (merged["truncated_by"] is not None)
        if not merged["truncated"]:
            assert rows == whole[skip : skip + limit]


def test_recalled_nodes_of_several_graphs_are_ranked_together() -> None:
    """The most useful first, of equal ones by the graph's name, each with that name."""

    def found(*pairs: tuple[str, float], truncated: bool = False) -> dict[str, Any]:
        results = [{"node": {"id": name}, "utility": value} for name, value in pairs]
        matches = [{"id": name, "score": value} for name, value in pairs]
        return {"results": results, "matches": matches, "truncated": truncated}

    told = [found(("a", 0.9), ("b", 0.2)), found(("a", 0.9), truncated=True), found(("c", 0.5))]
    merged = merged_recall(NAMES, told, 3)

    assert [(each["graph"], each["node"]["id"]) for each in merged["results"]] == [
        ("green", "a"),
        ("red", "a"),
        ("blue", "c"),
    ]
    assert [match["score"] for match in merged["matches"]] == [0.9, 0.9, 0.5, 0.2]
    assert merged["truncated"] is True
