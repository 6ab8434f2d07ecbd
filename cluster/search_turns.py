"""Searches that the event loop makes itself, as long as they are short.

To have a search made by a thread takes two wake-ups, and the interpreter changes hands twice. A
search of a large graph takes no longer than that, so a node that makes it where the request
arrived answers sooner; and while much else goes on, as beside a stream of writes, each change of
hands can be a wait.

A search leaves little but vectors in the processor's cache, and each step after it runs several
times as long as usual. So the requests of one turn of the loop are read first, and searched in one
call afterwards. Of `COMPANY` or more a thread takes half, so that two processors search.

What is short is measured (`search_calls`). What is not known to be short goes to the lanes, which
find out. So does what would wait for the builder or for other threads: the event loop makes no
search while they have the index for themselves. Who comes just then is waited for, though.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from cluster.search_calls import Call, GroupKey, Search, deliver, finished
from cluster.search_lanes import SearchLanes

COMPANY: Final = 4
"""With fewer, to wake a thread takes more than it spares."""
CROWD: Final = 8
"""So many that wait behind a turn keep the thread at it."""
SHORT_S: Final = 0.004
"""Of the processor. Beside writes, which leave rows to compare, a search takes one or two of it."""
TURN_S: Final = 0.004
"""What the event loop searches before it looks at its connections again."""
SEARCHES_PER_TURN_MAX: Final = 4
HELP_MAX: Final = 8
_TINY_S: Final = 1e-6


class SearchTurns:
    """See the module. For one event loop; the lanes have what is not short, and help."""

    def __init__(self, lanes: SearchLanes) -> None:
        self._lanes = lanes
        self._calls, self._threads = lanes.calls, lanes.threads
        self._mutex = threading.Lock()
        self._waiting: dict[GroupKey, deque[Search]] = {}
        """Groups that are not empty, the next one first. Needs the mutex."""
        self._is_due = False
        """Whether a turn is to come."""
        self._is_helped = False
        """Whether a share is with a thread, or waits for one. Needs the mutex."""

    def is_due(self) -> bool:
        """Return whether somebody waits for a search that the event loop is about to make."""
        return self._is_due

    def begin(self, key: GroupKey, search: Search) -> None:
        """Begin a search of (index, limit, ef); its `done` is called on this event loop."""
        cost_s = self._calls.cost_s(key)
        if search.at_once is None or cost_s is None or cost_s > SHORT_S:
            self._lanes.begin(key, [search])
            return
        with self._mutex:
            self._waiting.setdefault(key, deque()).append(search)
        self._plan(asyncio.get_running_loop())

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give a share away if there are many, and make a call for whoever is next then."""
        self._is_due = False
        with self._mutex:
            helped = None if self._is_helped else self._share(COMPANY)
            self._is_helped = self._is_helped or helped is not None
            mine = self._take(self._room()) if self._waiting else None
            more = bool(self._waiting)
        if more:
            self._plan(loop)
        if helped is not None:
            self._threads.submit(self._help, loop, helped)
        if mine is not None:
            self._make(loop, *mine)

    def _make(self, loop: asyncio.AbstractEventLoop, key: GroupKey, group: list[Search]) -> None:
        """Make a call, unless it would keep the event loop waiting for others."""
        if key[0].would_wait:
            self._lanes.begin(key, group)
        else:
            self._answer(loop, group, self._calls.hits(key, group))

    def _room(self) -> int:
        """Return how many searches of the oldest group fit into a turn. Needs the mutex."""
        cost_s = self._calls.cost_s(next(iter(self._waiting))) or 0.0
        return max(1, min(SEARCHES_PER_TURN_MAX, int(TURN_S / max(cost_s, _TINY_S))))

    def _share(self, company: int) -> Call | None:
        """Take half of the oldest group if so many wait in all. Needs the mutex."""
        if sum(map(len, self._waiting.values())) < company:
            return None
        oldest = next(iter(self._waiting.values()))
        return self._take(max(1, min(len(oldest) // 2, HELP_MAX)))

    def _take(self, most: int) -> Call:
        """Take from the oldest group, which is the last one after that. Needs the mutex."""
        key = next(iter(self._waiting))
        group = self._waiting.pop(key)
        taken = [group.popleft() for _ in range(min(most, len(group)))]
        if group:
            self._waiting[key] = group
        return key, taken

    def _help(self, loop: asyncio.AbstractEventLoop, share: Call) -> None:
        """Make a call, and line up for another while the event loop cannot keep up; on a thread."""
        loop.call_soon_threadsafe(deliver, share[1], self._calls.answers(*share))
        with self._mutex:
            more = self._share(CROWD)
            self._is_helped = more is not None
        if more is not None:
            self._threads.submit(self._help, loop, more)

    def _answer(
        self, loop: asyncio.AbstractEventLoop, group: list[Search], found: Sequence[Any]
    ) -> None:
        """Answer searches, at once where nothing has to be read for it."""
        for search, hits in zip(group, found, strict=True):
            assert search.at_once is not None, "the event loop reads nothing"
            answer = finished(search.at_once, hits)
            if answer is None:
                self._threads.submit(self._finish, loop, search, hits)
            else:
                search.done(answer)

    def _finish(self, loop: asyncio.AbstractEventLoop, search: Search, hits: Any) -> None:
        """Finish one search; on a thread."""
        loop.call_soon_threadsafe(search.done, finished(search.finish, hits))
