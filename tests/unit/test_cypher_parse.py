"""From text to tree: what is wrong is said with its place, what is not served by its name."""

import pytest

from graph.cypher import parse
from graph.cypher.tree import Match, Projection
from graph.errors import BadQuery, UnsupportedClause


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("RETURN 1 UNION RETURN 2", "UNION"),
        ("MATCH (n) RETURN n UNION ALL MATCH (m) RETURN m AS n", "UNION"),
        ("CALL db.labels()", "CALL"),
        ("CALL { RETURN 1 AS x } RETURN x", "CALL"),
        ("MATCH (n) CALL { WITH n RETURN 1 AS x } RETURN x", "CALL"),
        ("FOREACH (x IN [1] | CREATE (n))", "FOREACH"),
        ("LOAD CSV FROM 'x' AS row RETURN row", "LOAD CSV"),
        ("USE other MATCH (n) RETURN n", "USE"),
        ("PROFILE MATCH (n) RETURN n", "PROFILE"),
        ("MATCH (n) USING INDEX n:X(y) WHERE n.y = 1 RETURN n", "USING"),
        ("CREATE INDEX FOR (n:X) ON (n.y)", "CREATE INDEX"),
        ("CREATE TEXT INDEX name FOR (n:X) ON (n.y)", "CREATE INDEX"),
        ("CREATE CONSTRAINT c FOR (n:X) REQUIRE n.y IS UNIQUE", "CREATE CONSTRAINT"),
        ("DROP INDEX x", "administration"),
        ("SHOW INDEXES", "administration"),
        ("MATCH p = shortestPath((a)-[*]->(b)) RETURN p", "shortestPath"),
        ("MATCH p = allShortestPaths((a)-[*]->(b)) RETURN p", "shortestPath"),
        ("RETURN shortestPath(1)", "shortestPath"),
        ("MATCH (n) WHERE EXISTS { (n)-->() } RETURN n", "EXISTS { }"),
        ("MATCH (n) RETURN COUNT { (n)-->() }", "COUNT { }"),
        ("MATCH (n) WHERE (n)-[:T]->() RETURN n", "a pattern inside an expression"),
        ("MATCH (n) WHERE NOT (n)-->() RETURN n", "a pattern inside an expression"),
        ("RETURN [(a)-->(b) | b]", "a pattern"),
        ("MATCH (n) RETURN n {.name}", "a map projection"),
        ("RETURN 'a' =~ 'b'", "=~"),
        ("MATCH ((a)-->(b)){1,3} RETURN a", "a quantified path pattern"),
        ("MATCH (a)-->+(b) RETURN a", "a quantified path pattern"),
        ("MATCH (a)-[:T]->{2}(b) RETURN a", "a quantified path pattern"),
    ],
)
def test_unsupported(text, named):
    """What openCypher knows and is not served is named."""
    with pytest.raises(UnsupportedClause) as caught:
        parse(text)

    assert named in caught.value.message
    assert "is not supported" in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: the query ends, but a clause was expected"),
        (
            "MATCH (n)\nRETURN",
            "line 2, column 7: the query ends, but DISTINCT, '*' or an expression",
        ),
        ("RETURN 1 +", "line 1, column 11: the query ends, but an expression was expected"),
        (
            "MATCH (n RETURN n",
            "line 1, column 10: found 'RETURN', but ':', ',', '{', a parameter or ')'",
        ),
        ("MATCH (a)-[r:]->(b) RETURN r", "line 1, column 14: found ']', but a name was expected"),
        ("MATCH (a)-(b) RETURN a", "line 1, column 11: found '(', but '[' or '-' was expected"),
        ("RETURN 'open", "line 1, column 8: ' opens what is not closed"),
        ("RETURN 1 2", "found '2'"),
        ("RETURN 1 AS 2", "found '2', but a name was expected"),
        ("MATCH (n) /* open RETURN n", "found '/'"),
        ("RETURN é§", "found '§'"),
        ("MATCH (n)", "ends with RETURN"),
        ("MATCH (n) WITH n", "ends with RETURN"),
        ("RETURN 1 MATCH (n) RETURN n", "RETURN has to be the last"),
        ("RETURN 99999999999999999999", "more than 64 bits"),
        ("RETURN 1e999", "too large"),
        ("RETURN '\\ud800'", "not a character"),
        ("RETURN '\\UFFFFFFFF'", "not a character"),
        ("RETURN [1 | 2]", "begins with: variable IN list"),
        ("RETURN all(1 WHERE true)", "begins with: variable IN list"),
        ("RETURN size(x IN [1] WHERE true)", "takes no WHERE"),
        ("RETURN all([1])", "all(x IN list WHERE condition)"),
        ("RETURN sum(*)", "does not exist"),
        ("RETURN size(DISTINCT 'a')", "DISTINCT does not go with"),
        ("RETURN " + "n" * 300, "longer than 255 bytes"),
        ("RETURN 1;;", "found ';'"),
    ],
)
def test_refused(text, message):
    """A text that is no query is refused in a sentence, with line, column and what could stand."""
    with pytest.raises(BadQuery) as caught:
        parse(text)

    assert message in caught.value.message
    assert not isinstance(caught.value, UnsupportedClause)


def test_limits():
    """A query's size and depth are bounded, and depth costs no stack."""
    for flat in ("1 + " * 1000 + "1", "true AND " * 1000 + "true", "(" * 1000 + "1" + ")" * 1000):
        assert not parse("RETURN " + flat).writes
    for deep in (
        "[" * 300 + "]" * 300,
        "NOT " * 300 + "true",
        "- " * 300 + "$x",
        "a" + ".b" * 300,
        "a" + "[0]" * 300,
        "CASE WHEN true THEN " * 100 + "1" + " END" * 100,
        "{a: " * 300 + "1" + "}" * 300,
        "(1 + " * 300 + "1" + ")" * 300,
    ):
        with pytest.raises(BadQuery, match="nest at most 64 deep"):
            parse("RETURN " + deep)
    with pytest.raises(BadQuery, match="at most 65536 bytes"):
        parse("RETURN '" + "é" * 33_000 + "'")
    with pytest.raises(BadQuery, match="Unicode"):
        parse("RETURN '\ud800'")


def test_queries_can_be_shared():
    """A query is a value: it can be kept, compared, and asked what it does."""
    text = "MATCH (n) RETURN n"

    assert parse(text) == parse("match (n) // comment\n return n ;")
    assert not parse(text).writes
    assert not parse(text).explain
    assert parse("EXPLAIN " + text).explain
    for write in ("CREATE (n)", "MERGE (n)", "MATCH (n) SET n.x = 1", "MATCH (n) DELETE n"):
        assert parse(write).writes


def test_columns_are_named_as_they_are_written():
    """A column without AS has the text of its expression for a name, whatever stands around it."""
    for written, name in {
        "1+ 2": "1+ 2",
        " ( 1 /* one */ + 2 ) // end": "( 1 /* one */ + 2 )",
        "/* a */ count( * ) /* b */ ;": "count( * )",
        "CASE WHEN true THEN 'a, b' END SKIP 1": "CASE WHEN true THEN 'a, b' END",
        "(n) . x\n, 'é'[0] AS y": "(n) . x",
        "'é' STARTS WITH 'e' ORDER BY 1": "'é' STARTS WITH 'e'",
        "`n`": "n",
        "$p LIMIT 1": "$p",
    }.items():
        (projection,) = parse(f"RETURN DISTINCT {written}").clauses

        assert isinstance(projection, Projection)
        assert projection.items[0].name == name


def test_words_as_names():
    """Words of the language name properties, labels, types and mostly variables too."""
    text = (
        "MATCH (order:Match {limit: 1})-[contains:IN|SET]->(n:`a b`) "
        "RETURN order.return, contains AS `end`"
    )

    (match, _) = parse(text).clauses

    assert isinstance(match, Match)
    assert match.parts[0].nodes[0].labels == ("Match",)
