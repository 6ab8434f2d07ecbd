"""MATCH and OPTIONAL MATCH: which patterns are found, and where looking begins."""

import pytest

from graph.cypher import explain, parse
from graph.errors import BadQuery
from graph.property_index import PropertyIndexes
from tests.unit.cypher_graph import column, edge, graph, node, outcome, rows, value

STATE = graph(
    node("ann", "Person", name="Ann", age=30),
    node("bob", "Person", "Admin", name="Bob", age=40),
    node("cid", "Person", name="Cid"),
    node("web", "Topic", name="Web"),
    edge("k1", "KNOWS", "ann", "bob", since=1),
    edge("k2", "KNOWS", "bob", "cid", since=2),
    edge("k3", "KNOWS", "cid", "ann", since=3),
    edge("l1", "LIKES", "ann", "web", confidence=0.5),
    edge("l2", "LIKES", "bob", "web", confidence=0.25),
    edge("self", "KNOWS", "cid", "cid"),
)
CHAIN = graph(
    *(node(name) for name in "abcde"),
    edge("chain", "THEN", "a", "b", "c", arcs=(0.5, 0.25), confidence=0.125),
    edge("fan", "CAUSES", "a", "b", "c", "d", roles=(("cause", 1), ("effect", 3)), confidence=0.9),
    edge("two", "CAUSES", "a", "e", "b", "c", roles=(("cause", 2), ("effect", 2))),
)


def found(text, state=STATE, **parameters):
    return sorted(rows(text, state, **parameters))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("(n)", ["ann", "bob", "cid", "web"]),
        ("(n:Person)", ["ann", "bob", "cid"]),
        ("(n:Person:Admin)", ["bob"]),
        ("(n:Nothing)", []),
        ("(n {name: 'Ann'})", ["ann"]),
        ("(n:Person {name: 'Ann', age: 31})", []),
        ("(n {id: 'bob'})", ["bob"]),
        ("(n {id: 1})", []),
        ("(n {age: null})", []),
        ("(n)-[:LIKES]->()", ["ann", "bob"]),
        ("(n)<-[:LIKES]-()", ["web", "web"]),
        ("(n)-->(:Topic)", ["ann", "bob"]),
        ("(n)-[:LIKES|KNOWS]->({id: 'web'})", ["ann", "bob"]),
        ("(n)-[:LIKES|:KNOWS]->({id: 'ann'})", ["cid"]),
        ("(n)--({id: 'ann'})", ["bob", "cid", "web"]),
        ("(n)<-->({id: 'ann'})", ["bob", "cid", "web"]),
        ("(n)-[:KNOWS]-({id: 'cid'})", ["ann", "bob", "cid"]),
        ("(n)-[{since: 2}]->()", ["bob"]),
        ("(n)-[:KNOWS]->(n)", ["cid"]),
        ("(n)-[:KNOWS*2]->({id: 'cid'})", ["ann", "bob"]),
        ("(n)-[:KNOWS*0..1]->({id: 'web'})", ["web"]),
        ("(n)-[:KNOWS*..2]->({id: 'bob'})", ["ann", "cid"]),
        ("(n)-[:KNOWS*2..]->({id: 'bob'})", ["bob", "bob", "cid", "cid"]),
        ("(n)-[:KNOWS*1..3 {since: 1}]->()", ["ann"]),
        ("(n)-[:KNOWS]->()-[:LIKES]->(:Topic)", ["ann", "cid"]),
        ("(n)-[:LIKES]->(t)<-[:LIKES]-(m)", ["ann", "bob"]),
        ("({id: 'ann'})-[:KNOWS]->(m), (m)-[:KNOWS]->(n)", ["cid"]),
        ("(n:Topic), (m:Admin)", ["web"]),
    ],
)
def test_pattern(pattern, expected):
    """A pattern is found wherever it is, and nowhere else."""
    assert sorted(column(f"MATCH {pattern} RETURN n.id", STATE)) == expected


def test_where_reads_bound_variables():
    """A condition may join what several parts of the pattern bind."""
    text = "MATCH (a:Person), (b:Person) WHERE a.age < b.age AND a.id <> b.id RETURN a.id, b.id"

    assert found(text) == [["ann", "bob"]]


def test_a_pattern_refers_to_other_variables():
    """A property map may use a variable of another part."""
    text = "MATCH (a {id: 'ann'}), (b:Person) MATCH (c {age: b.age, id: a.id}) RETURN b.id, c.id"

    assert found(text) == [["ann", "ann"]]


def test_a_parameter_stands_for_properties():
    """`(n $properties)` looks for all of them."""
    assert column("MATCH (n $p) RETURN n.id", STATE, p={"name": "Bob", "age": 40}) == ["bob"]
    with pytest.raises(BadQuery, match="has to be a map"):
        rows("MATCH (n $p) RETURN n", STATE, p=1)


def test_null_is_not_true():
    """A condition that is unknown finds nothing."""
    assert found("MATCH (n:Person) WHERE n.age > 30 RETURN n.id") == [["bob"]]
    assert found("MATCH (n:Person) WHERE NOT n.age > 30 RETURN n.id") == [["ann"]]


def test_relationships_of_one_match_differ():
    """No arc is used twice in one MATCH, whatever its parts; two MATCH clauses are separate."""
    assert value("MATCH (a)-[r]->(b), (c)-[s]->(d) RETURN count(*)", STATE) == 6 * 5
    assert value("MATCH (a)-[r]->(b) MATCH (c)-[s]->(d) RETURN count(*)", STATE) == 6 * 6


def test_bound_variables_are_kept():
    """A later pattern starts from what is bound, nodes and relationships alike."""
    text = (
        "MATCH (a {id: 'ann'})-[r:KNOWS]->(b) WITH r, b MATCH (x)-[r]->(b)-[s]->(y) "
        "RETURN x.id, r.id, s.id, y.id"
    )

    assert found(text) == [["ann", "k1", "k2", "cid"], ["ann", "k1", "l2", "web"]]
    assert found("MATCH ()-[r:LIKES]->() MATCH (x)-[r]-(y) RETURN r.id, x.id") == [
        ["l1", "ann"],
        ["l1", "web"],
        ["l2", "bob"],
        ["l2", "web"],
    ]


def test_optional_match():
    """Without a match there is one row with nulls, also behind another null."""
    text = (
        "MATCH (n:Person) OPTIONAL MATCH (n)-[r:LIKES]->(t) WHERE r.confidence > 0.3 "
        "OPTIONAL MATCH (t)<-[:LIKES]-(m {id: 'bob'}) RETURN n.id, t.id, m.id ORDER BY n.id"
    )

    assert rows(text, STATE) == [["ann", "web", "bob"], ["bob", None, None], ["cid", None, None]]
    assert rows("OPTIONAL MATCH p = (n:Nothing)-[r*]->(m) RETURN *", STATE) == [[None] * 4]


def test_null_leads_nowhere():
    """From what an OPTIONAL MATCH has not found no pattern goes on."""
    for pattern in (
        "(x)-[r]->(y)",
        "(n)-->()",
        "()-->(n)",
        "(n)-[*0..]->()",
        "(n)-->(a, b)",
        "(n)",
    ):
        text = f"OPTIONAL MATCH (n:None)-[r]->() MATCH {pattern} RETURN count(*)"

        assert value(text, STATE) == 0


def test_labels_at_the_far_end():
    """The node at the end of any number of steps has to have its labels."""
    assert column("MATCH ({id: 'ann'})-[*1..2]->(t:Topic) RETURN t.id", STATE) == ["web", "web"]
    assert column("MATCH ({id: 'ann'})-->(t:Topic) RETURN t.id", STATE) == ["web"]
    text = "MATCH (a {id: 'ann'}), (b {id: 'web'}) MATCH (a)-[r*1..2]->(b) RETURN size(r)"
    assert sorted(column(text, STATE)) == [1, 2]


def test_path():
    """A path has its nodes and arcs in the order in which the pattern was written."""
    text = "MATCH p = (a)-[:KNOWS*2]->(b {id: 'cid'}) WHERE a.id = 'ann' RETURN p"

    path = value(text, STATE)

    assert [each["id"] for each in path["nodes"]] == ["ann", "bob", "cid"]
    assert [each["hyperedge_id"] for each in path["relationships"]] == ["k1", "k2"]
    assert path["length"] == 2


def test_path_of_several_steps():
    """A path variable covers steps of one hop and of many, walked against their direction too."""
    text = (
        "MATCH p = (t:Topic)<-[:LIKES]-(a)-[k:KNOWS*1..2]->(b) WHERE a.id = 'bob' RETURN "
        "[n IN nodes(p) | n.id], [r IN relationships(p) | r.id], length(p), [r IN k | r.since]"
    )

    assert found(text) == [
        [["web", "bob", "cid"], ["l2", "k2"], 2, [2]],
        [["web", "bob", "cid", "ann"], ["l2", "k2", "k3"], 3, [2, 3]],
        [["web", "bob", "cid", "cid"], ["l2", "k2", "self"], 3, [2, None]],
    ]


def test_a_path_of_no_length():
    """A pattern of one node, and one whose length may be nothing, are paths of a node."""
    assert value("MATCH p = ({id: 'ann'}) RETURN length(p)", STATE) == 0
    assert value("MATCH p = (a {id: 'web'})-[*0]->(b) RETURN [n IN nodes(p) | n.id]", STATE) == [
        "web"
    ]


def test_an_ordered_hyperedge_is_its_arcs():
    """Members that follow each other are joined, each arc with its position and confidence."""
    text = "MATCH (a)-[r:THEN]->(b) RETURN a.id, b.id, r.id, r.position, r.confidence"

    assert found(text, CHAIN) == [["a", "b", "chain", 0, 0.5], ["b", "c", "chain", 1, 0.25]]
    assert found("MATCH (a)-[:THEN]->()-[:THEN]->(c) RETURN a.id, c.id", CHAIN) == [["a", "c"]]


def test_a_hyperedge_with_roles_leads_to_several():
    """The nodes on the right are different targets of one edge, in any order."""
    text = "MATCH (s)-[r:CAUSES]->(x, y) RETURN r.id, s.id, x.id, y.id"

    pairs = [list("bc"), list("bd"), list("cb"), list("cd"), list("db"), list("dc")]
    expected = [["fan", "a", *pair] for pair in pairs]
    expected += [["two", source, *pair] for source in "ae" for pair in ("bc", "cb")]
    assert found(text, CHAIN) == sorted(expected)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("({id: 'e'})-[r]->({id: 'c'}, x)", ["two b"]),
        ("(s)-[r]->({id: 'd'}, x {id: 'b'})", ["fan b"]),
        ("(s {id: 'a'})-[r:CAUSES]->(x {id: 'b'}, y {id: 'c'}, z)", ["fan b"]),
        ("(s)-[r]->(x, y, z, w)", []),
        ("(s)-[r:THEN]->(x, y)", []),
        ("(b)-[r]->(x, {id: 'e'})", []),
    ],
)
def test_fan_with_conditions(pattern, expected):
    """A fan can be entered from its source and from any of its targets."""
    text = f"MATCH {pattern} RETURN DISTINCT r.id + ' ' + x.id AS found"

    assert sorted(column(text, CHAIN)) == expected


def test_fan_behind_a_chain():
    """A fan may follow other relationships, whose arcs are not used again."""
    text = "MATCH (s)-[q]->(m)-[r:THEN]->(c) MATCH (s)-[f:CAUSES]->(m, c) RETURN DISTINCT f.id"
    assert sorted(column(text, CHAIN)) == ["fan", "two"]

    text = "MATCH (s)-[q:CAUSES]->(m)<-[t:CAUSES]-(s2)-[r:CAUSES]->(x, y) RETURN q.id, t.id, r.id"
    assert all(len({*ids}) > 1 for ids in found(text, CHAIN))


def test_two_fans_are_two_hyperedges():
    """In one MATCH a hyperedge fans out once."""
    text = "MATCH (s)-[q]->(x, y), (s)-[r]->(z, w) RETURN DISTINCT q.id, r.id"

    assert found(text, CHAIN) == [["fan", "two"], ["two", "fan"]]


def test_a_bound_hyperedge():
    """A hyperedge that is bound before can be matched again, and answered."""
    text = (
        "MATCH (s)-[r:CAUSES]->(x {id: 'd'}, y) WITH DISTINCT r MATCH (s)-[r]->(x, y) "
        "RETURN r, r.confidence"
    )

    shape, confidence = rows(text, CHAIN)[0]

    assert confidence == 0.9
    assert shape["roles"] == {"cause": ["a"], "effect": ["b", "c", "d"]}


def test_time():
    """Only edges that hold at the moment asked about exist."""
    state = graph(
        node("a"),
        node("b"),
        edge("early", "T", "a", "b", valid=(0, 100)),
        edge("late", "T", "a", "b", valid=(100, None), created=50),
        edge("gone", "T", "a", "b", created=20, expired=60),
    )
    text = "MATCH ()-[r]->() RETURN r.id"

    def ids(**rest):
        return sorted(row[0] for row in outcome(text, state, rest=rest).rows)

    assert ids() == ["early", "late"]
    assert ids(as_of=100) == ["late"]
    assert ids(as_of=99) == ["early"]
    assert ids(known_at=55) == ["early", "gone", "late"]
    assert ids(known_at=30) == ["early", "gone"]


@pytest.mark.parametrize(
    "text",
    [
        "MATCH (a)-[a]->(b) RETURN a",
        "MATCH (a)-[r]->(b)-[r]->(c) RETURN r",
        "MATCH p = (a)-[p]->(b) RETURN p",
        "MATCH p = (a), p = (b) RETURN p",
        "MATCH (p) MATCH p = (a) RETURN p",
        "MATCH (a)-[r]->(b) MATCH (x)-[r*]->(y) RETURN r",
        "MATCH (a)-->(b, c)-->(d) RETURN a",
        "MATCH (a)<--(b, c) RETURN a",
        "MATCH p = (a)-->(b, c) RETURN a",
        "MATCH (a)-->(b, b) RETURN a",
        "MATCH (a, b) RETURN a",
        "MATCH (n) WHERE m.x = 1 RETURN n",
        "MATCH (n) WHERE n.name RETURN n",
        "WITH 1 AS n MATCH (n) RETURN n",
        "WITH 1 AS r MATCH ()-[r]->() RETURN r",
        "WITH 1 AS m MATCH (n)-->(m) RETURN n",
        "MATCH (n) WHERE n.id IN 1 RETURN n",
        "MATCH (a)-[*1..2 {x: b.y}]->(c)-->(b) RETURN a",
    ],
)
def test_refused(text):
    """A pattern that contradicts itself is refused."""
    with pytest.raises(BadQuery):
        rows(text, STATE)


def operators(text, indexes=None):
    return [line["operator"] for line in explain(parse(text), STATE, indexes)]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("MATCH (a:Person)-->(b {id: $x}) RETURN a", "NodeById"),
        ("MATCH (a:Person)-->(b) WHERE b.id IN $x RETURN a", "NodeById"),
        ("MATCH (a)-->(b) WHERE 'ann' = b.id RETURN a", "NodeById"),
        ("MATCH (a)-->(b:Person {age: 3}) RETURN a", "NodeIndexSeek"),
        ("MATCH (a)-->(b:Person) WHERE b.age IN [3, 4] RETURN a", "NodeIndexSeek"),
        ("MATCH (a)-->(b:Person) WHERE 3 < b.age <= 9 RETURN a", "NodeIndexRange"),
        ("MATCH (a)-->(b:Person) WHERE b.name = 'x' RETURN a", "NodeByLabelScan"),
        ("MATCH (a)-->(b) RETURN a", "AllNodesScan"),
        ("MATCH (a)-->(b) WHERE b.age = 3 RETURN a", "AllNodesScan"),
        ("MATCH (a)-->(b) WHERE b.id = a.id RETURN a", "AllNodesScan"),
    ],
)
def test_where_a_pattern_starts(text, first):
    """Looking begins where the fewest nodes are candidates."""
    assert operators(text, PropertyIndexes(["Person.age"], STATE))[0] == first


def test_bound_first():
    """What is bound already is the best start."""
    lines = operators("MATCH (a:Topic) MATCH (b {id: 'ann'})-->(a) RETURN b")

    assert lines.index("Argument") < lines.index("Expand")


def test_walks_backwards_from_the_outcome():
    """A path to a known outcome is found from its end."""
    text = (
        "MATCH path = (root:Event)-[:CAUSED_BY*1..5]->(outcome:Event {id: $outcomeId}) "
        "WHERE root.type = 'root_cause' RETURN path"
    )

    lines = explain(parse(text), STATE, None)

    assert [line["details"] for line in lines] == [
        "(outcome:Event) id = $outcomeId",
        "outcome.id = $outcomeId",
        "(outcome)<-[:CAUSED_BY*1..5]-(root:Event)",
        "root.type = 'root_cause'",
        "path",
        "path",
        "path",
    ]


@pytest.mark.parametrize("declared", [[], ["Person.age", "Person.name"]])
def test_indexes_change_no_answer(declared):
    """With and without an index the same nodes are found."""
    indexes = PropertyIndexes(declared, STATE)
    for where, expected in {
        "n.age = 30": ["ann"],
        "n.age IN [30, 40, null]": ["ann", "bob"],
        "n.age > 30": ["bob"],
        "30 <= n.age < 40": ["ann"],
        "n.age > 'a'": [],
        "n.age = null": [],
        "n.name >= 'B' AND n.age IS NULL": ["cid"],
        "n.name IN $none": [],
        "n.age > $none": [],
        "n.id IN $none": [],
        "n.age = $list": [],
    }.items():
        text = f"MATCH (n:Person) WHERE {where} RETURN n.id ORDER BY n.id"
        answer = outcome(text, STATE, rest={"indexes": indexes}, none=None, list=[1])

        assert [row[0] for row in answer.rows] == expected


def test_explain_does_nothing():
    """A query behind EXPLAIN is described and not run, also one that writes."""
    made = outcome(
        "EXPLAIN MATCH (n {id: $x}) SET n.y = 1 RETURN n.y AS y, count(*) LIMIT 2", STATE
    )

    assert made.columns == ["operator", "details"]
    assert [line[0] for line in made.rows] == [
        *("NodeById", "Filter", "SetProperties", "Aggregate", "Limit", "Return")
    ]
    assert not made.changes


@pytest.mark.parametrize("prefix", ["", "EXPLAIN "])
def test_a_pattern_has_a_limit_also_when_it_is_explained(prefix):
    """A plan is made only of what may be run, so that planning ends soon."""
    fits, too_many = (", ".join(["()"] * count) for count in (100, 101))

    outcome(f"{prefix}MATCH {fits} RETURN count(*) LIMIT 0", STATE)
    with pytest.raises(BadQuery, match="at most 100 nodes"):
        outcome(f"{prefix}MATCH {too_many} RETURN 1", STATE)


def test_every_expression_is_explained():
    """A plan shows each expression as one would write it."""
    where = (
        "NOT (n.a + 1 >= -$b * 2 XOR n:A:B) AND [1, 'x', null, true][0] IN n.list[1..] AND "
        "CASE n.c WHEN 1 THEN {k: 2}.k ELSE size('a') END = 2 AND n.d IS NOT NULL AND "
        "any(x IN [y IN n.e WHERE y > 1 | y ^ 2] WHERE x STARTS WITH 'a') AND n.f[..2] = [] AND "
        "reduce(s = 0, x IN n.g | s + x) = 1 AND [x IN n.h] = n.i AND CASE WHEN n.j THEN 1 END = 1"
    )
    lines = explain(
        parse(f"MATCH (n) WHERE {where} RETURN count(DISTINCT n), count(*)"), STATE, None
    )

    assert lines[1]["details"] == (
        "NOT ((n.a + 1) >= (-$b * 2) XOR n:A:B) AND [1, 'x', null, true][0] IN n.list[1..] AND "
        "CASE n.c WHEN 1 THEN {k: 2}.k ELSE size('a') END = 2 AND n.d IS NOT NULL AND "
        "any(x IN [y IN n.e WHERE y > 1 | (y ^ 2)] WHERE x STARTS WITH 'a') AND n.f[..2] = [] AND "
        "reduce(s = 0, x IN n.g | (s + x)) = 1 AND [x IN n.h] = n.i AND "
        "CASE WHEN n.j THEN 1 END = 1"
    )
    assert lines[2]["details"] == "count(DISTINCT n), count(*)"


def test_every_operator_is_explained():
    """A plan names what each clause does."""
    text = (
        "EXPLAIN UNWIND [1] AS x MERGE (m {k: x})-[:T]->(o) CREATE (c)-[:U]->(m) "
        "WITH DISTINCT m, c ORDER BY m.k SKIP 1 WHERE m.k > 0 "
        "OPTIONAL MATCH (m)-[r:T|U*2..]-(c)-[s]->(x, y) "
        "DETACH DELETE c DELETE r RETURN * ORDER BY m.k DESC LIMIT 1"
    )

    found = [f"{row[0]} {row[1]}".strip() for row in outcome(text, STATE).rows]

    assert found == [
        "Unwind [1] AS x",
        "AllNodesScan (m) of 4 nodes",
        "Filter m.k = x",
        "Expand (m)-[:T]->(o)",
        "Merge x, m, o",
        "Create c",
        "Project m, c",
        "Distinct",
        "Sort m.k",
        "Skip 1",
        "Filter m.k > 0",
        "Argument (m)",
        "VarLengthExpandInto (m)-[r:T|U*2..]-(c)",
        "ExpandHyperedge (c)-[s]->(x, y)",
        "Optional",
        "DetachDelete c",
        "Delete r",
        "Project m, c, x, y, r, s",
        "Top m.k DESC",
        "Limit 1",
        "Return m, c, x, y, r, s",
    ]


def test_size_of_patterns():
    """A pattern to look for has a bounded number of nodes, one to create has not."""
    many = ", ".join(["()"] * 101)
    with pytest.raises(BadQuery, match="at most 100 nodes"):
        rows(f"MATCH {many} RETURN 1", STATE)

    assert outcome(f"CREATE {many}").counts["nodes_created"] == 101
