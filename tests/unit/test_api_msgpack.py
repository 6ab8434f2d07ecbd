"""MessagePack beside JSON: the same values, the same refusals, and vectors as bytes."""

from __future__ import annotations

import math
import struct
import tracemalloc
from typing import Any

import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.api.msgpack_scan import BINARIES_MAX, KEYS_MAX, scan
from cluster.api.point_schema import UpsertPoints
from cluster.api.search_schema import QueryBatch, QueryPoints
from cluster.api.strict_json import NESTING_MAX, VALUES_MAX, StrictDecoder
from cluster.api.strict_msgpack import MsgpackDecoder
from cluster.config import Config
from cluster.errors import BadRequest, RecollectError
from tests.unit.api_router import MSGPACK, ApiClient, served, with_collection

C = "/collections/c/points"
PACKED = {"Content-Type": MSGPACK, "Accept": MSGPACK}
BINARY = {"Content-Type": MSGPACK, "Accept": f"{MSGPACK}; vectors=float32"}

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "query": st.lists(st.floats(-1e3, 1e3) | st.integers(-9, 9)) | JSON_VALUES,
        "limit": st.integers(-1, 20) | JSON_VALUES,
        "filter": st.dictionaries(TEXT, JSON_VALUES, max_size=3) | JSON_VALUES,
        "with_payload": JSON_VALUES,
        "score_threshold": JSON_VALUES,
        "using": JSON_VALUES,
        "other": JSON_VALUES,
    },
)


def packed(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def decoded(schema: type[Any], raw: bytes) -> Any:
    return MsgpackDecoder(schema).decode(raw, scan(raw))


def outcome(decode: Any, *arguments: Any) -> Any:
    """Return what was decoded, or how it was refused."""
    try:
        return decode(*arguments)
    except RecollectError as error:
        return (error.code, error.field)


@given(BODIES)
@settings(max_examples=300)
def test_both_forms_mean_the_same(body):
    """A body in MessagePack is decoded, or refused with a field, as it is in JSON."""
    as_json = outcome(StrictDecoder(QueryPoints).decode, msgspec.json.encode(body))

    assert outcome(decoded, QueryPoints, msgspec.msgpack.encode(body)) == as_json


@given(st.binary(max_size=60))
@settings(max_examples=500)
def test_whatever_comes_is_refused_or_read(raw):
    """Random bytes are refused, or what a reader makes of them is what was counted."""
    try:
        found = scan(raw)
    except BadRequest:
        return

    assert found.values == values_in(msgspec.msgpack.decode(raw))


@given(JSON_VALUES, st.integers(0, 200))
def test_what_is_cut_is_refused(value, end):
    """A body that ends too early is none."""
    raw = msgspec.msgpack.encode(value)

    assert scan(raw).values == values_in(value)
    if end < len(raw):
        with pytest.raises(BadRequest):
            scan(raw[:end])


def values_in(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(values_in, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(values_in, value))
    return 1


def nested(depth: int) -> bytes:
    return b"\x81\xa6filter" + b"\x81\xa1a" * depth + b"\x80"


REFUSED = [
    (b"", None),
    (b"\xc1", None),
    (b"\x80\x80", None),
    (b"\x01", None),
    (b"\x90", None),
    (b"\xdd\xff\xff\xff\xff", None),
    (b"\xdf\xff\xff\xff\xff", None),
    (b"\x81\xa5query" + b"\xdc\x01\x00" * 50, None),
    (b"\x82\xa5limit\x01\xa5limit\x02", "limit"),
    (b"\x82\xa5limit\x01\xd9\x05limit\x02", "limit"),
    (b"\x81\x01\x02", None),
    (b"\x81\xc4\x05limit\x02", None),
    (b"\x81\xa5limit\xd6\xff\x00\x00\x00\x00", "limit"),
    (b"\x81\xa5limit\xc7\x00\x05", "limit"),
    (b"\x81\xa6filter\x81\xa1a\xa1\x00", "filter.a"),
    (b"\x81\xa6filter\x81\xa1\x00\xc0", "filter"),
    (b"\x81\xa6filter\x81\xa1a\xa1\xff", "filter.a"),
    (b"\x81\xa6filter\x81\xa1a\xa3\xed\xa0\x80", "filter.a"),
    (b"\x81\xa6filter\x81\xa1a\xca\x7f\xc0\x00\x00", "filter.a"),
    (msgpack.packb({"filter": {"a": math.inf}}), "filter.a"),
    (msgpack.packb({"filter": {"a": [0.5] * 9 + [math.nan]}}), "filter.a"),
    (msgpack.packb({"query": [1.0] * 20 + [math.nan]}), "query"),
    (msgpack.packb({"filter": {"a": b"1234"}}), "filter.a"),
    (msgpack.packb({"filter": {"a": [1, b""]}}), "filter.a[1]"),
    (msgpack.packb({"limit": b"1234"}), "limit"),
    (msgpack.packb({"query": b"12345"}), "query"),
    (nested(NESTING_MAX), "filter"),
    (nested(100_000), "filter"),
]


@pytest.mark.parametrize(("raw", "field"), REFUSED)
def test_bodies_are_read_strictly(raw, field):
    """Whatever JSON could not have said, or would have been refused for, is refused."""
    with pytest.raises(BadRequest) as error:
        decoded(QueryPoints, raw)

    assert (error.value.field or "").startswith(field or "")
    assert (error.value.field is None) is (field is None)


def test_nesting_up_to_the_limit():
    """So deep, and no deeper."""
    assert decoded(QueryPoints, nested(NESTING_MAX - 1)).filter


def test_values_are_counted_before_they_are_made():
    """A small body that would become very many values is refused."""
    with pytest.raises(RecollectError) as error:
        scan(b"\xdd" + (VALUES_MAX + 1).to_bytes(4) + b"\x00" * (VALUES_MAX + 1))

    assert error.value.code == "payload_too_large"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\x91" * (NESTING_MAX - 5) + b"\xdd" + (20_000).to_bytes(4) + b"\xc4\0" * 20_000, None),
        (b"\xdd" + (BINARIES_MAX + 1).to_bytes(4) + b"\xc4\0" * (BINARIES_MAX + 1), "large"),
        (b"\xdf" + (KEYS_MAX + 1).to_bytes(4) + b"\xa0\0" * (KEYS_MAX + 1), "large"),
    ],
)
def test_no_body_takes_many_times_its_size_to_walk(raw, code):
    """What is kept of a body while it is walked is bounded, since no memory is claimed for it."""
    tracemalloc.start()
    try:
        with pytest.raises(RecollectError) as error:
            scan(raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert error.value.code == ("payload_too_large" if code else "bad_request")
    assert peak < 100 * BINARIES_MAX + 10 * len(raw)


@pytest.mark.parametrize("kind", [float, int])
def test_mixed_arrays_are_numbers_too(kind):
    """Other writers send whole numbers as integers, and float32."""
    body = {"query": [kind(1), *[0.5] * 9, 2], "limit": 1}
    raw = msgpack.packb(body, use_single_float=kind is float)

    assert decoded(QueryPoints, raw).query == body["query"]


def test_binary_vectors_stand_where_vectors_stand():
    """Bytes are taken in every place of a vector, also in lists of them."""
    body = {
        "searches": [
            {"query": packed(1, 2)},
            {"query": {"nearest": packed(3, 4)}},
        ]
    }
    first, second = decoded(QueryBatch, msgpack.packb(body)).searches
    batch = decoded(UpsertPoints, msgpack.packb({"batch": {"ids": [1], "vectors": packed(5)}}))

    assert first.query.array().tolist() == [1, 2]
    assert second.query["nearest"].array().tolist() == [3, 4]
    assert batch.batch.vectors.array().tolist() == [5]


async def filled(client: ApiClient, distance: str = "Euclid") -> None:
    await with_collection(client, distance=distance)
    points = [{"id": n, "vector": packed(n, 1, 0), "payload": {"n": n}} for n in range(5)]
    batch = {"ids": [5, 6], "vectors": packed(5, 1, 0, 6, 1, 0)}
    listed = {"ids": [7, 8], "vectors": [packed(7, 1, 0), [8, 1, 0]]}
    for body in ({"points": points}, {"batch": batch}, {"batch": listed}):
        reply = await client("PUT", C, body, headers=PACKED)
        assert reply.status == 200, reply.body


async def test_binary_and_plain_vectors_are_the_same_points():
    """Points written as bytes are read as numbers, and found by either."""
    async with served() as client:
        await filled(client)
        stored = (await client("POST", C, {"ids": list(range(9)), "with_vector": True})).result
        answers = [
            (await client("POST", f"{C}/query", {"query": vector, "limit": 3}, headers=headers))
            for vector, headers in (([4.4, 1, 0], {}), (packed(4.4, 1, 0), PACKED))
        ]

        assert [point["vector"] for point in stored] == [[n, 1, 0] for n in range(9)]
        assert [hit["id"] for hit in answers[0].result["points"]] == [4, 5, 3]
        assert answers[0].result == answers[1].result


async def test_vectors_come_as_bytes_when_asked_for():
    """Only `vectors=float32` makes a vector bytes in an answer."""
    async with served() as client:
        await filled(client)
        for headers, shown in ((PACKED, [4, 1, 0]), (BINARY, packed(4, 1, 0))):
            body = {"searches": [{"vector": packed(4, 1, 0), "limit": 1, "with_vector": True}]}
            found = (await client("POST", f"{C}/search/batch", body, headers=headers)).result
            (one,) = (
                await client("POST", C, {"ids": [4], "with_vector": True}, headers=headers)
            ).result

            assert found[0][0]["vector"] == one["vector"] == shown


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"query": packed(1, 1)}, "query"),
        ({"query": packed(1, 1, math.nan)}, "query"),
        ({"query": packed(1, 1, math.inf)}, "query"),
        ({"query": b"12345"}, "query"),
        ({"query": {"nearest": packed(1)}}, "query.nearest"),
        ({"limit": 0}, "limit"),
        ({"query": 99}, "query"),
    ],
)
async def test_refusals_are_those_of_json_in_messagepack(body, field):
    """What is wrong is named, in the form that the client reads."""
    async with served() as client:
        await filled(client)
        reply = await client("POST", f"{C}/query", body, headers=PACKED)

        assert reply.headers["Content-Type"] == MSGPACK
        assert reply.status == (404 if body == {"query": 99} else 400)
        assert reply.error["field"] == field


@pytest.mark.parametrize("vectors", [packed(1, 2), packed(1, 2, 3, 4), b"", [packed(1)]])
async def test_a_matrix_has_the_size_of_its_ids(vectors):
    """One piece of binary data for all vectors has dimension times ids numbers."""
    async with served() as client:
        await with_collection(client)
        body = {"batch": {"ids": [1], "vectors": vectors}}
        reply = await client("PUT", C, body, headers=PACKED)

        assert reply.status == 400
        assert reply.error["field"].startswith("batch.vectors")


async def test_the_size_of_a_body_is_limited():
    """A MessagePack body is bounded as a JSON one is."""
    async with served(config=Config(body_bytes_max=1000)) as client:
        await with_collection(client)
        reply = await client("POST", f"{C}/query", {"query": bytes(2000)}, headers=PACKED)

        assert reply.refusal == (413, "payload_too_large", None)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("", "application/json"),
        ("text/html, image/gif, *; q=.2, */*; q=.2", "application/json"),
        ("application/json", "application/json"),
        ("text/html, application/*;q=0.5", "application/json"),
        ("application/msgpack", MSGPACK),
        ("application/msgpack, application/json", MSGPACK),
        ("application/json;q=0.5, Application/MsgPack", MSGPACK),
        ("application/msgpack;q=0.5, application/json", "application/json"),
        ("application/msgpack;q=0.5, */*", MSGPACK),
        ("application/msgpack;q=0, */*", "application/json"),
        ("application/msgpack; q=x", MSGPACK),
    ],
)
async def test_accept_chooses_the_form(accept, kind):
    """MessagePack comes to those who name it and do not like JSON better."""
    async with served() as client:
        await with_collection(client)
        for method, path in (("GET", "/collections/c"), ("GET", "/collections/none")):
            reply = await client(method, path, headers={"Accept": accept})

            assert reply.headers["Content-Type"] == kind


@pytest.mark.parametrize(
    ("accept", "refusal"),
    [
        ("text/html", (406, "not_acceptable", "Accept")),
        ("application/json;q=0", (406, "not_acceptable", "Accept")),
        ("application/x-msgpack", (406, "not_acceptable", "Accept")),
        ("application/msgpack; vectors=float64", (400, "bad_request", "Accept")),
    ],
)
async def test_who_accepts_nothing_is_told_before_anything_is_done(accept, refusal):
    """A write whose answer could not be given is not made."""
    async with served() as client:
        await with_collection(client)
        body = {"points": [{"id": 1, "vector": [1, 2, 3]}]}
        reply = await client("PUT", C, body, headers={"Accept": accept})

        assert reply.refusal == refusal
        assert (await client("POST", f"{C}/count", {})).result == {"count": 0}


async def test_every_route_speaks_it():
    """Patterns and collections, too, take and give MessagePack."""
    async with served() as client:
        vector = np.ones(8, np.float32).tobytes()
        stored = await client(
            "POST", "/patterns/store", {"task": "sort", "embedding": vector}, headers=PACKED
        )
        found = await client("POST", "/patterns/search", {"embedding": vector}, headers=PACKED)
        made = await client(
            "PUT", "/collections/d", {"vectors": {"size": 2, "distance": "Dot"}}, headers=PACKED
        )

        assert stored.status == 200
        assert [hit["task"] for hit in found.result] == ["sort"]
        assert made.result is True
