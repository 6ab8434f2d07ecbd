"""Each kind of file on a real disk that is full to the last byte: it fails whole, and recovers."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from cluster.data_folder import DataFolder
from cluster.disk_reserve import DiskReserve
from cluster.raft.disk import FolderDisk
from cluster.raft.snapshot_files import SnapshotFiles
from cluster.raft.wal import Wal
from storage import index_files
from storage.connections import out_of_space
from storage.ids import encode_id
from storage.index_files import IndexFileError
from storage.state_file import StateFile
from storage.vector_index import VectorIndex
from tests.state_files import SCHEMA, exported, items, put

pytestmark = [pytest.mark.system]

MIB = 1 << 20
DISK_MIB = 12
TEXT = "t" * 20_000


class Disk:
    """A file system of twelve megabytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.filler = path / "filler"

    def fill(self) -> None:
        """Leave not one byte."""
        with self.filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(b"f" * 512)
            except OSError:
                return

    def free(self) -> None:
        self.filler.unlink()


@pytest.fixture(params=["ext4", "tmpfs"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    target, image = tmp_path / "disk", tmp_path / "image"
    target.mkdir()
    if request.param == "ext4":
        with image.open("wb") as file:
            file.truncate(DISK_MIB * MIB)
        made = subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=False)
        words = ["mount", "-o", "loop", str(image), str(target)]
    else:
        made = subprocess.run(["true"], check=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "recollect", str(target)]
    if made.returncode or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip(f"a {request.param} file system cannot be mounted here; root can")
    try:
        yield Disk(target)
    finally:
        subprocess.run(["umount", "--lazy", target], check=True)


def write_until_full(state: StateFile) -> int:
    """Put rows until there is no space; return the last index that was committed."""
    index = state.position()[0]
    while True:
        try:
            put(state, index + 1, TEXT)
        except sqlite3.OperationalError as error:
            if not out_of_space(error):
                raise
            return index
        index += 1


def test_a_state_goes_on_where_it_was(disk: Disk) -> None:
    """A commit without space changes nothing; reads go on; with space the next commit works."""
    disk.filler.write_bytes(bytes(6 * MIB))
    with closing(StateFile(disk.path / "state.db", SCHEMA)) as state:
        last = write_until_full(state)
        disk.fill()
        assert state.position() == (last, 1)
        assert len(items(state)) == last - 1
        with pytest.raises((sqlite3.OperationalError, OSError)):
            state.export(disk.path / "export")
        assert [each.name for each in disk.path.glob("export*")] == []
        try:
            durable = state.make_durable()
        except sqlite3.OperationalError as error:
            if not out_of_space(error):
                raise
            durable = 0
        assert durable in (0, 1, last)
        disk.free()
        put(state, last + 1)
        assert state.make_durable() == last + 1
        assert len(items(state)) == last


def test_a_state_opens_on_a_full_disk_with_the_reserve(disk: Disk) -> None:
    """After a kill, with a log that cannot be copied: it opens, serves, and copies it later."""
    reserve = DiskReserve(disk.path)
    reserve.hold(MIB)
    disk.filler.write_bytes(bytes(4 * MIB))
    child = os.fork()
    if child == 0:
        state = StateFile(disk.path / "state.db", SCHEMA)
        write_until_full(state)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    for shared in disk.path.glob("*-shm"):
        shared.unlink()
    disk.fill()
    reserve.release()
    with closing(StateFile(disk.path / "state.db", SCHEMA)) as state:
        last = state.position()[0]
        assert last > 50
        assert len(items(state)) == last - 1
        disk.free()
        put(state, last + 1)
        assert state.make_durable() == last + 1


def test_a_snapshot_is_not_installed_without_space_and_is_with_it(
    disk: Disk, tmp_path: Path
) -> None:
    """The state stays what it was, open and usable."""
    source = exported(tmp_path)
    with closing(StateFile(disk.path / "state.db", SCHEMA)) as state:
        put(state, 2, "old")
        incoming = disk.path / "incoming"
        incoming.write_bytes(source.read_bytes())
        state.verify(incoming)
        disk.fill()
        with pytest.raises(OSError, match="No space"):
            state.install(incoming, verified=True)
        assert items(state) == {2: "old"}
        assert incoming.exists()
        disk.free()
        state.install(incoming, verified=True)
        assert items(state) == {9: "new"}


def test_pieces_of_a_snapshot_that_find_no_space_are_given_up(disk: Disk, tmp_path: Path) -> None:
    """What came in before is removed: it would be in the way of others."""
    with closing(StateFile(tmp_path / "state.db", SCHEMA)) as state:
        files = SnapshotFiles(disk.path / "0001", state)
        assert files.store(0, b"x" * 100_000)
        disk.fill()
        stored = [files.store(100_000 + n * MIB, b"x" * MIB) for n in range(3)]
        assert False in stored
        assert not files.incoming.exists()
        disk.free()
        assert files.store(0, b"x" * 100_000)


def test_an_index_that_cannot_be_saved_keeps_its_older_save(disk: Disk) -> None:
    """hnswlib does not look whether its file was written; we do. The space is given back."""
    index = VectorIndex(dimension=64, distance="Euclid", m=8, ef_construct=40)
    rows = np.random.default_rng(1).standard_normal((6000, 64)).astype("<f4")
    index.upsert(0, [(n, 1, encode_id(n), row.tobytes()) for n, row in enumerate(rows[:500])])
    while index.build(1000):
        pass
    assert index_files.save(index, disk.path / "index")
    index.upsert(0, [(n, 1, encode_id(n), rows[n].tobytes()) for n in range(500, 6000)])
    while index.build(1000):
        pass
    space = os.statvfs(disk.path)
    disk.filler.write_bytes(bytes(space.f_bavail * space.f_frsize - MIB))
    with pytest.raises(IndexFileError):
        index_files.save(index, disk.path / "index")
    assert [each.name for each in (disk.path / "index").iterdir()] == ["1"]
    older = VectorIndex(dimension=64, distance="Euclid", m=8, ef_construct=40)
    assert index_files.load(older, disk.path / "index")
    assert older.size == 500
    disk.free()
    assert index_files.save(index, disk.path / "index")


def test_a_log_makes_no_spare_and_goes_on_without(disk: Disk) -> None:
    """Preallocated means that writing needs no space: to the last byte of the segment."""
    wal = Wal(FolderDisk(disk.path / "log"), MIB, lambda: 7)
    wal.open()
    wal.records(1).meta(1, "a")
    batch = wal.take()
    assert batch is not None
    wal.write(batch)
    disk.fill()
    wal.refill()
    assert wal.full
    index = 1
    while wal.admits(1, 10_000):
        index += 1
        wal.records(1).entry(index, 1, b"e" * 10_000)
        batch = wal.take()
        assert batch is not None
        wal.write(batch)
    assert index > 80
    assert wal.waiting_bytes == 0
    again = Wal(FolderDisk(disk.path / "log"), MIB, lambda: 7)
    assert again.open()[1].entries[-1][1] == index
    again.records(1).meta(2, "b")
    batch = again.take()
    assert batch is not None
    again.write(batch)
    disk.free()
    again.refill()
    assert not again.full


def test_the_pid_file_is_written_over(disk: Disk) -> None:
    """A node can be started again on a full disk."""
    folder = DataFolder(disk.path, lock=-1)
    folder.write_pid("node1", 1234567)
    disk.fill()
    folder.write_pid("node1", 89)
    assert (disk.path / "node1" / "pid").read_text() == "89\n"
    assert [each.name for each in (disk.path / "node1").iterdir()] == ["pid"]
