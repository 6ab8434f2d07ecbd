"""Rows, payloads and hashes, below the state machine."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.filter_nodes import Filter, HasKey, HasKeyedId
from storage.filter_sql import SqlFilter, to_sql
from storage.ids import decode_id, encode_id, is_canonical, key_bytes
from storage.payloads import canonical_payload, merging, removing, replacing
from storage.record_hash import SetHash, row_digest, tombstone_digest
from storage.record_reads import IndexRow, RecordReads
from storage.records import (
    RECORDS_BY_KEY,
    RECORDS_SCHEMA,
    RecordWriter,
    Stamp,
    Written,
    recomputed_hash,
)
from storage.state_file import StateFile

VECTOR = np.array([1.0, 2.0], "<f4").tobytes()
OTHER = np.array([3.0, 4.0], "<f4").tobytes()


class Equals(NamedTuple):
    """An SQL condition, as a filter becomes one."""

    where: str
    parameters: list[Any]


class Reads(RecordReads):
    def __init__(self, state: StateFile) -> None:
        self._state = state


@pytest.fixture(params=["file", "memory"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateFile]:
    path = tmp_path / "state.db" if request.param == "file" else None
    with closing(StateFile(path, RECORDS_SCHEMA)) as opened:
        yield opened


def ids(*numbers: int) -> list[bytes]:
    return [encode_id(number) for number in numbers]


def upsert(
    state: StateFile, version: int, numbers: list[int], collection: int = 1, payload: bytes = b"{}"
) -> list[Written]:
    with state.transaction() as connection:
        writer = RecordWriter(connection)
        points = dict.fromkeys(ids(*numbers), (VECTOR, payload))
        written = writer.upsert(collection, Stamp(version, 1000 + version), points)
        writer.finish()
    return written


def delete(state: StateFile, version: int, numbers: list[int], collection: int = 1) -> None:
    with state.transaction() as connection:
        writer = RecordWriter(connection)
        writer.delete(collection, Stamp(version, 1000 + version), ids(*numbers))
        writer.finish()


def state_hash(state: StateFile) -> bytes:
    with state.reader() as connection:
        kept = RecordWriter(connection).state_hash()
        assert recomputed_hash(connection).digest() == kept
    return kept


def test_an_update_keeps_seq_and_creation(state: StateFile) -> None:
    """A replaced record keeps its row number and creation time, and takes the new version."""
    first = upsert(state, 5, [7])
    second = upsert(state, 6, [7], payload=b'{"a":1}')
    (row,) = Reads(state).retrieve(1, ids(7), with_vector=True, with_payload=True)

    assert first[0].seq == second[0].seq == row.seq
    assert row == (*ids(7), row.seq, 6, VECTOR, b'{"a":1}', 1005, 1006)


def test_a_seq_is_never_given_twice(state: StateFile) -> None:
    """A record that is deleted and written again is another row to an index."""
    (first,) = upsert(state, 2, [7])
    delete(state, 3, [7])
    (second,) = upsert(state, 4, [7])

    assert second.seq > first.seq


def test_writing_again_clears_the_tombstone(state: StateFile) -> None:
    """The hash of a record that was deleted in between is that of one which was not."""
    upsert(state, 2, [1])
    delete(state, 3, [1])
    upsert(state, 4, [1, 2])
    with closing(StateFile(None, RECORDS_SCHEMA)) as other:
        upsert(other, 4, [2, 1])

        assert state_hash(state) == state_hash(other)


@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 9), min_size=1)), max_size=12))
def test_new_and_known_ids_mix(changes: list[tuple[bool, set[int]]]) -> None:
    """Ids below, between and above those that are there, or were: the hash is that of the rows."""
    living: set[int] = set()
    with closing(StateFile(None, RECORDS_SCHEMA)) as state:
        for version, (stays, numbers) in enumerate(changes, start=2):
            if stays:
                upsert(state, version, sorted(numbers, key=str))
                living |= numbers
            else:
                delete(state, version, sorted(numbers))
                living -= numbers
        state_hash(state)
        found = Reads(state).retrieve(1, ids(*range(10)), with_vector=False, with_payload=False)

        assert [row.id for row in found] == ids(*sorted(living))
        with state.reader() as connection:
            buried = connection.execute("SELECT id FROM tombstones").fetchall()
        assert living.isdisjoint(decode_id(each) for (each,) in buried)


def test_deleting_leaves_a_tombstone(state: StateFile) -> None:
    """A deleted record counts in the hash, with the version of its deletion."""
    upsert(state, 2, [1])
    delete(state, 3, [1, 9])
    expected = SetHash()
    expected.add([tombstone_digest(1, encode_id(1), 3)])

    assert state_hash(state) == expected.digest()
    with state.reader() as connection:
        assert connection.execute("SELECT count(*) FROM vectors").fetchone() == (0,)


def test_dropping_forgets_everything_of_a_collection(state: StateFile) -> None:
    """Rows, vectors and tombstones of that collection go, others stay."""
    upsert(state, 2, [1], collection=2)
    before = state_hash(state)
    upsert(state, 3, [1, 2])
    delete(state, 4, [2])
    with state.transaction() as connection:
        writer = RecordWriter(connection)
        assert writer.drop(1) == 1
        assert writer.drop(1) == 0
        writer.finish()
        assert connection.execute("SELECT count(*) FROM vectors").fetchone() == (1,)

    assert state_hash(state) == before
    assert Reads(state).collections() == [2]
    assert Reads(state).is_dropped(1)
    assert not Reads(state).is_dropped(2)


def test_many_ids_at_once(state: StateFile) -> None:
    """Requests far beyond one list of parameters are answered whole, and in the order asked."""
    upsert(state, 2, list(range(1000)))
    reads = Reads(state)
    wanted = [*reversed(range(1100)), 5]
    rows = reads.retrieve(1, ids(*wanted), with_vector=False, with_payload=False)
    assert [row.id for row in rows] == ids(*reversed(range(1000)))
    seqs = [row.seq for row in rows]
    assert reads.rows_by_seq(1, [*seqs, 10**9], with_vector=False, with_payload=False) == rows
    assert reads.rows_by_seq(2, seqs, with_vector=False, with_payload=False) == []


def test_vector_and_payload_on_demand(state: StateFile) -> None:
    """What was not asked for is None."""
    upsert(state, 2, [1], payload=b'{"a":1}')
    reads = Reads(state)
    for with_vector in (False, True):
        for with_payload in (False, True):
            (row,) = reads.retrieve(1, ids(1), with_vector=with_vector, with_payload=with_payload)
            assert row.vector == (VECTOR if with_vector else None)
            assert row.payload == (b'{"a":1}' if with_payload else None)


def test_scrolling_goes_by_id(state: StateFile) -> None:
    """Pages follow the canonical order of ids, from after one or from one on."""
    upsert(state, 2, [30, 2, 11])
    upsert(state, 3, [5], collection=2)
    reads = Reads(state)

    def page(**bounds: Any) -> list[bytes]:
        return [row.id for row in reads.scroll(1, **bounds)]

    assert page(limit=9) == ids(2, 11, 30)
    assert page(limit=2) == ids(2, 11)
    assert page(after=encode_id(2), limit=9) == ids(11, 30)
    assert page(inclusive_from=encode_id(11), limit=1) == ids(11)
    assert page(after=encode_id(30), limit=9) == []


def test_conditions_select(state: StateFile) -> None:
    """A condition over id and payload narrows scroll, count and the matching reads."""
    upsert(state, 2, [1, 2, 3], payload=b'{"colour":"red"}')
    upsert(state, 3, [4], payload=b'{"colour":"blue"}')
    upsert(state, 4, [5], collection=2, payload=b'{"colour":"red"}')
    reads = Reads(state)
    red = Equals("json_extract(payload, ?) = ? OR id = ?", ["$.colour", "red", encode_id(3)])

    assert reads.count(1, red) == 3
    assert reads.count(1) == 4
    assert reads.matching_ids(1, red) == ids(1, 2, 3)
    assert reads.matching_ids(1, red, 2) == ids(1, 2)
    assert [row.id for row in reads.scroll(1, after=encode_id(1), limit=9, where=red)] == ids(2, 3)
    seqs = reads.matching(1, red)
    assert seqs.dtype == np.int64
    rows = reads.rows_by_seq(1, list(seqs), with_vector=False, with_payload=False)
    assert {row.id for row in rows} == set(ids(1, 2, 3))
    assert len(reads.matching(1, red, 2)) == 2
    assert len(reads.matching(9, red)) == 0


def test_points_of_a_key_are_found_by_an_index() -> None:
    """Neither counting, nor a page, nor a choice of ids goes through what other keys have."""
    by_key = to_sql(Filter(must=(HasKey((key_bytes("a"),)),)))
    by_id = to_sql(Filter(must=(HasKeyedId(1, (encode_id(5),)),)))
    select = "EXPLAIN QUERY PLAN SELECT seq FROM records WHERE collection = 1 AND"
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(RECORDS_SCHEMA + RECORDS_BY_KEY)

        def plan(chosen: SqlFilter) -> list[str]:
            query = f"{select} ({chosen.where}) ORDER BY id LIMIT 5"
            return [row[3] for row in connection.execute(query, chosen.parameters)]

        assert plan(by_key) == [
            "SEARCH records USING COVERING INDEX records_by_key (collection=? AND <expr>=?)"
        ]
        assert "SEARCH records USING COVERING INDEX records_by_id (collection=? AND id=?)" in (
            plan(by_id)
        )
        assert any("collection=? AND id>? AND id<?" in step for step in plan(by_id))


def test_index_reads(state: StateFile) -> None:
    """An index can be rebuilt from rows by version, and reconciled by (seq, version)."""
    upsert(state, 2, list(range(1500)))
    upsert(state, 3, [7], collection=2)
    upsert(state, 4, [3])
    reads = Reads(state)
    rows = list(reads.index_rows(1))
    seqs, versions = reads.index_keys(1)

    assert len(rows) == 1500
    assert rows[-1] == IndexRow(4, 4, encode_id(3), VECTOR)
    assert sorted((row.seq, row.version) for row in rows) == sorted(
        zip(seqs.tolist(), versions.tolist(), strict=True)
    )
    empty = reads.index_keys(9)
    assert [array.shape for array in empty] == [(0,), (0,)]
    assert list(reads.index_rows(9)) == []
    assert reads.collections() == [1, 2]


def test_a_rebuild_meets_what_is_written_meanwhile(state: StateFile) -> None:
    """Rows written between two batches of a rebuild come with their new version."""
    upsert(state, 2, list(range(1500)))
    rows = iter(Reads(state).index_rows(1))
    next(rows)
    upsert(state, 3, [0, 2000])

    assert {row.id for row in rows if row.version == 3} == set(ids(0, 2000))


def test_reads_use_their_indexes(state: StateFile) -> None:
    """Lists of keys come from the index alone, pages of ids without sorting."""
    plans = {
        "SELECT seq, version FROM records WHERE collection = 1": "USING COVERING INDEX",
        "SELECT payload FROM records WHERE collection = 1 AND id > x'01' ORDER BY id": (
            "(collection=? AND id>?)"
        ),
    }
    with state.reader() as connection:
        for query, expected in plans.items():
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}"))
            assert expected in plan
            assert "TEMP B-TREE" not in plan


def test_canonical_payload() -> None:
    """Key order and spacing do not matter; text stays what it was."""
    assert canonical_payload(b'{ "b":1, "a":{"d":"\\u00e9","c":[1.0]} }') == (
        '{"a":{"c":[1.0],"d":"é"},"b":1}'.encode()
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"1",
        b"{",
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b'{"a":1} x',
        b'{"a":"\\u0000"}',
        b'{"\\u0000":1}',
        b'{"a":"\\\\\\u0000"}',
        b'{"a":' * 300 + b"1" + b"}" * 300,
    ],
)
def test_bad_payloads(raw: bytes) -> None:
    """What is no JSON object, or holds U+0000, is a ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011 - the messages are orjson's
        canonical_payload(raw)


def test_an_escaped_backslash_is_no_nul() -> None:
    r"""The text \u0000, spelled out, is a text like any other."""
    raw = json.dumps({"a": "\\u0000", "b\\": "\\\\u0000"}).encode()

    assert json.loads(canonical_payload(raw)) == json.loads(raw)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=4)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=3), JSON, max_size=4)


@given(OBJECTS, OBJECTS, st.lists(st.text(max_size=3), max_size=3))
def test_payload_changes(stored: dict[str, Any], patch: dict[str, Any], keys: list[str]) -> None:
    """Merging, replacing and removing do to bytes what they do to a dict."""

    def canonical(value: dict[str, Any]) -> bytes | None:
        raw = json.dumps(value).encode()
        if "\0" in str(json.loads(raw)) or b"\\u0000" in raw:
            return None
        return canonical_payload(raw)

    old, new = canonical(stored), canonical(patch)
    if old is None or new is None:
        return
    assert merging(new)(old) == canonical(stored | patch)
    assert replacing(new)(old) == new
    remaining = {key: value for key, value in stored.items() if key not in keys}
    assert removing(keys)(old) == canonical(remaining)


def test_every_field_counts_in_a_digest() -> None:
    """Two rows that differ in any field, or in where one field ends, have different digests."""
    rows = [
        row_digest((1, b"ab"), 2, (3, 4), b"{}", b"v"),
        row_digest((9, b"ab"), 2, (3, 4), b"{}", b"v"),
        row_digest((1, b"a"), 2, (3, 4), b"{}", b"v"),
        row_digest((1, b"ab"), 9, (3, 4), b"{}", b"v"),
        row_digest((1, b"ab"), 2, (9, 4), b"{}", b"v"),
        row_digest((1, b"ab"), 2, (3, 9), b"{}", b"v"),
        row_digest((1, b"ab"), 2, (3, 4), b"{}v", b""),
        row_digest((1, b"ab"), 2, (3, 4), b"{}", b"w"),
        tombstone_digest(1, b"ab", 2),
        tombstone_digest(1, b"ab", 3),
    ]

    assert len(set(rows)) == len(rows)


@given(st.lists(st.binary(min_size=16, max_size=16), unique=True), st.randoms())
def test_a_set_hash_knows_no_order(digests: list[bytes], random: Any) -> None:
    """Adding in any order, and removing again, leads to the same and back to nothing."""
    one, other = SetHash(), SetHash()
    one.add(digests)
    random.shuffle(digests)
    for digest in digests:
        other.add([digest])
    assert one.digest() == other.digest()
    one.remove(digests)
    assert one.digest() == bytes(16)


@pytest.mark.parametrize("raw", [b"", b"\x01", b"\x01" * 8, b"\x01" * 17, b"\x02" * 9, b"\x03" * 9])
def test_foreign_ids_are_not_canonical(raw: bytes) -> None:
    """Only a tag with its own length is an id."""
    assert not is_canonical(raw)


def test_own_ids_are_canonical() -> None:
    """What encode_id makes is canonical."""
    assert is_canonical(encode_id(5))
    assert is_canonical(encode_id("12345678-1234-5678-1234-567812345678"))
