"""What `recollect up` started must not outlive it, even when `up` is killed with -9.

Two ties, both made by the child because a preparation between fork and exec is not safe in a
process with threads. Linux: the kernel sends SIGKILL when the parent ends (a stopped process
ends by nothing less); a parent that ended before the tie was made is noticed by its process id.
Everywhere: the child holds the reading end of a pipe whose writing end only the parent has; its
end of file means that the parent is gone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from typing import Final

PR_SET_PDEATHSIG: Final = 1
GRACE_S: Final = 10.0


def end_with(
    parent_pid: int, pipe: int | None = None, *, number: signal.Signals = signal.SIGKILL
) -> None:
    """Tie this process's life to its parent's; `number` is the signal that the kernel sends.

    The tie with the kernel holds across `exec`, and is lost when the process changes its user.

    Raises:
        SystemExit: the parent is already gone.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, int(number)) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        raise SystemExit(1)
    if pipe is not None:
        watcher = threading.Thread(
            target=_end_at_end_of_file, args=(pipe,), name="parent-watch", daemon=True
        )
        watcher.start()


def _end_at_end_of_file(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(GRACE_S)
    os._exit(1)
