"""Opening files on a disk that may be full: a node waits for space, it does not end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, TypeVar

from storage.connections import out_of_space

log = logging.getLogger("recollect.disk")

RETRY_S: Final = 1.0

OpenedType = TypeVar("OpenedType")


async def when_there_is_space(
    make: Callable[[], OpenedType], what: str, pause_s: float = RETRY_S
) -> OpenedType:
    """Return what `make` opens, on a thread; while the disk is full, try again and again.

    Raises what `make` raises for any other reason.
    """
    while True:
        try:
            return await asyncio.to_thread(make)
        except Exception as error:
            if not out_of_space(error):
                raise
            log.warning("%s waits for space on the disk: %s", what, error)
        await asyncio.sleep(pause_s)
