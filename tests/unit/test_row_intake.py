"""Rows of several shards that enter together are as if they had come shard by shard."""

import numpy as np
import pytest

from storage import row_intake
from storage.index_state import IndexState, Shape
from storage.row_intake import Arrival, take_in
from tests.unit.test_vector_index import draw_vectors, row


def new_state():
    """Return an empty state; `row` makes vectors of its dimension."""
    return IndexState(Shape(draw_vectors(1).shape[1], "Cosine", 8, 60, 1))


def arrivals(chance):
    """Return rows of some shards, several times the same, newer, older or as old as before."""
    shards = chance.permutation(4)[: chance.integers(1, 5)].tolist()
    return [
        Arrival(
            shard,
            [
                row(int(chance.integers(0, 12)), vector, version=int(chance.integers(1, 6)))
                for vector in draw_vectors(int(chance.integers(0, 9)), int(chance.integers(99)))
            ],
        )
        for shard in shards
    ]


@pytest.mark.parametrize("rows_at_once", [1, 8, 512])
@pytest.mark.parametrize("seed", range(5))
def test_together_as_one_by_one(seed, rows_at_once, monkeypatch):
    """In slots of the same order."""
    monkeypatch.setattr(row_intake, "ROWS_AT_ONCE", rows_at_once)
    together, alone = new_state(), new_state()
    chance = np.random.default_rng(seed)
    for _ in range(20):
        came = arrivals(chance)
        take_in(together, came)
        for each in came:
            take_in(alone, [each])

    used = alone.table.used
    assert used == together.table.used
    assert np.array_equal(together.table.records[:used], alone.table.records[:used])
    assert np.array_equal(together.table.alive, alone.table.alive)
    assert together.changes == alone.changes
    rows, expected = (np.concatenate(each.tail.views()) for each in (together, alone))
    assert np.array_equal(rows, expected)
    together.validate()


def test_rows_that_cannot_be_right_enter_with_none_of_the_others():
    """An index that has half of a batch would have it for ever."""
    state = new_state()
    good, short = row(1, draw_vectors(1)[0]), row(2, draw_vectors(1)[0][:-1])

    with pytest.raises(ValueError, match="bytes"):
        take_in(state, [Arrival(0, [good]), Arrival(1, [short])])

    assert not state.table.used
    state.validate()
