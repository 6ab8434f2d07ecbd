"""Threads for calls that report what they found by themselves, and so need no future.

A `ThreadPoolExecutor` makes a future for each call, with a condition, and takes three more locks: a
node that hands each search to a thread made a tenth more searches a second without that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

_Call = tuple[Callable[..., object], tuple[Any, ...]]

log = logging.getLogger(__name__)


class Calls(Protocol):
    """What makes calls elsewhere; a pool of `concurrent.futures` is such, too."""

    def submit(self, call: Callable[..., object], /, *arguments: Any) -> object:
        """Have `call(*arguments)` made some time; raises RuntimeError after the end."""
        ...

    def shutdown(self) -> None:
        """Wait for what was submitted, and end."""
        ...


class CallThreads:
    """See the module. An exception that a call raises goes to the log."""

    def __init__(self, count: int, name: str) -> None:
        assert count > 0, "something must make the calls"
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._ended = False
        self._threads = [
            Thread(target=self._run, name=f"{name}_{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[..., object], /, *arguments: Any) -> None:
        """Have `call(*arguments)` made by a thread; raises RuntimeError after the end."""
        if self._ended:
            raise RuntimeError("the threads have ended")
        self._calls.put((call, arguments))

    def shutdown(self) -> None:
        """Wait for what was submitted, and end the threads."""
        self._ended = True
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (asked := self._calls.get()) is not None:
            call, arguments = asked
            try:
                call(*arguments)
            except Exception:
                log.exception("a call failed on a thread of its own")
            del asked, call, arguments  # nothing is held on to while the thread waits
