"""Saved indexes: the same answers after loading, and an error, never a crash, for any damage."""

import hashlib
import os
import random
import shutil
import struct
from typing import Any

import numpy as np
import pytest

from storage import index_files
from storage.ids import encode_id
from storage.index_files import IndexFileError
from storage.vector_index import VectorIndex

DIMENSION = 12
ROWS = 400
GENERATOR = np.random.default_rng(7)
VECTORS = GENERATOR.standard_normal((ROWS, DIMENSION)).astype("<f4")
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
FILES = ["alive.bin", "digests.bin", "graph.bin", "manifest.json", "records.bin", "stand_ins.bin"]
SHAPE: dict[str, Any] = {"dimension": DIMENSION, "distance": "Cosine", "m": 8, "ef_construct": 40}


def empty(**changes):
    """Return an index of this module's shape, or of another."""
    return VectorIndex(**(SHAPE | changes))


def filled(rows=ROWS):
    """Return an index with built rows of two shards, some of them dead."""
    index = empty()
    for shard in (0, 1):
        index.upsert(
            shard,
            [(n, 1, encode_id(n), VECTORS[n].tobytes()) for n in range(rows) if n % 2 == shard],
        )
    index.remove(0, [0, 2, 4])
    while index.build(1000):
        pass
    index.remove(1, [1, 3])
    return index


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a directory with one save."""
    directory = tmp_path_factory.mktemp("saved")
    assert index_files.save(filled(), directory)
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    """Return the path of the save within a directory that a test may damage."""
    shutil.copytree(saved, tmp_path / "index")
    return tmp_path / "index" / "1"


def refused(save, **changes):
    """Assert that a damaged save is refused and leaves a usable, empty index."""
    index = empty(**changes)
    with pytest.raises(IndexFileError):
        index_files.load(index, save.parent)
    assert index.size == 0
    index.validate()
    return True


def answers(index):
    """Return what an index answers to some searches."""
    return [index.search(vector, 10) for vector in VECTORS[::40]]


def test_loading_gives_the_same_index(saved):
    """A loaded index answers as the saved one did, and goes on from there."""
    original, loaded = filled(), empty()

    assert index_files.load(loaded, saved)

    assert loaded.stats() == original.stats()
    assert answers(loaded) == answers(original)
    loaded.validate()
    for index in (original, loaded):
        index.upsert(0, [(5000, 9, encode_id(5000), VECTORS[9].tobytes())])
        while index.build(1000):
            pass
        index.validate()
    assert answers(loaded) == answers(original)


def test_save_holds_four_files(saved):
    """A save is its manifest and what that lists; nothing unfinished stays."""
    assert [path.name for path in saved.iterdir()] == ["1"]
    assert sorted(path.name for path in (saved / "1").iterdir()) == FILES


def test_newer_saves_replace_older_ones(tmp_path):
    """The newest save counts, and is the only one that stays."""
    index = filled()
    index_files.save(index, tmp_path)
    index.remove(0, [6])
    index_files.save(index, tmp_path)

    loaded = empty()
    index_files.load(loaded, tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["2"]
    assert loaded.size == index.size


def test_remains_of_a_crash_are_ignored(copy):
    """A save that a crash interrupted is no save, and is swept away by the next one."""
    unfinished = copy.parent / ".unfinished"
    unfinished.mkdir()
    (unfinished / "graph.bin").write_bytes(b"half")

    assert index_files.load(empty(), copy.parent)
    index_files.save(filled(), copy.parent)
    assert not unfinished.exists()


def test_nothing_to_load_or_save(tmp_path):
    """Without a save nothing is loaded; an index without a graph is not saved."""
    manhattan = empty(distance="Manhattan")
    manhattan.upsert(0, [(1, 1, encode_id(1), VECTORS[0].tobytes())])

    assert not index_files.load(empty(), tmp_path / "absent")
    assert not index_files.save(empty(), tmp_path)
    assert not index_files.save(manhattan, tmp_path)
    assert not index_files.load(empty(), tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits(copy, name):
    """Any bit that changed in any file is noticed before hnswlib sees it."""
    path = copy / name
    whole = path.read_bytes()
    chance = random.Random(name)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 3))):
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        if bytes(damaged) != whole:
            path.write_bytes(damaged)
            assert refused(copy)


@pytest.mark.parametrize("name", FILES)
def test_wrong_length(copy, name):
    """A file that is cut, empty or longer than it was is refused."""
    path = copy / name
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert refused(copy)
    path.write_bytes(whole + b"\0")
    assert refused(copy)


@pytest.mark.parametrize("name", FILES)
def test_missing_file(copy, name):
    """A file that is gone, or a directory now, is refused."""
    (copy / name).unlink()
    assert refused(copy)
    (copy / name).mkdir()
    assert refused(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"dimension": DIMENSION + 1},
        {"dimension": 1},
        {"distance": "Euclid"},
        {"distance": "Dot"},
        {"m": 9},
        {"ef_construct": 41},
        {"seed": 43},
    ],
)
def test_another_shape(copy, change):
    """Files of an index of another shape are refused."""
    assert refused(copy, **change)


def resign(save, name):
    """Make a damaged file's checksums right again, as no accident could."""
    manifest = save / "manifest.json"
    _, _, body = manifest.read_bytes().partition(b"\n")
    old = hashlib.sha256((save / (name + ".old")).read_bytes()).hexdigest()
    new = hashlib.sha256((save / name).read_bytes()).hexdigest()
    assert old.encode() in body
    body = body.replace(old.encode(), new.encode())
    manifest.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


@pytest.mark.parametrize(
    ("offset", "layout", "number"),
    [
        (8, "<Q", 3),  # fewer rows of room than rows
        (16, "<Q", 10**12),  # more rows than the file has
        (16, "<Q", ROWS - 1),
        (24, "<Q", 17),
        (32, "<Q", 2**63),
        (40, "<Q", 0),
        (52, "<I", ROWS),  # an entry point that is no row
        (56, "<Q", 10_000),
        (72, "<Q", 0),
    ],
)
def test_headers_that_would_crash_hnswlib(copy, offset, layout, number):
    """Even with right checksums a header that contradicts the manifest does not reach hnswlib."""
    path = copy / "graph.bin"
    shutil.copy(path, copy / "graph.bin.old")
    damaged = bytearray(path.read_bytes())
    damaged[offset : offset + struct.calcsize(layout)] = struct.pack(layout, number)
    path.write_bytes(damaged)
    resign(copy, "graph.bin")

    assert refused(copy)


def test_liveness_that_the_graph_contradicts(copy):
    """A living row that is not in the graph is refused, for it could never be found."""
    path = copy / "alive.bin"
    shutil.copy(path, copy / "alive.bin.old")
    alive = bytearray(path.read_bytes())
    assert alive[:3] == b"\0\0\0", "the first rows died before they were built"
    alive[0] = 1
    path.write_bytes(alive)
    resign(copy, "alive.bin")

    assert refused(copy)


@pytest.mark.parametrize(
    ("place", "stand_in"),
    [
        (10, -1),  # a living row without one
        (10, 11),  # a stand-in that has another
        (10, 0),  # a stand-in that is not in the graph
        (10, ROWS),  # beyond all slots
        (0, 0),  # a row of the graph that is not there
    ],
)
def test_stand_ins_that_the_graph_contradicts(copy, place, stand_in):
    """Stand-ins that are not the graph's rows are refused."""
    path = copy / "stand_ins.bin"
    shutil.copy(path, copy / "stand_ins.bin.old")
    stand_ins = np.fromfile(path, dtype="<i4")
    stand_ins[place] = stand_in
    if stand_in == 11:
        stand_ins[11] = 12
    stand_ins.tofile(path)
    resign(copy, "stand_ins.bin")

    assert refused(copy)


def test_rows_that_are_there_twice(copy):
    """Two living slots of one row are refused."""
    path = copy / "records.bin"
    shutil.copy(path, copy / "records.bin.old")
    size = path.stat().st_size // ROWS
    records = path.read_bytes()
    path.write_bytes(records[:-size] + records[-2 * size : -size])
    resign(copy, "records.bin")

    assert refused(copy)


def test_a_save_that_cannot_be_written(tmp_path):
    """When the directory cannot be written the error says so, and the older save stays."""
    index = filled()
    index_files.save(index, tmp_path)
    index.remove(0, [8])
    (tmp_path / ".unfinished").write_text("in the way")

    with pytest.raises(IndexFileError, match=r"\.unfinished"):
        index_files.save(index, tmp_path)

    assert index.changes
    assert index_files.load(empty(), tmp_path)


def test_saving_leaves_no_process(tmp_path):
    """The child that writes the graph is gone when the save is done."""
    index_files.save(filled(), tmp_path)

    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
