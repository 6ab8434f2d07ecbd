"""The disk's guard: when writes are refused, and the space that is kept for hard times."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from pathlib import Path

import pytest

from cluster import disk_reserve, disk_watch
from cluster.disk_guard import DiskGuard, DiskReading
from cluster.disk_reserve import DiskReserve, make_room
from cluster.disk_watch import DiskWatch
from cluster.errors import StorageFull
from cluster.opening import when_there_is_space
from cluster.peer import Peers
from storage.connections import out_of_space

MIB = 1 << 20
GIB = 1 << 30


def test_writes_are_refused_below_the_floor_until_there_is_a_quarter_more() -> None:
    """A line with a step in it, so that it is not crossed all the time."""
    guard = DiskGuard("node1", 64 * MIB)
    states = []
    for free in (100, 64, 63, 70, 79, 80, 64):
        guard.observe(DiskReading(free * MIB, 100 * GIB), met_full=False)
        states.append(guard.full)

    assert states == [False, False, True, True, True, False, False]


def test_a_small_disk_has_a_small_floor() -> None:
    """A tenth of it at most: a test's or a container's volume stays usable."""
    guard = DiskGuard("node1", 64 * MIB)
    guard.observe(DiskReading(30 * MIB, 200 * MIB), met_full=False)
    assert not guard.full
    guard.observe(DiskReading(19 * MIB, 200 * MIB), met_full=False)
    assert guard.full


def test_whatever_met_a_full_disk_counts_as_well() -> None:
    """A quota, say, does not show in the file system's figures."""
    guard = DiskGuard("node1", 0)
    guard.observe(DiskReading(GIB, GIB), met_full=True)
    with pytest.raises(StorageFull, match="the disk of node1 is full"):
        guard.admit_growth(["node2", "node1"], 0.0)
    guard.observe(DiskReading(GIB, GIB), met_full=False)
    guard.admit_growth(["node2", "node1"], 0.0)


def test_the_reserve_takes_space_and_gives_it_back(tmp_path: Path) -> None:
    """Real blocks, not a hole in a file."""
    reserve = DiskReserve(tmp_path)
    reserve.hold(MIB)
    assert reserve.held
    assert (tmp_path / disk_reserve.NAME).stat().st_blocks * 512 >= MIB
    reserve.release()
    reserve.release()
    assert not reserve.held


def test_a_reserve_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    """It must not be what fills the disk."""
    space = os.statvfs(tmp_path)
    reserve = DiskReserve(tmp_path)
    reserve.hold((space.f_blocks + 1) * space.f_frsize)
    assert not reserve.held


def test_a_start_takes_the_reserve_only_when_it_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With space it stays; without, SQLite's files can be opened in its place."""
    DiskReserve(tmp_path).hold(MIB)
    make_room(tmp_path)
    assert DiskReserve(tmp_path).held
    monkeypatch.setattr(disk_reserve, "read_disk", lambda _: DiskReading(0, GIB))
    make_room(tmp_path)
    assert not DiskReserve(tmp_path).held


class NoPeers:
    """A channel to nobody."""

    def serve(self, *_: object) -> None: ...

    def connected(self, _: str) -> bool:
        return False


async def test_the_watch_gives_the_reserve_to_who_waits_and_takes_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes when states wait for space, and comes back when there is plenty."""
    state = {"waits": False, "free": GIB}
    monkeypatch.setattr(disk_watch, "read_disk", lambda _: DiskReading(state["free"], GIB))
    guard, reserve = DiskGuard("node1", 64 * MIB), DiskReserve(tmp_path)
    watch = DiskWatch(
        guard=guard,
        folder=tmp_path,
        reserve=reserve,
        log_full=lambda: False,
        state_full=lambda: bool(state["waits"]),
        me="node1",
        others=[],
        peers=Peers(NoPeers()),  # type: ignore[arg-type]
        clock=lambda: 0.0,
    )
    held = []
    for waits, free in ((False, GIB), (True, 0), (True, 0), (False, 100 * MIB), (False, GIB)):
        state.update(waits=waits, free=free)
        await watch.look()
        held.append((reserve.held, guard.full))

    assert held == [(True, False), (False, True), (False, True), (False, False), (True, False)]


async def test_opening_waits_for_space_and_for_nothing_else() -> None:
    """Any other failure is told at once."""
    tries = 0

    def full_twice() -> str:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return "open"

    def broken() -> str:
        raise OSError(errno.EIO, "Input/output error")

    async with asyncio.timeout(5):
        assert await when_there_is_space(full_twice, "a file", pause_s=0.0) == "open"
    with pytest.raises(OSError, match="Input/output"):
        await when_there_is_space(broken, "a file", pause_s=0.0)


def test_what_counts_as_want_of_space() -> None:
    """SQLite's code as well as the system's; an input/output error never does."""
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    broken = sqlite3.OperationalError("disk I/O error")
    broken.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    assert out_of_space(full)
    assert out_of_space(OSError(errno.EDQUOT, ""))
    assert not out_of_space(broken)
    assert not out_of_space(OSError(errno.EIO, ""))
    assert not out_of_space(ValueError())
