"""The two files of a group's snapshots: the one on offer and the one coming in.

Used from one thread, so pieces are written in the order in which they came.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Protocol

from cluster.raft.messages import Manifest
from storage.state_file import read_meta


class Exporter(Protocol):
    """A state machine that can write itself to a file."""

    def export(self, target: Path) -> None:
        """Write the state to one closed file."""


class SnapshotFiles:
    """`stem` is the path that both names begin with."""

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

    def store(self, offset: int, data: bytes) -> None:
        """Write a piece that came in; offset 0 starts anew. A failure shows in the digest."""
        try:
            with self.incoming.open("wb" if offset == 0 else "r+b") as file:
                file.seek(offset)
                file.write(data)
        except OSError:
            self.incoming.unlink(missing_ok=True)

    def complete(self, manifest: Manifest) -> bool:
        """Whether what came in is what was offered; then it is durable too."""
        try:
            with self.incoming.open("rb") as file:
                os.fsync(file.fileno())
            return _digest(self.incoming) == manifest.sha256
        except OSError:
            return False


def exported_position(path: Path) -> tuple[int, int]:
    """Return the (index, term) that an exported state reflects."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        meta = read_meta(connection)
    return int(meta["applied_index"]), int(meta["applied_term"])


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
