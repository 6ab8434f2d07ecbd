"""Refilling a replica whose next entry its leader no longer has. Pure.

The leader offers a manifest with its heartbeats; the follower pulls the bytes piece by piece
(one piece is under way at a time, so the transfer cannot outrun either side), and goes on where
it stopped after a lost piece or a new leader with the same manifest. Only when all bytes are
there and their digest is right does the state machine replace its file, and only when that is
durable is the log reset and the leader told. A snapshot not newer than what the replica has is
never installed (D4), and nothing is acknowledged that failed (D5).
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.raft.messages import Chunk, Manifest, Pull

RETRY_S = 0.5
FAILED_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class WantSnapshot:
    """Make a snapshot of the state machine; answer with `RaftGroup.snapshot_ready`."""


@dataclass(frozen=True, slots=True)
class SendChunk:
    """Read a piece of the snapshot on offer and send it."""

    peer: str
    sha256: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class StoreChunk:
    """Write a piece of the snapshot being received; offset 0 starts the file anew."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Install:
    """All bytes are there: check the digest, replace the state; answer with
    `RaftGroup.installed` or `RaftGroup.install_failed`."""

    manifest: Manifest


Effect = WantSnapshot | SendChunk | StoreChunk | Install


@dataclass
class Receiver:
    """The follower's side of one transfer."""

    manifest: Manifest | None = None
    offset: int = 0
    asked_s: float = 0.0
    installing: bool = False
    not_before_s: float = 0.0
    """After a failure (a full disk, say) offers are passed over until then."""

    def offered(self, manifest: Manifest, now_s: float) -> Pull | None:
        """Take an offer; return what to pull first, or None when it is under way already."""
        if self.installing or now_s < self.not_before_s:
            return None
        if self.manifest is None or self.manifest.sha256 != manifest.sha256:
            self.manifest, self.offset = manifest, 0
            return self.pull(now_s)
        self.manifest = manifest
        return self.pull(now_s) if now_s - self.asked_s >= RETRY_S else None

    def pull(self, now_s: float) -> Pull:
        """Ask for the next piece."""
        assert self.manifest is not None, "an offer precedes a pull"
        self.asked_s = now_s
        return Pull(sha256=self.manifest.sha256, offset=self.offset)

    def received(self, chunk: Chunk) -> StoreChunk | None:
        """Take a piece if it is the next one."""
        manifest = self.manifest
        if manifest is None or self.installing or chunk.sha256 != manifest.sha256:
            return None
        if chunk.offset != self.offset or not chunk.data:
            return None
        if self.offset + len(chunk.data) > manifest.size:
            self.manifest = None  # not what was offered: begin again with the next offer
            return None
        store = StoreChunk(self.offset, chunk.data)
        self.offset += len(chunk.data)
        return store

    @property
    def complete(self) -> bool:
        """Whether all bytes are here."""
        return self.manifest is not None and self.offset == self.manifest.size

    def failed(self, now_s: float) -> None:
        """The transfer came to nothing: it begins again, but not at once."""
        self.done()
        self.not_before_s = now_s + FAILED_PAUSE_S

    def done(self) -> None:
        """The transfer ended, well or not."""
        self.manifest, self.offset, self.installing = None, 0, False
