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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_READER_CACHE_KIB = 1024


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
