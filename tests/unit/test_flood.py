"""When building an index waits for the end of a flood of rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import segments
from storage.flood import (
    LOOK_S,
    ROWS_PER_S,
    SEARCHED_S,
    WAITING_BYTES_MAX,
    WAITING_MAX,
    Flood,
)
from storage.ids import encode_id
from storage.index_set import IndexSet

FAST = int(2 * ROWS_PER_S * LOOK_S)


def flooded(**settings):
    """Return a flood that lasts at second 10, when 1000 rows had come."""
    flood = Flood(**settings)
    flood.lasts(1000 - FAST, 0, 10 - LOOK_S)
    assert flood.lasts(1000, 1000, 10.0)
    return flood


def test_quick_rows_are_a_flood_and_slow_ones_are_not():
    """The rate since the last look decides."""
    assert flooded().lasts(1000 + 2 * FAST, 1000, 10 + 2 * LOOK_S)
    assert not flooded().lasts(1000 + FAST, 1000, 10 + 3 * LOOK_S)


def test_a_moment_without_rows_is_no_end():
    """Between two looks the verdict stands."""
    assert flooded().lasts(1000, 1000, 10 + LOOK_S / 2)


def test_large_rows_wait_in_smaller_numbers():
    """What waits is bounded in bytes, whatever the dimension."""
    row_bytes = 4 * 65_536
    waiting = WAITING_BYTES_MAX // row_bytes
    assert flooded(row_bytes=row_bytes).lasts(2000, waiting - 1, 10 + LOOK_S / 2)
    assert not flooded(row_bytes=row_bytes).lasts(2000, waiting, 10 + LOOK_S / 2)


def test_a_search_has_segments_made():
    """Who searches is not to compare thousands of rows; fewer can still wait."""
    flood = flooded()
    flood.searched = True

    assert flood.lasts(2000, 1000, 10 + LOOK_S / 2)
    assert not flood.lasts(2000, 1000, 10 + LOOK_S / 2, segment_due=True)


def test_a_search_is_remembered_for_a_while():
    """Nobody makes segments when nobody has searched lately."""
    flood = flooded()
    flood.searched = True
    later_s = 10 + SEARCHED_S + LOOK_S
    assert flood.lasts(1000, 1000, 10.0)

    assert flood.lasts(1000 + 10 * FAST, 1000, later_s, segment_due=True)


@given(st.integers(0, 10**6), st.floats(0, 10))
def test_never_do_too_many_rows_wait(came, elapsed_s):
    """However quickly they come."""
    flood = flooded()

    assert not flood.lasts(1000 + came, WAITING_MAX, 10 + elapsed_s)


def test_the_first_look_knows_no_rate():
    """Rows of before are no flood."""
    assert not Flood().lasts(10**6, 10**4, 1e5)


class TestInASet:
    """The builder of a node's indexes."""

    @pytest.fixture
    def index(self):
        self.now_s = 100.0
        self.indexes = IndexSet(None, clock=lambda: self.now_s)
        index = self.indexes.open(1, 8, "Cosine", 8, 64)
        self.indexes._build()
        vectors = np.random.default_rng(1).standard_normal((500, 8)).astype("<f4")
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.vectors = vectors
        self.now_s += LOOK_S
        index.defer(0, [(n + 1, 1, encode_id(n), row.tobytes()) for n, row in enumerate(vectors)])
        return index

    def test_rows_wait_and_are_found(self, index, monkeypatch):
        """A search finds what waits, and has segments made of many rows."""
        self.indexes._build()
        assert index.tail_size == 500

        found = index.search(self.vectors[7], 1)
        self.indexes._build()
        assert index._state.covered == 0
        monkeypatch.setattr(segments, "ROWS_MIN", 400)
        self.indexes._build()

        assert [hit.id for hit in found] == [encode_id(7)]
        assert index._state.covered == index.tail_size == 500
        assert [hit.id for hit in index.search(self.vectors[7], 1)] == [encode_id(7)]

    def test_rows_are_built_when_the_flood_has_ended(self, index):
        """Nobody has to search for that."""
        self.indexes._build()
        self.now_s += LOOK_S
        self.indexes._build()

        assert index.tail_size == 0
