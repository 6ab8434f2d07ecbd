"""The reader/writer lock: exclusion, alternating phases, and a writer that gives up in time."""

import threading

from storage.rwlock import ReadWriteLock
from tests.helpers import eventually

LONG_S = 30.0


def started(target):
    """Start a thread and return it."""
    thread = threading.Thread(target=target)
    thread.start()
    return thread


def test_readers_share_and_a_writer_is_alone():
    """Readers run together; the writer runs when none is inside."""
    lock = ReadWriteLock()
    lock.acquire_read()
    lock.acquire_read()

    assert not lock.acquire_write(0.001)
    lock.release_read()
    assert not lock.acquire_write(0.001)
    lock.release_read()
    assert lock.acquire_write(0.001)
    lock.release_write()


def test_a_waiting_writer_gets_its_turn():
    """New readers do not overtake a writer that waits, and enter when it has left."""
    lock = ReadWriteLock()
    events = []
    lock.acquire_read()

    def write():
        assert lock.acquire_write(LONG_S)
        events.append("write")
        eventually(lambda: lock.contended)
        lock.release_write()

    def read():
        lock.acquire_read()
        events.append("read")
        lock.release_read()

    writer = started(write)
    eventually(lambda: lock._writer)
    reader = started(read)
    eventually(lambda: lock.contended)
    assert events == []
    lock.release_read()
    writer.join()
    reader.join()

    assert events == ["write", "read"]
    assert not lock.contended


def test_queued_readers_come_before_the_next_writer():
    """Readers that queued behind a writer are inside before another writer can be."""
    lock = ReadWriteLock()
    assert lock.acquire_write(LONG_S)
    entered, leave = threading.Event(), threading.Event()

    def read():
        lock.acquire_read()
        entered.set()
        leave.wait()
        lock.release_read()

    reader = started(read)
    eventually(lambda: lock.contended)
    lock.release_write()

    assert not lock.acquire_write(0.001), "the reader counts as inside before it even woke"
    assert entered.wait(LONG_S)
    leave.set()
    reader.join()
    assert lock.acquire_write(LONG_S)
    lock.release_write()


def test_a_writer_that_gives_up_opens_the_door():
    """Readers that queued behind a writer enter when it gives up."""
    lock = ReadWriteLock()
    lock.acquire_read()
    gave_up = []
    writer = started(lambda: gave_up.append(not lock.acquire_write(0.2)))
    eventually(lambda: lock._writer or gave_up)
    lock.acquire_read()
    writer.join()

    assert gave_up == [True]
    lock.release_read()
    lock.release_read()
    assert lock.acquire_write(LONG_S)


def test_nobody_starves():
    """With readers and a writer that never pause, both make progress, never at the same time."""
    lock = ReadWriteLock()
    inside = {"readers": 0, "writing": False}
    counts = {"reads": 0, "writes": 0}
    guard, failures, done = threading.Lock(), [], threading.Event()

    def read():
        while not done.is_set():
            lock.acquire_read()
            with guard:
                inside["readers"] += 1
                counts["reads"] += 1
                if inside["writing"]:
                    failures.append("a reader beside a writer")
            with guard:
                inside["readers"] -= 1
            lock.release_read()

    def write():
        while counts["writes"] < 200 or counts["reads"] < 200:
            if lock.acquire_write(LONG_S):
                inside["writing"] = True
                if inside["readers"]:
                    failures.append("a writer beside a reader")
                counts["writes"] += 1
                inside["writing"] = False
                lock.release_write()
        done.set()

    threads = [started(read) for _ in range(3)] + [started(write)]
    for thread in threads:
        thread.join()

    assert failures == []
    assert min(counts.values()) >= 200
