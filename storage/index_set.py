"""All vector indexes of a node, and the thread that builds them.

An index is a cache of the store. What is saved may be old or unusable; `reconcile` makes it equal
to the store, shard by shard. The builder sleeps until an index changes, gives every index its turn,
and saves an index when enough of its graph is new, so that a crash costs little building and a
quiet node no work. When a load of rows is built it gives back the memory that the load took
besides. It also measures how wide searches should look, and adds that to the save each time.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from storage import allocator, index_files
from storage.beam_width import Measured
from storage.index_builder import Clock
from storage.index_files import IndexFileError
from storage.seq_slots import Numbers
from storage.vector_index import Row, VectorIndex

log = logging.getLogger(__name__)

ROWS_PER_TURN: Final = 256
ROWS_PER_FETCH: Final = 500
_SAVE_CHANGES_MIN: Final = 10_000
_SAVE_CHANGED_PART: Final = 4
"""An index is saved when a quarter of it is new: building it took far longer than saving."""
_RETRY_S: Final = 1.0
_GATHER_S: Final = 0.05
"""How long rows gather before the builder looks: waking for each would cost more than adding it."""
_ROWS_UNTIDY: Final = 10_000
"""Rows whose building leaves enough free memory behind to be worth giving back."""
_NICENESS: Final = 10
_ABSENT: Final = -1


class IndexSet:
    """Indexes by collection uid. Thread-safe; `directory` None keeps them in memory alone."""

    def __init__(
        self,
        directory: Path | None,
        *,
        clock: Clock | None = time.perf_counter,
        build_threads: int = 1,
        give_back: Callable[[], object] = allocator.give_back,
    ) -> None:
        self._directory = directory
        self._give_back = give_back
        self._clock = clock
        self._build_threads = build_threads
        self._indexes: dict[int, VectorIndex] = {}
        self._hidden: set[int] = set()
        self._failed: dict[int, int] = {}
        """Unsaved rows at a save that failed; the next is tried when as many have come again."""
        self._paused = False
        self._filling = 0
        """How many are at filling indexes from the store just now."""
        self._untidy = 0
        """Rows built since memory was last given back."""
        self.before_giving_back: Callable[[], object] = lambda: None
        """Called on the builder's thread when a load of rows is over: others may let memory go."""
        self._mutex = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def open(
        self,
        uid: int,
        dimension: int,
        distance: str,
        m: int,
        ef_construct: int,
        *,
        hidden: bool = False,
    ) -> VectorIndex:
        """Return the index of a collection, loaded or empty; the same one each time.

        A new one that is `hidden` is not given to searches until `show`: what was loaded may lack
        rows until every shard is reconciled.

        Raises:
            ValueError: a parameter out of range.
        """
        with self._mutex:
            index = self._indexes.get(uid)
            if index is None:
                if hidden:
                    self._hidden.add(uid)
                index = self._indexes[uid] = self._load(
                    uid,
                    lambda: VectorIndex(
                        dimension=dimension,
                        distance=distance,
                        m=m,
                        ef_construct=ef_construct,
                        clock=self._clock,
                        build_threads=self._build_threads,
                        on_change=self._changed,
                    ),
                )
            return index

    def show(self, uid: int) -> None:
        """Let searches have an index that was opened hidden."""
        self._hidden.discard(uid)

    def get(self, uid: int) -> VectorIndex | None:
        """Return the index of a collection if it is open and not hidden."""
        return None if uid in self._hidden else self._indexes.get(uid)

    def opened(self) -> dict[int, VectorIndex]:
        """Return the indexes that searches may have, in the order of their uids."""
        found = ((uid, self.get(uid)) for uid in self.uids())
        return {uid: index for uid, index in found if index is not None}

    @property
    def improved(self) -> int:
        """Tells whether searches take less time than at another moment."""
        return sum(index.improved for index in self.opened().values())

    @property
    def loose(self) -> int:
        """Rows that searches compare one by one, of the index that has most of them."""
        return max((index.loose for index in self.opened().values()), default=0)

    def uids(self) -> list[int]:
        """Return the uids of the open indexes, ascending."""
        with self._mutex:
            return sorted(self._indexes)

    def drop(self, uid: int) -> None:
        """Forget the index of a collection, and its files."""
        with self._mutex:
            self._indexes.pop(uid, None)
            self._hidden.discard(uid)
            path = self._path(uid)
            self._untidy += _ROWS_UNTIDY
        self._wake.set()
        if path is not None:
            shutil.rmtree(path, ignore_errors=True)

    def reconcile(
        self,
        uid: int,
        shard: int,
        keys: tuple[Numbers, Numbers],
        fetch: Callable[[list[int]], Iterable[Row]],
    ) -> int:
        """Make a shard's part of an open index equal to the store; returns the rows changed.

        `keys` are the store's sequence numbers and versions; `fetch` returns rows by sequence
        number. Changes of the shard must not be applied at the same time.
        """
        index = self._indexes[uid]
        removed, missing = _difference(index.keys(shard), keys)
        if len(removed):
            index.remove(shard, removed)
        for start in range(0, len(missing), ROWS_PER_FETCH):
            wanted = missing[start : start + ROWS_PER_FETCH].tolist()
            index.upsert(shard, list(fetch(wanted)))
        return len(removed) + len(missing)

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Let the builder wait: rows that come from the store can be searched before it has them,
        and come sooner without it."""
        with self._mutex:
            self._filling += 1
        try:
            yield
        finally:
            with self._mutex:
                self._filling -= 1
            self._wake.set()

    def start(self) -> None:
        """Start the builder."""
        assert self._thread is None, "a set has one builder"
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="index-builder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the builder; what is not built stays searchable. Does nothing if it is stopped."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def save_all(self) -> None:
        """Save every index that changed since its last save. A failure is logged."""
        for uid in self.uids():
            index = self.get(uid)
            if index is not None and index.changes:
                self._save(uid, index)

    def _changed(self) -> None:
        if not self._wake.is_set():
            self._wake.set()

    def _load(self, uid: int, make: Callable[[], VectorIndex]) -> VectorIndex:
        index, path = make(), self._path(uid)
        if path is None:
            return index
        try:
            index_files.load(index, path)
            return index
        except IndexFileError as error:
            log.warning("index %d is built anew: %s", uid, error)
            shutil.rmtree(path, ignore_errors=True)
            return make()

    def _save(self, uid: int, index: VectorIndex) -> None:
        path = self._path(uid)
        if path is None:
            return
        try:
            index_files.save(index, path)
            self._failed.pop(uid, None)
        except IndexFileError as error:
            self._failed[uid] = _unsaved(index)
            log.warning("index %d is not saved: %s", uid, error)
        self._sweep(uid, index, path)

    def _save_measured(self, uid: int, index: VectorIndex, measured: Measured) -> None:
        path = self._path(uid)
        if path is None:
            return
        try:
            index_files.save_measured(measured, path)
        except IndexFileError as error:
            log.warning("the beam width of index %d is not saved: %s", uid, error)
        self._sweep(uid, index, path)

    def _sweep(self, uid: int, index: VectorIndex, path: Path) -> None:
        """Remove the files of an index that was dropped while they were written."""
        if self._indexes.get(uid) is not index:
            shutil.rmtree(path, ignore_errors=True)

    def _path(self, uid: int) -> Path | None:
        return None if self._directory is None else self._directory / str(uid)

    def _run(self) -> None:
        _give_way()
        self._wake.set()  # rows may have come before the builder
        while True:
            self._wake.wait()
            self._stopping.wait(_GATHER_S)
            self._wake.clear()
            if self._stopping.is_set():
                return
            try:
                self._build()
            except Exception:  # without the builder no index would ever be built again
                log.exception("an index is not built; its rows stay searchable")
                self._stopping.wait(_RETRY_S)
                self._wake.set()

    def _build(self) -> None:
        """Give each index its turn until none has work; one in a flood is looked at again."""
        busy = True
        while busy and self._may_build():
            busy, built = False, 0
            for uid in self.uids():
                index = self.get(uid)
                if index is None or not self._may_build():
                    continue
                if self._clock is not None and index.is_flooded(self._clock()):
                    self._wake.set()
                    continue
                moved = index.build(ROWS_PER_TURN)
                measured = None if moved else index.tune()
                if moved or measured is not None:
                    busy, built = True, built + moved
                if self._is_worth_saving(uid, index):
                    self._save(uid, index)
                elif measured is not None:
                    self._save_measured(uid, index, measured)
            self._tidy_up(built)

    def pause(self, *, paused: bool) -> None:
        """Let the builder wait after what it is at; it is inside an index nearly all the time."""
        if paused != self._paused:
            self._paused = paused
            self._wake.set()

    def _may_build(self) -> bool:
        return not (self._filling or self._paused or self._stopping.is_set())

    def _tidy_up(self, built: int) -> None:
        """Give memory back when a load of rows has been built; `built` came in this round."""
        self._untidy += built
        if not built and self._may_build() and self._untidy >= _ROWS_UNTIDY:
            self._untidy = 0
            self.before_giving_back()
            self._give_back()

    def _is_worth_saving(self, uid: int, index: VectorIndex) -> bool:
        unsaved = _unsaved(index) - self._failed.get(uid, 0)
        return unsaved > max(_SAVE_CHANGES_MIN, index.size // _SAVE_CHANGED_PART)


def _unsaved(index: VectorIndex) -> int:
    """Return how many changes a save would write: what waits for the graph is not among them."""
    return index.changes - index.tail_size


def _give_way() -> None:
    """Let this thread run when the others leave something: rows are found before they are built.

    On Linux a niceness belongs to a thread; elsewhere it would slow the whole process.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _difference(
    indexed: tuple[Numbers, Numbers], stored: tuple[Numbers, Numbers]
) -> tuple[Numbers, Numbers]:
    """Return the sequence numbers to remove from the index, and those to fetch.

    An older row is not removed: the newer one takes its place without a gap.
    """
    seqs, versions = indexed
    order = np.argsort(seqs)
    wanted, wanted_versions = (np.asarray(part, dtype=np.int64) for part in stored)
    found = np.full(len(wanted), _ABSENT)
    if len(seqs):
        places = order[np.searchsorted(seqs, wanted, sorter=order).clip(max=len(seqs) - 1)]
        found = np.where(seqs[places] == wanted, versions[places], _ABSENT)
    gone = np.setdiff1d(seqs, wanted, assume_unique=True)
    newer = wanted[found > wanted_versions]
    return np.concatenate([gone, newer]), wanted[found != wanted_versions]
