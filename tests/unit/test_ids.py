"""Canonical bytes: what is hashed and compared, and what comes back from it."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ring import shard_of
from storage.ids import (
    KEY_LENGTH_MAX,
    decode_id,
    decode_key,
    encode_id,
    id_part,
    is_canonical,
    key_bytes,
    key_part,
    keyed_id,
    keyed_range,
    routing_bytes,
    shard_key_of,
)

IDS = st.integers(0, 2**64 - 1) | st.uuids().map(str)
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=255
)
KEYS = st.integers(0, 2**64 - 1) | TEXTS


def both(point_id, key):
    return keyed_id(encode_id(point_id), key_bytes(key))


@given(IDS, KEYS)
def test_identities_come_back_as_they_were_given(point_id, key):
    """Id and key keep their type, and each part can be taken out."""
    plain, keyed = encode_id(point_id), both(point_id, key)

    assert decode_id(plain) == decode_id(keyed) == point_id
    assert decode_key(key_bytes(key)) == shard_key_of(keyed) == key
    assert (id_part(keyed), key_part(keyed)) == (plain, key_bytes(key))
    assert (id_part(plain), key_part(plain), shard_key_of(plain)) == (plain, None, None)
    assert is_canonical(plain)
    assert is_canonical(keyed)


def test_the_forms_are_for_ever():
    """What lies on disk has these bytes."""
    name = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
    five = bytes.fromhex("010000000000000005")

    assert encode_id(5) == key_bytes(5) == five
    assert encode_id(name) == b"\x02" + uuid.UUID(name).bytes
    assert key_bytes("5") == b"\x035"
    assert key_bytes("é") == b"\x03\xc3\xa9"
    assert both(5, "5") == b"\x07" + five + b"\x035"
    assert both(name, 5) == b"\x07\x02" + uuid.UUID(name).bytes + five


@given(st.lists(st.tuples(IDS, KEYS), min_size=2, max_size=8))
def test_byte_order_is_by_id_then_key(pairs):
    """A page in the order of identities is in the order of ids."""
    found = sorted(both(*pair) for pair in pairs)

    assert [id_part(each) for each in found] == sorted(encode_id(each) for each, _ in pairs)


@given(IDS, IDS, KEYS)
def test_all_identities_of_an_id_are_a_range(point_id, other, key):
    """The range has those of the id, and no others."""
    first, last = keyed_range(encode_id(point_id))

    assert first < both(point_id, key) < last
    assert (first <= both(other, key) < last) is (other == point_id)


@pytest.mark.parametrize("key", ["agent 7", "5", 5, "x" * KEY_LENGTH_MAX, 2**64 - 1])
def test_the_key_decides_on_the_shard(key):
    """All points of a key lie where the key's own bytes do."""
    home = shard_of(key_bytes(key), 12)

    assert {shard_of(both(n, key), 12) for n in range(50)} == {home}
    assert routing_bytes(both(1, key)) == routing_bytes(key_bytes(key)) == key_bytes(key)


@pytest.mark.parametrize(
    "key", ["", "x" * 256, "a\0b", "\ud800", -1, 2**64, True, 1.0, None, b"a"], ids=repr
)
def test_what_is_no_key_is_refused(key):
    """Keys are unsigned 64-bit integers, or text of bounded length that can be stored."""
    with pytest.raises(ValueError, match="key"):
        key_bytes(key)


BAD = [
    b"",
    b"\x07",
    b"\x03name",
    b"\x07" + encode_id(1),
    b"\x07" + encode_id(1) + b"\x03",
    b"\x07" + encode_id(1) + b"\x03\xff",
    b"\x07" + encode_id(1) + b"\x03a\0",
    b"\x07" + encode_id(1) + b"\x03" + b"x" * 256,
    b"\x07" + encode_id(1) + b"\x01short",
    b"\x07" + encode_id(1) + b"\x04name",
    b"\x07\x03" + encode_id(1) + b"\x03name-of-some-length",
    b"\x07\x02" + b"x" * 15,
    b"\x07" + both(1, "a"),
    encode_id(1) + b"\x03name",
]


@pytest.mark.parametrize("raw", BAD, ids=repr)
def test_other_bytes_are_not_canonical(raw):
    """A command with such an id comes from no correct leader."""
    assert not is_canonical(raw)


@given(st.binary(max_size=40))
def test_only_what_was_encoded_is_canonical(raw):
    """Whatever counts as canonical is what encoding its parts gives."""
    if is_canonical(raw):
        key = shard_key_of(raw)
        again = encode_id(decode_id(raw)) if key is None else both(decode_id(raw), key)

        assert again == raw
