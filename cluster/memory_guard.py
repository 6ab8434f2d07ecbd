"""Keeps a node below its memory ceiling: what would make it grow is refused in time.

Beyond the ceiling the kernel kills the process, and it comes back to the same data. So two lines
are drawn before it, as parts of the ceiling:

    FULL      writes that add or change rows are answered 507, until less than EASED is used;
              deletes and reads go on
    CRITICAL  no request body is taken in that would lead beyond: 503

The room between FULL and CRITICAL is for requests under way. Rows that wait for the search graph
are counted with what they will need in it.

Without a ceiling nothing is refused. Pure: readings and times are arguments.
"""

from __future__ import annotations

from typing import Final

from cluster.control_group import MemoryReading
from cluster.errors import Overloaded, PayloadTooLarge
from cluster.full_nodes import FullNodes

FULL: Final = 0.85
EASED: Final = 0.80
CRITICAL: Final = 0.95
BODY_MAX: Final = 0.5
"""The part of the ceiling that one request may need."""


class MemoryGuard(FullNodes):
    """Judges by the last reading it was given."""

    def __init__(self, me: str) -> None:
        super().__init__(me, "memory")
        self._reading: MemoryReading | None = None

    def observe(self, reading: MemoryReading | None, pending_bytes: int = 0) -> None:
        """Take a reading; `pending_bytes` will be needed for what is already accepted."""
        if reading is not None:
            reading = reading._replace(used_bytes=reading.used_bytes + pending_bytes)
        self._reading = reading
        self.full = self._beyond(EASED if self.full else FULL, 0)

    def admit_body(self, count: int, beside: int) -> None:
        """Admit `count` bytes for a request, `beside` others that were admitted and may be in use.

        Raises:
            PayloadTooLarge: this node can never hold as much.
            Overloaded: it cannot now.
        """
        reading = self._reading
        if reading is None:
            return
        if count > BODY_MAX * reading.ceiling_bytes:
            raise PayloadTooLarge("the request needs more memory than the node has; divide it")
        if self._beyond(CRITICAL, count + beside):
            raise Overloaded("the node is short of memory")

    def _beyond(self, part: float, more_bytes: int) -> bool:
        reading = self._reading
        return reading is not None and (
            reading.used_bytes + more_bytes >= part * reading.ceiling_bytes
        )

    def describe(self) -> str:
        """Return the reading in words, for the log."""
        if self._reading is None:
            return "memory without a ceiling"
        used, ceiling = (count >> 20 for count in self._reading)
        return f"memory: {used} of {ceiling} MiB are used"
