"""How a worker begins: a fork in a moment in which nobody is inside an index.

The child has one thread, that which forked, and begins by letting go of what is the parent's. None
of its sockets and files is closed by the parent's own rules, and no object of it is collected: it
may hold a descriptor whose number is another file's by now.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from cluster.workers.change_ring import ChangeRing
from cluster.workers.channel import Channel
from cluster.workers.shared_state import SharedState
from storage.vector_index import VectorIndex

log = logging.getLogger("recollect.workers")

_PATIENCE_S: Final = 0.02
"""With all indexes together; the event loop waits. Short searches are over by then."""
_OOM_SCORE: Final = "500"
"""The kernel ends a worker before the node when memory runs out."""
_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Fork(NamedTuple):
    """What is decided of a worker before it is forked."""

    number: int
    ticket: int
    shared: SharedState
    ring: ChangeRing
    channel: Channel
    """The worker's side."""
    rehearsal: Sequence[bytes]
    """Requests of late, for the worker to begin with."""


def fork(
    indexes: Sequence[VectorIndex],
    channel: Channel,
    work: Callable[[], None],
    clock: Callable[[], float],
) -> int | None:
    """Do `work` in a forked process, which keeps `channel` of all descriptors; return its id.

    None: somebody is inside an index for longer than one can wait. On the main thread. Raises
    OSError when the system has no room for another process.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    end_s = clock() + _PATIENCE_S

    def patience() -> float:
        return end_s - clock()

    try:
        with ExitStack() as held:
            still = all(held.enter_context(each.standing_still(patience)) for each in indexes)
            child = os.fork() if still else None
            if child == 0:
                _become_worker(indexes, channel, work)
        return child
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _become_worker(
    indexes: Sequence[VectorIndex], channel: Channel, work: Callable[[], None]
) -> NoReturn:
    status = 1
    try:
        for index in indexes:
            index.become_copy()
        signal.set_wakeup_fd(-1)
        for each in _IGNORED:
            signal.signal(each, signal.SIG_IGN)  # the node ends its workers
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        channel.alone()
        gc.freeze()
        _show_what_this_is()
        work()
        status = 0
    except ConnectionError:
        status = 0  # the node is no more
    except Exception:
        log.exception("a search worker failed")
    finally:
        os._exit(status)


def _show_what_this_is() -> None:
    """Name the process, and let the kernel take it first when memory runs out."""
    with contextlib.suppress(OSError):  # where /proc is not to be written
        Path("/proc/self/comm").write_text("search-worker")
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)


def kill(pid: int) -> None:
    """End a worker that does not go on."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def has_ended(pid: int) -> bool:
    """Return whether a child has ended, and let the system forget it."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True
