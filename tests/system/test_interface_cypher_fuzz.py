"""Any text as a Cypher query over HTTP: answered or refused in the promised shape, never a 5xx."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import Cluster
from tests.system.graph_exchange import Graph, asked, chained, make_graph, named
from tests.system.test_interface_cypher import PATTERNS, ROOT_CAUSES

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

VALID: Final = [
    ROOT_CAUSES,
    PATTERNS,
    "MATCH (a)-[r:CAUSED_BY|LEADS_TO*..3]-(b) WHERE NOT a.n IN [1, 2e3, 'x'] RETURN DISTINCT a, r",
    "OPTIONAL MATCH (n:Event {id: $id}) WITH n, size(labels(n)) AS s WHERE s > 0 RETURN n.type, s",
    "UNWIND range(0, 9) AS i WITH i % 3 AS k, collect(DISTINCT i) AS l RETURN k, l[0..2], head(l)",
    "MATCH (n) RETURN CASE n.type WHEN 'a' THEN 1 ELSE -n.x ^ 2 END AS v ORDER BY v SKIP 1 LIMIT 3",
    "MERGE (n:Event {id: 'm'}) ON CREATE SET n.x = 1 ON MATCH SET n += {y: [1, null, {z: 2}]}",
    "MATCH (a {id: '1'}), (b {id: '2'}) CREATE (a)-[:CAUSED_BY {confidence: 0.5}]->(b)",
    "MATCH (n:Gone) DETACH DELETE n",
    "MATCH (a)-[r:MADE]->(b, c) REMOVE a.x, b:Label RETURN r",
    "RETURN reduce(s = '', x IN ['a', 'b'] | s + x), [x IN [1, 2] WHERE x > 1 | x * 2], {a: $id}",
    "EXPLAIN MATCH p = (a)-[*2]->(a) RETURN length(p), nodes(p), all(x IN [1] WHERE x = 1)",
]
WORDS: Final = """
MATCH OPTIONAL WHERE RETURN WITH UNWIND AS CREATE MERGE SET REMOVE DELETE DETACH ON ORDER BY SKIP
LIMIT DISTINCT AND OR NOT XOR IN IS NULL CASE WHEN THEN ELSE END CALL EXPLAIN reduce
( ) [ ] { } , . : ; | - -> <- < > = <> + * / % ^ .. $ $id $p n a r path n.id :Event ' " ` /* */ //
(n) (a:Event) -[r]-> -[:CAUSED_BY*1..3]-> count(*) collect(n) 1 0 -1 2.5 1e308 1e999 'x' 'e' '\\u00'
range(0,1000000) toInteger('x') size($id) properties(n) true null timestamp() [1,2][5] n.x x
"""
TOKENS: Final = [*WORDS.split(), "9" * 30, "0x" + "f" * 20, "\n", " "]
_soup = st.lists(st.sampled_from(TOKENS), max_size=30).map(" ".join)
_valid = st.sampled_from(VALID)
_deep = st.tuples(
    st.sampled_from(["(", "[", "{a: ", "NOT ", "-", "CASE ", "[x IN "]), st.integers(1, 9000)
)


@st.composite
def _mutated(draw: st.DrawFn) -> str:
    """Return a valid query with some of its characters cut out, doubled or replaced."""
    text = draw(_valid)
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(text)))
        end = draw(st.integers(begin, min(len(text), begin + 12)))
        new = draw(st.one_of(st.just(""), st.sampled_from(TOKENS), st.text(max_size=4)))
        text = text[:begin] + new + text[end:]
    return text


ATOMS: Final = """
n r m p n.x n.type n.id r.confidence 1 -2 0 0.5 'a' '' null true [] {} $id $p [1,'b',null] {x:1}
9223372036854775807 1e308 timestamp() labels(n) nodes(p) relationships(p)
"""
FUNCTIONS: Final = """
id labels type size length nodes relationships properties keys head last tail startNode endNode abs
round sqrt sign toUpper toLower trim toInteger toFloat toString toBoolean coalesce exists reverse
"""
_atoms = st.sampled_from(ATOMS.split())
_forms = st.sampled_from(
    [
        *(f"{name}({{0}})" for name in FUNCTIONS.split()),
        *("range({0}, {1})", "split({0}, {1})", "substring({0}, {1})", "replace({0}, {1}, 'x')"),
        *("({0} + {1})", "({0} - {1})", "({0} * {1})", "({0} / {1})", "({0} % {1})", "({0} ^ {1})"),
        *("({0} = {1})", "({0} < {1} <= {0})", "({0} AND {1})", "NOT {0}", "({0} XOR {1})"),
        *("({0} IN {1})", "({0} STARTS WITH {1})", "({0} CONTAINS {1})", "({0} IS NULL)", "-{0}"),
        *("[{0}, {1}]", "{{a: {0}, b: {1}}}", "{0}[{1}]", "{0}[{1}..]", "({0}).x", "n:Event"),
        "CASE {0} WHEN {1} THEN 1 ELSE {0} END",
        "CASE WHEN {0} THEN {1} END",
        "reduce(s = {0}, x IN {1} | s + x)",
        "[x IN {0} WHERE x = {1} | x]",
        "any(x IN {0} WHERE {1})",
    ]
)
_expressions = st.recursive(
    _atoms,
    lambda inner: st.tuples(_forms, inner, inner).map(lambda made: made[0].format(*made[1:])),
    max_leaves=6,
)
_frames = st.sampled_from(
    [
        "MATCH p = (n)-[r]-(m) RETURN {0} AS v ORDER BY v LIMIT 5",
        "MATCH p = (n)-[r*0..2]->(m) WHERE {0} RETURN DISTINCT {1}, {0} ORDER BY {1}",
        "MATCH p = (n)-[r]->(m) WITH n, r, m, p, {0} AS v WHERE v RETURN v, collect({1})",
        "MATCH p = (n)-[r]-(m) RETURN {0} AS k, sum({1}), avg({1}), min({1}), count(DISTINCT {1})",
        "MATCH p = (n)-[r]->(m) UNWIND {0} AS v RETURN v, {1}",
        "OPTIONAL MATCH p = (n:Gone)-[r]->(m) RETURN {0}, {1}",
        "MATCH p = (n)-[r]->(m) SET n.x = {0}, r.confidence = {1}",
        "MATCH p = (n)-[r]->(m) SET n += {0} REMOVE n.x",
        "MATCH p = (n)-[r]->(m) MERGE (q:Event {{x: {0}}}) ON MATCH SET q.y = {1} RETURN q",
        "MATCH p = (n)-[r]->(m) CREATE (n)-[:X {{confidence: {0}}}]->(:New {{y: {1}}})",
        "MATCH p = (n)-[r]->(m) WITH n, r, m, p LIMIT 1 DELETE {0}",
        "EXPLAIN MATCH p = (n)-[r]->(m {{x: {0}}}) RETURN {1}",
    ]
)
_typed = st.tuples(_frames, _expressions, _expressions).map(lambda made: made[0].format(*made[1:]))
_queries = st.one_of(
    _typed,
    _typed,
    _soup,
    _mutated(),
    st.tuples(_valid, _valid).map(" ".join),
    st.text(max_size=60),
    _deep.map(lambda pair: "RETURN " + pair[0] * pair[1] + "1"),
)
_numbers = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, st.text(max_size=5)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
_parameters = st.fixed_dictionaries(
    {"id": _values, "outcomeId": _values}, optional={"p": _values, "type1": _values}
)


@pytest.fixture(scope="module")
def fuzzed(shared: Cluster) -> Graph:
    """A small graph that anything may be done to."""
    graph = make_graph(shared.url(3), "fuzzed", {"vectors": None})
    graph.put_nodes(
        *named("1", "2", "3", labels=["Event"], properties={"type": "root_cause", "n": 1})
    )
    made = {"label": "MADE", "roles": {"by": ["1"], "from": ["2", "3"]}}
    graph.put_edges(chained("CAUSED_BY", "1", "2", "3"), chained("CAUSED_BY", "3", "1"), made)
    make_graph(shared.url(3), "fuzzed-2", {"vectors": None}).put_nodes(*named("1", "2"))
    return graph


@settings(max_examples=400)
@given(query=_queries, parameters=_parameters)
def test_no_text_is_a_server_error(fuzzed, query, parameters):
    """Whatever is sent as a query is answered or refused, in the promised shape."""
    body = {
        "query": query or " ",
        "parameters": parameters,
        "timeout_ms": 400,
        "expansions_max": 20_000,
        "limit": 50,
    }
    answer = fuzzed.post("cypher", body)

    assert answer.status in (200, 400, 409, 413), (answer.status, answer.body)


@settings(max_examples=60)
@given(query=_queries, parameters=_parameters)
def test_no_text_is_a_server_error_over_several_graphs(shared, fuzzed, query, parameters):
    """Nor where the answers of several graphs are merged."""
    body = {
        "graphs": ["fuzzed", "fuzzed-2"],
        "query": query or " ",
        "parameters": parameters,
        "timeout_ms": 400,
        "expansions_max": 20_000,
        "limit": 50,
    }
    answer = asked(shared.url(1), "POST", "/graph/cypher", body)

    assert answer.status in (200, 400, 404), (answer.status, answer.body)
