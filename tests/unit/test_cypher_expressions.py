"""Expressions of Cypher, each as a query that returns it."""

import math

import pytest

from graph.errors import BadQuery
from tests.unit.cypher_graph import column, edge, graph, node, outcome, rows, value

VALUES = [
    ("1 + 2 * 3 - 4", 3),
    ("(1 + 2) * 3", 9),
    ("7 / 2", 3),
    ("-7 / 2", -3),
    ("7 % -3", 1),
    ("-7 % 3", -1),
    ("7.0 / 2", 3.5),
    ("2 ^ 10", 1024.0),
    ("2 ^ 3 ^ 2", 64.0),
    ("-2 ^ 2", 4.0),
    ("0 ^ -1", None),
    ("1.0 / 0", None),
    ("0x1F + 0o17", 46),
    ("10.5 % 3", 1.5),
    ("1.0 % 0", None),
    ("0.0 / 0", None),
    ("-1.0 / 0 < 0", True),
    ("2.0 ^ 10000 > 0", True),
    ("(-2.0) ^ 10001 < 0", True),
    ("(-2.0) ^ 0.5 = 0", False),
    ("1 % null", None),
    ("- $none", None),
    ("[1] = [1, 2]", False),
    ("$none:A", None),
    ("$none[0]", None),
    ("keys($none)", None),
    ("single(x IN $none WHERE x)", None),
    ("reduce(a = 0, x IN $none | a)", None),
    ("toBoolean(true)", True),
    ("toInteger(true)", 1),
    ("round(1.0 / 0)", None),
    ("length([1, 2])", 2),
    ("1e3 + .5", 1000.5),
    ("-9223372036854775808", -(2**63)),
    ("- -3", 3),
    ("+3", 3),
    ("'a' + 'b' + 1 + 2.5", "ab12.5"),
    ("[1] + [2] + 3", [1, 2, 3]),
    ("0 + [1]", [0, 1]),
    ("1 + null", None),
    ("null + [1]", None),
    ('\'it\\\'s \' + "\\"x\\""', 'it\'s "x"'),
    ("'\\u00e9\\t\\\\'", "é\t\\"),
    ("'\\uD83D\\uDE00'", "😀"),
    ("1 = 1.0", True),
    ("1 = true", False),
    ("'1' = 1", False),
    ("1 <> 2", True),
    ("null = null", None),
    ("null <> 1", None),
    ("[1, null] = [1, null]", None),
    ("[1, null] = [2, null]", False),
    ("[1, 2] = [1, 2.0]", True),
    ("{a: 1, b: [2]} = {b: [2], a: 1}", True),
    ("{a: 1} = {a: 1, b: null}", False),
    ("{a: null} = {a: 1}", None),
    ("1 < 2 < 3", True),
    ("1 < 3 < 2", False),
    ("1 < 2 < null", None),
    ("2 < 1 < null", False),
    ("3 > 2 >= 2 = 2", True),
    ("'a' < 'b'", True),
    ("'a' < 1", None),
    ("false < true", True),
    ("true > 0", None),
    ("[1, 2] < [1, 3]", True),
    ("[1] < [1, 0]", True),
    ("[1, null] < [1, 2]", None),
    ("1 IN [1, 2]", True),
    ("3 IN [1, null]", None),
    ("1 IN [1, null]", True),
    ("null IN []", False),
    ("null IN [1]", None),
    ("1 IN null", None),
    ("[1] IN [[1], 2]", True),
    ("'abc' STARTS WITH 'ab'", True),
    ("'abc' ENDS WITH 'bc'", True),
    ("'abc' CONTAINS 'd'", False),
    ("'abc' CONTAINS null", None),
    ("1 CONTAINS 'a'", None),
    ("null IS NULL", True),
    ("1 IS NOT NULL", True),
    ("true AND null", None),
    ("false AND null", False),
    ("true OR null", True),
    ("false OR null", None),
    ("true XOR true XOR true", True),
    ("true XOR null", None),
    ("NOT null", None),
    ("NOT false AND false", False),
    ("true OR false AND false", True),
    ("NOT 1 IN [1]", False),
    ("1 + 1 IN [2]", True),
    ("CASE 2 WHEN 1 THEN 'a' WHEN 2 THEN 'b' ELSE 'c' END", "b"),
    ("CASE WHEN false THEN 1 WHEN null THEN 2 END", None),
    ("CASE null WHEN null THEN 1 ELSE 2 END", 2),
    ("[1, 2, 3][0]", 1),
    ("[1, 2, 3][-1]", 3),
    ("[1, 2, 3][7]", None),
    ("[1, 2, 3, 4][1..3]", [2, 3]),
    ("[1, 2, 3][..-1]", [1, 2]),
    ("[1, 2, 3][1..]", [2, 3]),
    ("[1, 2, 3][null..]", None),
    ("{a: {b: [5]}}.a.b[0]", 5),
    ("{a: 1}['a']", 1),
    ("{`order`: 1, match: 2}.match", 2),
    ("null.x", None),
    ("[x IN [1, 2, 3] WHERE x > 1 | x * 10]", [20, 30]),
    ("[x IN [1, 2, 3] WHERE x > 1]", [2, 3]),
    ("[x IN [1, 2] | [y IN [3] | x + y]]", [[4], [5]]),
    ("[x IN [1, 2]]", [1, 2]),
    ("[x IN null | x]", None),
    ("reduce(total = 0, x IN [1, 2, 3] | total + x)", 6),
    ("reduce(t = 's', x IN [] | t + x)", "s"),
    ("all(x IN [1, 2] WHERE x > 0)", True),
    ("all(x IN [1, null] WHERE x > 0)", None),
    ("any(x IN [1, null] WHERE x > 0)", True),
    ("none(x IN [] WHERE x > 0)", True),
    ("single(x IN [1, 2] WHERE x > 1)", True),
    ("single(x IN [1, null, 2] WHERE x > 0)", False),
    ("size([1, 2]) + size('abc')", 5),
    ("coalesce(null, 2, 3)", 2),
    ("coalesce(null)", None),
    ("head([1, 2]) + last([1, 2])", 3),
    ("head([])", None),
    ("tail([1, 2, 3])", [2, 3]),
    ("reverse([1, 2])", [2, 1]),
    ("reverse('ab')", "ba"),
    ("range(0, 3)", [0, 1, 2, 3]),
    ("range(5, 1, -2)", [5, 3, 1]),
    ("range(1, 0)", []),
    ("keys({b: 1, a: 2})", ["b", "a"]),
    ("properties({a: 1})", {"a": 1}),
    ("toInteger('42') + toInteger(1.9) + toInteger('2.7')", 45),
    ("toInteger('x')", None),
    ("toInteger('9223372036854775807')", 2**63 - 1),
    ("toInteger('9223372036854775808')", None),
    ("toInteger(1e300)", None),
    ("toFloat('1.5') + toFloat(1)", 2.5),
    ("toFloat('1_0')", None),
    ("toString(1) + toString(true) + toString(1.5) + toString('s')", "1true1.5s"),
    ("toBoolean('TRUE')", True),
    ("toBoolean('no')", None),
    ("toUpper('aé') + toLower('B')", "AÉb"),
    ("trim(' a ') + ltrim(' b') + rtrim('c ')", "abc"),
    ("substring('hello', 1, 3)", "ell"),
    ("substring('hello', 3)", "lo"),
    ("left('hello', 2) + right('hello', 2)", "helo"),
    ("replace('aXbX', 'X', '--')", "a--b--"),
    ("split('a,b,', ',')", ["a", "b", ""]),
    ("abs(-3) + abs(-1.5)", 4.5),
    ("round(2.5) + round(-2.5)", 1.0),
    ("round(3.14159, 2)", 3.14),
    ("ceil(1.2) + floor(1.8)", 3.0),
    ("sign(-3.5)", -1),
    ("sqrt(9)", 3.0),
    ("sqrt(-1)", None),
    ("exists(null)", False),
    ("timestamp()", 1_700_000_000_000),
    ("size(null)", None),
    ("/* a */ 1 // b\n + 2", 3),
]


@pytest.mark.parametrize(("text", "expected"), VALUES, ids=[text for text, _ in VALUES])
def test_value(text, expected):
    """An expression has the value that openCypher gives it."""
    found = value(f"RETURN {text} AS x", none=None)

    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "text",
    [
        "1 / 0",
        "1 % 0",
        "9223372036854775807 + 1",
        "-(-9223372036854775808)",
        "9223372036854775808",
        "-9223372036854775808 / -1",
        "abs(-9223372036854775808)",
        "1 - 'a'",
        "true + 1",
        "-'a'",
        "1 AND true",
        "NOT 1",
        "[1]['a']",
        "[1][1.0]",
        "{a: 1}[0]",
        "1[0]",
        "(1).a",
        "1 IN 2",
        "size(1)",
        "size()",
        "head(1)",
        "substring('a', -1)",
        "range(1, 2, 0)",
        "range(0, 10000000)",
        "nothing(1)",
        "length(1)",
        "nodes(1)",
        "type(1)",
        "labels(1)",
        "unknown",
        "$missing",
        "[x IN 1 | x]",
        "reduce(a = 'ab', x IN range(1, 40) | a + a)",
        "reduce(a = [1], x IN range(1, 40) | a + a)",
        "replace('aaaaaaaaaa', '', reduce(a = 'ab', x IN range(1, 18) | a + a))",
        "count(count(*))",
        "[x IN [1] | count(x)]",
        "sum('a')",
        "toInteger([1])",
        "toString([1])",
        "toBoolean(1)",
        "last('a')",
        "tail('a')",
        "reverse(1)",
        "relationships([])",
        "labels([])",
        "id({})",
        "startNode(1)",
        "properties(1)",
        "keys([])",
        "abs('a')",
        "round('a')",
        "round(1, -1)",
        "exists()",
        "left(1, 1)",
        "1:A",
        "[1]['a'..]",
        "CASE WHEN 1 THEN 2 END",
        "any(x IN {} WHERE true)",
    ],
)
def test_refused(text):
    """An expression without a value is an error of the query, in a sentence."""
    with pytest.raises(BadQuery) as caught:
        rows(f"RETURN {text} AS x")

    assert len(caught.value.message.split()) >= 3


def test_parameters():
    """Parameters stand for values of every kind, and may have any name."""
    found = rows("RETURN $a, $`b c`, $0, $a.x[1], 2 IN $list", **{
        "a": {"x": [1, 2]}, "b c": None, "0": 1.5, "list": [1, 2]
    })  # fmt: skip

    assert found == [[{"x": [1, 2]}, None, 1.5, 2, True]]


def test_membership_of_a_parameter_is_like_any_other():
    """A list that is looked up instead of walked gives the same answers."""
    for items in ([1, 2.0, "a", True], [math.nan, 1], [], [1, None]):
        for sought in (1, 2, "a", True, False, math.nan, None, [1]):
            text = "UNWIND [$sought] AS x RETURN x IN $items, x IN [y IN $items]"

            ((looked_up, walked),) = rows(text, sought=sought, items=items)

            assert looked_up is walked


def test_columns_are_named_as_written():
    """A column without AS is named by the text of its expression."""
    found = outcome("RETURN 1  +  1, 'a' AS b, (2), [1, 2][ 0 ]")

    assert found.columns == ["1  +  1", "b", "(2)", "[1, 2][ 0 ]"]


def test_floats_that_json_lacks_are_null():
    """Neither infinity nor what is no number leaves the graph, however deep it lies."""
    assert value("RETURN [0.0 / 0, {a: 1.0 / 0}]") == [None, {"a": None}]


def test_elements():
    """Built-in keys of nodes and relationships win over properties."""
    state = graph(
        node("a", "A", "B", id="not this", x=1, nested={"k": [1]}),
        node("b"),
        edge("e", "T", "a", "b", confidence=0.5, valid=(5, 9), created=7, confidence2=1, w=3),
    )

    found = rows(
        "MATCH (n)-[r]->(m) RETURN n.id, id(n), n.x, n.nested.k[0], n.none, labels(n), labels(m), "
        "n:A, n:A:C, keys(n), r.id, id(r), r.hyperedge_id, r.position, r.confidence, r.valid_at, "
        "r.invalid_at, r.created_at, r.expired_at, r.w, type(r), r:T, startNode(r).id, "
        "endNode(r).id, "
        "properties(r), exists(n.x), exists(n.y), n['x']",
        state,
    )

    assert found == [
        [
            *("a", "a", 1, 1, None, ["A", "B"], [], True, False, ["id", "nested", "x"]),
            *("e", "e", "e", 0, 0.5, 5, 9, 7, None, 3, "T", True, "a", "b"),
            *({"confidence2": 1, "w": 3}, True, False, 1),
        ]
    ]


def test_elements_are_equal_to_themselves():
    """Nodes, relationships and paths can be compared."""
    state = graph(node("a"), node("b"), edge("e", "T", "a", "b"), edge("f", "T", "a", "b"))

    found = column(
        "MATCH p = (n)-[r]->(m), q = (n)-[s]->(m) RETURN [n = m, r = s, p = q, p = p]", state
    )

    assert found == [[False, False, False, True]] * 2


def test_order_of_all_types():
    """ORDER BY has a place for each type, null last."""
    text = (
        "UNWIND [null, 1, 'b', true, [2], {b: 1}, 0.5, false, [1, 2], 'a', 0.0 / 0, [], "
        "{a: 2}] AS x "
        "RETURN x ORDER BY x"
    )

    expected = [{"a": 2}, {"b": 1}, [], [1, 2], [2], "a", "b", False, True, 0.5, 1, None, None]
    assert column(text) == expected
    assert column(text + " DESC") == expected[::-1]


def test_elements_are_grouped_and_ordered():
    """Nodes, relationships, hyperedges, paths and what is no number have a place in every order."""
    state = graph(
        node("b"),
        node("a"),
        edge("r", "T", "b", "a"),
        edge("f", "F", "a", "b", "a", roles=(("s", 1), ("t", 2))),
    )
    text = (
        "MATCH (s)-[h]->(x {id: 'b'}, y), p = (m)-[r:T]->(n) "
        "UNWIND [p, r, h, n, m, 0.0 / 0, n, r, h, p, 0.0 / 0] AS v "
        "WITH DISTINCT v ORDER BY v RETURN CASE WHEN v = v AND NOT v <> v THEN 1 ELSE 0 END, "
        "count(*)"
    )

    assert rows(text, state) == [[1, 5], [0, 1]]
    assert column("MATCH (n) RETURN n.id ORDER BY n DESC", state) == ["b", "a"]
    assert value("MATCH ()-[r:T]->() RETURN min(r).id = max(r).id", state) is True
