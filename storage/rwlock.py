"""A phase-fair lock: many readers or one writer, and neither can starve the other.

A writer that waits closes the door to new readers and gets its turn once those inside have left.
When it leaves, every reader that queued meanwhile is counted inside at once, before the next
writer can ask: phases alternate, so a reader waits for at most one writer and a writer for at most
one generation of readers.

One long reader would make a waiting writer, and everybody behind it, wait for all of its time;
`acquire_write` therefore gives up after a while and opens the door again.

Only one thread at a time may act as writer: callers serialise writers among themselves.
"""

from __future__ import annotations

import threading


class ReadWriteLock:
    """Guards hnswlib, which must not be changed while it is searched. Not reentrant."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._turn = threading.Condition(self._mutex)
        """Where readers wait for the writer to leave."""
        self._drained = threading.Condition(self._mutex)
        """Where the writer waits for the readers to leave."""
        self.reads = 0
        """Readers that ever came."""
        self._readers = 0
        self._queued = 0
        """Readers that wait; they become `_readers` when the phase ends."""
        self._writer = False
        """A writer is inside, or waits with the door closed."""
        self._phase = 0

    def acquire_read(self) -> None:
        """Enter as a reader, after the writer that is inside or waiting."""
        with self._mutex:
            self.reads += 1
            if not self._writer:
                self._readers += 1
                return
            self._queued += 1
            phase = self._phase
            while self._phase == phase:
                self._turn.wait()

    def release_read(self) -> None:
        """Leave as a reader."""
        with self._mutex:
            assert self._readers > 0, "release without acquire"
            self._readers -= 1
            if self._writer and not self._readers:
                self._drained.notify()

    def acquire_write(self, patience_s: float) -> bool:
        """Enter alone; False if the readers inside did not leave within `patience_s` seconds."""
        with self._mutex:
            assert not self._writer, "one writer at a time"
            self._writer = True
            if self._drained.wait_for(self._is_drained, patience_s):
                return True
            self._open()
            return False

    def release_write(self) -> None:
        """Leave, and let in all the readers that queued."""
        with self._mutex:
            assert self._writer, "release without acquire"
            assert not self._readers, "readers inside with a writer"
            self._open()

    @property
    def would_wait(self) -> bool:
        """Whether a reader that came now would wait."""
        return self._writer

    @property
    def contended(self) -> bool:
        """Whether readers wait for the writer to leave."""
        return self._queued > 0

    def _is_drained(self) -> bool:
        return not self._readers

    def _open(self) -> None:
        self._writer = False
        self._phase += 1
        self._readers += self._queued
        self._queued = 0
        self._turn.notify_all()
