"""Whatever text comes, a query is answered or refused, and the graph is as it was."""

import random
from contextlib import suppress

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph.budget import Budget
from graph.cypher import explain, parse, run
from graph.errors import GraphError
from graph.property_index import PropertyIndexes
from tests.unit.cypher_graph import context, edge, graph, node, picture

STATE = graph(
    node("a", "A", x=1, list=[1, "b", None]),
    node("b", "A", "B", x="s"),
    node("c", "B", x=2.5, deep={"k": [{}]}),
    edge("e", "T", "a", "b", "c", arcs=(0.5, 0.5), confidence=0.25, w=1),
    edge("f", "U", "c", "a"),
    edge("loop", "T", "b", "b"),
    edge("fan", "F", "a", "b", "c", roles=(("s", 1), ("t", 2))),
)
PARAMETERS = {"x": 1, "s": "a", "l": [1, 2, None], "m": {"x": 1}, "n": None}
WORDS = (
    "MATCH OPTIONAL WHERE RETURN WITH DISTINCT AS ORDER BY SKIP LIMIT DESC UNWIND CREATE MERGE ON "
    "SET REMOVE DELETE DETACH AND OR XOR NOT IN STARTS ENDS CONTAINS IS NULL TRUE CASE WHEN THEN "
    "ELSE END reduce( count( collect( sum( nodes( relationships( length( id( all( range( size( "
    "head( ( ) [ ] { } - -> <- --> < > = <> <= + += * / % ^ . .. , : | ; $x $s $l $m $n n m r p x "
    "a.x n.id r.confidence p.x :A :B :T A T 1 2 0 -1 0.5 'a' \"b\" * *1..2 *.. (n) (m:A) "
    "-[r]-> -[r:T*1..3]-> -[:T|U]- <-[*2]- -[q]->(n,m) p=(n) EXPLAIN UNION CALL ` ' /* // \\ \0 é"
)
TOKENS = WORDS.split(" ")
VALID = (
    "MATCH p = (n:A)-[r:T*1..3]->(m) WHERE n.x > 0 RETURN p, length(p) ORDER BY m.id LIMIT 3",
    "MATCH (a)-[r:F]->(b, c) RETURN a.id, r.confidence, collect(DISTINCT b.x + c.x) AS l",
    "OPTIONAL MATCH (n {id: $s})--(m) WITH n, count(m) AS c WHERE c >= 1 RETURN n.x, c SKIP 0",
    "UNWIND $l AS v MERGE (n:A {x: v}) ON CREATE SET n.y = v ON MATCH SET n += $m RETURN n",
    "MATCH (n)-[r]->(m) SET r.confidence = 0.5, n:C, m.x = null REMOVE n.list RETURN r.confidence",
    "MATCH (n {x: 1}) DETACH DELETE n",
    "CREATE (n:A {x: $x})-[:T {confidence: 0.1}]->(m), (n)-[:F]->(o, q) RETURN n, o",
    "RETURN reduce(a = 0, x IN range(0, 5) | a + x ^ 2), [y IN $l WHERE y IS NOT NULL | y], $m.x",
    "WITH 1 AS a, {k: [1]} AS b RETURN *, CASE a WHEN 1 THEN b.k[0] ELSE b.k[0..1] END AS c, -a",
    "MATCH (n) WHERE n.x IN [1, 's'] XOR NOT n:B RETURN DISTINCT labels(n), keys(n), toString(n.x)",
)
BEFORE = picture(STATE)


def check(text, expansions_max=3000):
    """Answer the text, or refuse it."""
    indexes = PropertyIndexes(["A.x"], STATE)
    with suppress(GraphError):
        query = parse(text)
        explain(query, STATE, indexes)
        made = run(
            query, STATE, context(PARAMETERS, budget=Budget(expansions_max), indexes=indexes)
        )

        assert all(len(row) == len(made.columns) for row in made.rows)


@settings(max_examples=250, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=25))
def test_token_soup(tokens):
    """Words of the language in any order do no harm."""
    check(" ".join(tokens))


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_any_text(text):
    """Nor does any other text."""
    check(text)


def mutated(chance):
    """Return a valid query in which some words are dropped, doubled, exchanged or replaced."""
    words = chance.choice(VALID).split(" ")
    for _ in range(chance.randint(0, 4)):
        at = chance.randrange(len(words))
        other = chance.choice(chance.choice(VALID).split(" "))
        words[at : at + 1] = chance.choice(
            [[], [words[at]] * 2, [other], [words[at], chance.choice(TOKENS)], [words[at][:-1]]]
        )
        words = words or ["RETURN"]
    return " ".join(words)


@pytest.mark.parametrize("text", VALID)
def test_cut_anywhere(text):
    """Wherever a limit is reached, the answer is cut or a write refused."""
    for expansions_max in range(1, 120):
        check(text, expansions_max)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_mutated_queries(seed):
    """Queries that are almost right are refused or mean something."""
    chance = random.Random(seed)

    check(mutated(chance), chance.choice([3000, chance.randint(1, 100)]))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(VALID),
    st.fixed_dictionaries(
        dict.fromkeys(
            PARAMETERS,
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers(-(2**63), 2**64 - 1)
                | st.floats()
                | st.text(),
                lambda inner: (
                    st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
                ),
                max_leaves=6,
            ),
        )
    ),
)
def test_any_parameters(text, parameters):
    """Parameters may have any JSON value."""
    with suppress(GraphError):
        made = run(parse(text), STATE, context(parameters, budget=Budget(3000)))

        assert orjson.dumps(made.rows)


def test_the_graph_is_as_it_was():
    """No query has changed the state that all of them read."""
    for text in VALID:
        check(text)

    assert picture(STATE) == BEFORE
    STATE.validate()
