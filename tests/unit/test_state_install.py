"""Replacing a state file by a snapshot: whole or not at all, whenever the process dies."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from storage.state_file import CorruptState, StateFile
from tests.state_files import SCHEMA, exported, items, names, put

INSTALL_UNDER_OBSERVATION = """
import shutil, sys
from pathlib import Path
from storage.state_file import StateFile

folder, source, scenes = map(Path, sys.argv[1:4])
schema = sys.argv[4]
state = StateFile(folder / "state.db", schema)
copying, count = False, 0

def observe(event, arguments):
    global copying, count
    if copying or not event.startswith(("os.", "open", "sqlite3", "shutil.move")):
        return
    copying = True
    shutil.copytree(folder, scenes / f"{count:03d}")
    count += 1
    copying = False

with state.transaction() as connection:
    connection.execute("REPLACE INTO items VALUES (2, 'old')")
    state.set_position(3, 1)
sys.addaudithook(observe)
state.install(source)
copying = True
shutil.copytree(folder, scenes / "end")
"""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFile]:
    with closing(StateFile(tmp_path / "shard" / "state.db", SCHEMA)) as opened:
        yield opened


@pytest.fixture(params=["file", "memory"])
def any_state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateFile]:
    path = tmp_path / "any" / "state.db" if request.param == "file" else None
    with closing(StateFile(path, SCHEMA)) as opened:
        yield opened


def test_install_becomes_the_export(any_state: StateFile, tmp_path: Path) -> None:
    """Afterwards rows and position are the export's, durable, and the source is consumed."""
    put(any_state, 2, "old")
    generation = any_state.generation
    source = exported(tmp_path)
    any_state.install(source)

    assert any_state.position() == (9, 2)
    assert items(any_state) == {9: "new"}
    assert any_state.generation == generation + 1
    assert any_state.make_durable() == 9
    assert not source.exists()
    put(any_state, 10, term=2)
    assert items(any_state).keys() == {9, 10}


def test_install_leaves_one_generation(state: StateFile, tmp_path: Path) -> None:
    """The old generation's files are gone, its log included, and the state is found again."""
    put(state, 2, "old")
    state.install(exported(tmp_path))
    state.close()

    assert names(tmp_path / "shard") == ["state.db.2"]
    with closing(StateFile(tmp_path / "shard" / "state.db", SCHEMA)) as again:
        assert (again.position(), again.generation) == ((9, 2), 2)


def test_install_may_go_back(state: StateFile, tmp_path: Path) -> None:
    """A replica that is refilled takes the position of the snapshot, also a lower one."""
    put(state, 20)
    state.install(exported(tmp_path))

    assert state.position() == (9, 2)
    assert state.make_durable() == 9


def test_a_reader_outlives_an_install(state: StateFile, tmp_path: Path) -> None:
    """A connection lent before goes on reading the old state; the next one reads the new."""
    put(state, 2, "old")
    with state.reader() as connection:
        state.install(exported(tmp_path))
        assert connection.execute("SELECT * FROM items").fetchall() == [(2, "old")]
        assert items(state) == {9: "new"}
    put(state, 10, term=2)

    assert items(state).keys() == {9, 10}
    assert state.make_durable() == 10
    state.close()
    assert names(tmp_path / "shard") == ["state.db.2"]


def spoil(kind: str, source: Path) -> None:
    """Make an export unfit in one of the ways there are."""
    content = source.read_bytes()
    match kind:
        case "empty":
            source.write_bytes(b"")
        case "garbage":
            source.write_bytes(b"no database at all" * 1000)
        case "truncated":
            source.write_bytes(content[: len(content) // 2])
        case "damaged":
            source.write_bytes(content[:8200] + bytes(4000) + content[12200:])
        case "live copy":
            with closing(sqlite3.connect(source)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
        case "other tables":
            with closing(sqlite3.connect(source)) as connection:
                connection.execute("CREATE TABLE more (x)")
        case "other application":
            with closing(sqlite3.connect(source)) as connection:
                connection.execute("PRAGMA application_id=1")
        case "no position":
            with closing(sqlite3.connect(source)) as connection, connection:
                connection.execute("DELETE FROM meta")
        case _:
            pytest.fail(f"no such kind: {kind}")


KINDS = ["empty", "garbage", "truncated", "damaged", "live copy", "other tables"]
KINDS += ["other application", "no position"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_export_is_refused(state: StateFile, tmp_path: Path, kind: str) -> None:
    """CorruptState; the state is untouched and goes on, the source is left for inspection."""
    put(state, 2, "old")
    source = exported(tmp_path, value="n" * 50_000)
    spoil(kind, source)
    before = source.read_bytes()
    with pytest.raises(CorruptState):
        state.install(source)

    assert source.read_bytes() == before
    assert (state.position(), items(state)) == ((2, 1), {2: "old"})
    put(state, 3)
    assert state.make_durable() == 3
    assert state.generation == 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "live copy"])
def test_a_bad_file_does_not_open(tmp_path: Path, kind: str) -> None:
    """A state whose file is no usable state of this kind raises CorruptState."""
    source = exported(tmp_path, value="n" * 50_000)
    spoil(kind, source)
    source.rename(tmp_path / "state.db.1")
    with pytest.raises(CorruptState), closing(StateFile(tmp_path / "state.db", SCHEMA)) as state:
        items(state)


def test_dying_at_any_step_of_an_install(tmp_path: Path) -> None:
    """Whatever file operation an install dies at, what is found is one of the states, whole.

    The folder is copied before every operation of a real install. Each copy is opened as it is,
    and again without the write-ahead logs, as after a power cut that lost them.
    """
    folder, scenes = tmp_path / "shard", tmp_path / "scenes"
    scenes.mkdir()
    with closing(StateFile(folder / "state.db", SCHEMA)) as state:
        put(state, 2, "old")
    source = exported(folder)
    script = [sys.executable, "-c", INSTALL_UNDER_OBSERVATION]
    subprocess.run([*script, folder, source, scenes, SCHEMA], check=True)

    old, cut, new = ((3, 1), {2: "old"}), ((2, 1), {2: "old"}), ((9, 2), {9: "new"})
    found = []
    for scene in sorted(scenes.iterdir()):
        shutil.copytree(scene, power_cut := scene.with_name(f"{scene.name}-cut"))
        for log in power_cut.glob("*-wal"):
            log.unlink()
        states = [opened(each) for each in (scene, power_cut)]
        assert states in ([old, cut], [new, new], [old, old])
        found.append(states[0])

    assert len(found) > 8
    assert found == sorted(found)
    assert found[0] == old
    assert found[-1] == new


def opened(folder: Path) -> tuple[tuple[int, int], dict[int, str]]:
    """Open a state, check that it can go on, and return what it was; nothing is left over."""
    with closing(StateFile(folder / "state.db", SCHEMA)) as state:
        found = state.position(), items(state)
        put(state, 100, term=9)
        assert state.make_durable() == 100
        number = state.generation
    left = [name for name in names(folder) if name.startswith("state.db")]
    assert left == [f"state.db.{number}"]
    return found


def test_a_failed_switch_closes_the_state(state: StateFile, tmp_path: Path) -> None:
    """Once an install has begun to switch, a failure stops the state rather than split it."""
    put(state, 2, "old")
    (tmp_path / "shard" / "state.db.2-wal").touch()
    with pytest.raises(AssertionError, match="used once"):
        state.install(exported(tmp_path))
    with pytest.raises(AssertionError, match="open"):
        put(state, 3)

    with closing(StateFile(tmp_path / "shard" / "state.db", SCHEMA)) as again:
        assert items(again) == {2: "old"}
