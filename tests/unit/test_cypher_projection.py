"""WITH, RETURN and UNWIND: columns, aggregates, order, slices."""

from typing import Any

import pytest

from graph.cypher import final_slice, merge_key, parse
from graph.errors import BadQuery
from tests.unit.cypher_graph import column, edge, graph, node, outcome, rows, value

STATE = graph(
    node("a", "X", k=1, g="p"),
    node("b", "X", k=2, g="p"),
    node("c", "X", k=3, g="q"),
    node("d", "Y"),
    edge("e", "T", "a", "b"),
)

CASES = [
    ("UNWIND [1, 2, 2, null, 3] AS x RETURN count(x), count(*), count(DISTINCT x)", [[4, 5, 3]]),
    ("UNWIND [1, 2, 2, null] AS x RETURN collect(x), collect(DISTINCT x)", [[[1, 2, 2], [1, 2]]]),
    ("UNWIND [1, 2.5, null] AS x RETURN sum(x), avg(x), min(x), max(x)", [[3.5, 1.75, 1, 2.5]]),
    ("UNWIND [] AS x RETURN sum(x), avg(x), min(x), collect(x)", [[0, None, None, []]]),
    ("UNWIND [] AS x RETURN x, count(*)", []),
    ("UNWIND [1, 'a', [1], true] AS x RETURN min(x), max(x)", [[[1], 1]]),
    ("UNWIND [1, 1.0, true, null, null] AS x RETURN x, count(*)", [[1, 2], [True, 1], [None, 2]]),
    ("UNWIND [[1], [1.0], {a: 1}, {a: 1}] AS x RETURN DISTINCT x", [[[1]], [{"a": 1}]]),
    ("UNWIND [3, 1, 2] AS x RETURN x ORDER BY x DESC SKIP 1 LIMIT 1", [[2]]),
    ("UNWIND [1, 2, 3, 4] AS x WITH x WHERE x > 1 WITH x LIMIT 2 RETURN sum(x)", [[5]]),
    ("UNWIND [1, 2] AS x UNWIND [x, x * 10] AS y RETURN x, y", [[1, 1], [1, 10], [2, 2], [2, 20]]),
    ("UNWIND null AS x RETURN x", []),
    ("UNWIND [1.0 / 0, 1, -1.0 / 0] AS x RETURN x > 0 ORDER BY x", [[False], [True], [True]]),
    ("UNWIND [1, 2, 3, 4] AS x RETURN x % 2 AS odd, sum(x) + count(*) AS s", [[1, 6], [0, 8]]),
    ("UNWIND [1, 2, 3] AS x WITH x, x % 2 AS m RETURN m, m + count(x), size(collect(x))",
     [[1, 3, 2], [0, 1, 1]]),
    ("UNWIND [1, 2] AS x RETURN x + 1, (x + 1) + count(*)", [[2, 3], [3, 4]]),
    ("UNWIND [2, 1] AS x RETURN x * 2 AS y ORDER BY x", [[2], [4]]),
    ("UNWIND [2, 1] AS x RETURN -x AS x ORDER BY x", [[-2], [-1]]),
    ("UNWIND [2, 1, 2] AS x RETURN DISTINCT x * 2 AS y ORDER BY x * 2", [[2], [4]]),
    ("UNWIND ['b', 'a', 'b'] AS x RETURN x, count(*) ORDER BY count(*), x", [["a", 1], ["b", 2]]),
    ("UNWIND [2, 1] AS x WITH x AS y WHERE x = 1 RETURN y", [[1]]),
    ("UNWIND [[1, 'b'], [1, 'a'], [0, 'c']] AS p WITH p[0] AS n, p[1] AS s "
     "RETURN s ORDER BY n DESC, s", [["a"], ["b"], ["c"]]),
    ("WITH 1 AS a, 2 AS b RETURN *, a + b AS c", [[1, 2, 3]]),
    ("WITH 1 AS a WITH *, 2 AS b RETURN b, a", [[2, 1]]),
    ("RETURN 1 AS x LIMIT 0", []),
    ("UNWIND [1, 2, 3] AS x RETURN x SKIP 5", []),
    ("MATCH (n:X) RETURN n.g, collect(n.k) ORDER BY n.g", [["p", [1, 2]], ["q", [3]]]),
    ("MATCH (n:X) WITH n ORDER BY n.k DESC LIMIT 2 RETURN collect(n.id)", [[["c", "b"]]]),
    ("MATCH (n) RETURN count(DISTINCT labels(n))", [[2]]),
    ("MATCH (n:X) WITH n.g AS g, count(*) AS c WHERE c > 1 RETURN g, c", [["p", 2]]),
    ("MATCH (n:X) RETURN max(n.k) - min(n.k) + $base", [[12]]),
    ("MATCH (n) WITH collect(n) AS all UNWIND all AS m RETURN count(DISTINCT m)", [[4]]),
    ("MATCH (n) WITH head(collect(n)) AS first MATCH (first)-->(m) RETURN m.id", [["b"]]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[text for text, _ in CASES])
def test_rows(text, expected):
    """A projection makes the rows that openCypher makes."""
    assert rows(text, STATE, base=10) == expected


def test_constants_of_different_kinds_are_different_columns():
    """What equals a grouping key is replaced by it; true and 1 are not equal."""
    text = "UNWIND [1, 2] AS x RETURN 1 AS one, CASE WHEN true THEN count(x) END AS c, 1.0 AS f"

    assert rows(text) == [[1, 2, 1.0]]


def test_columns_are_bounded():
    """More columns than anybody reads are refused."""
    with pytest.raises(BadQuery, match="at most 1000 columns"):
        parse("RETURN " + ", ".join(f"{n}" for n in range(1001)))


@pytest.mark.parametrize(
    "text",
    [
        "RETURN *",
        "WITH 1 AS a WITH 2 AS b RETURN a",
        "UNWIND [1] AS x RETURN x ORDER BY y",
        "UNWIND [1] AS x RETURN x + count(*)",
        "UNWIND [1] AS x RETURN DISTINCT x AS y ORDER BY x + z",
        "MATCH (n) RETURN DISTINCT n.k ORDER BY n.g",
        "MATCH (n) RETURN count(*) ORDER BY n.g",
        "MATCH (n) RETURN n.k ORDER BY count(*)",
        "MATCH (n) WHERE count(n) > 1 RETURN n",
        "UNWIND [1] AS x UNWIND [2] AS x RETURN x",
        "UNWIND 1 AS x RETURN x",
        "RETURN 1 AS a, 2 AS a",
        "WITH 1 RETURN 2",
        "RETURN 1 LIMIT -1",
        "RETURN 1 LIMIT 1.5",
        "RETURN 1 SKIP 'a'",
        "RETURN 1 LIMIT $missing",
        "UNWIND [1] AS x RETURN x LIMIT x",
        "UNWIND [1] AS x RETURN count(x, x)",
        "UNWIND [1] AS x RETURN sum(DISTINCT)",
    ],
)
def test_refused(text):
    """A projection that makes no sense is refused."""
    with pytest.raises(BadQuery):
        rows(text, STATE)


def test_parameters_slice():
    """SKIP and LIMIT take parameters."""
    text = "UNWIND range(1, 9) AS x RETURN x SKIP $s LIMIT $n"

    assert column(text, s=2, n=3) == [3, 4, 5]
    assert final_slice(parse(text), {"s": 2, "n": 3}) == (2, 3)
    assert final_slice(parse("RETURN 1")) == (0, None)
    assert final_slice(parse("CREATE (n)")) == (0, None)


def test_rows_of_several_graphs_can_be_merged():
    """Sort keys of unsliced answers put the rows of two graphs into one order."""
    text = "UNWIND $items AS x RETURN x, x IS NULL ORDER BY x IS NULL DESC, x DESC SKIP 1 LIMIT 4"
    halves: list[list[Any]] = [[3, 1, None, "z", 9.5], [2, "a", True, None, 7]]
    answers = [outcome(text, items=half, rest={"unsliced": True}) for half in halves]
    pairs = [
        pair for each in answers for pair in zip(each.order_keys or [], each.rows, strict=True)
    ]
    skip, limit = final_slice(parse(text))
    assert limit is not None

    merged = sorted(pairs, key=lambda pair: merge_key(pair[0]))

    whole = rows(text, items=halves[0] + halves[1])
    assert [row for _, row in merged][skip : skip + limit] == whole


def test_keys_only_with_order():
    """Without ORDER BY there are no sort keys."""
    assert outcome("RETURN 1").order_keys is None
    assert outcome("UNWIND [] AS x RETURN x ORDER BY x").order_keys == []


def test_order_is_stable_and_bounded():
    """With a LIMIT the first rows are those of a full sort, ties in their old order."""
    text = "UNWIND range(0, 4999) AS x RETURN x % 7 AS r, x ORDER BY r LIMIT 20"

    expected = sorted(([x % 7, x] for x in range(5000)), key=lambda row: row[0])[:20]
    assert rows(text) == expected


def test_order_by_null_and_mixed():
    """Nulls come last, and first when descending."""
    text = "MATCH (n) RETURN n.id ORDER BY n.k"

    assert column(text, STATE) == ["a", "b", "c", "d"]
    assert column(text + " DESC", STATE) == ["d", "c", "b", "a"]


def test_case_insensitive_words():
    """Keywords and functions are recognised in any case, names are not."""
    assert (
        value("match (N:X) with N Order By N.k desc limit 1 return SIZE(COLLECT(N.id))", STATE) == 1
    )
    with pytest.raises(BadQuery, match="the variable n is not defined"):
        rows("MATCH (N) RETURN n", STATE)
