"""Many rows into a table with few statements.

Every step of a statement lets go of the interpreter and takes it again, which on a busy node costs
more than the row; so rows go in by the dozen. The sizes are few, because a text is prepared once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

_SIZES: Final = (64, 32, 28, 24, 20, 16, 12, 8, 4, 3, 2, 1)
"""Up to 32 rows, a shard's share of a usual batch, take one statement or two."""


class BulkInsert:
    """An insertion of rows of so many `columns`: the words before VALUES, and those behind it."""

    def __init__(self, into: str, columns: int, then: str = "") -> None:
        row = f"({','.join('?' * columns)})"
        self._texts = [(size, f"{into} VALUES {','.join([row] * size)} {then}") for size in _SIZES]

    def run(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows, in order."""
        start = 0
        for size, text in self._texts:
            while len(rows) - start >= size:
                values = list(chain.from_iterable(rows[start : start + size]))
                connection.execute(text, values)
                start += size
