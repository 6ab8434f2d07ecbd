"""A moment in which nobody is inside an index, so that the process can be forked.

A forked child has one thread. Of the locks that other threads of the parent held, and of hnswlib's
own, each would stay locked in the child for ever, and what was half changed would stay so. So who
forks takes all locks first, and gives them back in the parent. The child makes new ones: what a
lock is made of may have been with another thread, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from storage.index_state import IndexState

Patience = Callable[[], float]
"""How long may still be waited for those who are inside, in seconds."""


@contextmanager
def standing_still(
    state: IndexState, settling: threading.Lock, patience: Patience
) -> Iterator[bool]:
    """Keep everybody out of an index; yields False when somebody did not leave in time.

    The locks are taken in the order that `storage.index_state` gives; `settling` is held by who
    takes in what was deferred, and takes the mutex.
    """
    with ExitStack() as held:
        yield (
            _taken(held, state.building, patience)
            and _entered(held, state, patience)
            and _taken(held, settling, patience)
            and _taken(held, state.mutex, patience)
        )


def _taken(held: ExitStack, lock: threading.Lock, patience: Patience) -> bool:
    if not lock.acquire(timeout=max(0.0, patience())):
        return False
    held.callback(lock.release)
    return True


def _entered(held: ExitStack, state: IndexState, patience: Patience) -> bool:
    if not state.lock.acquire_write(max(0.0, patience())):
        return False
    held.callback(state.lock.release_write)
    return True
