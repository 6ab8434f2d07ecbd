"""A measured beam width outlives its process; a wrong one is never believed, and harms no graph."""

import hashlib
import json
import random
import shutil

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import beam_file, index_files
from storage.beam_width import (
    DEFAULT_EF,
    NEIGHBOURS,
    RECALL_MIN,
    ROUNDS,
    ROWS_MIN,
    SAMPLE_EVERY,
    SAMPLE_LATER_EVERY,
    SAMPLES,
    WIDTHS,
    BeamWidth,
    Measured,
    Recalls,
)
from storage.ids import encode_id
from storage.index_files import IndexFileError
from storage.index_set import IndexSet
from storage.vector_index import VectorIndex
from tests.helpers import eventually

QUERY = np.zeros(4, np.float32)
VECTORS = np.random.default_rng(5).standard_normal((300, 6)).astype("<f4")
MEASURED = Measured(
    60, ROWS_MIN, 2, {56: Recalls(512, 490.0, 475.0), 60: Recalls(512, 505.0, 500.0)}
)
OTHER = Measured(32, 20_000, 1, {32: Recalls(256, 256.0, 256.0)})


def empty():
    """Return an index without rows."""
    return VectorIndex(dimension=6, distance="Euclid", m=8, ef_construct=40)


def filled(measured=MEASURED):
    """Return an index with a graph, of which something was measured."""
    index = empty()
    index.upsert(0, [(n, 1, encode_id(n), row.tobytes()) for n, row in enumerate(VECTORS)])
    while index.build(1000):
        pass
    index._state.beam.restore(measured)
    return index


def known(index):
    """Return what a save of an index would say of its beam."""
    with index.frozen() as image:
        return image.measured


def loaded(directory):
    """Return the index that a directory has, and that it is whole."""
    index = empty()
    assert index_files.load(index, directory)
    index.validate()
    assert index.size == len(VECTORS)
    return index


def contents(measured=MEASURED):
    """Return what a file says, to be changed."""
    whole = beam_file._Contents(beam_file.FORMAT, NEIGHBOURS, RECALL_MIN, measured)
    return json.loads(msgspec.json.encode(whole))


def sign(path, body):
    """Write a file whose checksum is right, whatever it says."""
    path.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a directory with a save of a graph that was measured."""
    directory = tmp_path_factory.mktemp("saved")
    assert index_files.save(filled(), directory)
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    """Return the path of the save within a directory that a test may damage."""
    shutil.copytree(saved, tmp_path / "index")
    return tmp_path / "index" / "1"


def round_of(beam, rows, chances):
    """Measure a round in which a width finds each neighbour with some chance; return the width."""
    for _ in range(SAMPLES * SAMPLE_LATER_EVERY):
        if beam.note(QUERY, rows):
            break
    chance = random.Random(beam.width)
    beam.measure(
        rows,
        lambda queries, width: [
            [n for n in range(NEIGHBOURS) if chance.random() < chances.get(width, 1.0)]
            for _ in queries
        ],
    )
    return beam.width


@settings(max_examples=25)
@given(
    st.dictionaries(st.sampled_from(WIDTHS), st.floats(0.5, 1.0), min_size=len(WIDTHS) - 4),
    st.integers(1, 4),
    st.sampled_from([ROWS_MIN, 117_659]),
)
def test_what_is_measured_is_what_is_restored(tmp_path_factory, chances, rounds, rows):
    """Whatever rounds find passes the check, is read as written, and is gone on from."""
    beam, path = BeamWidth(), tmp_path_factory.mktemp("measured")
    for _ in range(rounds):
        round_of(beam, rows, chances)

    assert beam.measured is not None
    beam_file.write(beam.measured, path)
    restored = beam_file.read(path)
    assert restored is not None
    again = BeamWidth()
    again.restore(restored)

    assert again.measured == beam.measured
    assert again.width == beam.width
    assert round_of(again, rows, chances) == round_of(beam, rows, chances)
    assert again.measured == beam.measured


def test_a_graph_that_is_known_well_is_left_alone_after_a_restart():
    """The rounds are counted over restarts, and so is what the graph has grown."""
    beam = BeamWidth()
    beam.restore(Measured(60, ROWS_MIN, ROUNDS, MEASURED.recalls))

    assert not any(beam.note(QUERY, ROWS_MIN) for _ in range(SAMPLES * SAMPLE_LATER_EVERY))
    assert any(beam.note(QUERY, 2 * ROWS_MIN) for _ in range(SAMPLES * SAMPLE_EVERY))


def test_nothing_is_known_before_the_first_round(tmp_path):
    """The width of a graph that was not measured is no measurement, and is not saved as one."""
    assert BeamWidth().measured is None
    index = filled()
    index._state.beam = BeamWidth()
    index_files.save(index, tmp_path)

    assert not list(tmp_path.rglob("beam*"))
    assert known(loaded(tmp_path)) is None


def test_a_save_has_what_was_measured(saved):
    """An index that is loaded is as wide as the one that was saved, without any query."""
    index = loaded(saved)

    assert known(index) == MEASURED
    assert index._state.beam.width == 60


def test_a_save_of_a_version_that_did_not_measure(copy):
    """The manifest is what it was before there was such a file; all else is loaded without it."""
    manifest = json.loads((copy / "manifest.json").read_bytes().partition(b"\n")[2])
    assert manifest["format"] == 1
    assert "beam" not in json.dumps(manifest)
    (copy / "beam.json").unlink()

    index = loaded(copy.parent)

    assert known(index) is None
    assert index._state.beam.width == DEFAULT_EF


def test_damage_costs_the_measurement_and_not_the_graph(copy, caplog):
    """Flipped bits, a wrong length, a directory: the graph is loaded, and measured anew."""
    path = copy / "beam.json"
    whole = path.read_bytes()
    chance = random.Random(1)
    damages = [whole[:length] for length in (0, 1, len(whole) // 2, len(whole) - 1)]
    damages += [whole + b" ", whole + b"\0" * (1 << 20)]
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        damages.append(bytes(damaged))
    for damage in damages:
        path.write_bytes(damage)
        caplog.clear()
        assert beam_file.read(copy) is None
        assert "measured anew" in caplog.text
    assert known(loaded(copy.parent)) is None
    path.unlink()
    path.mkdir()

    assert known(loaded(copy.parent)) is None


def change(where, value):
    """Return a function that changes one place of a file's contents."""

    def apply(whole):
        at = whole
        for key in where[:-1]:
            at = at[key]
        at[where[-1]] = value

    return apply


OF = ("measured", "recalls", "60")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("format",), 2),
        (("neighbours",), 100),
        (("recall_min",), 0.9),
        (("measured", "width"), 61),
        (("measured", "width"), 56),  # it did not find enough
        (("measured", "width"), 64),  # nothing was measured with it
        (("measured", "width"), -60),
        (("measured", "rows"), ROWS_MIN - 1),
        (("measured", "rows"), 10**400),
        (("measured", "rounds"), 0),
        (("measured", "rounds"), ROUNDS + 1),
        (("measured", "rounds"), "2"),
        (("measured", "recalls"), {}),
        (("measured", "recalls", "33"), [512, 505.0, 500.0]),
        (("measured", "recalls", "sixty"), [512, 505.0, 500.0]),
        (OF, [0, 0.0, 0.0]),
        (OF, [-512, 505.0, 500.0]),
        (OF, [10**400, 505.0, 500.0]),
        (OF, [512, 513.0, 512.0]),  # more found than there is
        (OF, [512, -505.0, 500.0]),
        (OF, [512, 505.0, 506.0]),  # the square of a share is not above it
        (OF, [512, 505.0, 490.0]),  # the mean of squares is not below the mean's
        (OF, [512, 505.0, -500.0]),
        (OF, [512, None, 500.0]),
        (OF, [512, float("nan"), 500.0]),
        (OF, [512, 505.0, float("inf")]),
        (OF, [512, 505.0]),
        (("measured", "more"), 1),
        (("more",), 1),
    ],
)
def test_what_no_rounds_can_have_found_is_not_believed(tmp_path, where, value):
    """Even with a right checksum."""
    whole = contents()
    sign(tmp_path / "beam.json", json.dumps(whole).encode())
    assert beam_file.read(tmp_path) == MEASURED
    change(where, value)(whole)
    sign(tmp_path / "beam.json", json.dumps(whole).encode())

    assert beam_file.read(tmp_path) is None


@pytest.mark.parametrize("strange", [float("nan"), float("inf"), -1.0])
def test_sums_that_are_no_numbers_are_impossible(strange):
    """NaN compares as false with everything, and infinity is too much."""
    assert Recalls(512, 505.0, 500.0).are_possible
    assert not Recalls(512, strange, 500.0).are_possible
    assert not Recalls(512, 505.0, strange).are_possible


def test_a_measurement_is_saved_without_its_graph(copy):
    """Only the small file is written, over the older one, and a crash half-way leaves that."""
    graph = (copy / "graph.bin").stat()
    (copy / "beam.json.unfinished").write_bytes(b"half")
    assert known(loaded(copy.parent)) == MEASURED

    assert index_files.save_measured(OTHER, copy.parent)

    assert known(loaded(copy.parent)) == OTHER
    after = (copy / "graph.bin").stat()
    assert (after.st_ino, after.st_mtime_ns) == (graph.st_ino, graph.st_mtime_ns)
    assert not (copy / "beam.json.unfinished").exists()


def test_a_measurement_that_cannot_be_written(copy, tmp_path):
    """The error says so, what was there stays; without a save there is nothing to add it to."""
    (copy / "beam.json.unfinished").mkdir()

    with pytest.raises(IndexFileError, match="unfinished"):
        index_files.save_measured(OTHER, copy.parent)

    assert known(loaded(copy.parent)) == MEASURED
    assert not index_files.save_measured(OTHER, tmp_path / "absent")


def test_a_rebuilt_graph_keeps_its_measurement(tmp_path):
    """Who made room for the living rows need not be measured for it; see GROWTH."""
    index = filled()
    index.remove(0, list(range(0, 300, 2)))
    while index.build(1000):
        pass
    assert index.stats().graph_dead == 0
    index_files.save(index, tmp_path)

    again = empty()
    assert index_files.load(again, tmp_path)
    assert known(again) == MEASURED


def opened(directory):
    """Return a set of indexes on a directory, and the only index."""
    indexes = IndexSet(directory)
    return indexes, indexes.open(1, 2, "Euclid", 4, 16)


def test_a_set_that_starts_again_knows_the_width(tmp_path):
    """Also after a crash, though no row came after the measuring, and the graph is written once."""
    indexes, index = opened(tmp_path)
    angles = np.linspace(0, 6, ROWS_MIN + 50)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype("<f4")
    index.upsert(0, [(seq, 1, encode_id(seq), point.tobytes()) for seq, point in enumerate(points)])
    indexes.start()
    try:
        eventually(lambda: list(tmp_path.glob("1/[0-9]/graph.bin")) and not index.has_work, 40)
        (graph,) = tmp_path.glob("1/[0-9]/graph.bin")
        before = graph.stat()
        assert not list(tmp_path.rglob("beam.json"))
        index.search_many(points[: SAMPLES * SAMPLE_EVERY], 10)
        eventually(lambda: list(tmp_path.rglob("beam.json")), 40)
    finally:
        indexes.stop()
    measured = known(index)
    assert measured is not None

    _, after_a_crash = opened(tmp_path)
    assert known(after_a_crash) == measured
    assert after_a_crash._state.beam.width == index._state.beam.width
    assert (graph.stat().st_ino, graph.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    index.remove(0, [0])
    indexes.save_all()
    assert not graph.exists()
    assert known(opened(tmp_path)[1]) == measured


def test_a_measurement_of_an_index_that_was_dropped_leaves_nothing(tmp_path):
    """The builder may be measuring while the collection goes."""
    indexes, index = opened(tmp_path)
    index.upsert(0, [(1, 1, encode_id(1), np.ones(2, "<f4").tobytes())])
    index.build(10)
    indexes.save_all()
    shutil.copytree(tmp_path / "1", tmp_path / "kept")
    indexes.drop(1)
    (tmp_path / "kept").rename(tmp_path / "1")

    indexes._save_measured(1, index, MEASURED)

    assert not (tmp_path / "1").exists()
    IndexSet(None)._save_measured(1, index, MEASURED)


def test_a_measurement_that_is_not_saved_is_only_logged(tmp_path, caplog):
    """The node goes on; the next round, or the next save, tries again."""
    indexes, index = opened(tmp_path)
    index.upsert(0, [(1, 1, encode_id(1), np.ones(2, "<f4").tobytes())])
    index.build(10)
    indexes.save_all()
    (tmp_path / "1" / "1" / "beam.json.unfinished").mkdir()

    indexes._save_measured(1, index, MEASURED)

    assert "not saved" in caplog.text
