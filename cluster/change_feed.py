"""The changes of all shards, followed from a position on: what a stream of them is made of.

A follower keeps a place in each shard. It looks behind these places, gives out what is there, each
change with the position behind it, and waits for a sign that a shard went on. Within a shard the
order is that of its log; between shards there is none. A shard that nobody can read now is tried
again later, and holds up no other. Because a place means the same at every replica, a position can
be given back to any node.

Names are looked up here. A row of a collection that this node does not know yet makes it catch up
first; one of a collection that nobody knows any more is left out, for its end is on its way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from cluster.catalog import Catalog
from cluster.change_position import Position
from cluster.change_reader import ChangeReader, Shown
from cluster.change_signal import ChangeSignal
from cluster.errors import RecollectError
from cluster.model import Options
from cluster.read_path import ReadPath
from cluster.routing import Routing
from storage.changes import Changes, Place, StoredChange

LOOK_S: Final = 5.0
RETRY_S: Final = 0.25
"""Before a shard is tried again that nobody could read."""


class Wanted(NamedTuple):
    """Which changes a follower wants: of these collections, None: of all."""

    names: frozenset[str] | None = None
    shown: Shown = Shown()


class ChangeEvent(NamedTuple):
    """A change, the name of its collection, and the position behind it."""

    shard: int
    name: str
    stored: StoredChange
    position: str


@dataclass(frozen=True)
class ChangeFeed:
    """Where followers begin; see the module."""

    routing: Routing
    catalog: Catalog
    reads: ReadPath
    reader: ChangeReader
    signal: ChangeSignal

    def register(self) -> None:
        """Answer other nodes."""
        self.reader.register()
        self.signal.register()

    async def run(self) -> None:
        """Watch for changes while somebody follows them, for ever."""
        await self.signal.run()

    def beginning(self) -> Position:
        """Return the position before everything that is stored."""
        return Position([Place(0)] * self.routing.view().shards)

    async def end(self, options: Options) -> Position:
        """Return the position behind all that was acknowledged before; raises Unavailable."""
        shards = range(self.routing.view().shards)
        terms = await self.reads.terms(replace(options, strong=True), shards)
        return Position([Place(terms.required[shard]) for shard in shards])

    def parse(self, text: str) -> Position:
        """Return the position of a text; raises ValueError."""
        return Position.parse(text, self.routing.view().shards)

    @contextmanager
    def follow(self, position: Position, wanted: Wanted) -> Iterator[Follower]:
        """Follow the changes behind a position while the block runs."""
        with self.signal.watching():
            yield Follower(self, position, wanted)


class Follower:
    """One who follows the changes; `position` is behind what was given out."""

    def __init__(self, feed: ChangeFeed, position: Position, wanted: Wanted) -> None:
        self._feed, self._wanted = feed, wanted
        self.position = position
        self._turn = list(range(len(position.places)))
        """All shards, the one that was looked at last at the end."""
        self._retry_at_s: dict[int, float] = {}

    async def next(self, timeout_s: float) -> list[ChangeEvent]:
        """Return changes as soon as there are some; none when the time is over."""
        clock = self._feed.routing.clock
        until_s = clock() + timeout_s
        while True:
            open_shards = self._open_shards(clock())
            behind = [shard for shard in open_shards if self._is_behind(shard)]
            if behind:
                events = await self._look(behind[: self._feed.reader.shards_max])
                if events:
                    return events
            left_s = until_s - clock()
            if left_s <= 0:
                return []
            pause_s = min(left_s, RETRY_S) if self._retry_at_s else left_s
            seen = {shard: self.position.places[shard].index for shard in open_shards}
            await self._feed.signal.wait(seen, pause_s)

    def _open_shards(self, now_s: float) -> list[int]:
        """Return the shards that need not wait for another try, in turn."""
        if self._retry_at_s:
            later = {shard: at_s for shard, at_s in self._retry_at_s.items() if at_s > now_s}
            self._retry_at_s = later
        return [shard for shard in self._turn if shard not in self._retry_at_s]

    def _is_behind(self, shard: int) -> bool:
        place = self.position.places[shard]
        return bool(place.id) or self._feed.signal.index(shard) > place.index

    async def _look(self, shards: Sequence[int]) -> list[ChangeEvent]:
        feed = self._feed
        places = {shard: self.position.places[shard] for shard in shards}
        deadline_s = feed.routing.clock() + LOOK_S
        self._turn = [each for each in self._turn if each not in places] + list(shards)
        try:
            skip = self._unwanted(self._names())
            look = await feed.reader.look(places, skip, self._wanted.shown, deadline_s)
            names = await self._names_of(look.found, deadline_s)
        except RecollectError:
            self._rest(shards)
            return []
        self._rest(look.missing)
        return [
            event
            for shard, changes in look.found.items()
            for event in self._events(shard, changes, names)
        ]

    def _rest(self, shards: Sequence[int]) -> None:
        now_s = self._feed.routing.clock()
        self._retry_at_s.update(dict.fromkeys(shards, now_s + RETRY_S))

    def _names(self) -> dict[int, str]:
        view = self._feed.routing.view()
        known = (*view.collections.values(), *view.dropping)
        return {collection.uid: collection.name for collection in known}

    def _unwanted(self, names: Mapping[int, str]) -> list[int]:
        wanted = self._wanted.names
        return [] if wanted is None else [uid for uid, name in names.items() if name not in wanted]

    async def _names_of(self, found: Mapping[int, Changes], deadline_s: float) -> dict[int, str]:
        names = self._names()
        rows = (each for changes in found.values() for each in changes.found if each.id)
        if any(each.collection not in names for each in rows):
            await self._feed.catalog.catch_up(deadline_s)
            names = self._names()
        return names

    def _events(
        self, shard: int, changes: Changes, names: Mapping[int, str]
    ) -> Iterator[ChangeEvent]:
        found = changes.found
        for number, change in enumerate(found, 1):
            self.position.move(shard, _behind(found, number, changes.place))
            name = change.name or names.get(change.collection, "")
            if self._wants(change, name):
                yield ChangeEvent(shard, name, change, self.position.text)
        self.position.move(shard, changes.place)

    def _wants(self, change: StoredChange, name: str) -> bool:
        if not name:
            return not change.id and self._wanted.names is None
        return self._wanted.names is None or name in self._wanted.names


def _behind(found: Sequence[StoredChange], number: int, end: Place) -> Place:
    """Return the place behind the first `number` changes of a look that ended at `end`."""
    if number == len(found):
        return end
    last = found[number - 1]
    if found[number].version == last.version:
        return Place(last.version, last.collection, last.id)
    return Place(last.version)
