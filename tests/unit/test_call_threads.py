"""Threads for calls: each call is made, whatever the one before did, until the end."""

import threading
import weakref

import pytest

from cluster.call_threads import CallThreads


def test_calls_are_made_beside_each_other_and_before_the_end():
    """Each thread makes one at a time; the end waits for all of them."""
    threads = CallThreads(2, "test")
    made: list[int] = []
    barrier = threading.Barrier(3, timeout=10)
    for _ in range(2):
        threads.submit(barrier.wait)
    barrier.wait()
    for number in range(100):
        threads.submit(made.append, number)
    threads.shutdown()
    assert sorted(made) == list(range(100))
    with pytest.raises(RuntimeError):
        threads.submit(made.append, 100)


def test_a_call_that_fails_is_reported_and_the_next_is_made(caplog):
    """A thread does not end with it."""
    threads = CallThreads(1, "test")
    made: list[int] = []
    threads.submit(int, "x")
    threads.submit(made.append, 1)
    threads.shutdown()
    assert made == [1]
    assert "invalid literal" in caplog.text


def test_what_was_called_is_let_go():
    """A vector, or an index that was dropped, is not kept by a thread that waits."""

    class Held:
        def call(self):
            done.set()

    threads, done, gone = CallThreads(1, "test"), threading.Event(), threading.Event()
    held = Held()
    weakref.finalize(held, gone.set)
    threads.submit(held.call)
    del held
    assert done.wait(10)
    assert gone.wait(10)
    threads.shutdown()
