"""Filters: what passes, what is refused and where, and that SQL agrees with `matches`."""

import contextlib
import sqlite3
import uuid

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.filter_nodes import HasKey, with_keyed_ids
from storage.filter_sql import to_sql
from storage.filter_time import read_time
from storage.filters import Filter, FilterError, matches, parse_filter
from storage.ids import encode_id, key_bytes, keyed_id
from storage.records import RECORDS_BY_KEY, RECORDS_SCHEMA
from tests.filter_strategies import NO_TIMES, TIMES, filters, ids, limits, payloads


def passing(raw, points):
    """Return the positions of the points that pass, once SQL and `matches` have agreed."""
    parsed = parse_filter(raw)
    sql = to_sql(parsed)
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE records (seq INTEGER PRIMARY KEY, id BLOB, payload TEXT)")
    rows = [
        (seq, encode_id(point), orjson.dumps(payload, option=orjson.OPT_SORT_KEYS).decode())
        for seq, (point, payload) in enumerate(points)
    ]
    connection.executemany("INSERT INTO records VALUES (?, ?, ?)", rows)
    query = f"SELECT ({sql.where}) FROM records ORDER BY seq"
    judged = [verdict for (verdict,) in connection.execute(query, sql.parameters)]
    connection.close()
    assert judged == [int(matches(parsed, *point)) for point in points]
    return {seq for seq, verdict in enumerate(judged) if verdict}


@settings(max_examples=500, deadline=None)
@given(filters(), st.lists(st.tuples(ids, payloads), min_size=1, max_size=6))
def test_sql_agrees_with_matches(raw, points):
    """Whatever the filter and the payloads, SQL answers 1 where `matches` holds, and else 0."""
    passing(raw, points)


shard_keys = st.sampled_from([0, 3, "0", "a", "ab"])
Keyed = tuple[int, int | str, dict[str, object]]
"""An id, its key, a payload."""
ROW = "INSERT INTO records VALUES (?, ?, ?, 1, ?, 0, 0, NULL, x'00')"


def passing_under_keys(raw, points, keys=None):
    """Return the positions of the points with keys that pass and are under one of `keys`."""
    adapted = with_keyed_ids(parse_filter(raw), 7)
    if keys is not None:
        wanted = HasKey(tuple(map(key_bytes, keys)))
        adapted = msgspec.structs.replace(adapted, must=(wanted, *adapted.must))
    sql = to_sql(adapted)
    rows = [
        (keyed_id(encode_id(point), key_bytes(key)), orjson.dumps(payload).decode())
        for point, key, payload in points
    ]
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(RECORDS_SCHEMA + RECORDS_BY_KEY)
        for seq, (identity, payload) in enumerate(rows):
            connection.execute(ROW, (seq, 7, identity, payload))
            connection.execute(ROW, (seq + 1000, 8, identity, payload))
        judged = connection.execute(
            f"SELECT ({sql.where}) FROM records WHERE collection = 7 ORDER BY seq", sql.parameters
        )
        verdicts = [verdict for (verdict,) in judged]
        query = f"SELECT seq FROM records WHERE collection = 7 AND ({sql.where})"
        found = {seq for (seq,) in connection.execute(query, sql.parameters)}
    expected = [matches(adapted, point, payload, key) for point, key, payload in points]
    assert verdicts == list(map(int, expected))
    assert found == {seq for seq, verdict in enumerate(verdicts) if verdict}
    return found


@settings(max_examples=200, deadline=None)
@given(
    filters(),
    st.lists(
        st.tuples(ids, shard_keys, payloads),
        min_size=1,
        max_size=6,
        unique_by=lambda each: (each[0], str(each[1]), type(each[1])),
    ),
    st.none() | st.lists(shard_keys, min_size=1, max_size=2),
)
def test_sql_agrees_with_matches_under_keys(raw, points, keys):
    """The same where points have keys, with and without a choice of keys."""
    canonical = [
        (point, key, orjson.loads(orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)))
        for point, key, payload in points
    ]
    passing_under_keys(raw, canonical, keys)


def test_ids_are_found_under_every_key():
    """A list of ids means the ids, whatever their key; a choice of keys leaves theirs."""
    points: list[Keyed] = [(n, key, {}) for n in (0, 1, 255, 256) for key in ("a", "b", 7)]
    raw = {"must": {"has_id": [255, 0]}}

    assert passing_under_keys(raw, points) == {0, 1, 2, 6, 7, 8}
    assert passing_under_keys(raw, points, ["b"]) == {1, 7}
    assert passing_under_keys({}, points, [7, "a"]) == {0, 2, 3, 5, 6, 8, 9, 11}
    assert passing_under_keys({"must_not": {"has_id": [1]}}, points, ["c"]) == set()


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), limits)
def test_a_number_equals_itself(number, limit):
    """A bound and a stored number of the same digits are the same number to SQLite."""
    found = passing({"must": {"key": "n", "range": {limit: number}}}, [(1, {"n": number})])

    assert found == ({0} if limit in {"gte", "lte"} else set())


@settings(deadline=None)
@given(filters())
def test_a_tree_travels(raw):
    """A tree comes back from MessagePack as it was."""
    parsed = parse_filter(raw)

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(parsed), type=Filter) == parsed


@pytest.mark.parametrize("text", TIMES + NO_TIMES)
def test_sql_reads_the_same_times(text):
    """SQL takes the texts for times that Python does, and for the same microsecond."""
    moment = read_time(text)

    assert (moment is None) == (text in NO_TIMES)
    if moment is not None:
        same = {"must": {"key": "at", "range": {"gte": text, "lte": text}}}
        assert passing(same, [(1, {"at": text})]) == {0}
    ever = {"must": {"key": "at", "range": {"lt": "9999-12-31T23:59:60-23:59"}}}
    assert passing(ever, [(1, {"at": text})]) == (set() if moment is None else {0})


def test_moments():
    """Times without a zone are UTC, zones are subtracted, digits beyond microseconds cut off."""
    assert read_time("1970-01-01") == 0
    assert read_time("1970-01-01T01:00:00.0000019+01:00") == 1
    assert read_time("1969-12-31T23:59:59.5") == -500_000
    assert read_time("2024-02-29T12:30:15-0130") == 1_709_215_215_000_000


POINTS = [
    (1, {"color": "red", "n": 1, "tags": ["a", "b"], "o": {"l": [{"x": 1}, {"x": [2, 3]}]}}),
    (2, {"color": ["blue", "red"], "n": 1.0, "tags": [], "o": {"l": []}, "a.b": 1}),
    (3, {"color": None, "n": True, "tags": None, "o": [[1]], "at": "2024-02-29T01:00:00+02:00"}),
    (str(uuid.UUID(int=1)), {"tags": [None], "at": ["never", "2024-03-01"]}),
]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"key": "color", "match": {"value": "red"}}, {0, 1}),
        ({"key": "n", "match": {"value": 1}}, {0}),
        ({"key": "n", "match": {"value": True}}, {2}),
        ({"key": "n", "range": {"gte": 1, "lt": 1.5}}, {0, 1}),
        ({"key": "n", "range": {"lt": 1}}, set()),
        ({"key": "at", "range": {"lt": "2024-02-29"}}, {2}),
        ({"key": "at", "range": {"gte": "2024-02-29T00:00:00Z"}}, {3}),
        ({"key": "color", "match": {"any": ["blue", "green"]}}, {1}),
        ({"key": "color", "match": {"except": ["red"]}}, {1}),
        ({"key": "n", "match": {"except": [1]}}, {1, 2}),
        ({"key": "n", "match": {"except": []}}, {0, 1, 2}),
        ({"key": "n", "match": {"any": []}}, set()),
        ({"key": "color", "match": {"text": "e"}}, {0, 1}),
        ({"key": "color", "match": {"text": "E"}}, set()),
        ({"key": "color", "match": {"phrase": "ed"}}, {0, 1}),
        ({"key": "color", "match": {"text_any": "zzz lu"}}, {1}),
        ({"key": "tags", "values_count": {"gte": 1}}, {0, 3}),
        ({"key": "tags", "values_count": {"lt": 1}}, {1, 2}),
        ({"key": "none", "values_count": {"lt": 1}}, set()),
        ({"key": "n", "values_count": {"lt": 2**64}}, {0, 1, 2}),
        ({"is_empty": {"key": "tags"}}, {1, 2}),
        ({"is_empty": {"key": "n"}}, {3}),
        ({"is_null": {"key": "tags"}}, {2}),
        ({"is_null": {"key": "tags[]"}}, {3}),
        ({"key": "tags", "is_null": True}, {2, 3}),
        ({"key": "tags", "is_null": False}, {0, 1}),
        ({"key": "n", "is_null": False}, {0, 1, 2, 3}),
        ({"key": "tags", "is_empty": False}, {0, 3}),
        ({"key": "n", "is_empty": True}, {3}),
        ({"key": "o.l[].x", "match": {"value": 3}}, {0}),
        ({"key": "o.l.x", "match": {"value": 1}}, set()),
        ({"key": "o.l[1].x[0]", "match": {"value": 2}}, {0}),
        ({"key": "o", "match": {"value": 1}}, set()),
        ({"key": "o[]", "match": {"value": 1}}, {2}),
        ({"key": '"a.b"', "match": {"value": 1}}, {1}),
        ({"key": "a.b", "match": {"value": 1}}, set()),
        ({"has_id": [1, str(uuid.UUID(int=1))]}, {0, 3}),
        ({"has_id": []}, set()),
        ({"should": [{"has_id": [1]}, {"has_id": [2]}]}, {0, 1}),
        ({"should": []}, {0, 1, 2, 3}),
        ({"must_not": {"key": "n", "match": {"value": 1}}}, {1, 2, 3}),
        ({"min_should": {"conditions": [], "min_count": 1}}, {0, 1, 2, 3}),
        ({"min_should": {"conditions": {"has_id": [1]}, "min_count": 2}}, set()),
        (
            {"min_should": {"conditions": [{"has_id": [1, 2]}, {"has_id": [2]}], "min_count": 2}},
            {1},
        ),
    ],
)
def test_conditions_mean_what_they_mean_to_qdrant(condition, expected):
    """Each condition selects the points that Qdrant would select without a payload index."""
    assert passing({"must": [condition]}, POINTS) == expected


def test_fields_that_are_null_count_as_absent():
    """Clients that send every field of a condition are understood."""
    condition = {"key": "n", "match": {"value": 1}, "range": None, "geo_radius": None}

    assert passing({"must": [condition], "should": None, "min_should": None}, POINTS) == {0}


def test_values_of_users_are_parameters():
    """Neither a key nor a value of a user occurs in the text of the SQL."""
    odd = "x'); DROP TABLE records; -- {} ? \" \\"
    key = odd.replace('"', "")
    for test in ({"match": {"value": odd}}, {"match": {"any": [odd]}}, {"match": {"text": odd}}):
        raw = {"must": {"key": f'"{key}"', **test}}
        assert "DROP" not in to_sql(parse_filter(raw)).where
        assert passing(raw, [(1, {key: odd}), (2, {key: "x"})]) == {0}


def nested(leaf, levels, clause="must"):
    """Return a filter of so many levels, each with neighbours of the deeper one."""
    raw: dict[str, object] = {"must": [leaf]}
    for _ in range(levels - 1):
        chosen: dict[str, object] = {"conditions": [leaf, raw], "min_count": 1}
        beside: dict[str, object] = {"conditions": [leaf], "min_count": 0}
        raw = (
            {"min_should": chosen, "must_not": leaf}
            if clause == "min_should"
            else {clause: [leaf, raw], "min_should": beside}
        )
    return raw


@pytest.mark.parametrize("clause", ["must", "should", "must_not", "min_should"])
@pytest.mark.parametrize(
    "test", [{"range": {"gt": "2024-01-01"}}, {"is_null": False}, {"match": {"text_any": "a b"}}]
)
def test_the_deepest_filter_runs(clause, test):
    """SQLite's parser has room for any condition at the deepest level."""
    passing(nested({"key": 'at[]."\\"', **test}, 16, clause), POINTS)


@pytest.mark.parametrize("clause", ["must", "should", "must_not", "min_should"])
def test_the_deepest_filter_runs_under_keys(clause):
    """A list of ids at the deepest level, and a choice of keys beside it all."""
    points: list[Keyed] = [(n, key, {}) for n in (1, 2) for key in ("a", "b")]
    passing_under_keys(nested({"has_id": [1]}, 16, clause), points, ["a", 3])


def test_the_largest_filters_run():
    """As many conditions, steps and values as are accepted are also served."""
    many = [{"key": "n", "match": {"value": n}} for n in range(256)]
    assert passing({"should": many}, POINTS) == {0}
    long = {"key": "a" + "[]" * 31, "match": {"value": 1}}
    assert passing({"should": [long] * 256}, POINTS) == set()
    listed = [{"has_id": list(range(n, n + 10_000))} for n in range(2, 90_000, 9_999)]
    assert passing({"should": listed}, POINTS) == {1, 2}
    wide = {"key": "n", "match": {"any": list(range(10_000))}}
    assert passing({"must": [wide] * 5}, POINTS) == {0}


LEAF = {"has_id": [1]}


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (None, "filter"),
        ([], "filter"),
        ({"most": []}, "filter.most"),
        ({"must": 3}, "filter.must"),
        ({"must": [LEAF, {}]}, "filter.must[1]"),
        ({"must": [{"key": "a", "mtch": {}}]}, "filter.must[0].mtch"),
        ({"must": [{"mtch": {}}]}, "filter.must[0].mtch"),
        ({"must": [{"match": {"value": 1}}]}, "filter.must[0].key"),
        ({"must": [{"key": "a"}]}, "filter.must[0]"),
        ({"must": [{**LEAF, "must": []}]}, "filter.must[0].must"),
        ({"must": [{"key": "a", "range": {}, **LEAF}]}, "filter.must[0].has_id"),
        ({"must": [{"key": "a", "match": {"value": 1}, "range": {}}]}, "filter.must[0].range"),
        ({"must": {"key": 1, "range": {}}}, "filter.must.key"),
        ({"must": {"key": "a..b", "range": {}}}, "filter.must.key"),
        ({"must": {"key": "a.", "range": {}}}, "filter.must.key"),
        ({"must": {"key": ".a", "range": {}}}, "filter.must.key"),
        ({"must": {"key": "[]", "range": {}}}, "filter.must.key"),
        ({"must": {"key": "a[x]", "range": {}}}, "filter.must.key"),
        ({"must": {"key": "a.[]", "range": {}}}, "filter.must.key"),
        ({"must": {"key": "a[0]b", "range": {}}}, "filter.must.key"),
        ({"must": {"key": 'a"b"', "range": {}}}, "filter.must.key"),
        ({"must": {"key": "", "range": {}}}, "filter.must.key"),
        ({"must": {"key": "a\0", "range": {}}}, "filter.must.key"),
        ({"must": {"key": ".".join("a" * 33), "range": {}}}, "filter.must.key"),
        ({"must": {"key": "a", "match": {}}}, "filter.must.match"),
        ({"must": {"key": "a", "match": {"value": 1, "text": ""}}}, "filter.must.match"),
        ({"must": {"key": "a", "match": {"kind": 1}}}, "filter.must.match.kind"),
        ({"must": {"key": "a", "match": {"value": 1.5}}}, "filter.must.match.value"),
        ({"must": {"key": "a", "match": {"value": 2**63}}}, "filter.must.match.value"),
        ({"must": {"key": "a", "match": {"value": "\0"}}}, "filter.must.match.value"),
        ({"must": {"key": "a", "match": {"value": "\ud800"}}}, "filter.must.match.value"),
        ({"must": {"key": "a", "match": {"text": 1}}}, "filter.must.match.text"),
        ({"must": {"key": "a", "match": {"any": [1, "x"]}}}, "filter.must.match.any[1]"),
        ({"must": {"key": "a", "match": {"except": [True]}}}, "filter.must.match.except[0]"),
        ({"must": {"key": "a", "match": {"any": [0] * 10_001}}}, "filter.must.match.any"),
        ({"must": {"key": "a", "range": {"from": 1}}}, "filter.must.range.from"),
        ({"must": {"key": "a", "range": {"gt": "yesterday"}}}, "filter.must.range.gt"),
        ({"must": {"key": "a", "range": {"gt": "2024-01-01", "lt": 3}}}, "filter.must.range.lt"),
        ({"must": {"key": "a", "range": {"gt": True}}}, "filter.must.range.gt"),
        ({"must": {"key": "a", "range": {"gt": float("nan")}}}, "filter.must.range.gt"),
        ({"must": {"key": "a", "range": {"gt": 10**400}}}, "filter.must.range.gt"),
        ({"must": {"key": "a", "values_count": {"gt": -1}}}, "filter.must.values_count.gt"),
        ({"must": {"key": "a", "values_count": {"gt": 1.0}}}, "filter.must.values_count.gt"),
        ({"must": {"key": "a", "is_empty": 1}}, "filter.must.is_empty"),
        ({"must": {"is_null": {}}}, "filter.must.is_null.key"),
        ({"must": {"is_null": {"key": "a", "x": 1}}}, "filter.must.is_null.x"),
        ({"must": {"has_id": 1}}, "filter.must.has_id"),
        ({"must": {"has_id": [1, -1]}}, "filter.must.has_id[1]"),
        ({"must": {"has_id": list(range(10_001))}}, "filter.must.has_id"),
        ({"min_should": {"conditions": []}}, "filter.min_should.min_count"),
        ({"min_should": {"min_count": 1}}, "filter.min_should.conditions"),
        ({"should": [{"must": [{"key": "a", "odd": 1}]}]}, "filter.should[0].must[0].odd"),
        ({"must": [LEAF] * 257}, "filter.must[256]"),
        (nested(LEAF, 17), "filter" + ".must[1]" * 16),
    ],
)
def test_errors_name_the_place(raw, field):
    """What is malformed or too large is refused by the full path of its place."""
    with pytest.raises(FilterError) as caught:
        parse_filter(raw)

    assert (caught.value.field, caught.value.unsupported) == (field, False)


@pytest.mark.parametrize(
    ("condition", "field"),
    [
        ({"key": "a", "geo_radius": {}}, "f.must.geo_radius"),
        ({"key": "a", "match": {"value": 1}, "geo_polygon": {}}, "f.must.geo_polygon"),
        ({"key": "a", "geo_bounding_box": {}}, "f.must.geo_bounding_box"),
        ({"nested": {"key": "a", "filter": {}}}, "f.must.nested"),
        ({"has_vector": "image"}, "f.must.has_vector"),
    ],
)
def test_unsupported_features_are_named(condition, field):
    """What Qdrant has and this has not is refused as unsupported."""
    with pytest.raises(FilterError) as caught:
        parse_filter({"must": condition}, "f")

    assert (caught.value.field, caught.value.unsupported) == (field, True)
