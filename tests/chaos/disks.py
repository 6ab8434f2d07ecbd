"""A disk for each node that can lose its power and can be full: ext4 on a file, for root.

`cut_power` is the kernel's own emergency stop (EXT4_IOC_SHUTDOWN without flushing its journal): at
that instant everything that was not synced is gone, and nothing can be written any more. What
comes back after mounting is what a real disk would have. Each cut carries its own proof: a
marker that was written and not synced must be gone.

The mounts are seen by this process and its children alone (`own_mounts`). Else every mount
namespace that somebody makes meanwhile, a container's for one, would get a copy of them, and a file
system whose power was cut would not end when it is unmounted here. They also end with us.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from tests.chaos.commands import CommandError, system

SHUTDOWN: Final = 0x8004587D
NO_LOG_FLUSH: Final = (2).to_bytes(4, "little")
CLONE_NEWNS: Final = 0x20000
DISK_MIB: Final = 384
TRIES: Final = 200


async def own_mounts() -> None:
    """Give this process mounts of its own, without other people's disks; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNS) failed")
    await system("mount", "--make-rprivate", "/")
    for place in _mounted_images():
        await system("umount", "--lazy", place)


def _mounted_images() -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    found = [line.split(" ")[:2] for line in lines]
    return [place for device, place in found if device.startswith("/dev/loop")]


class Disk:
    """An image and where it is mounted."""

    def __init__(self, folder: Path, node: str) -> None:
        self._image = folder / f"{node}.img"
        self.place = folder / f"{node}-disk"
        self._marks = 0

    @property
    def _mark(self) -> Path:
        return self.place / f"unsynced-{self._marks}"

    @property
    def _ballast(self) -> Path:
        return self.place / "ballast"

    async def open(self) -> None:
        """Make and mount it."""
        self.place.mkdir()
        with self._image.open("wb") as file:
            file.truncate(DISK_MIB << 20)
        await system("mkfs.ext4", "-qF", "-m", "0", str(self._image))
        await self._mount()

    async def _mount(self) -> None:
        await system("mount", "-o", "loop", str(self._image), str(self.place))

    async def restore_power(self) -> None:
        """Unmount it as soon as nobody uses it, and mount it anew; the journal is replayed."""
        for left in reversed(range(TRIES)):
            try:
                await system("umount", str(self.place))
                break
            except CommandError:
                if not left:
                    raise
                await asyncio.sleep(0.05)
        await self._mount()

    def mark(self) -> None:
        """Write what a power cut must take away. A new file: ext4 syncs what is overwritten."""
        self._marks += 1
        self._mark.write_bytes(b"never synced" * 100)

    def cut_power(self) -> None:
        """Lose everything that was not synced, now."""
        descriptor = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(descriptor)

    def lost_the_mark(self) -> bool:
        """Whether the power cut took away what it had to."""
        return not self._mark.exists() or not self._mark.read_bytes().strip(b"\0")

    def fill(self) -> None:
        """Take all the space there is."""
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT)
        try:
            size, step = 0, 64 << 20
            while step >= 4096:
                try:
                    os.posix_fallocate(descriptor, size, step)
                    size += step
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size = os.fstat(descriptor).st_size
                    step //= 4
        finally:
            os.close(descriptor)

    def empty(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)

    async def close(self) -> None:
        """Unmount and remove it; what is not there is no error."""
        with contextlib.suppress(CommandError):
            await system("umount", "--lazy", str(self.place))
        self._image.unlink(missing_ok=True)
