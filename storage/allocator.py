"""How this process's C library keeps memory (glibc; elsewhere nothing is done).

By itself glibc learns to take ever larger pieces from its arenas, one for each thread or so. What a
load of rows leaves there (blocks of the fresh tail, request bodies, copies of a graph that grew)
stays with the process, as much again as the search graph itself. So what is very large is always
mapped by itself: it goes back when it is freed, and a graph grows by moving pages instead of
copying them. There are few arenas, and what a load leaves in them is given back when it is over.

Whatever the environment says (MALLOC_..., GLIBC_TUNABLES) counts.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
"""Names of parameters in malloc.h."""
_SETTINGS: Final = {
    "MALLOC_MMAP_THRESHOLD_": (_MMAP_THRESHOLD, 8 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": (_TRIM_THRESHOLD, 8 * 1024 * 1024),
    "MALLOC_ARENA_MAX": (_ARENA_MAX, 2),
}
"""A request takes less than 8 MiB, and so do blocks of the tail: from the arenas they come without
the price of new pages each time, and the end of an arena is kept for the next ones."""


def prepare(environment: Mapping[str, str]) -> list[str]:
    """Set the allocator up, before there are threads; return what was set, by variable."""
    if _glibc() is None or "GLIBC_TUNABLES" in environment:
        return []
    unset = [name for name in _SETTINGS if name not in environment]
    return [name for name in unset if ctypes.CDLL(None).mallopt(*_SETTINGS[name])]


def give_back() -> bool:
    """Return free pages to the system; whether any were. It takes some milliseconds.

    The interpreter goes on meanwhile, but whoever needs memory may wait.
    """
    return _glibc() is not None and bool(ctypes.CDLL(None).malloc_trim(0))


def _glibc() -> str | None:
    """Return the version of glibc, or None where it is not the C library."""
    if sys.platform != "linux":
        return None
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        return None
