"""SQLite connections: how each is opened, and a pool of read-only ones.

The pool serves one database file at a time. A connection is used by one thread at a time and
lent for one snapshot; after `point_at` the next one lent reads the new file, and those that were
out close as they come back, so no thread keeps a deleted file alive.
"""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

ValueType = TypeVar("ValueType")

_READER_CACHE_KIB: Final = 1024
_WRITER_PRAGMAS: Final = (
    "synchronous=NORMAL",
    "wal_autocheckpoint=0",
    "cache_size=-8192",
    "temp_store=MEMORY",
    "foreign_keys=OFF",
    "secure_delete=FAST",
)
TRUNCATE: Final = "PRAGMA wal_checkpoint(TRUNCATE)"
"""Copies the write-ahead log whole and empties it, or says that it is busy."""


def _as_it_is(value: ValueType) -> ValueType:
    return value


# `sqlite3` looks for an adapter of each blob and NULL that it binds, and learns from an exception
# that there is none. To call one that does nothing takes half the time.
sqlite3.register_adapter(bytes, _as_it_is)
sqlite3.register_adapter(type(None), _as_it_is)


class Connection(sqlite3.Connection):
    """A connection that may have the state's variables at hand: see `storage.state_file`."""

    meta: dict[str, Any] | None = None


def connect(path: Path | str, *, wait_s: float = 5.0) -> Connection:
    """Open a file, or a URI when `path` is text; transactions are left to the caller.

    `wait_s` is how long a statement waits for other connections' locks before it raises.
    """
    return sqlite3.connect(
        path,
        timeout=wait_s,
        isolation_level=None,
        check_same_thread=False,
        factory=Connection,
        uri=isinstance(path, str),
    )


def objects_in(connection: sqlite3.Connection) -> frozenset[tuple[str, str]]:
    """Return (type, name) of the tables and indexes of a database."""
    return frozenset(connection.execute("SELECT type, name FROM sqlite_master"))


def objects_of(schema: str) -> frozenset[tuple[str, str]]:
    """Return (type, name) of the tables and indexes that an SQL script makes."""
    with closing(connect(":memory:")) as connection:
        connection.executescript(schema)
        return objects_in(connection)


def out_of_space(error: BaseException) -> bool:
    """Return whether a file or a database failed for want of space, and for nothing else."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0)
        return code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class ReaderPool:
    """Read-only connections to the current file. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._path: Path | None = None

    def point_at(self, path: Path | None) -> None:
        """Serve this file from now on; None: serve no more. The file must exist till the next."""
        with self._lock:
            idle, self._idle, self._path = self._idle, [], path
        for connection in idle:
            connection.close()

    @contextmanager
    def lend(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection inside a read transaction: all its queries see one commit."""
        path, connection = self._take()
        try:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if path == self._path:
                self._idle.append(connection)
                return
        connection.close()

    def _take(self) -> tuple[Path, sqlite3.Connection]:
        with self._lock:
            assert self._path is not None, "the state is open"
            if self._idle:
                return self._path, self._idle.pop()
            connection = connect(f"{self._path.absolute().as_uri()}?mode=ro")
            connection.execute(f"PRAGMA cache_size=-{_READER_CACHE_KIB}")
            # The first query opens the log, which must happen while the names still exist.
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return self._path, connection


def prepare_writer(connection: sqlite3.Connection) -> bool:
    """Set a writer up; return whether the log is now copied whole: a full disk may forbid.

    Raises OSError when another process uses the file, or the file system cannot.
    """
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise OSError(errno.ENOTSUP, "this file system has no shared memory for SQLite's log")
    for pragma in _WRITER_PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    try:
        busy, *_ = connection.execute(TRUNCATE).fetchone()
    except sqlite3.OperationalError as error:
        if not out_of_space(error):
            raise
        return False
    if busy:
        raise OSError(errno.EBUSY, "another process uses this state")
    return True
