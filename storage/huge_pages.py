"""Huge pages for memory that is read at random places.

A processor remembers where about two thousand pages lie. A search visits a thousand rows all over
hundreds of megabytes: with pages of 4 KiB nearly each visit waits for a place to be looked up, with
pages of 2 MiB hardly any. On 117,659 x 384 a search of a graph took 0.215 ms so, 0.25 before.

Linux gathers pages when it is asked to (`MADV_COLLAPSE`, since 6.1). What was gathered may come
apart when the memory moves, and can be gathered again. Readers of the memory go on meanwhile.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any, Final

PAGE_BYTES: Final = 2 * 1024 * 1024
_MADV_COLLAPSE: Final = 25


def gather(address: int, size: int) -> bool:
    """Have the huge pages that lie inside of size bytes from an address on.

    False: not all could be had, or the system has no such thing; nothing else changes.
    """
    first = -(-address // PAGE_BYTES) * PAGE_BYTES
    last = (address + size) // PAGE_BYTES * PAGE_BYTES
    madvise = _madvise()
    if madvise is None or first >= last:
        return False
    return bool(madvise(first, last - first, _MADV_COLLAPSE) == 0)


@cache
def _madvise() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
