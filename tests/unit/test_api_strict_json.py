"""Strict decoding: what is refused, where it stands, and that nothing valid is."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.api.json_location import path_at, path_of_duplicate
from cluster.api.point_schema import SetPayload, UpsertPoints
from cluster.api.search_schema import QueryPoints
from cluster.api.strict_json import VALUES_MAX, StrictDecoder
from cluster.errors import BadRequest, PayloadTooLarge, UnsupportedFeature

UPSERT = StrictDecoder(UpsertPoints)
QUERY = StrictDecoder(QueryPoints)
PAYLOAD = StrictDecoder(SetPayload)


def upsert(vector: str = "1", payload: str = "{}") -> bytes:
    """Return an upsert whose second point has these parts."""
    first = '{"id": 1, "vector": [1], "payload": {"a": "b"}}'
    second = f'{{"id": 2, "vector": [1, {vector}], "payload": {payload}}}'
    return f'{{"points": [{first}, {second}]}}'.encode()


def refusal(decoder: StrictDecoder[Any], raw: bytes) -> tuple[str | None, str]:
    """Return field and sentence of the refusal."""
    with pytest.raises(BadRequest) as caught:
        decoder.decode(raw)
    return caught.value.field, caught.value.message


@pytest.mark.parametrize("element", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_non_finite_elements_name_their_vector(element):
    """A number that is not finite is refused, and the vector it stands in is named."""
    field, _ = refusal(UPSERT, upsert(vector=element))

    assert field == "points[1].vector"


@pytest.mark.parametrize("element", ["true", '"1"', "null", "[1]", "{}"])
def test_elements_of_other_types_are_named(element):
    """An element that is no number is named by its own path."""
    field, _ = refusal(UPSERT, upsert(vector=element))

    assert field == "points[1].vector[1]"


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ('{"a": 1, "a": 2}', "points[1].payload.a"),
        ('{"a": 1, "\\u0061": 2}', "points[1].payload.a"),
        ('{"x": {"y": [{"b": 1, "c": 2, "b": 3}]}}', "points[1].payload.x.y[0].b"),
        ('{"a": "\\u0000"}', "points[1].payload.a"),
        ('{"a\\u0000": 1}', "points[1].payload"),
        ('{"a": ["x", "\\\\\\u0000"]}', "points[1].payload.a[1]"),
        ('{"a": "\\ud800"}', "points[1].payload.a"),
        ('{"a": "\\udc00 and more"}', "points[1].payload.a"),
        ('{"a": {"n": 18446744073709551616}}', "points[1].payload.a.n"),
        ('{"n": [0, -9223372036854775809]}', "points[1].payload.n[1]"),
        ('{"n": NaN}', "points[1].payload.n"),
        ('{"n": 1e999}', "points[1].payload"),
        ("3", "points[1].payload"),
        ('{"a":' * 300 + "1" + "}" * 300, "points[1].payload"),
        ('{"a":' * 3000 + "1" + "}" * 3000, "points[1].payload"),
        ('{"a": [' * 100000, "points[1].payload"),
    ],
)
def test_bad_payloads_are_named(payload, field):
    """Duplicate keys, NUL, lone surrogates, wide integers and depth are refused by place."""
    assert refusal(UPSERT, upsert(payload=payload))[0] == field


@pytest.mark.parametrize(
    "payload",
    [
        '{"a": {"b": 1}, "b": 1}',
        '{"a": "\\\\u0000"}',
        '{"a": "x\\"y\\\\", "b": "\\\\\\""}',
        '{"a": "\\ud83d\\ude00"}',
        '{"n": [18446744073709551615, -9223372036854775808]}',
        '{"": "", "a": [[], {}, null, true]}',
    ],
)
def test_unusual_but_valid_payloads_pass(payload):
    """What only resembles a fault is decoded as it stands."""
    points: Any = UPSERT.decode(upsert(payload=payload)).points

    assert points[1].payload == json.loads(payload)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"null", None),
        (b"{} {}", None),
        (b"\xef\xbb\xbf{}", None),
        (b'{"points": "\xff"}', "points"),
        (b'{"points": 3}', "points"),
        (b'{"points": [3]}', "points[0]"),
        (b'{"points": [{"id": 1}]}', "points[0].vector"),
        (b'{"points": [{"id": true, "vector": [1]}]}', "points[0].id"),
        (b'{"points": [{"id": 1.0, "vector": [1]}]}', "points[0].id"),
        (b'{"points": [{"id": 1, "vector": [1], "vektor": 1}]}', "points[0].vektor"),
        (b'{"pionts": []}', "pionts"),
        (b'{"points": [], "points": []}', "points"),
        (b'{"points": [1,]}', "points[0]"),
        (b"{'points': []}", None),
        (b'{"points": [01]}', "points[0]"),
    ],
)
def test_what_is_not_of_the_schema_is_named(raw, field):
    """Text that is not JSON, or not of the schema, is refused with its place if it has one."""
    assert refusal(UPSERT, raw)[0] == field


@pytest.mark.parametrize(
    "raw",
    [
        b'{"prefetch": []}',
        b'{"prefetch": {"limit": 3}}',
        b'{"prefetch": "x"}',
        b'{"prefetch": 0}',
        b'{"prefetch": false}',
    ],
)
def test_known_but_lacking_fields_are_unsupported(raw):
    """A value of any type in a field that is not served is named as unsupported."""
    with pytest.raises(UnsupportedFeature) as caught:
        QUERY.decode(raw)

    assert caught.value.field == "prefetch"


def test_lacking_fields_inside_are_named_in_full():
    """A field that is not served is named with the path to it."""
    with pytest.raises(UnsupportedFeature) as caught:
        QUERY.decode(b'{"params": {"hnsw_ef": 3, "idf": {}}}')

    assert caught.value.field == "params.idf"


def test_null_is_accepted_for_lacking_fields():
    """Clients that send every field as null are served."""
    names = sorted(QueryPoints.lacking)

    assert QUERY.decode(json.dumps(dict.fromkeys(names)).encode()).prefetch is None


def test_many_values_are_refused_before_they_are_decoded():
    """A body of few bytes and very many values is refused by counting them."""
    raw = b'{"query": [0' + b",0" * (VALUES_MAX + 1) + b"]}"

    with pytest.raises(PayloadTooLarge):
        QUERY.decode(raw)


TEXT = st.text(max_size=6).filter(lambda text: "\0" not in text)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(-1e9, 1e9) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(TEXT, JSON, max_size=4), st.booleans())
def test_every_valid_payload_passes(payload, ascii_only):
    """Counting strings never takes a valid payload for one with duplicate keys."""
    raw = json.dumps({"payload": payload, "points": [1]}, ensure_ascii=ascii_only).encode()

    assert PAYLOAD.decode(raw).payload == payload


@given(st.lists(st.tuples(TEXT, JSON), min_size=1, max_size=5), st.booleans())
def test_duplicates_are_found_exactly_when_there_are_some(pairs, ascii_only):
    """An object's pairs are refused exactly when two of them share a key."""
    inner = ",".join(
        f"{json.dumps(key, ensure_ascii=ascii_only)}: {json.dumps(value, ensure_ascii=ascii_only)}"
        for key, value in pairs
    )
    raw = f'{{"points": [1], "payload": {{{inner}}}}}'.encode()
    keys = [key for key, _ in pairs]
    repeated = next((key for at, key in enumerate(keys) if key in keys[:at]), None)
    if repeated is None:
        assert PAYLOAD.decode(raw).payload == dict(pairs)
        return
    field, sentence = refusal(PAYLOAD, raw)

    assert "twice" in sentence
    assert field == f"payload.{repeated}"


@given(st.binary(max_size=40))
def test_any_bytes_are_decoded_or_refused(raw):
    """No bytes bring anything but a body or a refusal."""
    with contextlib.suppress(BadRequest):
        assert QUERY.decode(raw) is not None


@given(st.binary(max_size=60), st.integers(0, 60))
def test_locating_survives_any_bytes(raw, offset):
    """Places are looked for in texts that are no JSON at all."""
    for found in (path_at(raw, offset), path_of_duplicate(raw)):
        assert found is None or isinstance(found, str)
