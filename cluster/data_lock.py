"""One process per data folder, and a folder is what it was.

Two nodes on one folder would each believe the log is theirs. And a folder that holds state but
whose log is gone has forgotten its votes: starting it could elect two leaders of one term. So
the folder is locked while a node runs, and remembers who it belongs to and that it has a log.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

from cluster.errors import RecollectError


class FolderRefused(RecollectError):
    """The data folder cannot be used by this node."""

    code = "folder_refused"


class _Identity(msgspec.Struct):
    node: str


def claim(folder: Path, node: str) -> int:
    """Lock the folder for this node; return the descriptor that holds the lock.

    Raises:
        FolderRefused: another process uses it, it is another node's, or its log is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise FolderRefused(f"another process uses {folder}") from None
    try:
        _identify(folder, node)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _identify(folder: Path, node: str) -> None:
    marker = folder / "identity.json"
    if marker.exists():
        _check(folder, marker, node)
    else:
        (folder / "log").mkdir(exist_ok=True)
        _write(marker, msgspec.json.encode(_Identity(node)))


def _check(folder: Path, marker: Path, node: str) -> None:
    owner = msgspec.json.decode(marker.read_bytes(), type=_Identity).node
    if owner != node:
        raise FolderRefused(f"{folder} belongs to {owner}, not to {node}")
    states = any((folder / "groups").glob("*"))
    if states and not any((folder / "log").glob("*.wal")):
        raise FolderRefused(
            f"{folder} holds state but no log: its votes are forgotten. Restore the log; started "
            "without it, or from an empty folder under its old name, it could vote twice in a term"
        )


def _write(path: Path, content: bytes) -> None:
    """Replace a file durably."""
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
