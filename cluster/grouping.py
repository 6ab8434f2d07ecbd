"""Hits in groups by a value of their payload: the best groups, the best hits in each.

A group is as good as its best hit, so hits are taken best first, and the first `limit` values that
occur are the groups. A list of values puts its point into each of their groups. Values are text or
integers of 64 bits with a sign; points without any are in no group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cluster.model import Hit
from storage.filter_match import elements_at
from storage.filter_nodes import (
    INTEGER_MAX,
    INTEGER_MIN,
    Filter,
    IsEmpty,
    Key,
    MatchExcept,
    MatchValue,
)

GroupValue = int | str


class Grouping:
    """Groups that are being filled with hits, which come best first and may come again."""

    def __init__(self, key: Key, *, limit: int, size: int) -> None:
        assert limit > 0, "some groups are wanted"
        assert size > 0, "some hits of each are wanted"
        self._key = key
        self._limit = limit
        self.size = size
        """Hits of each group that are wanted."""
        self.groups: dict[GroupValue, list[Hit]] = {}
        """The hits of each group, best first; the best group is first."""

    @property
    def wanted(self) -> int:
        """How many hits are wanted in all."""
        return self._limit * self.size

    @property
    def has_all(self) -> bool:
        """Whether there are as many groups as are wanted."""
        return len(self.groups) == self._limit

    @property
    def is_full(self) -> bool:
        """Whether nothing more is wanted."""
        return self.has_all and not self.unfilled()

    def unfilled(self) -> list[GroupValue]:
        """Return the groups that have fewer hits than are wanted."""
        return [value for value, hits in self.groups.items() if len(hits) < self.size]

    def take_all(self, hits: Iterable[Hit]) -> None:
        """Begin anew with the best hits of all."""
        self.groups = {}
        self.take_more(hits)

    def take_more(self, hits: Iterable[Hit]) -> None:
        """Take hits that are no better than those that were taken."""
        self._take(hits, frozenset())

    def take_new(self, hits: Iterable[Hit]) -> None:
        """Take hits for groups that there are not yet; of the others there may be better ones."""
        self._take(hits, frozenset(self.groups))

    def _take(self, hits: Iterable[Hit], closed: frozenset[GroupValue]) -> None:
        for hit in hits:
            for value in self._values(hit.payload):
                if value in closed:
                    continue
                group = self.groups.get(value)
                if group is None and not self.has_all:
                    group = self.groups[value] = []
                if group is not None and len(group) < self.size:
                    group.append(hit)

    def fill(self, value: GroupValue, hits: Iterable[Hit]) -> None:
        """Take the best hits of one group."""
        self.groups[value] = list(hits)[: self.size]

    def within(self, value: GroupValue) -> Filter:
        """Return the filter that holds for the points of a group."""
        return Filter(must=(MatchValue(self._key, value),))

    def outside(self) -> Filter:
        """Return the filter that holds for points that have a value that is no group's."""
        if not self.groups:
            return Filter(must_not=(IsEmpty(self._key),))
        return Filter(must=(MatchExcept(self._key, tuple(self.groups)),))

    def _values(self, payload: Mapping[str, Any] | None) -> list[GroupValue]:
        values = elements_at(payload or {}, self._key)
        return list(dict.fromkeys(filter(_is_value, values)))


def _is_value(value: Any) -> bool:
    return type(value) is str or (type(value) is int and INTEGER_MIN <= value <= INTEGER_MAX)
