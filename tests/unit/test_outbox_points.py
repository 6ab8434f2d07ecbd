"""What rows become: ids from keys, payloads from columns, vectors from arrays and from text."""

import json

import numpy as np
import pytest

from cluster.model import Collection
from cluster.outbox_points import id_of, read_batch
from storage.outbox.model import Event, Source

PAYLOAD_BYTES_MAX = 1000
UUID = "0b211aaa-30a4-40f5-8ae0-0abaee491e98"
COLLECTION = Collection(uid=1, name="c", dimension=2, distance="Cosine")


def source(**changes):
    values = {"id_column": "id", "vector_column": "v", "payload_columns": ("a",)}
    return Source(source=1, uid="u", table="t", collection="c", **(values | changes))


def upsert(seq=1, key="1", oversized=False, **image):
    return Event(seq, "upsert", key, None if oversized else json.dumps(image), oversized)


def read(*events, **changes):
    return read_batch(source(**changes), COLLECTION, events, PAYLOAD_BYTES_MAX)


@pytest.mark.parametrize("key", ["0", "7", str(2**64 - 1)])
def test_integers_are_ids(key):
    """Every unsigned 64-bit integer is an id."""
    assert id_of(key) == int(key)


def test_uuids_are_ids():
    """A UUID is an id in the one form that Postgres writes."""
    assert id_of(UUID) == UUID


@pytest.mark.parametrize(
    "key", [None, "", "-1", "007", "1.0", "+1", " 1", str(2**64), "x", UUID.upper(), "\u0661"]
)
def test_two_keys_are_never_one_id(key):
    """What could be written otherwise is no id."""
    assert id_of(key) is None


def test_a_row_becomes_a_point():
    """Chosen columns are the payload; what a row lacks is left out."""
    drafts = read(upsert(v=[3, 4], a="x", b="y"), upsert(2, "2", v="[0.5,1]", b="y"))
    first, second = drafts.upserts

    assert (first.id, first.payload) == (1, {"a": "x"})
    assert np.array_equal(first.vector, np.array([3, 4], np.float32))
    assert (second.id, second.payload) == (2, {})
    assert not drafts.rejected


def test_all_columns_are_all_but_the_vector():
    """The id is one of them."""
    (draft,) = read(upsert(id=1, v=[3, 4], a="x"), payload_columns=None).upserts

    assert draft.payload == {"id": 1, "a": "x"}


def test_a_text_waits_for_its_vector():
    """With a text column the draft has the text."""
    (draft,) = read(upsert(t="hello"), vector_column=None, text_column="t").upserts

    assert (draft.text, draft.vector) == ("hello", None)


def test_what_has_no_content_has_no_point():
    """NULL is a deletion, and the deletion of what is no id is nothing."""
    drafts = read(upsert(v=None), upsert(2, "2", v=None), Event(3, "delete", "x", None))

    assert drafts.deletes == [1, 2]
    assert (drafts.upserts, drafts.rejected) == ([], [])


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ({"v": [1, 2, 3]}, "3 elements"),
        ({"v": [0, 0]}, "no direction"),
        ({"v": [1e39, 1]}, "not finite"),
        ({"v": ["NaN", 1]}, "no list of finite numbers"),
        ({"v": [True, 1]}, "no list of finite numbers"),
        ({"v": "hello"}, "no list of finite numbers"),
        ({"v": [1, 2], "a": "x" * 2000}, "larger than 1000 bytes"),
        ({"key": "x", "v": [1, 2]}, "no id"),
        ({"key": None, "v": [1, 2]}, "no id"),
        ({"oversized": True}, "larger than"),
    ],
)
def test_bad_rows_are_rejected(image, said):
    """What is wrong is said, and the rows beside it are read."""
    drafts = read(upsert(**image), upsert(2, "2", v=[1, 2]))

    assert [each.id for each in drafts.upserts] == [2]
    assert [each.reason for each in drafts.rejected] == ["invalid_payload"]
    assert said in drafts.rejected[0].detail


def test_a_column_that_is_gone_takes_no_points_away():
    """A row without the column of its text, or of its key, is a dead letter: nothing is deleted."""
    drafts = read(upsert(body="renamed"), Event(2, "delete", None, None))

    assert (drafts.upserts, drafts.deletes) == ([], [])
    assert [each.detail for each in drafts.rejected] == [
        "the table has no column 'v' any more",
        "the table has no column 'id' any more",
    ]


@pytest.mark.parametrize("text", ["  ", "x" * 2000, 7])
def test_bad_texts_are_failures_of_embedding(text):
    """A text that is blank, too long, or none cannot be embedded."""
    drafts = read(upsert(t=text), vector_column=None, text_column="t")

    assert [each.reason for each in drafts.rejected] == ["embedding_failed"]
