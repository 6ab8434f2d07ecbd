"""Payload indexes: they answer exactly what reading every payload would, whatever happened."""

import uuid

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.filter_nodes import Filter
from storage.filter_parse import written_key
from storage.filters import matches, parse_filter
from storage.ids import encode_id
from storage.payload_index.fields import FieldIndex, float_key
from storage.vector_index import NotIndexed, VectorIndex
from tests.filter_strategies import FLOATS, TIMES, filters, ids, payloads

TYPES = ["keyword", "integer", "float", "bool", "datetime", "uuid", "text"]
SHARD = 3


def keys_of(f):
    """Return the paths that a filter tests."""
    few = f.min_should.conditions if f.min_should else ()
    found = []
    for each in (*f.must, *f.should, *f.must_not, *few):
        if isinstance(each, Filter):
            found += keys_of(each)
        elif hasattr(each, "key"):
            found.append(each.key)
    return list(dict.fromkeys(found))


class Twin:
    """An index with payloads, and the same points in a dict."""

    def __init__(self, fields):
        self.index = VectorIndex(dimension=2, distance="Euclid")
        self.points = {}
        self.versions = {}
        self.version = 0
        self.index.payloads.set_fields(fields, self.fetch)

    def fetch(self, shard, seqs):
        assert shard == SHARD
        for seq in seqs:
            if seq in self.points:
                yield seq, self.versions[seq], orjson.dumps(self.points[seq][1])

    def put(self, seq, point, payload, *, known=True):
        self.version += 1
        self.points[seq], self.versions[seq] = (point, payload), self.version
        vector = np.array([seq, self.version % 7], dtype="<f4").tobytes()
        row = (seq, self.version, encode_id(point), vector)
        self.index.defer(SHARD, [row], (), [orjson.dumps(payload)] if known else [])

    def remove(self, seq):
        self.points.pop(seq, None)
        self.index.remove(SHARD, [seq])

    def merge(self):
        """Make the order of every column whole, however few rows wait for it."""
        for column in self.index._state.payloads.columns:
            if not column.unknown:
                column.run = column.merged(column.used)

    def settle(self):
        while self.index.build(3):
            pass

    def passing(self, f):
        return {seq for seq, point in self.points.items() if matches(f, *point)}

    def check(self, f):
        """Compare what the index says of a filter with the definition; return what passes."""
        expected = self.passing(f)
        state, index = self.index._state, self.index.payloads
        self.index.validate()
        table = state.table
        node = index.restriction(f, None).compiled(table).node
        living = np.flatnonzero(table.alive[: table.used])
        flagged = living[node.flags(living)]
        assert node.bound >= len(flagged)
        listed = node.slots()
        if listed is not None:
            assert len(set(listed.tolist())) == len(listed)
            assert set(listed[table.alive[listed]].tolist()) == set(flagged.tolist())
        found = set(table.records["seq"][flagged].tolist())
        assert found >= expected
        if node.exact:
            assert found == expected
        if index.count(f, [SHARD]) is not None:
            assert index.count(f, [SHARD]) == len(expected)
            assert index.count(f, [SHARD + 1]) == 0
            self.check_search(f, expected)
        else:
            with pytest.raises(NotIndexed):
                self.search(f, 1)
        return expected

    def search(self, f, limit, *, exact=False):
        rows = self.index.payloads.restriction(f, None)
        return self.index.search_within(np.zeros(2, np.float32), limit, rows, exact=exact)

    def check_search(self, f, expected):
        for limit, exact in ((1, False), (3, False), (100, False), (3, True)):
            hits = self.search(f, limit, exact=exact)
            assert {hit.seq for hit in hits} <= expected
            assert len(hits) == min(limit, len(expected))


def fields_for(data, f):
    """Draw an index for each path of a filter, sometimes two of one path."""
    fields = []
    for path in keys_of(f):
        for kind in data.draw(st.lists(st.sampled_from(TYPES), max_size=2, unique=True)):
            fields.append(FieldIndex(written_key(path), kind))
            assert fields[-1].path() == path
    return fields


points_of_ids = st.lists(
    st.tuples(ids, payloads), min_size=1, max_size=6, unique_by=lambda point: point[0]
)


@settings(max_examples=100, deadline=None)
@given(st.data(), filters(), points_of_ids)
def test_indexes_agree_with_matches(data, raw, points):
    """Whatever the filter, the payloads and the types: what an index says is so."""
    f = parse_filter(raw)
    twin = Twin(fields_for(data, f))
    for seq, (point, payload) in enumerate(points):
        twin.put(seq, point, orjson.loads(orjson.dumps(payload)))
    twin.check(f)
    twin.merge()
    twin.check(f)


few_payloads = st.fixed_dictionaries(
    {},
    optional={
        "n": st.integers(0, 9) | st.sampled_from([None, 1.5, "x", [1, 2, 2], [], [None, 3]]),
        "t": st.sampled_from(["red fox", "red", "fox", ["red", "dog"], 7, None]),
    },
)
few_filters = st.sampled_from(
    [
        {"must": [{"key": "n", "range": {"gte": 3}}]},
        {"must": [{"key": "n", "match": {"any": [1, 2]}}], "must_not": [{"has_id": [4]}]},
        {"must": [{"key": "t", "match": {"value": "red"}}]},
        {"must_not": [{"key": "t", "match": {"text": "fox"}}]},
        {"should": [{"key": "n", "match": {"except": [1]}}, {"is_null": {"key": "t"}}]},
        {"must": [{"key": "n", "is_empty": True}]},
    ]
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 12), few_payloads, st.booleans()),
        st.tuples(st.just("remove"), st.integers(0, 12)),
        st.tuples(st.just("build"), st.integers(1, 8)),
        st.tuples(st.just("merge")),
        st.tuples(st.just("forget")),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(steps, few_filters)
def test_indexes_follow_writes(done, raw):
    """After writes, deletions, rebuilds and late reading an index knows what is there."""
    fields = [FieldIndex("n", "integer"), FieldIndex("t", "keyword"), FieldIndex("t[]", "text")]
    twin = Twin(fields)
    f = parse_filter(raw)
    for name, *arguments in done:
        match name:
            case "put":
                seq, payload, known = arguments
                twin.put(seq, seq, payload, known=known)
            case "remove":
                twin.remove(*arguments)
            case "build":
                twin.index.build(*arguments)
            case "merge":
                twin.index.size  # noqa: B018 - takes in what was deferred
                twin.merge()
            case _:
                twin.index.payloads.set_fields(fields[:1], twin.fetch)
                twin.index.payloads.set_fields(fields, twin.fetch)
        twin.index.validate()
    twin.settle()
    assert not twin.index.has_work
    assert all(twin.index.payloads.is_ready(field) for field in fields)
    twin.check(f)


NUMBERS = [FieldIndex("n", "integer")]


def filled(count, payload, fields=NUMBERS):
    twin = Twin(fields)
    for seq in range(count):
        twin.put(seq, seq, payload(seq))
    twin.settle()
    return twin


def test_an_index_that_does_not_know_every_row_is_not_asked():
    """Until a new index is filled, and when a row came without its payload, it answers nothing."""
    twin = Twin([])
    for seq in range(5):
        twin.put(seq, seq, {"n": seq})
    f = parse_filter({"must": {"key": "n", "range": {"lt": 3}}})
    assert twin.index.payloads.count(f, [SHARD]) is None

    twin.index.payloads.set_fields([FieldIndex("n", "integer")], twin.fetch)
    assert not twin.index.payloads.is_ready(NUMBERS[0])
    assert twin.index.payloads.count(f, [SHARD]) is None
    assert twin.index.payloads.unindexed(f) == ["n"]

    twin.settle()
    assert twin.index.payloads.count(f, [SHARD]) == 3
    assert twin.index.payloads.unindexed(f) == []

    twin.put(5, 5, {"n": 0}, known=False)
    assert twin.index.payloads.count(f, [SHARD]) is None
    twin.settle()
    assert twin.index.payloads.count(f, [SHARD]) == 4


def test_a_plan_is_kept_while_its_columns_are_there():
    """What cannot be planned yet is asked again; long texts and old columns are not held on to."""
    twin = Twin([])
    for seq in range(5):
        twin.put(seq, seq, {"n": seq})
    payloads, f = twin.index.payloads, parse_filter({"must": {"key": "n", "match": {"value": 3}}})
    payloads.set_fields(NUMBERS, twin.fetch)
    assert payloads.plan(b"3", f) is None
    twin.settle()
    plan = payloads.plan(b"3", f)
    assert plan is not None
    assert payloads.plan(b"3", f) is plan
    assert payloads.plan(b"3" * 2000, f) is not payloads.plan(b"3" * 2000, f)

    with twin.index._state.mutex:
        assert plan.at(twin.index._state.table).slots().tolist() == [3]
    twin.put(3, 9, {"n": 4})
    twin.put(4, 10, {"n": 3})
    twin.settle()
    assert payloads.plan(b"3", f) is plan
    with twin.index._state.mutex:
        assert plan.at(twin.index._state.table).slots().tolist() == [6]

    payloads.set_fields([], twin.fetch)
    assert payloads.plan(b"3", f) is None


def test_the_plan_that_was_not_asked_for_longest_is_forgotten(monkeypatch):
    """What many searches have stays, however many others come between."""
    monkeypatch.setattr("storage.payload_index.index._PLANS_MAX", 3)
    payloads = filled(10, lambda seq: {"n": seq}, NUMBERS).index.payloads
    where = parse_filter({"must": {"key": "n", "match": {"value": 3}}})
    first, second = payloads.plan(b"1", where), payloads.plan(b"2", where)
    for number in range(20):
        payloads.plan(b"other %d" % number, where)
        assert payloads.plan(b"1", where) is first
    assert payloads.plan(b"2", where) is not second


def test_a_long_text_takes_no_plan_s_place(monkeypatch):
    """It is not kept itself."""
    monkeypatch.setattr("storage.payload_index.index._PLANS_MAX", 2)
    payloads = filled(10, lambda seq: {"n": seq}, NUMBERS).index.payloads
    where = parse_filter({"must": {"key": "n", "match": {"value": 3}}})
    plans = [payloads.plan(text, where) for text in (b"1", b"2")]
    assert payloads.plan(b"3" * 2000, where) is not None
    assert [payloads.plan(text, where) for text in (b"1", b"2")] == plans


def test_a_row_whose_new_version_is_on_its_way_is_waited_for():
    """The store may be ahead of the index; its payload belongs to a version yet to come."""
    twin = Twin([FieldIndex("n", "integer")])
    twin.put(1, 1, {"n": 1}, known=False)
    twin.points[1], twin.versions[1] = (1, {"n": 2}), 9
    assert twin.index.size == 1
    assert twin.index.payloads.fill() == 0
    assert twin.index.payloads.has_work

    twin.version = 8
    twin.put(1, 1, {"n": 2})
    twin.settle()
    assert (
        twin.index.payloads.count(
            parse_filter({"must": {"key": "n", "match": {"value": 2}}}), [SHARD]
        )
        == 1
    )


def test_orders_are_renewed_by_building():
    """What many rows wait for is done, so that a small part of them is found by bisection."""
    twin = filled(3000, lambda seq: {"n": seq % 100})
    (column,) = twin.index._state.payloads.columns

    assert column.run.end > 2000
    f = parse_filter({"must": {"key": "n", "match": {"value": 7}}})
    assert len(twin.check(f)) == 30
    assert twin.index.payloads.narrow(f, [SHARD])[SHARD].tolist() == list(range(7, 3000, 100))


def test_texts_that_nobody_has_are_forgotten():
    """A rebuild after many changes leaves no trace of the texts of rows that are gone."""
    twin = filled(600, lambda seq: {"t": f"text {seq}"}, [FieldIndex("t", "keyword")])
    for round_ in range(4):
        for seq in range(600):
            twin.put(seq, seq, {"t": f"{round_} of {seq % 5}"})
        twin.settle()
    (column,) = twin.index._state.payloads.columns

    assert len(column.dictionary) < 300
    f = parse_filter({"must": {"key": "t", "match": {"value": "3 of 2"}}})
    assert len(twin.check(f)) == 120


@pytest.mark.parametrize(
    ("kind", "points", "keys"),
    [
        ("keyword", [{"f": "a"}, {"f": ["a", 1]}, {"f": 1}], 2),
        ("integer", [{"f": 1}, {"f": True}, {"f": 1.0}, {"f": 2**63}], 1),
        ("float", [{"f": 1}, {"f": 1.5}, {"f": True}, {"f": 2**53 + 1}], 2),
        ("bool", [{"f": True}, {"f": 1}, {"f": [False]}], 2),
        ("datetime", [{"f": TIMES[0]}, {"f": "never"}, {"f": 1}], 1),
        (
            "uuid",
            [{"f": str(uuid.UUID(int=7))}, {"f": str(uuid.UUID(int=10)).upper()}, {"f": "x"}],
            1,
        ),
        ("text", [{"f": "two words"}, {"f": "!"}, {"f": 1}], 1),
    ],
)
def test_only_values_of_the_type_are_indexed(kind, points, keys):
    """A point whose value has another type is not in the index, and is not counted there."""
    twin = filled(len(points), lambda seq: points[seq], [FieldIndex("f", kind)])

    assert twin.index.payloads.points() == {"f": {SHARD: keys}}


@given(st.sampled_from([*FLOATS, -0.0]) | st.floats(allow_nan=False, allow_infinity=False))
def test_keys_order_as_doubles_do(number):
    """Keys of doubles are equal, smaller or larger as the doubles are."""
    for other in (*FLOATS, -1e-300, -1.5, -0.0):
        assert (float_key(number) < float_key(other)) == (number < other)
        assert (float_key(number) == float_key(other)) == (number == other)


def test_a_correlated_filter_is_answered_whole():
    """Where all that is near is excluded the search widens until it has enough."""
    random = np.random.default_rng(1)
    twin = Twin([FieldIndex("near", "bool")])
    vectors = random.normal(size=(3000, 2)).astype("<f4")
    norms = np.linalg.norm(vectors, axis=1)
    rows = [(n, 1, encode_id(n), vectors[n].tobytes()) for n in range(3000)]
    known = [orjson.dumps({"near": bool(norm < 1.2)}) for norm in norms]
    twin.index.defer(SHARD, rows, (), known)
    twin.settle()
    far = parse_filter({"must": {"key": "near", "match": {"value": False}}})
    hits = twin.search(far, 20)

    order = np.argsort(norms)
    expected = [n for n in order.tolist() if norms[n] >= 1.2][:20]
    assert [hit.seq for hit in hits] == expected


@pytest.mark.parametrize(
    ("raw", "brief"),
    [
        ({"must": [{"key": "t", "match": {"value": "text 7"}}]}, True),
        ({"must": [{"key": "t", "match": {"any": ["text 7", "text 8"]}}]}, True),
        ({"should": [{"key": "t", "match": {"value": each}} for each in ("text 1", "x")]}, True),
        ({"must": [{"has_id": [7]}, {"key": "t", "match": {"value": "text 7"}}]}, True),
        ({"must": [{"has_id": [7]}, {"key": "even", "match": {"value": False}}]}, False),
        ({"must": [{"has_id": [7]}], "must_not": [{"key": "t", "match": {"value": "x"}}]}, False),
        ({"must": [{"key": "t", "match": {"text": "xt 7"}}]}, False),
        ({"must": [{"must": [{"key": "t", "match": {"text": "xt 7"}}]}]}, False),
        (
            {
                "min_should": {
                    "conditions": [{"key": "t", "match": {"value": f"text {n}"}} for n in (7, 8)],
                    "min_count": 2,
                }
            },
            False,
        ),
        ({"must": [{"is_empty": {"key": "t"}}]}, False),
    ],
)
def test_what_takes_a_look_at_many_rows_is_not_brief(raw, brief):
    """Few rows that pass may be found by a look at many, which is no work for an event loop."""
    fields = [FieldIndex("t", "keyword"), FieldIndex("even", "bool")]
    twin = filled(1000, lambda seq: {"t": f"text {seq}", "even": seq % 2 == 0}, fields)
    payloads, where = twin.index.payloads, parse_filter(raw)
    twin.index.payloads.merge()

    assert payloads.is_brief(payloads.restriction(where, None), 100) is brief
    with twin.index._state.mutex:
        assert not payloads.is_brief(payloads.restriction(where, None), 100)
    twin.check(where)
