"""The two files of a group's snapshots: the one on offer and the one coming in.

Used from one thread, so pieces are written in the order in which they came.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Protocol

from cluster.raft.messages import Manifest
from storage.state_file import CorruptState, read_meta

log = logging.getLogger("recollect.raft")


class Exporter(Protocol):
    """A state machine that can write itself to a file."""

    def export(self, target: Path) -> None:
        """Write the state to one closed file."""
        ...

    def verify(self, source: Path) -> None:
        """Read all of an exported state; raises CorruptState when it is not whole."""
        ...

    def install(self, source: Path, *, verified: bool = False) -> None:
        """Become an exported state; `source` is consumed."""
        ...


class SnapshotStore(Protocol):
    """Where a group's snapshots are kept: the one on offer and the one coming in."""

    def export(self) -> Manifest:
        """Write the state as it stands; raises OSError or sqlite3.Error."""
        ...

    def read(self, sha256: bytes, offset: int, size: int) -> bytes:
        """Return a piece of the snapshot on offer; empty when another one was asked for."""
        ...

    def store(self, offset: int, data: bytes) -> bool:
        """Write a piece that came in; offset 0 starts anew. False: there is no use in going on."""
        ...

    def complete(self, manifest: Manifest) -> bool:
        """Whether what came in is what was offered, and a whole state; then it is durable too."""
        ...

    def install(self) -> None:
        """Let the state machine become what came in and was found complete."""
        ...

    def discard(self) -> None:
        """Forget the snapshot on offer: nobody wants it, and it may be as large as the state."""
        ...


class SnapshotFiles:
    """Implements `SnapshotStore`. `stem` is the path that both names begin with."""

    def __init__(self, stem: Path, machine: Exporter) -> None:
        self._machine = machine
        self.incoming = stem.with_suffix(".incoming")
        self._outgoing = stem.with_suffix(".outgoing")
        self._sha256 = b""
        stem.parent.mkdir(parents=True, exist_ok=True)
        for leftover in (self.incoming, self._outgoing):
            leftover.unlink(missing_ok=True)

    def export(self) -> Manifest:
        """Write the state as it stands; raises OSError or sqlite3.Error."""
        self._outgoing.unlink(missing_ok=True)
        self._machine.export(self._outgoing)
        index, term = exported_position(self._outgoing)
        self._sha256 = _digest(self._outgoing)
        return Manifest(index, term, self._outgoing.stat().st_size, self._sha256)

    def read(self, sha256: bytes, offset: int, size: int) -> bytes:
        """Return a piece of the snapshot on offer; empty when another one was asked for."""
        if sha256 != self._sha256:
            return b""
        with self._outgoing.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def store(self, offset: int, data: bytes) -> bool:
        """Write a piece that came in; offset 0 starts anew. False: there is no use in going on.

        What came in so far is then removed: on a full disk it would keep the space from others.
        """
        try:
            with self.incoming.open("wb" if offset == 0 else "r+b") as file:
                file.seek(offset)
                file.write(data)
        except OSError as error:
            log.warning("a snapshot that comes in cannot be stored: %s", error)
            self.incoming.unlink(missing_ok=True)
            return False
        return True

    def complete(self, manifest: Manifest) -> bool:
        """Whether what came in is what was offered, and a whole state; then it is durable too.

        All of it is read twice here, so that `install`, which others wait for, need not.
        """
        try:
            with self.incoming.open("rb") as file:
                os.fsync(file.fileno())
            if _digest(self.incoming) != manifest.sha256:
                return False
            self._machine.verify(self.incoming)
        except (OSError, CorruptState, sqlite3.Error) as error:
            log.warning("a snapshot that came in is not usable: %s", error)
            return False
        return True

    def install(self) -> None:
        """Let the state machine become what came in and was found complete."""
        self._machine.install(self.incoming, verified=True)

    def discard(self) -> None:
        """Forget the snapshot on offer: nobody wants it, and it may be as large as the state."""
        self._sha256 = b""
        self._outgoing.unlink(missing_ok=True)


def exported_position(path: Path) -> tuple[int, int]:
    """Return the (index, term) that an exported state reflects."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        meta = read_meta(connection)
    return int(meta["applied_index"]), int(meta["applied_term"])


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
