"""The folder of a local cluster: who uses it, what was fixed when it was created, the pid files.

Beside the nodes' folders it holds `recollect.json` (what must not change between runs, and the
nodes' shared secret: mode 0600) and `recollect.lock`. Everything else in it is foreign and left
alone. The lock is the kernel's (flock), so a crash cannot leave it behind; nodes inherit it,
so that a new `up` cannot open a node's files before the last process that writes them is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from cluster.errors import CommandFailed
from storage.connections import out_of_space

PARAMETERS_FILE: Final = "recollect.json"
LOCK_FILE: Final = "recollect.lock"
DRAFT: Final = "restoring"
"""A folder in which a cluster is made from a checkpoint; it goes when that is whole."""
LOCK_WAIT_S: Final = 3.0
# As root the Postgres in the folder runs as another user, who has to get through.
FOLDER_MODE: Final = 0o711 if os.geteuid() == 0 else 0o700
_POLL_S: Final = 0.05


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """What a cluster keeps for life. `nodes` and `shards` are counts."""

    version: int = 1
    nodes: int
    shards: int
    peer_secret: str

    @classmethod
    def drawn(cls, nodes: int, shards: int) -> Parameters:
        """Return those of a new cluster, with a fresh secret."""
        return cls(nodes=nodes, shards=shards, peer_secret=secrets.token_hex(32))


class DataFolder:
    """A folder that this process has locked; made by `open_folder`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.lock = lock

    def parameters(self) -> Parameters | None:
        """Return what the folder's cluster was created with; None: there is no cluster yet.

        Raises:
            CommandFailed: the file is there but is not ours.
        """
        file = self.path / PARAMETERS_FILE
        try:
            found = msgspec.json.decode(file.read_bytes(), type=Parameters)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, OSError) as error:
            raise CommandFailed(
                f"{file} cannot be read ({error})", hint="restore it, or choose another --data"
            ) from None
        if found.version != 1:
            raise CommandFailed(
                f"{file} was written by another version of recollect",
                hint="use that version, or choose another --data",
            )
        return found

    def require_no_draft(self) -> None:
        """Raise CommandFailed when a restoration into this folder was killed before its end."""
        if (self.path / DRAFT).exists():
            raise CommandFailed(
                f"{self.path} holds a restoration that was not finished",
                hint="run `recollect restore` again, or choose another --data",
                code="unfinished_restoration",
            )

    def save(self, parameters: Parameters) -> None:
        """Record what a new cluster keeps for life."""
        _write(self.path / PARAMETERS_FILE, msgspec.json.encode(parameters) + b"\n", mode=0o600)

    def write_pid(self, name: str, pid: int) -> None:
        """Record which process serves a node, replacing what an earlier run left there.

        On a full disk the old file is written over: its space is there already.
        """
        target, content = self.node(name) / "pid", b"%d\n" % pid
        try:
            _write(target, content, mode=0o644)
        except OSError as error:
            if not out_of_space(error):
                raise
            _overwrite(target, content)

    def node(self, name: str) -> Path:
        """Return a node's folder, made if it is missing.

        Raises:
            CommandFailed: something that is not a folder is in its place.
        """
        folder = self.path / name
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise CommandFailed(
                f"{folder} cannot be used ({error.strerror})", hint="choose another --data"
            ) from None
        return folder


@contextlib.contextmanager
def open_folder(path: Path, *, wait_s: float = LOCK_WAIT_S) -> Iterator[DataFolder]:
    """Make the folder if needed and hold its lock while the block runs.

    Raises:
        CommandFailed: it cannot be made, or another `up` uses it.
    """
    path = path.absolute()
    try:
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise CommandFailed(
            f"{path} cannot be used ({error.strerror})", hint="choose another --data"
        ) from None
    try:
        if not _lock(lock, wait_s):
            raise CommandFailed(
                f"{path} is in use by another `recollect up`",
                hint="end that one, or choose another --data and --port",
                code="folder_in_use",
            )
        yield DataFolder(path, lock)
    finally:
        os.close(lock)


def _lock(descriptor: int, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(_POLL_S)


def _write(target: Path, content: bytes, *, mode: int) -> None:
    """Replace a file so that a reader sees the old or the new content, never a part."""
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        draft.unlink()
        raise
    draft.replace(target)


def _overwrite(target: Path, content: bytes) -> None:
    try:
        with target.open("r+b") as file:
            file.write(content)
            file.truncate()
    except OSError as error:
        raise CommandFailed(
            f"{target} cannot be written ({error.strerror})", hint="make space on the disk"
        ) from None
