"""One process per data folder, and a folder is what it was.

Two nodes on one folder would each believe the log is theirs. And a folder that holds state but
whose log is gone has forgotten its votes: starting it could elect two leaders of one term. So
the folder is locked while a node runs, and remembers who it belongs to and that it has a log.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from cluster.errors import RecollectError

HEAD_BYTES: Final = 64


class FolderRefused(RecollectError):
    """The data folder cannot be used by this node."""

    code = "folder_refused"


class _Identity(msgspec.Struct):
    node: str
    metadata_members: list[str]


def claim(folder: Path, node: str, metadata_members: Sequence[str]) -> int:
    """Lock the folder for this node; return the descriptor that holds the lock.

    The metadata group's members are fixed when the folder is new: a node that counted its
    majorities among others than its peers do could elect a second leader of one term.

    Raises:
        FolderRefused: another process uses it, it is another node's, its log is missing, or the
            configuration names other members of the metadata group.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise FolderRefused(f"another process uses {folder}") from None
    try:
        _identify(folder, _Identity(node, sorted(metadata_members)))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _identify(folder: Path, identity: _Identity) -> None:
    marker = folder / "identity.json"
    if marker.exists():
        _check(folder, marker, identity)
    else:
        _write(marker, msgspec.json.encode(identity))


def _check(folder: Path, marker: Path, identity: _Identity) -> None:
    owner = msgspec.json.decode(marker.read_bytes(), type=_Identity)
    if owner.node != identity.node:
        raise FolderRefused(f"{folder} belongs to {owner.node}, not to {identity.node}")
    if owner.metadata_members != identity.metadata_members:
        raise FolderRefused(
            f"this cluster's metadata group is {', '.join(owner.metadata_members)}; CLUSTER_NODES "
            f"names {', '.join(identity.metadata_members)}"
        )
    states = any((folder / "groups").glob("*"))
    if states and not any(_holds_batches(path) for path in (folder / "log").glob("*.wal")):
        raise FolderRefused(
            f"{folder} holds state but no log: its votes are forgotten. Restore the log; started "
            "without it, or from an empty folder under its old name, it could vote twice in a term"
        )


def _holds_batches(segment: Path) -> bool:
    """Whether something was ever written to a segment; spares are all zeros."""
    with segment.open("rb") as file:
        return any(file.read(HEAD_BYTES))


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
