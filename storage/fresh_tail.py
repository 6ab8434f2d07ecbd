"""The newest rows of an index, kept as plain vectors and searched exactly.

A row is searchable from the moment it is written; the graph is built behind it. Rows stand in slot
order in blocks that are filled once and never moved: a reader takes views under the index's mutex
and scores them without it, while the writer fills what lies behind and the builder lets go of what
lies before.

To compare the rows of a block is one call, which lets go of the interpreter once. Beside a busy
event loop a search may wait for milliseconds each time that it asks for it back.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

from storage.metric import Matrix, Metric

_BLOCK_BYTES: Final = 4 << 20
_BLOCK_ROWS_MAX: Final = 4096


class FreshTail:
    """A queue of rows. Guarded by its owner's mutex; the views it hands out need none."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._rows_per_block = max(1, min(_BLOCK_ROWS_MAX, _BLOCK_BYTES // (4 * dimension)))
        self._blocks: deque[Matrix] = deque()
        self._start = 0
        """Rows at the front of the first block that were let go of."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, rows: Matrix) -> None:
        """Copy rows[n, dimension] to the end."""
        assert rows.shape[1] == self._dimension, "a row has the index's dimension"
        copied = 0
        while copied < len(rows):
            at = (self._start + self._count) % self._rows_per_block
            if at == 0 and len(self._blocks) * self._rows_per_block == self._start + self._count:
                self._blocks.append(np.empty((self._rows_per_block, self._dimension), np.float32))
            part = rows[copied : copied + self._rows_per_block - at]
            self._blocks[-1][at : at + len(part)] = part
            self._count += len(part)
            copied += len(part)

    def views(self, first: int = 0, last: int | None = None) -> list[Matrix]:
        """Return the rows from `first` to before `last`, as views that stay valid and unchanged."""
        start, stop = self._start + first, self._start + (self._count if last is None else last)
        assert self._start <= start <= stop <= self._start + self._count, "only rows that are here"
        size = self._rows_per_block
        return [
            self._blocks[at][max(0, start - at * size) : stop - at * size]
            for at in range(start // size, -(-stop // size))
        ]

    def head(self, limit: int) -> Matrix:
        """Return a view of at least one and up to `limit` of the first rows."""
        assert self._count, "an empty tail has no head"
        end = min(self._start + min(limit, self._count), self._rows_per_block)
        return self._blocks[0][self._start : end]

    def drop(self, count: int) -> None:
        """Let go of the first `count` rows."""
        assert 0 <= count <= self._count, "only rows that are here"
        self._start += count
        self._count -= count
        while self._blocks and self._start >= self._rows_per_block:
            self._blocks.popleft()
            self._start -= self._rows_per_block
        if not self._count:
            self._blocks.clear()
            self._start = 0


def tail_keys(metric: Metric, views: list[Matrix], queries: Matrix) -> Matrix:
    """Return for each of queries[m, dimension] the key of every row of `views`, in order."""
    keys = np.empty((len(queries), sum(map(len, views))), dtype=np.float32)
    start = 0
    for view in views:
        metric.keys_many(view, queries, keys[:, start : start + len(view)])
        start += len(view)
    return keys
