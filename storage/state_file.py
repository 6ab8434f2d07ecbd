"""One SQLite file per replica: the applied state and, in the same transaction, its position.

* One thread writes, through `transaction`. Readers borrow read-only connections and see one
  committed snapshot each. Commits are atomic, but after a power cut the newest may be missing
  (`synchronous=NORMAL`); what `make_durable` returned never is.
* `make_durable` copies the write-ahead log into the database beside the writer (PASSIVE), then
  finishes and empties it (TRUNCATE) while no transaction is open. SQLite before 3.51.3 can lose
  a commit when a checkpoint starts on a log that is already copied whole while a commit resets
  that log (sqlite.org/wal.html, "the WAL-reset bug"). Both doors are shut here: checkpoints run
  one at a time, PASSIVE starts only when something was committed since the log was last copied
  whole, and TRUNCATE excludes writers by our own lock, so it cannot degrade to PASSIVE.
* `install` swaps the file for another replica's export: see `storage.state_layout` for why a
  crash between any two steps leaves either state, whole. Once the new name exists, a failure
  closes this object: the old file must not be written any more.
* A full disk costs no state: a commit that finds no space is rolled back, a checkpoint can be
  tried again, and a file whose log cannot be copied for want of space opens all the same.
* The state's variables (`read_meta`, `write_meta`) are read and written by every transaction, so
  the writer has them at hand; what changed is written, once, before the commit.
* Without a path everything is in memory, for simulation: images by `dump` and `load`.
"""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from storage.connections import (
    TRUNCATE,
    Connection,
    ReaderPool,
    connect,
    objects_in,
    objects_of,
    out_of_space,
    prepare_writer,
)
from storage.state_layout import StateLayout, make_directory, publish, remove_database

ROOT_POSITION: Final = (1, 0)
"""Index and term of the empty entry that every group's log starts with."""

_APPLICATION_ID: Final = 0x52434C54
_META: Final = "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;"
_CREATION_PRAGMAS: Final = ("page_size=8192", "auto_vacuum=NONE", "encoding='UTF-8'")
_READERS_WAIT_S: Final = 0.05
"""How long the end of a checkpoint, which keeps the writer waiting, waits for old readers."""
_SPACE_TO_OPEN: Final = 1 << 20
"""What SQLite's files beside a database may need before anything is written."""
_NO_LOG: Final = b"\x01\x01"
"""Write and read version in a database's header when it keeps no write-ahead log."""
_UNKNOWN: Final = -1
_ABSENT: Final = object()
_CORRUPT_CODES: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class CorruptState(Exception):
    """The file is not a usable state of this kind: quarantine the replica, never repair."""


def read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return the state's variables: its position, and what the writers of its tables keep."""
    at_hand = getattr(connection, "meta", None)
    if at_hand is not None:
        return dict(at_hand)
    return dict(connection.execute("SELECT key, value FROM meta"))


def write_meta(connection: sqlite3.Connection, values: Mapping[str, Any]) -> None:
    """Set some of the state's variables, inside a transaction."""
    at_hand = getattr(connection, "meta", None)
    if at_hand is not None:
        at_hand.update(values)
        return
    connection.executemany("REPLACE INTO meta (key, value) VALUES (?, ?)", values.items())


class StateFile:
    """The state called `path` (see the layout) with the tables of `schema`, an SQL script.

    `added` holds what came to the schema later, in the order in which it came: a file from before
    is given what it lacks when it is opened.

    Any method raises CorruptState when what is there cannot be used, and sqlite3.Error or
    OSError when the disk fails.
    """

    def __init__(self, path: Path | None, schema: str, *added: str) -> None:
        self._schema, self._added = _META + schema + "".join(added), added
        self._layout = None if path is None else StateLayout(path)
        self._writing = threading.Lock()
        self._checkpointing = threading.Lock()
        self._readers = ReaderPool()
        self._closed = False
        self._commits = 0
        self._commits_copied = 0
        self._sync_failed = False
        self.generation = 0
        self._connection = self._created(":memory:")
        self._known = [
            objects_of(_META + schema + "".join(added[:count])) for count in range(len(added) + 1)
        ]
        self._position = _position(self._connection)
        self._durable_index = 0
        if self._layout is not None:
            self._connection.close()
            self._use(self._layout, self._layout.current() or self._create_first(self._layout))

    def position(self) -> tuple[int, int]:
        """Return (index, term) of the last applied entry; (1, 0) for a new state."""
        return self._position

    @property
    def busy(self) -> bool:
        """Whether a transaction begun now would wait: for another one, for a checkpoint's end, or,
        as the first one after a checkpoint, for the disk to sync the log's new header."""
        emptied = self._layout is not None and self._commits == self._commits_copied
        return emptied or self._writing.locked()

    def set_position(self, index: int, term: int) -> None:
        """Record, inside a transaction, which entry the state will reflect."""
        assert self._connection.in_transaction, "the position moves with the state"
        write_meta(self._connection, {"applied_index": index, "applied_term": term})

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Commit what the body does, or, when anything raises, nothing of it."""
        with self._writing, _corruption_named():
            assert not self._closed, "the state is open"
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                before = read_meta(connection)
                connection.meta = dict(before)
                yield connection
                position = _position(connection)
                assert position >= self._position, "a state never goes back"
                _write_changed(connection, before)
                connection.execute("COMMIT")
            except BaseException:
                connection.meta = None
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            self._commits += 1
            self._position = position

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """Lend a read-only connection whose queries all see one committed state.

        Any thread, any number at a time. A connection lent before `install` goes on reading the
        old state; the next one lent reads the new. In memory there is one connection, and
        readers and the writer take turns.
        """
        with _corruption_named():
            if self._layout is not None:
                with self._readers.lend() as connection:
                    yield connection
            else:
                with self._writing:
                    yield self._connection

    def shrink(self) -> None:
        """Let the writer's cache of pages go, unless somebody is writing just now."""
        if self._writing.acquire(blocking=False):
            try:
                if not self._closed:
                    self._connection.execute("PRAGMA shrink_memory")
            finally:
                self._writing.release()

    def make_durable(self) -> int:
        """Checkpoint, and return the applied index that a power cut can no longer take back.

        Meant for a thread of its own. When readers of an older state are in the way the log
        cannot be copied whole, and the answer is the previous one. After an IO error it raises
        for ever: retrying an fsync proves nothing.
        """
        if self._layout is None:
            return self._position[0]
        with self._checkpointing, _corruption_named():
            assert not self._closed, "the state is open"
            if self._sync_failed:
                raise OSError(errno.EIO, "an earlier checkpoint failed: what is on disk is unknown")
            if self._commits != self._commits_copied:
                self._checkpoint(self._layout.file(self.generation))
            assert self._durable_index <= self._position[0], "durable is at most applied"
            return self._durable_index

    def export(self, target: Path) -> None:
        """Write a consistent copy to `target`: one closed and fsynced file, no sidecars.

        The copy is taken from a reader's snapshot, in one step: applying goes on meanwhile, only
        checkpoints cannot pass that snapshot. `target` appears when it is complete.
        A copy that there is no space for leaves nothing behind.
        """
        partial = target.with_name(f"{target.name}.partial")
        make_directory(target.parent)
        remove_database(partial)
        try:
            with self.reader() as source, closing(connect(partial)) as copy:
                copy.execute("PRAGMA synchronous=OFF")
                source.backup(copy)
            with closing(connect(partial)) as copy:
                copy.execute("PRAGMA journal_mode=DELETE")
            publish(partial, target)
        except BaseException:
            remove_database(partial)
            raise

    def install(self, source: Path, *, verified: bool = False) -> None:
        """Become the exported state in `source`, which is moved here and so consumed.

        `verified`: `verify` accepted this very file before; it reads all of it, and takes long.

        Raises:
            CorruptState: the file is damaged or no export of this kind; this state is untouched
                and `source` left where it is.
            OSError: there is too little space to begin; nothing was done.
        """
        if not verified:
            self.verify(source)
        if self._layout is None:
            self.load(source.read_bytes())
            source.unlink()
            return
        with self._checkpointing, self._writing:
            assert not self._closed, "the state is open"
            self._layout.require_space(_SPACE_TO_OPEN)
            self._layout.adopt(source)
            try:
                self._switch(self._layout)
            except BaseException:
                self._close_all()
                raise

    def dump(self) -> bytes:
        """Return an image of a state in memory."""
        assert self._layout is None, "images are for states in memory"
        return self._connection.serialize()

    def load(self, image: bytes) -> None:
        """Become an image that `dump` made. Raises CorruptState, with this state untouched."""
        assert self._layout is None, "images are for states in memory"
        _require(image, "an empty image")
        connection = connect(":memory:")
        connection.deserialize(image)
        position = self._checked(connection)
        self._complete(connection)
        with self._writing:
            old, self._connection = self._connection, connection
            self._position = position
            self.generation += 1
        old.close()

    def close(self) -> None:
        """Close the file; readers that are out close as they come back. Idempotent."""
        with self._checkpointing, self._writing:
            self._close_all()

    def _complete(self, connection: Connection) -> None:
        """Give a state from before what was added since, in one transaction."""
        lacking = "".join(self._added[self._known.index(objects_in(connection)) :])
        if lacking:
            connection.executescript(f"BEGIN IMMEDIATE; {lacking} COMMIT;")

    def _created(self, path: Path | str) -> Connection:
        connection = connect(path)
        for pragma in (*_CREATION_PRAGMAS, f"application_id={_APPLICATION_ID}"):
            connection.execute(f"PRAGMA {pragma}")
        connection.executescript(self._schema)
        index, term = ROOT_POSITION
        write_meta(connection, {"applied_index": index, "applied_term": term})
        return connection

    def _create_first(self, layout: StateLayout) -> int:
        layout.sweep(keep=0)
        self._created(layout.upcoming).close()
        layout.publish(1)
        return 1

    def _use(self, layout: StateLayout, generation: int) -> None:
        """Make a generation the current one; what its log still holds becomes durable first."""
        path = layout.file(generation)
        connection = connect(path)
        position = self._checked(connection)
        try:
            with _corruption_named():
                self._complete(connection)
                whole = prepare_writer(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._position, self.generation = connection, position, generation
        self._commits_copied = self._commits if whole else _UNKNOWN
        self._durable_index = position[0] if whole else 0
        self._readers.point_at(path)
        layout.sweep(generation)

    def _checked(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """Return the position of a state of this kind; else close the connection and raise."""
        try:
            with _corruption_named():
                (application_id,) = connection.execute("PRAGMA application_id").fetchone()
                found = objects_in(connection)
                ours = found in self._known and application_id == _APPLICATION_ID
                _require(ours, "a database, but not a state of this kind")
                return _position(connection)
        except BaseException:
            connection.close()
            raise

    def verify(self, source: Path) -> None:
        """Read all of an exported file; raises CorruptState when it is not whole. Any thread."""
        uri = f"{source.absolute().as_uri()}?mode=ro&immutable=1"
        with _corruption_named(), closing(connect(uri)) as connection:
            self._checked(connection)
            ((verdict,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
            _require(verdict == "ok", f"damaged: {verdict}")
        with source.open("rb") as file:
            versions = file.read(20)[18:]
        _require(versions == _NO_LOG, "not an export: it may lack its write-ahead log")

    def _switch(self, layout: StateLayout) -> None:
        generation = self.generation + 1
        layout.publish(generation)
        old = self._connection
        self._use(layout, generation)
        old.close()

    def _checkpoint(self, path: Path) -> None:
        try:
            with closing(connect(path, wait_s=_READERS_WAIT_S)) as connection:
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                with self._writing:
                    commits, applied = self._commits, self._position[0]
                    _, frames, frames_copied = connection.execute(TRUNCATE).fetchone()
        except sqlite3.Error as error:
            # After a failed fsync the next one may succeed without having written the pages.
            failed = _primary_code(error) == sqlite3.SQLITE_IOERR and not out_of_space(error)
            self._sync_failed |= failed
            raise
        assert frames >= frames_copied >= 0, "the file is in WAL mode"
        if frames == frames_copied:
            self._commits_copied, self._durable_index = commits, applied

    def _close_all(self) -> None:
        self._closed = True
        self._readers.point_at(None)
        self._connection.close()


@contextmanager
def _corruption_named() -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        if _primary_code(error) in _CORRUPT_CODES:
            raise CorruptState(str(error)) from error
        raise


def _write_changed(connection: Connection, before: Mapping[str, Any]) -> None:
    """Write the variables that differ from `before`, and keep them at hand."""
    after, connection.meta = read_meta(connection), None
    changed = {key: after[key] for key in after if before.get(key, _ABSENT) != after[key]}
    write_meta(connection, changed)
    connection.meta = after


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _position(connection: sqlite3.Connection) -> tuple[int, int]:
    meta = read_meta(connection)
    try:
        return int(meta["applied_index"]), int(meta["applied_term"])
    except (KeyError, ValueError, TypeError):
        raise CorruptState("the state does not say which entry it reflects") from None


def _require(holds: object, flaw: str) -> None:
    if not holds:
        raise CorruptState(flaw)
