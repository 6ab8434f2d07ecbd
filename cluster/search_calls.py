"""Calls of an index for searches that can share one, on whatever thread; each is measured.

What is measured is time of the processor: how long a thread waits for others says nothing of a
search. Searches of one kind (same index or same rows of it, same limit and ef) cost about the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from cluster.model import Vector
from storage.vector_index import IndexHit

KINDS_MAX: Final = 1024
"""Kinds of search whose cost is remembered."""
_DEARER: Final = 0.5
_CHEAPER: Final = 0.05
"""What a call counts for in a cost. It rises sooner than it falls: where few searches are long, the
event loop is not to make most of these."""

Matrix = np.ndarray[Any, np.dtype[np.float32]]
Finish = Callable[[list[IndexHit]], Any]
Done = Callable[[Any], None]
"""Takes an answer, or the exception that there is instead of one."""


@dataclass(slots=True)
class Search:
    """A search on its way: `finish` makes an answer of its hits, `done` takes it.

    Under Cosine the vector has length 1. `at_once` does what `finish` does where nothing has to be
    read for it, and else returns None.
    """

    vector: Vector
    finish: Finish
    done: Done
    at_once: Finish | None = None
    collection: int = 0
    """Its uid."""


class SearchableIndex(Protocol):
    """A vector index, as far as a call uses it."""

    @property
    def would_wait(self) -> bool:
        """Whether a search would wait for others, or would have to do their work first."""
        ...

    def settle(self) -> None:
        """Take in what was written."""
        ...

    def search_many(
        self, vectors: Matrix, limit: int, *, ef: int | None = None, unit: bool = False
    ) -> list[list[IndexHit]]:
        """Return the `limit` nearest rows to each of vectors[n, dimension], best first."""
        ...


GroupKey = tuple[SearchableIndex, int, int | None]
"""Index, limit and ef: what searches need to have in common to share a call."""
Call = tuple[GroupKey, list[Search]]


class SearchCalls:
    """See the module. `clock` tells the processor time of the thread that asks, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._cost_s: dict[int, float] = {}
        """By a kind's hash, since a key would keep an index alive. Kinds that have the same one
        share what is no more than an estimate."""

    def cost_s(self, key: GroupKey) -> float | None:
        """Return what a search costs, in seconds of the processor; None: not known."""
        return self._cost_s.get(hash(key))

    def forget(self) -> None:
        """Forget what searches cost."""
        self._cost_s.clear()

    def hits(self, key: GroupKey, group: Sequence[Search]) -> Sequence[Any]:
        """Return the hits of each search, or an exception for each."""
        index, limit, ef = key
        try:
            index.settle()  # to take in what was written is no part of what a search costs
            began_s = self._clock()
            found = index.search_many(_matrix(group), limit, ef=ef, unit=True)
            assert len(found) == len(group), "an answer for each vector"
        except Exception as error:  # noqa: BLE001 - it is for those who asked
            return [error] * len(group)
        self._note(hash(key), (self._clock() - began_s) / len(group))
        return found

    def answers(self, key: GroupKey, group: Sequence[Search]) -> list[Any]:
        """Return the answer of each search, or an exception; may read what answers show."""
        found = self.hits(key, group)
        return [finished(search.finish, hits) for search, hits in zip(group, found, strict=True)]

    def _note(self, kind: int, cost_s: float) -> None:
        known = self._cost_s
        if kind not in known and len(known) >= KINDS_MAX:
            known.clear()
        before_s = known.get(kind, cost_s)
        weight = _DEARER if cost_s > before_s else _CHEAPER
        known[kind] = before_s + weight * (cost_s - before_s)


def deliver(group: Sequence[Search], answers: Sequence[Any]) -> None:
    """Hand each search its answer; on the event loop."""
    for search, answer in zip(group, answers, strict=True):
        search.done(answer)


def finished(finish: Finish, hits: Any) -> Any:
    """Return `finish(hits)`, or the exception that there is instead."""
    if isinstance(hits, BaseException):
        return hits
    try:
        return finish(hits)
    except Exception as error:  # noqa: BLE001 - one search's failure is not the others'
        return error


def _matrix(group: Sequence[Search]) -> Matrix:
    """Return the vectors as rows; one alone, the usual case, is not copied."""
    if len(group) == 1:
        return group[0].vector.reshape(1, -1)
    return np.concatenate([search.vector for search in group]).reshape(len(group), -1)
