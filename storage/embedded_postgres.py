"""A Postgres server of one's own, from a wheel: for checkpoints where nobody runs a Postgres.

The server belongs to a folder:

    DIR/data      the database
    DIR/socket    where it listens; nobody else on the machine may enter, so it asks no password.
                  A path that is too long for a socket is replaced by one in the system's folder
                  for temporary files
    DIR/log       what it said
    DIR/lock      held by whoever starts the server, and by all its processes while it runs
    DIR/programs  as root only, and only when the installed programs cannot be reached: a copy

It does not listen on the network. The lock is the kernel's (flock) and tells for sure whether a
server runs. Postgres itself goes by the process id in `postmaster.pid`, which after a crash may be
that of any other process; so a file that is found under the lock is stale, and is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import quote

from storage.postgres_programs import PostgresFailed, PostgresMissing, Programs

__all__ = ("EmbeddedPostgres", "PostgresFailed", "PostgresMissing")

_SOCKET_PATH_MAX: Final = 100
_SOCKET_NAME: Final = ".s.PGSQL.5432"
_START_S: Final = 60
_LOCK_WAIT_S: Final = 30.0
"""A server that was told to end may still write its last checkpoint."""
_POLL_S: Final = 0.05
_READY_LINE: Final = 7
"""Line of `postmaster.pid`, from 0, on which the server says that it takes connections."""
_SETTINGS: Final = (
    "listen_addresses=",
    "port=5432",
    "shared_buffers=32MB",
    "wal_buffers=8MB",
    "maintenance_work_mem=32MB",
    "min_wal_size=32MB",
    "max_wal_size=256MB",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_logical_replication_workers=0",
    "autovacuum_max_workers=1",
    "autovacuum_naptime=5min",
    "max_parallel_workers_per_gather=0",
    "max_parallel_maintenance_workers=0",
    "io_method=sync",
    "jit=off",
    "log_checkpoints=off",
)
"""A small footprint; what makes Postgres durable stays as it is. The log's buffers are larger than
they would be by those of pages: the nodes' transactions run at once, and waited for each other to
write the log."""


class EmbeddedPostgres:
    """The server of a folder; nothing happens before `prepare`, `start` or `become`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self._programs = Programs(self.folder)

    @property
    def url(self) -> str:
        """Return where the server is, as a Postgres URL."""
        host = quote(str(self._socket_folder()), safe="")
        return f"postgresql://postgres@/postgres?host={host}&port=5432"

    def holds_database(self) -> bool:
        """Return whether a server was started in this folder before."""
        return (self.data / "PG_VERSION").exists()

    def is_running(self) -> bool:
        """Return whether the server of this folder runs, be it that it starts or ends."""
        if not self._pid_file().exists():
            return False
        with self._lock(wait_s=0, mode=fcntl.LOCK_SH) as lock:
            return lock is None

    def is_ready(self) -> bool:
        """Return whether the server takes connections."""
        if not self.is_running():
            return False
        with contextlib.suppress(FileNotFoundError):
            return self._pid_file().read_text().splitlines()[_READY_LINE:] == ["ready   "]
        return False

    def prepare(self) -> None:
        """Make the folder, and see that a server can be run in it.

        Raises:
            PostgresMissing: the package is not installed.
            PostgresFailed: as root: there is no user to run it as, or none who reaches the folder.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log.touch(mode=0o600)
        self._socket_folder().mkdir(mode=0o700, exist_ok=True)
        self._programs.hand_over((self.log, self._socket_folder()))
        self._require_private(self._socket_folder())

    def start(self) -> None:
        """Start the server unless it runs, and return when it takes connections.

        Raises:
            PostgresMissing: the package is not installed.
            PostgresFailed: the server did not come up.
        """
        self.prepare()
        if not self.is_running():
            with self._started() as lock:
                options = " ".join(f"-c '{setting}'" for setting in self._settings())
                logged = ("-l", str(self.log), "-t", str(_START_S), "-w", "-o", options)
                self._programs.run("pg_ctl", "start", "-D", str(self.data), *logged, keep=[lock])

    def become(self, before: Callable[[], None]) -> NoReturn:
        """Turn this process into the server; `before` is called just before that.

        Raises:
            PostgresMissing: the package is not installed.
            PostgresFailed: a server runs already, or the database cannot be made.
        """
        self.prepare()
        with self._started() as lock:
            os.set_inheritable(lock, True)  # noqa: FBT003 - its only argument
            os.chdir(self.folder)
            program, environment = self._programs.path("postgres"), self._programs.environment()
            words = [word for setting in self._settings() for word in ("-c", setting)]
            self._programs.drop_privileges()
            before()
            os.execve(program, [str(program), "-D", str(self.data), *words], environment)  # noqa: S606

    def stop(self) -> bool:
        """Stop the server, ending its connections; return whether it ran."""
        if not self.is_running():
            return False
        self._programs.run("pg_ctl", "stop", "-D", str(self.data), "-m", "fast", "-w")
        return True

    @contextlib.contextmanager
    def _started(self) -> Iterator[int]:
        """Hold the lock, which the server is to inherit, with all in place for its start."""
        with self._lock(_LOCK_WAIT_S) as lock:
            if lock is None:
                raise PostgresFailed(f"a server runs in {self.folder} already")
            if not self.holds_database():
                self._make_database(lock)
            for stale in (self._pid_file(), self._socket_folder() / f"{_SOCKET_NAME}.lock"):
                stale.unlink(missing_ok=True)
            yield lock

    def _make_database(self, lock: int) -> None:
        """Make it beside its place: a database that is there is whole."""
        draft = self.folder / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        words = ("-D", str(draft), "-U", "postgres", "--auth=trust", "--encoding=UTF8")
        self._programs.run("initdb", *words, "--locale=C", keep=[lock])
        draft.rename(self.data)

    def _settings(self) -> tuple[str, ...]:
        return (*_SETTINGS, f"unix_socket_directories={self._socket_folder()}")

    def _pid_file(self) -> Path:
        return self.data / "postmaster.pid"

    @contextlib.contextmanager
    def _lock(self, wait_s: float, mode: int = fcntl.LOCK_EX) -> Iterator[int | None]:
        """Yield the descriptor that holds the folder's lock; None: another process has it.

        Whoever only looks takes it shared, so that two who look do not see each other.
        """
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline_s = time.monotonic() + wait_s
        try:
            while not _locked(descriptor, mode):
                if time.monotonic() >= deadline_s:
                    yield None
                    return
                time.sleep(_POLL_S)
            yield descriptor
        finally:
            os.close(descriptor)

    def _socket_folder(self) -> Path:
        near = self.folder / "socket"
        if len(os.fsencode(near / _SOCKET_NAME)) <= _SOCKET_PATH_MAX:
            return near
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"recollect-{name}"

    def _require_private(self, folder: Path) -> None:
        """Refuse a folder for the socket that somebody else has put in its place."""
        found, user = folder.lstat(), self._programs.user
        owner = os.geteuid() if user is None else user.pw_uid
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
            raise PostgresFailed(f"{folder} is not a private folder of the server's user")


def _locked(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
