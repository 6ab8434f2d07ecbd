"""CREATE, MERGE, SET, REMOVE and DELETE: what they leave in the graph and put into the log."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph.errors import BadQuery, NodeInUse
from graph.property_index import PropertyIndexes
from graph.state import GraphState
from tests.unit.cypher_graph import (
    NOW_MS,
    applied,
    column,
    context,
    edge,
    graph,
    node,
    outcome,
    picture,
    rows,
)

STATE = graph(
    node("a", "P", x=1, has_vector=True),
    node("b", "P", "Q", x=2),
    node("c"),
    edge("ab", "T", "a", "b", w=1, has_vector=True),
    edge("abc", "U", "a", "b", "c", arcs=(0.5, 0.5), confidence=0.25),
    edge("fan", "F", "a", "b", "c", roles=(("s", 1), ("t", 2)), confidence=0.9),
)


def change(text, state=STATE, **parameters):
    """Return the outcome and the graph after its changes are applied."""
    before = picture(state)
    made = outcome(text, state, **parameters)
    assert picture(state) == before, "a query leaves the state as it is"
    return made, applied(state, made.changes, made.vectors_kept)


def counted(made):
    return {name: count for name, count in made.counts.items() if count}


def test_create():
    """Nodes and a relationship are made with ids of their own or given ones."""
    text = (
        "CREATE (n:A:B {id: 'n', x: 1, none: null, list: [1, {k: 'v'}]})"
        "-[r:T {id: 'r', confidence: 0.5, valid_at: 3, invalid_at: 9, w: 2}]->(m), (m)<-[:S]-(n) "
        "RETURN n.id, r.id, r.confidence, m.id"
    )

    made, after = change(text, GraphState())

    assert made.rows == [["n", "r", 0.5, "new0"]]
    assert counted(made) == {
        "nodes_created": 2,
        "relationships_created": 2,
        "properties_set": 6,
        "labels_added": 2,
    }
    nodes, edges = picture(after)
    assert nodes == {
        "n": (["A", "B"], {"x": 1, "list": [1, {"k": "v"}]}, False),
        "new0": ([], {}, False),
    }
    assert edges == {
        "r": ("T", ("n", "new0"), (), {"w": 2}, [0.5], 3, 9, False),
        "new1": ("S", ("n", "new0"), (), {}, [1.0], None, None, False),
    }


def test_create_for_each_row():
    """A clause that writes does so once for each row, and its rows go on."""
    made, after = change("MATCH (p:P) CREATE (q {of: p.x})-[:T]->(p) RETURN q.of ORDER BY q.of")

    assert made.rows == [[1], [2]]
    assert after.node_count == STATE.node_count + 2


def test_create_does_not_see_itself():
    """What a clause makes is not matched by the clause before it, but by those behind it."""
    made, _ = change("MATCH (n) CREATE (m:New) WITH count(*) AS c MATCH (n:New) RETURN c, count(n)")

    assert made.rows == [[3, 3]]


def test_create_a_fan():
    """A relationship to several nodes becomes one hyperedge with roles."""
    made, after = change(
        "MATCH (a {id: 'a'}) CREATE (a)-[r:CAUSED {confidence: 0.5, k: 1}]->"
        "(x {id: 'x'}, y {id: 'y'}) "
        "RETURN r.hyperedge_id, r.confidence, r.k"
    )

    assert made.rows == [["new0", 0.5, 1]]
    assert picture(after)[1]["new0"] == (
        *("CAUSED", ("a", "x", "y"), (("source", 1), ("target", 2)), {"k": 1}),
        *([0.5, 0.5], None, None, False),
    )


def test_create_with_a_parameter_and_a_path():
    """Properties may come as a parameter, and what is created may be a path."""
    made, _ = change("CREATE p = (n $p)-[:T]->() RETURN length(p), n.a", p={"a": 1, "id": "z"})

    assert made.rows == [[1, 1]]
    assert made.changes.nodes[0].id == "z"


@pytest.mark.parametrize(
    "text",
    [
        "CREATE (n {id: 'a'})",
        "CREATE (n {id: ''})",
        "CREATE (n {id: 7})",
        "CREATE (n)-[:T {id: 'ab'}]->(m)",
        "CREATE (n)-[r]->(m)",
        "CREATE (n)-[r:T|U]->(m)",
        "CREATE (n)-[r:T]-(m)",
        "CREATE (n)-[r:T*2]->(m)",
        "CREATE (n)-[r:T {confidence: 2}]->(m)",
        "CREATE (n)-[r:T {confidence: 'x'}]->(m)",
        "CREATE (n)-[r:T {valid_at: 1.5}]->(m)",
        "CREATE (n)-[r:T {valid_at: 9, invalid_at: 1}]->(m)",
        "CREATE (n)-[r:T {position: 1}]->(m)",
        "CREATE (n {x: 0.0 / 0})",
        "CREATE (n {x: $nul})",
        "CREATE (n $number)",
        "MATCH (n) CREATE (n)",
        "MATCH (n) CREATE (n:X)-[:T]->(m)",
        "MATCH (n) CREATE (n)-[:T]->(m {x: n})",
        "MATCH ()-[r]->() CREATE (a)-[r:T]->(b)",
        "OPTIONAL MATCH (n:None) CREATE (n)-[:T]->(m)",
        "WITH 1 AS n CREATE (n)-[:T]->(m)",
        "MATCH (n {id: 'a'}) SET n.id = 'z'",
        "MATCH (n) SET n = 1",
        "MATCH (n) SET n.x = n",
        "MATCH ()-[r]->() SET r.position = 1",
        "MATCH ()-[r]->() SET r:L",
        "WITH 1 AS x SET x.y = 1",
        "SET n.x = 1",
        "DELETE n",
        "WITH 1 AS x DELETE x",
        "MERGE (n {x: null})",
        "MERGE (n)-[:T*2]->(m)",
        "MATCH (n) MERGE (n)",
        "OPTIONAL MATCH (n:None) MERGE (n)-[:T]->(m)",
        "MATCH (n {id: 'a'}) DETACH DELETE n RETURN n.x",
        "MATCH ()-[r:T]->() DELETE r RETURN r.w",
        "CREATE (n) RETURN m",
        "CREATE (n {x: 18446744073709551615 + 1})",
        "CREATE (n {x: reduce(a = [1], x IN range(1, 99) | [a])})",
        "CREATE (n $long)",
        "CREATE (n {`x`: {k: [$nul]}})",
        "MATCH ()-[r:T]->() SET r.valid_at = 'now'",
        "UNWIND range(1, 33) AS x MERGE (n {id: 'q'}) SET n.x = size([y IN [1]]) + 'a' - 1",
    ],
)
def test_refused(text):
    """A write that cannot be is refused as a whole."""
    with pytest.raises(BadQuery):
        rows(text, STATE, nul="\0", number=1, long={"x": 2**70})


def test_set_and_remove_on_nodes():
    """Properties are set one by one, replaced or added to; labels come and go; vectors stay."""
    cases = {
        "SET n.x = n.x + 1, n.y = n.x": (["P"], {"x": 2, "y": 2}),
        "SET n.x = null": (["P"], {}),
        "SET n = {z: 1, none: null}": (["P"], {"z": 1}),
        "SET n += {z: 1, x: null}": (["P"], {"z": 1}),
        "SET n += $map": (["P"], {"x": 1, "k": [1]}),
        "SET n:R:P, n.x = 5": (["P", "R"], {"x": 5}),
        "REMOVE n.x, n:P:Z": ([], {}),
        "SET n = {id: 'a', x: 3}": (["P"], {"x": 3}),
    }
    for text, (labels, properties) in cases.items():
        made, after = change(f"MATCH (n {{id: 'a'}}) {text}", map={"k": [1]})

        assert picture(after)[0]["a"] == (labels, properties, True)
        assert made.vectors_kept == (["a"], [])
        assert (made.columns, made.rows) == ([], [])


def test_set_from_another_element():
    """`SET n = m` copies the properties, and leaves the id."""
    _, after = change("MATCH (n {id: 'c'}), (m {id: 'b'}) SET n = m")

    assert picture(after)[0]["c"] == ([], {"x": 2}, False)


def test_set_on_null_is_passed_over():
    """Nothing is set on what an OPTIONAL MATCH has not found."""
    _, after = change("MATCH ()-[r:U]->() SET r.confidence = null")
    assert picture(after)[1]["abc"][4] == [1.0, 1.0]
    made, _ = change("OPTIONAL MATCH (n:None) SET n.x = 1, n:L REMOVE n.y DELETE n RETURN n")

    assert made.rows == [[None]]
    assert not made.changes


def test_set_on_relationships():
    """Properties go to the hyperedge, the confidence to the one step, times to their fields."""
    _, after = change(
        "MATCH ({id: 'b'})-[r:U]->() SET r.confidence = 0.1, r.k = 1, r.valid_at = 5, "
        "r.valid_at = 6"
    )
    assert picture(after)[1]["abc"] == (
        "U", ("a", "b", "c"), (), {"k": 1}, [0.5, 0.1], 6, None, False
    )  # fmt: skip

    made, after = change("MATCH ()-[r:T]->() SET r = {v: 2} RETURN r.v, r.w")
    assert picture(after)[1]["ab"] == ("T", ("a", "b"), (), {"v": 2}, [1.0], None, None, True)
    assert made.rows == [[2, None]]
    assert made.vectors_kept == ([], ["ab"])

    _, after = change("MATCH ()-[r:F]->(x {id: 'b'}, y) SET r.confidence = 0.3 REMOVE r.none")
    assert picture(after)[1]["fan"][4] == [0.3, 0.3]


CHAINS = graph(
    *map(node, "abcd"),
    edge("derived", "C", "a", "b", "c", "d", confidence=0.9),
    edge("given", "G", "a", "b", "c", "d", arcs=(0.9, 0.7, 0.3), confidence=0.9 * 0.7 * 0.3),
    edge("pair", "P", "a", "b", confidence=0.1),
    edge("fan", "F", "a", "b", "c", roles=(("s", 1), ("t", 2)), confidence=0.9),
)


@pytest.mark.parametrize(
    ("text", "confidences"),
    [
        ("MATCH ()-[r:C]->() SET r.note = 'x'", {"derived": (0.9, ())}),
        ("MATCH ()-[r:C]->() SET r = {}, r.valid_at = 1", {"derived": (0.9, ())}),
        ("MATCH ()-[r:C]->() SET r.confidence = r.confidence", {"derived": (0.9, ())}),
        ("MATCH ()-[r:G]->() SET r.note = 'x'", {"given": (0.9 * 0.7 * 0.3, (0.9, 0.7, 0.3))}),
        ("MATCH ({id: 'b'})-[r:G]->() SET r.confidence = 1", {"given": (0.9 * 0.3, (0.9, 1, 0.3))}),
        ("MATCH ()-[r:P]->() SET r.note = 'x'", {"pair": (0.1, ())}),
        ("MATCH ({id: 'a'})-[r:F]->() SET r.note = 'x'", {"fan": (0.9, ())}),
        ("MATCH ({id: 'a'})-[r:F]->() SET r.confidence = 0.8", {"fan": (0.8, ())}),
    ],
)
def test_confidences_stay_as_they_were_stated(text, confidences):
    """Setting something else leaves an edge its confidence, and where those of its steps come
    from."""
    made, after = change(text, CHAINS)

    assert {
        each.id: (each.confidence, each.arc_confidences) for each in made.changes.edges
    } == confidences
    for name, (confidence, _) in confidences.items():
        assert after.find_edge(name).edge.confidence == confidence


def test_expired_edges_are_history():
    """What has expired is not rewritten."""
    state = graph(node("a"), node("b"), edge("e", "T", "a", "b", expired=50))

    with pytest.raises(BadQuery, match="expired"):
        outcome("MATCH ()-[r]->() SET r.x = 1", state, rest={"known_at": 40})


def test_delete_relationships_and_nodes():
    """A relationship is deleted with its whole hyperedge; a node when no edge is left."""
    made, after = change("MATCH ({id: 'a'})-[r:U]->() DELETE r")
    assert counted(made) == {"relationships_deleted": 1}
    assert "abc" not in picture(after)[1]

    made, after = change("MATCH (n {id: 'c'})-[r]-() DELETE n, r")
    assert sorted(picture(after)[0]) == ["a", "b"]

    made, after = change("MATCH (n {id: 'c'}) DELETE n WITH n MATCH (n) DETACH DELETE n")
    assert sorted(picture(after)[0]) == ["a", "b"]

    made, after = change("MATCH (n {id: 'c'}) DELETE n WITH n MATCH (n)-[r]-() DELETE r")
    assert sorted(picture(after)[0]) == ["a", "b"]
    assert counted(made) == {"nodes_deleted": 1, "relationships_deleted": 2}


def test_delete_a_node_in_use():
    """A node with edges is not deleted, and then nothing is."""
    with pytest.raises(NodeInUse, match="DETACH"):
        rows("MATCH (n) DELETE n", STATE)
    with pytest.raises(NodeInUse):
        rows("MATCH (n {id: 'a'})-[r:T]->() DELETE n, r", STATE)


def test_detach_delete():
    """DETACH takes the edges along, also those of paths and lists of rows."""
    made, after = change("MATCH (n) DETACH DELETE n RETURN count(*)")
    assert (after.node_count, after.edge_count) == (0, 0)
    assert made.rows == [[3]]

    _, after = change("MATCH p = ({id: 'a'})-[:T]->() DETACH DELETE p")
    assert sorted(picture(after)[0]) == ["c"]


def test_net_effect():
    """What is made and deleted in one query leaves no trace."""
    made, _ = change("CREATE (n:X)-[r:T]->(m) WITH n, m DETACH DELETE n, m")
    assert not made.changes

    made, after = change(
        "MATCH (a {id: 'a'}) DETACH DELETE a CREATE (b:New {id: 'a'}) SET b.y = 1, b.y = 2"
    )
    assert made.changes.delete_nodes == ["a"]
    assert [each.id for each in made.changes.nodes] == ["a"]
    assert picture(after)[0]["a"] == (["New"], {"y": 2}, False)
    assert made.vectors_kept == ([], [])


def test_merge_nodes():
    """MERGE finds what is there and creates what is not, row by row."""
    text = (
        "UNWIND [2, 3, 3] AS v MERGE (n:P {x: v}) ON CREATE SET n.made = v ON MATCH SET n.seen = v "
        "RETURN n.x, n.made, n.seen"
    )

    made, after = change(text)

    assert made.rows == [[2, None, 2], [3, 3, 3], [3, 3, 3]]
    assert counted(made)["nodes_created"] == 1
    assert after.node_count == STATE.node_count + 1


def test_merge_relationships():
    """A pattern is matched as a whole, or what is not bound of it is created."""
    made, _ = change("MATCH (a {id: 'a'}), (b {id: 'b'}) MERGE (a)-[r:T]->(b) RETURN r.w")
    assert made.rows == [[1]]
    assert not made.changes

    made, _ = change("MATCH (a {id: 'a'}), (b {id: 'b'}) MERGE (b)-[r:T]-(a) RETURN r.id")
    assert made.rows == [["ab"]]

    made, after = change("MATCH (b {id: 'b'}) MERGE (b)-[r:T {w: 5}]->(m:M) RETURN r.w, m:M")
    assert made.rows == [[5, True]]
    assert after.edge_count == STATE.edge_count + 1

    made, after = change("MATCH (a {id: 'a'}) MERGE p = (a)<-[:T]-(:P {x: 1}) RETURN length(p)")
    assert made.rows == [[1]]
    assert after.node_count == STATE.node_count + 1


def test_merge_a_fan():
    """MERGE finds a hyperedge with roles, and makes one."""
    text = "MATCH (a {id: $a}), (b {id: 'b'}), (c {id: 'c'}) MERGE (a)-[r:F]->(b, c) RETURN r.id"
    made, _ = change(text.replace("$a", "'a'"))
    assert made.rows == [["fan"]]

    state = graph(node("a"), node("b"), node("c"))
    made, after = change(text, state, a="a")
    assert made.rows == [["new0"]]
    assert picture(after)[1]["new0"][1:3] == (("a", "b", "c"), (("source", 1), ("target", 2)))


def test_times_of_what_is_written():
    """What is created is created now; what is rewritten keeps its beginning."""
    made = outcome(
        "MATCH ()-[r:T]->() SET r.k = 1 CREATE ()-[s:S]->() RETURN r.created_at, s.created_at",
        STATE,
    )

    assert made.rows == [[10, NOW_MS]]


def test_reads_have_no_changes():
    """A query that only reads writes nothing."""
    made = outcome("MATCH (n) RETURN n", STATE)

    assert not made.changes
    assert made.vectors_kept == ([], [])


ALL = (
    "OPTIONAL MATCH (n) WITH collect(n) AS nodes OPTIONAL MATCH ()-[r]->() RETURN nodes, collect(r)"
)
CLAUSES = st.sampled_from(
    [
        "WITH count(*) AS one CREATE (n{i}:L {{x: {k}}})",
        "WITH count(*) AS one CREATE (n{i} {{x: {k}}})-[:T {{w: {k}}}]->(:M)",
        "WITH count(*) AS one MERGE (n{i}:L {{x: {k}}}) ON MATCH SET n{i}.seen = {k}",
        "WITH count(*) AS one MATCH (m) WITH m LIMIT 3 SET m.y = {k}",
        "WITH count(*) AS one MATCH (m {{x: {k}}}) SET m:Z REMOVE m.y",
        "WITH count(*) AS one MATCH (m)-[r]->(o) WITH m, o, r LIMIT {k} DELETE r",
        "WITH count(*) AS one MATCH (m) WITH m SKIP {k} LIMIT 1 DETACH DELETE m",
        "WITH count(*) AS one MATCH (m), (o:L) WITH m, o LIMIT {k} "
        "CREATE (m)-[:S {{confidence: 0.5}}]->(o)",
        "WITH count(*) AS one MATCH (m)-[r]->() SET r.confidence = 0.25, r.k = {k}",
        "WITH count(*) AS one MATCH (m), (o:L), (p) WHERE m <> o AND o <> p AND p <> m "
        "WITH m, o, p LIMIT 1 CREATE (m)-[:F]->(o, p)",
    ]
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CLAUSES, st.integers(1, 3)), min_size=1, max_size=7))
def test_net_changes_are_what_the_query_saw(clauses):
    """The changes, applied to the graph before, give the graph that the query's end has seen."""
    text = " ".join(clause.format(i=at, k=k) for at, (clause, k) in enumerate(clauses))
    text += " WITH count(*) AS one " + ALL

    made, after = change(text)

    ((nodes, arcs),) = made.rows
    (expected,) = rows(ALL, after)
    assert sorted(map(str, nodes)) == sorted(map(str, expected[0]))
    assert _known(arcs) == _known(expected[1])


def _known(arcs):
    skipped = ("created_at", "expired_at")
    return sorted(str({k: v for k, v in arc.items() if k not in skipped}) for arc in arcs)


KEYED = graph(
    node("a", "P", k=1), node("b", "P", k=1.0), node("c", "P", k="1"), node("d", "P", k=True),
    node("e", "P", k=[1]), node("f", "Q", k=1), node("g", "P"),
)  # fmt: skip
STEPS = st.sampled_from(
    [
        "MERGE (n{i}:P {{k: {v}}}) ON CREATE SET n{i}.made = {i} ON MATCH SET n{i}.seen = {i}",
        "CREATE (:P {{k: {v}, made: {i}}})",
        "WITH count(*) AS one MATCH (m:P {{k: {v}}}) SET m.k = {w}",
        "WITH count(*) AS one MATCH (m:P {{k: {v}}}) REMOVE m:P",
        "WITH count(*) AS one MATCH (m:Q {{k: {v}}}) SET m:P",
        "WITH count(*) AS one MATCH (m:P {{k: {v}}}) DETACH DELETE m",
        "WITH count(*) AS one MATCH (m:P) WHERE m.k IN [{v}, {w}, null] SET m.k = {v}",
        "WITH count(*) AS one MATCH (m:P) WHERE m.k >= {v} SET m.high = {i}",
    ]
)
KEYS = st.sampled_from(["1", "1.0", "2", "'1'", "true", "[1]", "[1.0]", "{a: 1}"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(STEPS, KEYS, KEYS), min_size=1, max_size=8))
def test_an_index_finds_what_the_query_has_written(steps):
    """With an index a query writes what it does without one."""
    parts = [step.format(i=at, v=v, w=w) for at, (step, v, w) in enumerate(steps)]
    text = " WITH count(*) AS one ".join(parts).replace(
        "WITH count(*) AS one WITH count(*) AS one", "WITH count(*) AS one"
    )
    text = "WITH 1 AS zero " + text
    plain = outcome(text, KEYED)
    indexed = outcome(text, KEYED, rest={"indexes": PropertyIndexes(["P.k", "Q.k"], KEYED)})

    assert indexed.counts == plain.counts
    assert picture(applied(KEYED, indexed.changes)) == picture(applied(KEYED, plain.changes))


def test_new_ids_come_from_outside():
    """Every new id is asked for, so that replicas agree."""
    made = outcome("UNWIND range(1, 3) AS x CREATE (n)-[:T]->({id: 'm' + x}) RETURN n.id")

    assert [row[0] for row in made.rows] == ["new0", "new2", "new4"]
    assert column("CREATE (n {id: 'own'}) RETURN id(n)") == ["own"]
    assert context().new_id() == "new0"
