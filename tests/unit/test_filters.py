"""Filters: what is refused and by what name, and that SQL and predicate agree on every payload."""

import sqlite3
import uuid

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.datetimes import parse_datetime_ms
from storage.filter_sql import to_sql
from storage.filters import Filter, FilterError, matches, parse_filter
from storage.ids import encode_id
from storage.payload_path import parse_path, values_at

KEYS = ["a", "b", "c-1", "é", "two words", "with.dot", "[0]", ""]
TEXTS = [
    "",
    "x",
    "xy",
    "Xy",
    "ü",
    'say "x"',
    "back\\slash",
    "tab\tx",
    "null",
    "1",
    "[1]",
    '{"a":1}',
]
INTEGERS = [0, 1, -1, 2, 7, 2**53 + 1, 2**63 - 1, -(2**63)]
FLOATS = [0.0, 1.0, -1.5, 0.1, 0.3, 2.5e-7, 1e300, 9007199254740993.0]
DATETIMES = [
    "2024-02-29",
    "2024-02-29T12:30",
    "2024-02-29 12:30:15",
    "2024-02-29T12:30:15Z",
    "2024-02-29T12:30:15.1235Z",
    "2024-02-29T12:30:15.999999999Z",
    "2024-02-29T14:30:15+02:00",
    "1969-12-31T23:59:59.9-14:59",
    "0001-01-01",
    "9999-12-31T23:59:59.999Z",
]
NO_DATETIMES = [
    "2024-02-30",
    "2023-02-29T00:00:00Z",
    "2024-13-01",
    "0000-01-01",
    "2024-02-29T24:00:00Z",
    "2024-02-29T12:60",
    "2024-02-29T12:30:60Z",
    "2024-02-29T12",
    "2024-02-29T12:30Z",
    "2024-02-29T12:30:15.Z",
    "2024-02-29T12:30:15.1234567890Z",
    "2024-02-29T12:30:15+15:00",
    "2024-02-29T12:30:15+02",
    "2024-02-29T12:30:15 Z",
    "2024-02-29  12:30",
    "2024-02-29t12:30:15z",
    "2024-2-29",
    "12:30",
    "now",
    "2460370.5",
    "",
]

scalars = (
    st.none()
    | st.booleans()
    | st.sampled_from([*INTEGERS, 2**63, 2**64 - 1])
    | st.sampled_from(FLOATS)
    | st.sampled_from(TEXTS)
    | st.sampled_from(DATETIMES + NO_DATETIMES)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=6,
)
payloads = st.dictionaries(st.sampled_from(KEYS), values, max_size=4)
ids = st.integers(0, 3) | st.sampled_from([str(uuid.UUID(int=n)) for n in range(3)])


def path_text(steps):
    """Write a path; each key between quotes that needs them, and some that do not."""
    text = ""
    for step in steps:
        if isinstance(step, str):
            plain = step.replace("-", "").isalnum() and len(step) != 1
            text += ("." if text else "") + (step if plain or step == "a" else f'"{step}"')
        else:
            text += "[]" if step is None else f"[{step}]"
    return text


bounds = st.sampled_from(["lt", "lte", "gt", "gte"])
flags = st.booleans()
strings = st.sampled_from([*TEXTS, "x y", " "])
integers = st.sampled_from(INTEGERS)


@st.composite
def paths(draw):
    """Draw a path of up to three steps, as text."""
    rest = draw(st.lists(st.sampled_from([*KEYS, None, None, 0, 1]), max_size=2))
    return path_text([draw(st.sampled_from(KEYS)), *rest])


@st.composite
def matchers(draw):
    """Draw the object of a `match`."""
    name = draw(st.sampled_from(["value", "any", "except", "text", "text_any", "phrase"]))
    if name == "value":
        return {name: draw(strings | integers | flags)}
    if name in {"any", "except"}:
        return {name: draw(st.lists(strings, max_size=3) | st.lists(integers, max_size=3))}
    return {name: draw(strings)}


@st.composite
def limits(draw):
    """Draw the object of a `range`."""
    numbers = st.sampled_from(FLOATS) | integers
    return draw(
        st.dictionaries(bounds, numbers, max_size=2)
        | st.dictionaries(bounds, st.sampled_from(DATETIMES), max_size=2)
    )


@st.composite
def leaves(draw):
    """Draw a condition without conditions in it."""
    name = draw(
        st.sampled_from(
            ["has_id", "is_empty", "is_null", "match", "match", "range", "values_count", "flag"]
        )
    )
    if name == "has_id":
        return {name: draw(st.lists(ids, max_size=3))}
    key = {"key": draw(paths())}
    if name in {"is_empty", "is_null"}:
        return {name: key}
    if name == "flag":
        return key | {draw(st.sampled_from(["is_empty", "is_null"])): draw(flags)}
    counts = st.dictionaries(bounds, st.integers(0, 3), max_size=2)
    tests = {"match": matchers(), "range": limits(), "values_count": counts}
    return key | {name: draw(tests[name])}


@st.composite
def raw_filters(draw, depth=2):
    """Draw a filter as JSON: each clause a list or a single condition."""
    condition = leaves() if depth == 0 else leaves() | leaves() | raw_filters(depth - 1)
    clause = condition | st.lists(condition, max_size=3)
    names = st.sampled_from(["must", "should", "must_not"])
    raw = draw(st.dictionaries(names, clause, min_size=1, max_size=3))
    if draw(flags):
        conditions = draw(st.lists(condition, max_size=3))
        raw["min_should"] = {"conditions": conditions, "min_count": draw(st.integers(0, 3))}
    return raw


def rows_passing(points, parsed):
    """Return the positions of the points that the filter's SQL lets pass."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE records (seq INTEGER PRIMARY KEY, collection, id, payload)")
    connection.executemany(
        "INSERT INTO records VALUES (?, 1, ?, ?)",
        [
            (seq, encode_id(point_id), orjson.dumps(payload, option=orjson.OPT_SORT_KEYS))
            for seq, (point_id, payload) in enumerate(points)
        ],
    )
    where, parameters = to_sql(parsed)
    query = f"SELECT seq, ({where}) FROM records WHERE collection = ?"
    judged = connection.execute(query, [*parameters, 1]).fetchall()
    negated = f"SELECT seq FROM records WHERE NOT ({where})"
    others = {seq for (seq,) in connection.execute(negated, parameters)}
    connection.close()
    assert all(verdict in (0, 1) for _, verdict in judged)
    passing = {seq for seq, verdict in judged if verdict}
    assert passing | others == set(range(len(points)))
    return passing


def check(raw, *points):
    """Assert that SQL and predicate agree; return what passes."""
    parsed = parse_filter(raw)
    passing = rows_passing(points, parsed)
    assert passing == {
        position
        for position, (point_id, payload) in enumerate(points)
        if matches(parsed, point_id, payload)
    }
    return passing


@settings(max_examples=400)
@given(raw_filters(), st.lists(st.tuples(ids, payloads), min_size=1, max_size=6))
def test_sql_is_the_predicate(raw, points):
    """For every filter and payload the SQL condition holds exactly if the predicate does."""
    parsed = parse_filter(raw)

    expected = {n for n, (point_id, load) in enumerate(points) if matches(parsed, point_id, load)}

    assert rows_passing(points, parsed) == expected


@settings(max_examples=200)
@given(st.floats(allow_nan=False, allow_infinity=False), bounds)
def test_sql_reads_bounds_as_it_reads_payloads(number, bound):
    """Any float64 compares with itself as equal in SQL too, whatever its decimals are."""
    raw = {"must": {"key": "n", "range": {bound: number}}}

    assert check(raw, (1, {"n": number})) == ({0} if bound in {"lte", "gte"} else set())


@given(raw_filters())
def test_tree_travels(raw):
    """A tree comes back from MessagePack as it was."""
    parsed = parse_filter(raw)

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(parsed), type=Filter) == parsed


@pytest.mark.parametrize("text", DATETIMES + NO_DATETIMES)
def test_datetimes_in_sql(text):
    """SQL takes the same texts for datetimes as the parser, and for the same instant."""
    instant = parse_datetime_ms(text)

    assert (instant is not None) == (text in DATETIMES)
    everything = {"key": "at", "range": {"gte": "0001-01-01T00:00:00+14:59"}}
    found = check({"must": everything}, (1, {"at": text}))
    assert found == (set() if instant is None else {0})
    if instant is not None:
        same = {"key": "at", "range": {"gte": text, "lte": text}}
        assert check({"must": same}, (1, {"at": text})) == {0}


def test_instants():
    """Datetimes are UTC unless they say otherwise, and rounded to the millisecond."""
    assert parse_datetime_ms("1970-01-01") == 0
    assert parse_datetime_ms("1970-01-01T01:00:00.0015+01:00") == 2
    assert parse_datetime_ms("1969-12-31T23:59:59.999") == -1
    assert parse_datetime_ms("2024-02-29T12:30:15Z") == 1_709_209_815_000


POINTS = [
    (1, {"color": "red", "n": 1, "tags": ["a", "b"], "deep": {"list": [{"x": 1}, {"x": [2, 3]}]}}),
    (2, {"color": ["blue", "red"], "n": 1.0, "tags": [], "deep": {"list": []}}),
    (3, {"color": None, "n": True, "tags": None}),
    ("00000000-0000-0000-0000-000000000001", {}),
]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"key": "color", "match": {"value": "red"}}, {0, 1}),
        ({"key": "n", "match": {"value": 1}}, {0}),
        ({"key": "n", "match": {"value": True}}, {2}),
        ({"key": "n", "range": {"gte": 1}}, {0, 1}),
        ({"key": "n", "range": {}}, {0, 1}),
        ({"key": "color", "match": {"any": ["blue", "green"]}}, {1}),
        ({"key": "color", "match": {"except": ["red"]}}, {1}),
        ({"key": "n", "match": {"except": [1]}}, {1, 2}),
        ({"key": "n", "match": {"except": []}}, {0, 1, 2}),
        ({"key": "n", "match": {"any": []}}, set()),
        ({"key": "color", "match": {"text": "e"}}, {0, 1}),
        ({"key": "color", "match": {"text_any": "zzz blu"}}, {1}),
        ({"key": "tags", "values_count": {"gte": 1}}, {0}),
        ({"key": "tags", "values_count": {"lt": 1}}, {1, 2}),
        ({"key": "tags", "values_count": {"gt": 2**64}}, set()),
        ({"is_empty": {"key": "tags"}}, {1, 2, 3}),
        ({"is_null": {"key": "tags"}}, {2}),
        ({"key": "tags", "is_empty": False}, {0}),
        ({"key": "tags", "is_null": False}, {0, 1, 3}),
        ({"key": "deep.list[].x", "match": {"value": 3}}, {0}),
        ({"key": "deep.list[0].x", "match": {"value": 1}}, {0}),
        ({"key": "deep.list[1].x[]", "match": {"value": 2}}, {0}),
        ({"key": "deep", "match": {"except": ["x"]}}, {0, 1}),
        ({"has_id": [1, "00000000-0000-0000-0000-000000000001"]}, {0, 3}),
        ({"has_id": []}, set()),
        ({"should": [{"has_id": [1]}, {"has_id": [2]}]}, {0, 1}),
        ({"must_not": {"has_id": [1]}}, {1, 2, 3}),
        ({"should": []}, {0, 1, 2, 3}),
        (
            {
                "min_should": {
                    "conditions": [{"has_id": [1, 2]}, {"has_id": [2, 3]}, {"has_id": [2]}],
                    "min_count": 2,
                }
            },
            {1},
        ),
    ],
)
def test_semantics(condition, expected):
    """Conditions mean what Qdrant's documentation says they mean."""
    assert check({"must": [condition]}, *POINTS) == expected


def test_null_fields_count_as_absent():
    """Clients that send every field of a condition are understood."""
    condition = {"key": "n", "match": {"value": 1}, "range": None, "geo_radius": None}

    assert check({"must": [condition], "should": None, "min_should": None}, *POINTS) == {0}


def test_many_ids():
    """More ids than a statement may have parameters are still one statement."""
    listed = [{"has_id": list(range(start, start + 10_000))} for start in range(5, 90_000, 9_999)]

    assert check({"should": [*listed, {"has_id": [2]}]}, *POINTS) == {1}


def deep(levels):
    """Return a filter nested so often."""
    raw = {"has_id": [1]}
    for _ in range(levels):
        raw = {"must": [raw]}
    return raw


def test_limits():
    """The largest filters are accepted and can be run; anything larger is refused."""
    assert check(deep(16), *POINTS) == {0}
    widest = [{"key": "n", "match": {"value": n}} for n in range(256)]
    assert check({"should": widest}, *POINTS) == {0}
    for raw in (
        deep(17),
        {"should": [*widest, {"has_id": [1]}]},
        {"must": {"has_id": list(range(10_001))}},
        {"must": {"key": "n", "match": {"any": list(range(10_001))}}},
    ):
        with pytest.raises(FilterError):
            parse_filter(raw)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (None, "filter"),
        ([], "filter"),
        ({"most": []}, "filter.most"),
        ({"must": 3}, "filter.must"),
        ({"must": [{"has_id": [1]}, {}]}, "filter.must[1]"),
        ({"must": [{"match": {"value": 1}}]}, "filter.must[0].key"),
        ({"must": [{"key": "a"}]}, "filter.must[0]"),
        ({"must": [{"key": 1, "match": {"value": 1}}]}, "filter.must[0].key"),
        ({"must": [{"key": "a..b", "match": {"value": 1}}]}, "filter.must[0].key"),
        ({"must": [{"key": 'a"b', "match": {"value": 1}}]}, "filter.must[0].key"),
        ({"must": {"key": "a", "match": {"value": 1.5}}}, "filter.must.match.value"),
        ({"must": {"key": "a", "match": {"value": 2**63}}}, "filter.must.match.value"),
        ({"must": {"key": "a", "match": {"value": None}}}, "filter.must.match"),
        ({"must": {"key": "a", "match": {"value": "\0"}}}, "filter.must.match.value"),
        ({"must": {"key": "a", "match": {"value": "\ud800"}}}, "filter.must.match.value"),
        ({"must": {"key": "a", "match": {"any": [1, "x"]}}}, "filter.must.match.any"),
        ({"must": {"key": "a", "match": {"any": [True]}}}, "filter.must.match.any"),
        ({"must": {"key": "a", "match": {"any": [1, []]}}}, "filter.must.match.any[1]"),
        ({"must": {"key": "a", "match": {"kind": 1}}}, "filter.must.match.kind"),
        ({"must": {"key": "a", "match": {"value": 1}, "range": {}}}, "filter.must"),
        ({"must": {"key": "a", "range": {"gt": "yesterday"}}}, "filter.must.range.gt"),
        ({"must": {"key": "a", "range": {"gt": "2024-01-01", "lt": 3}}}, "filter.must.range.lt"),
        ({"must": {"key": "a", "range": {"gt": True}}}, "filter.must.range.gt"),
        ({"must": {"key": "a", "range": {"gt": float("nan")}}}, "filter.must.range.gt"),
        ({"must": {"key": "a", "range": {"gt": 10**400}}}, "filter.must.range.gt"),
        ({"must": {"key": "a", "range": {"from": 1}}}, "filter.must.range.from"),
        ({"must": {"key": "a", "values_count": {"gt": -1}}}, "filter.must.values_count.gt"),
        ({"must": {"key": "a", "is_empty": 1}}, "filter.must.is_empty"),
        ({"must": {"is_null": {"key": None}}}, "filter.must.is_null.key"),
        ({"must": {"has_id": 1}}, "filter.must.has_id"),
        ({"must": {"has_id": [1, -1]}}, "filter.must.has_id[1]"),
        ({"must": {"has_id": ["x"]}}, "filter.must.has_id[0]"),
        ({"min_should": {"conditions": []}}, "filter.min_should.min_count"),
        ({"min_should": {"min_count": 1}}, "filter.min_should.conditions"),
        ({"should": [{"must": [{"key": "a", "odd": 1}]}]}, "filter.should[0].must[0].odd"),
    ],
)
def test_errors_name_the_field(raw, field):
    """A bad filter is refused by the path of what is wrong with it."""
    with pytest.raises(FilterError) as caught:
        parse_filter(raw)

    assert (caught.value.field, caught.value.unsupported) == (field, False)


@pytest.mark.parametrize(
    ("condition", "field"),
    [
        ({"key": "a", "geo_radius": {}}, "f.must.geo_radius"),
        ({"key": "a", "match": {"value": 1}, "geo_polygon": {}}, "f.must.geo_polygon"),
        ({"nested": {"key": "a", "filter": {}}}, "f.must.nested"),
        ({"has_vector": "image"}, "f.must.has_vector"),
    ],
)
def test_unsupported_features_are_named(condition, field):
    """What Qdrant has and this does not is refused as unsupported."""
    with pytest.raises(FilterError) as caught:
        parse_filter({"must": condition}, "f")

    assert (caught.value.field, caught.value.unsupported) == (field, True)


def test_paths():
    """Paths are keys, indexes and wildcards; anything else is not a path."""
    assert parse_path('a-1.b_2[3][].é."x.y []"') == ("a-1", "b_2", 3, None, "é", "x.y []")
    for text in (
        "",
        ".",
        "a.",
        ".a",
        "a[",
        "a[x]",
        "a[-1]",
        "a b",
        '"a',
        '"a\\"',
        "a[1]b",
        '"a\n"',
    ):
        assert parse_path(text) is None


def test_values_at():
    """A path that ends at an array yields the array; with `[]` its elements."""
    payload = {"a": [{"b": [1, 2]}, {"b": 3}, 4]}

    assert list(values_at(payload, ("a", None, "b"))) == [[1, 2], 3]
    assert list(values_at(payload, ("a", None, "b", None))) == [1, 2]
    assert list(values_at(payload, ("a", 5))) == []
