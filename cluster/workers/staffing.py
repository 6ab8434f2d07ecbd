"""When a node has search workers: it is searched a lot, and nothing but rows is changed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

QUIET_S: Final = 1.0
"""Nothing but rows has changed for so long before a node forks."""
QUIET_MAX_S: Final = 8.0
SHORT_LIFE_S: Final = 10.0
"""A worker whose copy was of no use any more sooner was not worth it."""
BUSY_PER_S: Final = 50
"""With fewer quick searches a second there is nothing to share out."""
SEARCHES_PER_ROW: Final = 0.5
"""So many more there have to be for each row that is written: every copy takes it in, and is
replaced the sooner. At 2,000 rows and 200 searches a second a node alone answers sooner."""
POUR_PER_S: Final = 500
"""Rows a second beside which workers that are not worth it end at once."""
UNUSED_S: Final = 10.0
"""Without a connection for so long workers are of no use."""


@dataclass
class Demand:
    """Whether the node is searched so much that workers are of use."""

    quick: int = 0
    """Quick searches since they were counted."""
    is_high: bool = False
    counted_s: float = 0.0
    used_s: float = 0.0
    """When workers had a connection."""
    rows: int = 0
    """Rows that had ever been written when they were counted."""
    rows_per_s: float = 0.0

    def look(self, now_s: float, lent: int, rows: int) -> None:
        """Count what came in about a second.

        So many connections are with workers, and so many rows were ever written.
        """
        if lent:
            self.used_s = now_s
        elapsed_s = now_s - self.counted_s
        if elapsed_s >= 1.0:
            self.rows_per_s = (rows - self.rows) / elapsed_s
            needed_per_s = BUSY_PER_S + SEARCHES_PER_ROW * self.rows_per_s
            self.is_high = self.quick >= needed_per_s * elapsed_s
            self.quick, self.rows, self.counted_s = 0, rows, now_s

    def is_gone(self, now_s: float) -> bool:
        """Return whether nobody has needed workers for a while, or rows cost more than that."""
        if self.is_high:
            return False
        return now_s - self.used_s >= UNUSED_S or self.rows_per_s >= POUR_PER_S


@dataclass
class Calm:
    """How long nothing but rows has to be changed before workers are forked."""

    ticket: int = 0
    since_s: float = 0.0
    needed_s: float = QUIET_S

    def look(self, ticket: int, now_s: float) -> None:
        """See whether something was changed."""
        if ticket != self.ticket:
            self.ticket, self.since_s = ticket, now_s

    def lasts(self, now_s: float) -> bool:
        """Return whether it is calm by now."""
        return now_s - self.since_s >= self.needed_s

    def ended(self, now_s: float, life_s: float) -> None:
        """Workers ended after so long because something was changed, or failed."""
        self.since_s = now_s
        short = life_s < SHORT_LIFE_S
        self.needed_s = min(2 * self.needed_s, QUIET_MAX_S) if short else QUIET_S
