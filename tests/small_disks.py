"""Nodes on real, small file systems of their own, which a test may fill up and free again.

Each node's folder is a mount in a mount namespace that the cluster alone lives in, so nothing has
to be unmounted and nothing is left behind. Root gets ext4 on loop devices; anybody else tmpfs, in
a user namespace. From outside the files are reached through the cluster's process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import Cluster, await_ready, start_cluster

MIB = 1 << 20
FILLER = "filler"


@dataclass
class SmallDisks:
    """A running cluster, node k on a file system of its own."""

    cluster: Cluster

    def folder(self, node: int) -> Path:
        """Return a node's folder."""
        return self.cluster.folder / f"node{node}"

    def free_bytes(self, node: int) -> int:
        space = os.statvfs(self.folder(node))
        return space.f_bavail * space.f_frsize

    def fill(self, node: int, leave_bytes: int = 0) -> None:
        """Take all space of a node's disk but so much, to the last byte when it is nothing."""
        with (self.folder(node) / FILLER).open("ab", buffering=0) as file:
            with contextlib.suppress(OSError):
                size = max(0, self.free_bytes(node) - max(MIB, leave_bytes))
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
            file.seek(0, os.SEEK_END)
            with contextlib.suppress(OSError):
                while self.free_bytes(node) > leave_bytes:
                    file.write(b"f" * min(65536, max(1, self.free_bytes(node) - leave_bytes)))

    def free(self, node: int) -> None:
        """Give back what `fill` took."""
        (self.folder(node) / FILLER).unlink()


@contextlib.contextmanager
def small_disks(
    tmp_path: Path, *options: str, size_mib: int, env: Mapping[str, str] | None = None
) -> Iterator[SmallDisks]:
    """Run a cluster of three on disks of `size_mib` each; skip where no namespace can be made."""
    folder = tmp_path / "data"
    mounts = _mounts(tmp_path, folder, size_mib)
    script = " && ".join([*mounts, 'exec "$0" "$@"'])
    under = [*_unshare(), "sh", "-c", script]
    cluster = start_cluster(tmp_path, *options, folder=folder, env=env, under=under)
    try:
        await_ready(cluster)
        cluster.folder = Path(f"/proc/{cluster.process.pid}/root{folder}")
        yield SmallDisks(cluster)
    finally:
        cluster.stop()


def _unshare() -> list[str]:
    words = (
        ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    )
    if shutil.which("unshare") is None:
        pytest.skip("there is no `unshare` to make a mount namespace with")
    tried = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no mount namespace can be made here: {tried.stderr.strip()}")
    return words


def _mounts(tmp_path: Path, folder: Path, size_mib: int) -> list[str]:
    commands = []
    for node in (1, 2, 3):
        target = folder / f"node{node}"
        target.mkdir(parents=True)
        image = tmp_path / f"disk{node}"
        if os.geteuid() == 0 and _made(image, size_mib):
            commands.append(f"mount -o loop {image} {target}")
        else:
            commands.append(f"mount -t tmpfs -o size={size_mib}m recollect {target}")
    return commands


def _made(image: Path, size_mib: int) -> bool:
    """Make an ext4 file system in a file; whether that, and mounting it, can be done here."""
    with image.open("wb") as file:
        file.truncate(size_mib * MIB)
    script = f"mkfs.ext4 -q -m 0 {image} && mount -o loop {image} /mnt"
    words = ["unshare", "--mount", "sh", "-c", script]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0
