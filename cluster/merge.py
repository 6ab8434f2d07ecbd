"""The best of several nodes' answers: one hit per id, its newest version, k in all.

Each node answers with the best of what it holds. The best k of the union are among the union of
the bests, so no node needs to send more than k. Nodes may overlap, and one may still hold an
older version of a point: per id the newest version alone counts, *also when an older one scores
better*, because that older vector no longer exists. Equal scores are ordered by canonical id, so
that an answer does not depend on which node was asked first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar


class Scored(Protocol):
    """What is merged: an id in canonical bytes, its version, its score."""

    @property
    def id(self) -> bytes:
        """Canonical bytes of the id."""
        ...

    @property
    def version(self) -> int:
        """The shard index of the entry that wrote the point."""
        ...

    @property
    def score(self) -> float:
        """Similarity or distance, as the collection's metric has it."""
        ...


HitType = TypeVar("HitType", bound=Scored)

MORE_IS_BETTER = frozenset({"Cosine", "Dot"})


def more_is_better(distance: str) -> bool:
    """Return whether a larger score is the better one under this metric."""
    return distance in MORE_IS_BETTER


def best_of(answers: Iterable[Sequence[HitType]], limit: int, *, descending: bool) -> list[HitType]:
    """Return the best `limit` hits of all answers, best first.

    `descending`: larger scores are better (Cosine, Dot); else smaller ones are (Euclid, Manhattan).
    """
    newest: dict[bytes, HitType] = {}
    for answer in answers:
        for hit in answer:
            known = newest.get(hit.id)
            if known is None or hit.version > known.version:
                newest[hit.id] = hit
    sign = -1.0 if descending else 1.0
    ranked = sorted(newest.values(), key=lambda hit: (sign * hit.score, hit.id))
    return ranked[:limit]


def passes(score: float, threshold: float | None, *, descending: bool) -> bool:
    """Return whether a score is at least as good as the threshold; None lets everything pass."""
    if threshold is None:
        return True
    return score >= threshold if descending else score <= threshold
