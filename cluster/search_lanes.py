"""Threads for searches of this node's indexes, several in one call when several are waiting.

A vector index searches n vectors in one call for less than n times the price of one: one lock, one
array conversion, one return to the interpreter. A lane makes such calls for as long as searches
wait, without a word to the event loop in between, so that the processor does not wait for the loop.
After each it lines up behind what else its thread has been asked for. A lane that takes from the
oldest group leaves the other lanes their share, since a call uses one core. Nothing ever waits for
company, so an idle node adds no delay, and a busy one makes larger calls. A group is what can share
a call: same index, limit and ef.

The search and the `finish` step that turns its hits into an answer run on the same thread, so a
search costs one hop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from cluster.call_threads import Calls
from cluster.model import Vector
from cluster.search_calls import (
    Call,
    GroupKey,
    Matrix,
    Search,
    SearchableIndex,
    SearchCalls,
    deliver,
)
from storage.payload_index.selection import ByPayload
from storage.vector_index import IndexHit, VectorIndex

SEARCHES_PER_CALL_MAX: Final = 32
"""Bounds how long the first of a call waits for the last."""

SEARCH_LANES: Final = 2
"""With more, calls wait for the interpreter rather than for the processor."""

ROWS_AT_ONCE: Final = 1500
"""So many rows are compared where the request arrives: with 1,176 of them a node on two
hyperthreads made 1,670 searches a second so, and 1,110 by handing them to threads."""

AnswerType = TypeVar("AnswerType")


@dataclass(frozen=True, slots=True)
class Passing:
    """The rows of an index that pass a filter, as a lane searches them; equal ones share calls."""

    index: VectorIndex
    rows: ByPayload

    @property
    def would_wait(self) -> bool:
        """Whether a search would wait for others."""
        return self.index.would_wait

    def settle(self) -> None:
        """Take in what was written."""
        self.index.settle()

    def search_many(
        self, vectors: Matrix, limit: int, *, ef: int | None = None, unit: bool = False
    ) -> list[list[IndexHit]]:
        """Return the nearest of these rows to each of vectors[n, dimension]; raises NotIndexed."""
        return self.index.filtered.many(vectors, limit, self.rows, ef=ef, unit=unit)


class SearchLanes:
    """See the module. `lanes`: searches' calls under way at the same time, on these threads."""

    def __init__(self, calls: SearchCalls, threads: Calls, lanes: int = SEARCH_LANES) -> None:
        assert lanes > 0, "something must search"
        self.calls, self.threads = calls, threads
        self._lanes = lanes
        self._mutex = threading.Lock()
        self._free = lanes
        self._waiting: dict[GroupKey, deque[Search]] = {}

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
        answers = _Answers(len(searches), asyncio.get_running_loop().create_future())
        asked = [
            Search(vector, finish, partial(answers.put, at))
            for at, (vector, finish) in enumerate(searches)
        ]
        self.begin((index, limit, ef), asked)
        found = await answers.complete
        for answer in found:
            if isinstance(answer, BaseException):
                raise answer
        return found

    def begin(self, key: GroupKey, searches: Sequence[Search]) -> None:
        """Begin searches of (index, limit, ef); their `done` is called on this event loop."""
        with self._mutex:
            self._waiting.setdefault(key, deque()).extend(searches)
            started = min(self._free, len(searches))
            self._free -= started
        loop = asyncio.get_running_loop()
        for _ in range(started):
            self.threads.submit(self._run, loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make a call and line up for the next, until no search waits; on a thread."""
        call = self._next_call()
        if call is not None:
            loop.call_soon_threadsafe(deliver, call[1], self.calls.answers(*call))
            self.threads.submit(self._run, loop)

    def _next_call(self) -> Call | None:
        """Take a share of the oldest group; without one the lane is free again."""
        with self._mutex:
            if not self._waiting:
                self._free += 1
                return None
            key = next(iter(self._waiting))
            group = self._waiting.pop(key)
            share = min(-(-len(group) // self._lanes), SEARCHES_PER_CALL_MAX)
            taken = [group.popleft() for _ in range(share)]
            if group:
                self._waiting[key] = group
            return key, taken


class _Answers:
    """The answers of some searches, which are complete when the last has come."""

    def __init__(self, count: int, complete: asyncio.Future[list[Any]]) -> None:
        assert count > 0, "the last answer completes them"
        self.complete = complete
        self._answers: list[Any] = [None] * count
        self._awaited = count

    def put(self, at: int, answer: Any) -> None:
        self._answers[at] = answer
        self._awaited -= 1
        if not self._awaited and not self.complete.done():  # else the request was given up
            self.complete.set_result(self._answers)
