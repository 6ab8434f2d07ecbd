"""Rows with equal vectors: who stands for whom, and what a search finds by it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from storage.copies import Copies, Placed

SLOTS_MAX = 400


class Twin:
    """Copies beside a list of which vector each slot has; slots are given out as a table does."""

    def __init__(self):
        self.copies = Copies()
        self.alive = np.zeros(SLOTS_MAX, dtype=np.bool_)
        self.vectors = []
        self.stand_ins = {}

    def place(self, *vectors):
        """Place rows with these vectors in one step; return their slots."""
        slots = [len(self.vectors) + at for at in range(len(vectors))]
        self.vectors += vectors
        for slot, vector in zip(slots, vectors, strict=True):
            self.stand_ins.setdefault(vector, slot)
        self.alive[slots] = True
        first = [self.stand_ins[vector] for vector in vectors]
        self.copies.place(Placed(np.array(slots), np.array(first), [*vectors]), self.alive)
        return slots

    def kill(self, *slots):
        """Let rows die."""
        self.alive[list(slots)] = False
        self.copies.bury(np.array(slots), self.alive)

    def found(self, vector):
        """Return the slots that a search gets which meets a vector's row of the graph."""
        slots = np.array([self.stand_ins[vector]])
        return self.copies.expand(slots, np.zeros(1, dtype=np.float32))[0].tolist()

    def living(self, vector):
        """Return the living rows that have a vector."""
        return {
            slot for slot, each in enumerate(self.vectors) if each == vector and self.alive[slot]
        }


def test_a_row_that_is_rewritten_takes_its_own_place():
    """However often a row is written with its vector, a search meets one row for it."""
    twin = Twin()
    (slot,) = twin.place(7)
    for _ in range(100):
        twin.kill(slot)
        (slot,) = twin.place(7)

    assert twin.found(7) == [slot]


def test_rows_with_one_vector_leave_few_dead_behind():
    """Of several rows with one vector all are found, with a handful of their old versions."""
    twin = Twin()
    slots = twin.place(7, 7, 7)
    for number in range(100):
        twin.kill(slots[number % 3])
        (slots[number % 3],) = twin.place(7)

    assert set(slots) <= set(twin.found(7))
    assert len(twin.found(7)) < 30


def test_the_last_of_a_crowd_stands_alone_again():
    """When one row of many is left, and written again, nothing of the others is met."""
    twin = Twin()
    slots = twin.place(*[7] * 50)
    twin.kill(*slots)
    (last,) = twin.place(7)

    assert twin.found(7) == [last]


def test_a_vector_that_moves_on_stands_for_its_new_row_alone():
    """Rows that exchange their vectors have them both for a moment; then each is met once."""
    twin = Twin()
    first, second = twin.place(7, 8)
    third, fourth = twin.place(8, 7)
    twin.kill(first, second)

    assert twin.found(7) == [fourth]
    assert twin.found(8) == [third]


steps = st.lists(
    st.one_of(
        st.lists(st.integers(1, 3), min_size=1, max_size=4),
        st.integers(0, 30),
    ),
    max_size=60,
)


@given(steps)
def test_every_living_row_is_found_once(work):
    """Whatever comes and goes, a search that meets a vector gets its living rows, each once."""
    twin = Twin()
    for step in work:
        living = np.flatnonzero(twin.alive).tolist()
        if isinstance(step, list):
            twin.place(*step)
        elif living:
            twin.kill(living[step % len(living)])

    twin.copies.validate(twin.alive, len(twin.vectors))
    for vector in twin.stand_ins:
        found = twin.found(vector)
        assert len(found) == len(set(found))
        assert twin.living(vector) <= set(found)
