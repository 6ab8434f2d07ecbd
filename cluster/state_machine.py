"""What raft applies committed entries to: the protocol, and the part that all machines share.

Rules of `apply`: one transaction for the whole batch, with the position in it, so replay after a
crash continues where the file stands; entries follow the position without a gap; a bad command
is a result, not an exception. What does raise (a full disk, a damaged file, a broken invariant)
has changed nothing, and the caller stops the replica. The same entries give the same state,
however they are cut into batches.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from cluster.command import Result
from storage.state_file import StateFile


class Entry(NamedTuple):
    """A committed log entry. `command` b"" is a no-op, as a new leader appends it."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of an entry
    term: int
    command: bytes


class Change(NamedTuple):
    """What the indexes have to learn of a row; `vector` None: the row is gone."""

    collection: int
    seq: int
    version: int
    id: bytes
    vector: bytes | None
    payload: bytes | None = None


class StateMachine(Protocol):
    """What a replica needs of the state it replicates. Synchronous; called from threads."""

    def position(self) -> tuple[int, int]:
        """Return (index, term) of the last applied entry."""
        ...

    @property
    def busy(self) -> bool:
        """Whether `apply` would wait for the end of a checkpoint."""
        ...

    def apply(self, entries: Sequence[Entry]) -> list[Result]:
        """Apply entries that follow the position; return their results in order."""
        ...

    def state_hash(self) -> bytes:
        """Return 16 bytes that are equal on replicas with equal content."""
        ...

    def hashed_index(self) -> tuple[int, bytes]:
        """Return an applied index and the state hash at that index, for comparing replicas."""
        ...

    def make_durable(self) -> int:
        """Return the applied index that a power cut can no longer take back."""
        ...

    def export(self, target: Path) -> None:
        """Write the state to one file, for a replica that lags behind the log."""
        ...

    def verify(self, source: Path) -> None:
        """Read all of an exported state; raises CorruptState when it is not whole."""
        ...

    def install(self, source: Path, *, verified: bool = False) -> None:
        """Become an exported state; `source` is consumed."""
        ...

    def dump(self) -> bytes:
        """Return an image of a state in memory."""
        ...

    def load(self, image: bytes) -> None:
        """Become an image."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Batch(Protocol):
    """One transaction's worth of entries being applied."""

    def execute(self, entry: Entry) -> Result:
        """Apply one command, whole or not at all."""
        ...

    def finish(self, index: int) -> None:
        """Write what is kept once per transaction, whose last entry is `index`."""
        ...

    def state_hash(self) -> bytes:
        """Return the hash of the state as it stands."""
        ...


BatchType = TypeVar("BatchType", bound=Batch)


class FileMachine(Generic[BatchType]):
    """The part of a state machine that does not depend on what its commands mean.

    `begin` starts a batch on an open connection; `publish` is given each committed batch, and a
    batch without entries whenever the state became another one, after `renewed` was called.
    """

    _hashed: tuple[int, bytes]

    def __init__(
        self,
        state: StateFile,
        begin: Callable[[sqlite3.Connection], BatchType],
        publish: Callable[[BatchType], None],
        renewed: Callable[[], None] = lambda: None,
    ) -> None:
        self._state = state
        self._begin = begin
        self._publish = publish
        self._renewed = renewed
        self._refresh()

    def position(self) -> tuple[int, int]:
        """Return (index, term) of the last applied entry."""
        return self._state.position()

    @property
    def busy(self) -> bool:
        """Whether `apply` would wait for the end of a checkpoint."""
        return self._state.busy

    def state_hash(self) -> bytes:
        """Return the 16-byte hash of the state, as of the last apply."""
        return self._hashed[1]

    def hashed_index(self) -> tuple[int, bytes]:
        """Return (applied index, state hash at that index): one pair, also beside an apply."""
        return self._hashed

    def apply(self, entries: Sequence[Entry]) -> list[Result]:
        """Apply entries that follow the position, in one transaction; return their results.

        Raises sqlite3.Error or CorruptState when the file fails; then nothing was applied.
        """
        if not entries:
            return []
        self._assert_follows(entries)
        with self._state.transaction() as connection:
            batch = self._begin(connection)
            results = [_result(batch, entry) for entry in entries]
            batch.finish(entries[-1].index)
            self._state.set_position(entries[-1].index, entries[-1].term)
        assert self.position() == (entries[-1].index, entries[-1].term), "all was applied"
        self._show(batch)
        return results

    def shrink(self) -> None:
        """Let memory go that makes writes quicker while many come."""
        self._state.shrink()

    def make_durable(self) -> int:
        """Return the applied index that a power cut can no longer take back."""
        return self._state.make_durable()

    def export(self, target: Path) -> None:
        """Write the state to one closed, fsynced file, while applying goes on."""
        self._state.export(target)

    def verify(self, source: Path) -> None:
        """Read all of an exported state; raises CorruptState when it is not whole. Any thread."""
        self._state.verify(source)

    def install(self, source: Path, *, verified: bool = False) -> None:
        """Become an exported state, which is consumed. Raises CorruptState, changing nothing.

        `verified`: `verify` accepted this very file.
        """
        self._state.install(source, verified=verified)
        self._refresh()

    def dump(self) -> bytes:
        """Return an image of a state in memory."""
        return self._state.dump()

    def load(self, image: bytes) -> None:
        """Become an image that `dump` made."""
        self._state.load(image)
        self._refresh()

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._state.close()

    def _assert_follows(self, entries: Sequence[Entry]) -> None:
        index, term = self.position()
        for entry in entries:
            assert entry.index == index + 1, f"entry {entry.index} does not follow {index}"
            assert entry.term >= term, f"term {entry.term} after {term}"
            index, term = entry.index, entry.term

    def _refresh(self) -> None:
        self._renewed()
        with self._state.reader() as connection:
            self._show(self._begin(connection))

    def _show(self, batch: BatchType) -> None:
        self._hashed = (self.position()[0], batch.state_hash())
        self._publish(batch)


def _result(batch: Batch, entry: Entry) -> Result:
    return batch.execute(entry) if entry.command else Result(version=entry.index)
