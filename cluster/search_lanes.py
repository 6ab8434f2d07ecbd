"""Unfiltered searches of this node's indexes, several in one call when several are waiting.

A vector index searches n vectors in one call for less than n times the price of one: one hop to
a thread, one lock, one array conversion. A lane is one such call under way on a thread. While
all lanes are busy searches wait; a lane that becomes free takes all that wait in the oldest
group at once. Nothing ever waits for company, so an idle node adds no delay, and a busy one
makes larger calls. A group is what can share a call: same index, limit and ef.

The search and the `finish` step that turns its hits into an answer run on the same thread, so a
search costs one hop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import numpy as np

from cluster.model import Vector
from storage.vector_index import IndexHit

SEARCHES_PER_CALL_MAX: Final = 32
"""Bounds how long the first of a call waits for the last."""

AnswerType = TypeVar("AnswerType")
Matrix = np.ndarray[Any, np.dtype[np.float32]]
Finish = Callable[[list[IndexHit]], Any]


@dataclass(slots=True)
class _Search:
    vector: Vector
    finish: Finish
    answer: asyncio.Future[Any]


class SearchableIndex(Protocol):
    """A vector index, as far as a lane uses it."""

    def search_many(
        self, vectors: Matrix, limit: int, *, ef: int | None = None
    ) -> list[list[IndexHit]]:
        """Return the `limit` nearest rows to each of vectors[n, dimension], best first."""
        ...


_GroupKey = tuple[SearchableIndex, int, int | None]


class SearchLanes:
    """See the module. `lanes`: searches' calls under way at the same time."""

    def __init__(self, executor: Executor, lanes: int) -> None:
        assert lanes > 0, "something must search"
        self._executor = executor
        self._free = lanes
        self._waiting: dict[_GroupKey, list[_Search]] = {}

    async def nearest(
        self,
        index: SearchableIndex,
        vector: Vector,
        limit: int,
        ef: int | None,
        finish: Callable[[list[IndexHit]], AnswerType],
    ) -> AnswerType:
        """Return `finish(hits)` of the `limit` nearest points, best first, over all shards."""
        (answer,) = await self.nearest_many(index, [(vector, finish)], limit, ef)
        return answer

    async def nearest_many(
        self,
        index: SearchableIndex,
        searches: Sequence[tuple[Vector, Callable[[list[IndexHit]], AnswerType]]],
        limit: int,
        ef: int | None,
    ) -> list[AnswerType]:
        """Return `finish(hits)` for each (vector, finish), in as few calls as they fit into."""
        loop = asyncio.get_running_loop()
        asked = [_Search(vector, finish, loop.create_future()) for vector, finish in searches]
        self._waiting.setdefault((index, limit, ef), []).extend(asked)
        while self._free and self._waiting:
            self._start(loop)
        if len(asked) == 1:
            return [await asked[0].answer]
        await asyncio.wait([search.answer for search in asked])
        errors = [error for search in asked if (error := search.answer.exception()) is not None]
        if errors:
            raise errors[0]
        return [search.answer.result() for search in asked]

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let a free lane take the oldest group."""
        assert self._free > 0, "a lane is free"
        key = next(iter(self._waiting))
        group = self._waiting.pop(key)
        if len(group) > SEARCHES_PER_CALL_MAX:
            self._waiting[key] = group[SEARCHES_PER_CALL_MAX:]
            group = group[:SEARCHES_PER_CALL_MAX]
        self._free -= 1
        call = loop.run_in_executor(self._executor, _search, key, group)
        call.add_done_callback(lambda done: self._finished(loop, group, done))

    def _finished(
        self,
        loop: asyncio.AbstractEventLoop,
        group: list[_Search],
        done: asyncio.Future[list[Any]],
    ) -> None:
        self._free += 1
        if self._waiting:
            self._start(loop)
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        answers = [error] * len(group) if error is not None else done.result()
        for search, answer in zip(group, answers, strict=True):
            if search.answer.done():
                continue  # its request was given up
            if isinstance(answer, BaseException):
                search.answer.set_exception(answer)
            else:
                search.answer.set_result(answer)


def _search(key: _GroupKey, group: list[_Search]) -> list[Any]:
    """Return an answer or an exception for each search; on a thread."""
    index, limit, ef = key
    vectors = np.stack([search.vector for search in group])
    found = index.search_many(vectors, limit, ef=ef)
    assert len(found) == len(group), "an answer for each vector"
    return [_finish(search.finish, hits) for search, hits in zip(group, found, strict=True)]


def _finish(finish: Finish, hits: list[IndexHit]) -> Any:
    try:
        return finish(hits)
    except Exception as error:  # noqa: BLE001 - one search's failure is not the others'
        return error
