"""Which edges a question walks: by label, and by the two times that an edge keeps."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from graph.model import Edge


class EdgeFilter(NamedTuple):
    """`labels` None: all. `as_of` and `known_at` are those of `Edge.holds`."""

    labels: Collection[str] | None = None
    as_of: int | None = None
    known_at: int | None = None

    def counts(self, edge: Edge) -> bool:
        """Return whether an edge counts."""
        named = self.labels is None or edge.label in self.labels
        return named and edge.holds(self.as_of, self.known_at)

    @property
    def timeless(self) -> bool:
        """Whether it asks about no moment, so that its answers are worth keeping."""
        return self.as_of is None and self.known_at is None


EVERY: Final = EdgeFilter()
"""All edges that the store holds to be true now."""
