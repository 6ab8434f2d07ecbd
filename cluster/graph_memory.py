"""The graphs of a shard in memory: made from its rows when the node starts, then kept up.

Walking a graph needs it whole. Each one is an immutable state that the apply lane replaces with
every transaction (`graph.state`); readers take the current one.

When the rows became another replica's, or most of what a graph has in memory is empty, it is made
from the rows anew, while transactions go on. Those are collected, and applied to what was read
before it is shown, but for those that the rows already had: a state says which entry changed it
last.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from graph.adjacency import Adjacency
from graph.model import GraphDelta
from graph.property_index import PropertyIndexes
from graph.state import GraphState

Pause = Callable[[], None]
Load = Callable[[int, Pause], GraphState]
"""Reads a graph from the rows, at one committed state, pausing now and then."""


class GraphInMemory:
    """One graph: its current state, and what is derived from it to answer quickly.

    Take the state first and what is derived then: that is never older.
    """

    def __init__(self, state: GraphState, pause: Pause) -> None:
        self.state = state
        self.adjacency = Adjacency(pause=pause)
        self._mutex = threading.Lock()
        self._declared: tuple[str, ...] = ()
        self._indexes = PropertyIndexes((), state)

    def indexes(self, declared: Sequence[str]) -> PropertyIndexes:
        """Return the indexes on these properties, `Label.property` each."""
        with self._mutex:
            if tuple(declared) != self._declared:
                self._declared = tuple(declared)
                self._indexes = PropertyIndexes(declared, self.state)
            return self._indexes

    def take(self, delta: GraphDelta) -> None:
        """Show the state after a transaction, unless it is in already. One thread at a time."""
        if delta.version <= self.state.version:
            return
        state = self.state.apply(delta)
        with self._mutex:
            self._indexes.changed(state.touched, state)
            self.state = state


class GraphMemory:
    """The graphs of one shard by number; see the module. Thread-safe.

    `pause` is called now and then by long work, to let other threads in; `later` does work
    elsewhere, and by default at once.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self.pause: Pause = lambda: None
        self.later: Callable[[Callable[[], None]], object] = lambda work: work()
        self._mutex = threading.Lock()
        self._loading = threading.Lock()
        self._graphs: dict[int, GraphInMemory] = {}
        self._missed: dict[int, list[GraphDelta]] | None = None
        """While a graph is being made: the transactions that went on meanwhile."""
        self._era = 0
        """Counts what makes a graph that is being made untrue."""

    def loaded(self, uid: int) -> GraphInMemory | None:
        """Return a graph that is in memory already."""
        return self._graphs.get(uid)

    def get(self, uid: int) -> GraphInMemory:
        """Return a graph; blocks while it is read from the rows."""
        while True:
            found = self._graphs.get(uid)
            if found is not None:
                return found
            with self._loading:
                if uid not in self._graphs:
                    self._make(uid)

    def take(
        self,
        deltas: Mapping[int, Sequence[GraphDelta]],
        dropped: Sequence[int],
        born: Sequence[int] = (),
    ) -> None:
        """Learn what a committed batch changed; `born`: graphs that had nothing before.

        One thread at a time.
        """
        if not deltas and not dropped:
            return
        with self._mutex:
            for uid in born:
                self._graphs.setdefault(uid, GraphInMemory(GraphState(), self.pause))
            # Afterwards: a graph may be born and dropped in one batch, and is never born again.
            for uid in dropped:
                self._graphs.pop(uid, None)
                self._era += 1
            sparse = [uid for uid, each in deltas.items() if self._take(uid, each)]
        for uid in sparse:
            self.later(partial(self.remake, uid))

    def remake(self, uid: int) -> None:
        """Make a graph anew whose memory is mostly empty; the old one serves meanwhile."""
        with self._loading:
            graph = self._graphs.get(uid)
            if graph is not None and graph.state.sparse():
                self._make(uid)

    def _take(self, uid: int, deltas: Sequence[GraphDelta]) -> bool:
        """Learn the changes of one graph; return whether it has become sparse by them."""
        if self._missed is not None:
            self._missed.setdefault(uid, []).extend(deltas)
        graph = self._graphs.get(uid)
        if graph is None:
            return False
        before = graph.state.sparse()
        for delta in deltas:
            graph.take(delta)
        return graph.state.sparse() and not before

    def forget(self) -> None:
        """The rows became another state's: whatever is in memory is no longer true."""
        with self._mutex:
            self._graphs.clear()
            self._era += 1

    def _make(self, uid: int) -> None:
        with self._mutex:
            self._missed, era = {}, self._era
        try:
            graph = GraphInMemory(self._load(uid, self.pause), self.pause)
            with self._mutex:
                for delta in self._missed.get(uid, []):
                    graph.take(delta)
                if era == self._era:
                    self._graphs[uid] = graph
        finally:
            with self._mutex:
                self._missed = None
