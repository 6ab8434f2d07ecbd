"""A moment for a fork: nobody is inside an index, or it is said that somebody is."""

import os
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from tests.unit.filled_index import COUNT, VECTORS, Filled


def moment():
    """How long may be waited."""
    return 0.01


@pytest.fixture
def filled():
    return Filled()


@contextmanager
def held(state, settling, which):
    if which == "reader":
        state.lock.acquire_read()
        try:
            yield
        finally:
            state.lock.release_read()
    else:
        locks = {"building": state.building, "mutex": state.mutex, "settling": settling}
        with locks[which]:
            yield


@pytest.mark.parametrize("which", ["building", "reader", "mutex", "settling"])
def test_somebody_inside_is_not_waited_for(filled, which):
    """And all that was taken until then is given back."""
    index = filled.index
    with held(index._state, index._settling, which), index.standing_still(moment) as still:
        assert not still
    with index.standing_still(moment) as still:
        assert still
    assert index.search(VECTORS[0], 3)


def test_nobody_comes_in_meanwhile(filled):
    """A search and a write wait until it is over."""
    index, done = filled.index, []
    filled.put([COUNT])
    with index.standing_still(moment) as still:
        assert still
        threads = [
            threading.Thread(target=lambda: done.append(index.search(VECTORS[0], 1))),
            threading.Thread(target=lambda: done.append(index.size)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(0.1)
        assert done == []
    for thread in threads:
        thread.join(10)
    assert len(done) == 2


def test_a_forked_copy_searches_and_takes_rows_in_as_the_original_does(filled):
    """Threads that search and write all the time leave no lock behind in it."""
    index, stop = filled.index, threading.Event()

    def search():
        while not stop.is_set():
            index.search(VECTORS[5], 5)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    statuses = []
    try:
        for _ in range(20):
            with index.standing_still(moment) as still:
                child = os.fork() if still else None
                if child == 0:
                    os._exit(_in_the_copy(index))
            if child is not None:
                statuses.append(os.waitpid(child, 0)[1])
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert statuses, "it was the moment at least once"
    assert not any(statuses)


def _in_the_copy(index):
    """Return 0 if a row that is added is found, and the others are."""
    try:
        index.become_copy()
        vector = np.full(VECTORS.shape[1], 0.5, "<f4")
        vector /= np.linalg.norm(vector)
        index.defer(0, [(5 * COUNT, 9, b"\x01" + bytes(8), vector.tobytes())], (), [b"{}"])
        found = index.search(vector, 1)[0].seq == 5 * COUNT
        return 0 if found and index.size == COUNT + 1 else 1
    except BaseException:  # noqa: BLE001 - nothing may get out of a forked process
        return 2


def test_a_copy_keeps_nothing_and_says_what_it_would(filled):
    """Rows of a filter are gathered, and a graph is made, by the original."""
    index = filled.index
    index.become_copy()
    plan = filled.plan
    for _ in range(50):
        index.filtered.many(VECTORS[:1], 3, plan)

    assert index._state.kept.bytes == 0
    assert index.filtered.take_to_gather() == [plan]
    assert index.filtered.take_to_gather() == []
    assert index.payloads.text_of(plan) == b"where"
    assert index.payloads.text_of(index.payloads.restriction(filled.where, None)) is None


def test_the_original_gathers_what_copies_ask_for(filled):
    """The builder does it, and that it was done shows."""
    index, before = filled.index, filled.index.improved
    assert not index.filtered.has_work
    index.filtered.gather(filled.plan)
    assert index.has_work
    filled.build()

    assert index._state.kept.bytes == filled.below * VECTORS.shape[1] * 4
    assert index.improved == before + 1
    assert not index.has_work


def test_what_is_asked_for_again_and_again_is_gathered_once(filled):
    """Each worker asks, and more than once."""
    for _ in range(100):
        filled.index.filtered.gather(filled.plan)

    assert len(filled.index._state.to_gather) == 1
