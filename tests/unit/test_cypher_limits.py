"""Limits of Cypher: work, time, rows and memory, and what is answered when one is reached."""

import itertools
from contextlib import suppress
from functools import partial

import pytest

from graph.budget import Budget
from graph.cypher import answer, runtime
from graph.errors import BadQuery, TooLarge, WriteCutShort
from graph.model import PROPERTIES_BYTES_MAX
from graph.property_index import PropertyIndexes
from tests.unit.cypher_graph import edge, graph, node, outcome

SIZE = 40
COMPLETE = graph(
    *(node(str(n), "N", n=n) for n in range(SIZE)),
    *(
        edge(f"{a}-{b}", "T", str(a), str(b))
        for a, b in itertools.permutations(range(SIZE), 2)
    ),
)  # fmt: skip
EVERYTHING = "MATCH (a)-[*]->(b) RETURN a.id, b.id"


def test_expansions():
    """A query whose work is used up answers what it has, and says so."""
    budget = Budget(5000)

    made = outcome(EVERYTHING, COMPLETE, budget=budget)

    assert made.cut == "expansions"
    assert 100 < len(made.rows) <= 5000


def test_time():
    """The clock is looked at often, whatever the query is doing."""
    texts = [
        EVERYTHING,
        "MATCH (a)-[*]->(b) WHERE b.n = -1 RETURN a",
        "MATCH (a), (b), (c), (d), (e) WHERE a.n + b.n + c.n + d.n + e.n < 0 RETURN a",
        "MATCH (a)-[*]->(b) RETURN count(*)",
        "UNWIND range(1, 1000000) AS x UNWIND range(1, 1000000) AS y RETURN sum(x)",
        "MATCH (a), (b), (c) RETURN a.n, count(*) ORDER BY a.n",
        "RETURN reduce(a = 0, x IN range(1, 1000) | reduce(b = a, y IN range(1, 100000) | b + y))",
        "WITH range(1, 1000000) AS l RETURN size([x IN l WHERE none(y IN l WHERE y = -x)])",
        "WITH range(1, 1000000) AS l UNWIND l AS x WITH l, x WHERE -x IN l RETURN count(*)",
        "WITH range(1, 1000) AS l RETURN reduce(a = l, x IN range(1, 900) | a + l) = "
        "reduce(a = l, x IN range(1, 900) | a + l) AS same",
        "MATCH (a)-[*]->(b) WITH DISTINCT a, b MATCH (c)-[*]->(a) RETURN count(*)",
    ]
    for text in texts:
        looks = itertools.count()
        budget = Budget(10**9, deadline_s=100, clock=partial(next, looks))

        made = outcome(text, COMPLETE, budget=budget)

        assert made.cut == "time", text
        assert next(looks) < 200, text


def test_rows():
    """More rows than may be answered are cut; exactly as many are not."""
    made = outcome("UNWIND range(1, 11) AS x RETURN x", rows_max=10)
    assert (made.cut, len(made.rows)) == ("rows", 10)

    made = outcome("UNWIND range(1, 10) AS x RETURN x", rows_max=10)
    assert (made.cut, len(made.rows)) == (None, 10)

    made = outcome("UNWIND range(1, 11) AS x RETURN x ORDER BY -x", rows_max=10)
    assert (made.cut, made.rows[0]) == ("rows", [11])

    made = outcome("UNWIND range(1, 99) AS x RETURN x LIMIT 10", rows_max=10)
    assert (made.cut, len(made.rows)) == (None, 10)


def test_what_came_through_is_finished():
    """Behind the cut rows are still grouped and sorted."""
    text = "MATCH (a)-[*]->(b) RETURN a.id, count(*) AS c ORDER BY c DESC"

    made = outcome(text, COMPLETE, budget=Budget(3000))

    assert made.cut == "expansions"
    assert sum(count for _, count in made.rows) > 100

    text = "UNWIND range(1, 1000) AS x WITH x ORDER BY -x LIMIT 3 RETURN collect(x)"
    made = outcome(text, budget=Budget(1500))
    assert made.cut == "expansions"
    assert len(made.rows[0][0]) == 3


def test_an_optional_match_that_is_cut_does_not_say_none():
    """Null stands for what does not exist, not for what was not looked at."""
    text = "MATCH (a {id: '0'}) OPTIONAL MATCH (a)-[*]->(b) WHERE b.n = -1 RETURN a.id, b"

    made = outcome(text, COMPLETE, budget=Budget(1000))

    assert (made.cut, made.rows) == ("expansions", [])


def test_the_allowance_behind_a_cut_ends():
    """Work behind the cut is bounded too."""
    text = (
        "UNWIND range(1, 2000) AS x WITH collect(x) AS l "
        "RETURN reduce(a = 0, x IN l | reduce(b = 0, y IN l | b + y))"
    )

    made = outcome(text, budget=Budget(4500))

    assert (made.cut, made.rows) == ("expansions", [])


@pytest.mark.parametrize(
    "text",
    [
        "UNWIND range(1, 300) AS x WITH collect(x) AS l RETURN size(l)",
        "UNWIND range(1, 300) AS x WITH DISTINCT x RETURN count(x)",
        "UNWIND range(1, 300) AS x RETURN count(DISTINCT x)",
        "UNWIND range(1, 300) AS x WITH x AS x, count(*) AS c RETURN count(*)",
        "UNWIND range(1, 300) AS x WITH x ORDER BY x RETURN count(*)",
    ],
)
def test_memory(text, monkeypatch):
    """Rows and items that are kept are counted over the whole query."""
    monkeypatch.setattr(runtime, "HELD_MAX", 100)
    monkeypatch.setattr("graph.cypher.projection.HELD_MAX", 100)

    made = outcome(text)

    assert (made.cut, made.rows) == ("rows", [[100]])


def test_a_heavy_answer(monkeypatch):
    """Long paths make an answer of few rows large: it is cut before a row too many."""
    monkeypatch.setattr(answer, "WEIGHT_MAX", 1000)

    made = outcome("MATCH p = (a)-[*5]->(b) RETURN p", COMPLETE, budget=Budget(10**6))

    assert made.cut == "rows"
    assert 3 < len(made.rows) < 40


def test_lists_that_share_parts(monkeypatch):
    """Nesting the same list many times neither blows up the answer nor a comparison."""
    monkeypatch.setattr(answer, "WEIGHT_MAX", 10_000)
    monkeypatch.setattr(runtime, "_GRACE", 10_000)
    nested = "reduce(a = [1], x IN range(1, 60) | [a, a])"

    made = outcome(f"RETURN {nested}")
    assert (made.cut, made.rows) == ("rows", [])

    for text in (f"{nested} = {nested}", f"{nested} < {nested}", f"{nested} IN [{nested}]"):
        assert outcome(f"RETURN {text}", budget=Budget(10_000)).cut == "expansions"
    made = outcome(f"WITH {nested} AS a RETURN DISTINCT a ORDER BY a", budget=Budget(10_000))
    assert made.cut == "expansions"


@pytest.mark.parametrize(
    "use", ["{}", "{0} = {0}", "size({}) > 0", "[{0}] IN [{0}]", "keys({{a: {}}})"]
)
def test_deep_values(use):
    """A value that nests deeper than the stack is an answer or an error, never a crash."""
    deep = "reduce(a = [1], x IN range(1, 5000) | [a])"
    with suppress(BadQuery):
        made = outcome(f"RETURN {use.format(deep)} AS x")

        assert len(made.rows) == 1


def test_writes_are_whole_or_not_at_all():
    """A query that writes and reaches a limit writes nothing."""
    for text in (
        "MATCH (a)-[*]->(b) CREATE (c)",
        "MATCH (a) CREATE (b) WITH b MATCH (c)-[*]->(d) RETURN count(*)",
        "UNWIND range(1, 100000) AS x CREATE (n)",
        "MERGE (a)-[:T]->(b)-[:T]->(c)-[:U]->(d)",
        "CREATE (n) RETURN reduce(a = 0, x IN range(1, 10000) | a + x)",
    ):
        with pytest.raises(WriteCutShort):
            outcome(text, COMPLETE, budget=Budget(2000))
    with pytest.raises(WriteCutShort):
        outcome("UNWIND range(1, 20) AS x CREATE (n) RETURN n", rows_max=10)


def test_limit_does_not_stop_writing():
    """Each row is written, however few are answered."""
    made = outcome("UNWIND range(1, 5) AS x CREATE (n) RETURN n.id LIMIT 1")
    assert (made.rows, made.counts["nodes_created"]) == ([["new0"]], 5)

    made = outcome("UNWIND range(1, 5) AS x CREATE (n) RETURN n.id LIMIT 0")
    assert (made.rows, made.counts["nodes_created"]) == ([], 5)


def test_limit_stops_reading():
    """A read ends as soon as its rows are there."""
    budget = Budget(10**6)

    made = outcome(EVERYTHING + " LIMIT 5", COMPLETE, budget=budget)

    assert (len(made.rows), made.cut) == (5, None)
    assert budget.spent < 50


@pytest.mark.parametrize(
    "text",
    [
        "CREATE (n {x: $long})",
        "CREATE (n {x: $long, y: $long})",
        "CREATE (n {`x`: {k: [$long]}})",
        "CREATE (n)-[r:T {x: $long}]->(m)",
        "MATCH (n {id: '0'}) SET n.x = $long",
        "MATCH (n {id: '0'}) SET n += $map SET n.second = $map.x",
        "MATCH ({id: '0'})-[r]->() SET r.x = $long",
        "MERGE (n:New {x: $long})",
        "CREATE (n {x: [c IN range(1, 40000) | c]})",
        "CREATE (n {x: reduce(a = [1], x IN range(1, 60) | [a, a])})",
    ],
)
def test_long_properties(text):
    """Properties of an element are bounded, and a list that holds others is not written down."""
    long = "x" * PROPERTIES_BYTES_MAX
    with pytest.raises(BadQuery, match=f"at most {PROPERTIES_BYTES_MAX} bytes"):
        outcome(text, COMPLETE, long=long, map={"x": long[: PROPERTIES_BYTES_MAX // 2]})


def test_properties_may_be_as_long_as_they_may():
    """The limit is that of the JSON, names and quotes included."""
    fits = "x" * (PROPERTIES_BYTES_MAX - len('{"x":""}'))
    made = outcome("CREATE (n {x: $fits})", fits=fits)
    assert len(made.changes.nodes[0].properties) == PROPERTIES_BYTES_MAX

    for longer in (fits + "x", "\x01" * 20_000):
        with pytest.raises(BadQuery, match="at most"):
            outcome("CREATE (n {x: $longer})", longer=longer)


@pytest.mark.parametrize(
    "text",
    [
        "UNWIND range(1, 5) AS i CREATE (n {x: $body})",
        "UNWIND range(1, 5) AS i CREATE (n)-[:T {x: $body}]->(m)",
        "MATCH (n) SET n.x = $body",
        "MATCH ()-[r]->() SET r.x = $body",
        "UNWIND range(1, 5) AS i MERGE (n {id: 'm' + i}) SET n.x = $body",
        "MATCH (n) DETACH DELETE n",
        "UNWIND range(1, 1000) AS i CREATE (n)",
    ],
)
def test_too_many_changes(text):
    """A query ends as soon as it has written too much, and nothing is written."""
    budget = Budget(10**6)
    with pytest.raises(TooLarge, match="more than 4000 bytes"):
        outcome(text, COMPLETE, body="x" * 1000, budget=budget, rest={"changes_bytes_max": 4000})

    assert budget.spent < 10_000


def test_what_is_written_twice_counts_once():
    """The limit is for what goes into the log: the last form of each element."""
    text = (
        "MATCH (n {id: '0'}) UNWIND range(1, 50) AS i SET n.x = $body + i "
        "WITH n LIMIT 1 UNWIND range(1, 50) AS j CREATE (m {x: $body}) DELETE m"
    )
    with pytest.raises(TooLarge):
        outcome(text, COMPLETE, body="x" * 1000, rest={"changes_bytes_max": 4000})

    made = outcome(
        "MATCH (n {id: '0'})-[r]->({id: '1'}) UNWIND range(1, 50) AS i "
        "SET n.x = $body + i, r.x = $body + i",
        COMPLETE,
        body="x" * 1000,
        rest={"changes_bytes_max": 4000},
    )
    assert [len(each.properties) for each in made.changes.nodes] == [1016]

    made = outcome(
        "UNWIND range(1, 3) AS i CREATE (m {x: $body})-[r:T {x: i}]->(m) DETACH DELETE m "
        "WITH count(*) AS one UNWIND range(1, 3) AS i CREATE (m {x: $body})",
        COMPLETE,
        body="x" * 1000,
        rest={"changes_bytes_max": 4000},
    )
    assert len(made.changes.nodes) == 3


def test_merge_by_an_indexed_property_is_paid_by_the_row():
    """Each row of a long MERGE finds what the rows before wrote without looking at all of it."""
    count = 400
    budget = Budget(10**6)
    state = graph(*(node(f"a{at}", "A", key=at) for at in range(0, count, 2)))
    made = outcome(
        "UNWIND $items AS item MERGE (n:A {key: item % $count}) SET n.last = item",
        state,
        items=list(range(2 * count)),
        count=count,
        budget=budget,
        rest={"indexes": PropertyIndexes(["A.key"], state)},
    )

    assert made.counts["nodes_created"] == count // 2
    assert len(made.changes.nodes) == count
    assert budget.spent < 40 * count
