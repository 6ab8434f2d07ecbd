"""The state file: atomic transactions, honest durability, exports, images."""

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from storage.state_file import CorruptState, StateFile, read_meta, write_meta
from storage.state_layout import StateLayout, make_directory
from tests.state_files import SCHEMA, items, names, put


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFile]:
    with closing(StateFile(tmp_path / "shard" / "state.db", SCHEMA)) as opened:
        yield opened


@pytest.fixture(params=["file", "memory"])
def any_state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateFile]:
    path = tmp_path / "any" / "state.db" if request.param == "file" else None
    with closing(StateFile(path, SCHEMA)) as opened:
        yield opened


def test_a_new_state_is_at_the_root_entry(any_state: StateFile) -> None:
    """A new state reflects the empty entry that every log starts with, durably."""
    assert any_state.position() == (1, 0)
    assert any_state.make_durable() == 1


def test_blobs_and_nulls_are_bound_as_they_are(any_state: StateFile) -> None:
    """What adapts them changes nothing."""
    with any_state.reader() as connection:
        row = connection.execute("SELECT ?, ?, typeof(?)", (b"\x00\xff", None, b"")).fetchone()

    assert row == (b"\x00\xff", None, "blob")


def test_the_position_commits_with_the_rows(any_state: StateFile) -> None:
    """What a transaction wrote and its position become visible together."""
    put(any_state, 2, "a", term=7)

    assert any_state.position() == (2, 7)
    assert items(any_state) == {2: "a"}


def test_a_raising_body_changes_nothing(any_state: StateFile) -> None:
    """Rows and position are as before when the body raises."""
    put(any_state, 2)

    def fail_late() -> None:
        with any_state.transaction() as connection:
            any_state.set_position(3, 1)
            connection.executemany("INSERT INTO items VALUES (?, 'lost')", [(3,), (2,)])

    with pytest.raises(sqlite3.IntegrityError):
        fail_late()

    assert any_state.position() == (2, 1)
    assert items(any_state) == {2: "x"}


def test_memory_can_be_let_go_at_any_time(any_state: StateFile) -> None:
    """Nothing is lost; who writes is not disturbed, nor waited for."""
    put(any_state, 2, "a")
    any_state.shrink()
    with any_state.transaction() as connection:
        any_state.shrink()
        connection.execute("INSERT INTO items VALUES (3, 'b')")
        any_state.set_position(3, 1)

    assert items(any_state) == {2: "a", 3: "b"}
    any_state.close()
    any_state.shrink()


def test_a_state_never_goes_back(any_state: StateFile) -> None:
    """A transaction that would lower the position is refused and rolled back."""
    put(any_state, 5)

    with pytest.raises(AssertionError, match="never goes back"):
        put(any_state, 4)

    assert items(any_state) == {5: "x"}


def test_a_state_is_found_again(tmp_path: Path) -> None:
    """Reopening gives the rows and the position of the last commit, also without a close."""
    path = tmp_path / "state.db"
    first = StateFile(path, SCHEMA)
    put(first, 2, "kept", term=3)
    shutil.copytree(tmp_path, tmp_path / "crashed")
    first.close()
    for folder in (tmp_path, tmp_path / "crashed"):
        with closing(StateFile(folder / "state.db", SCHEMA)) as again:
            assert again.position() == (2, 3)
            assert items(again) == {2: "kept"}


def test_pragmas(state: StateFile) -> None:
    """The file has the page size, journal and automatic checkpoints that were decided."""
    expected = {"page_size": 8192, "journal_mode": "wal", "synchronous": 1, "foreign_keys": 0}
    expected |= {"wal_autocheckpoint": 0, "auto_vacuum": 0}
    with state.transaction() as connection:
        found = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in expected}

    assert found == expected


def test_a_reader_keeps_its_snapshot(state: StateFile) -> None:
    """Two queries of one reader agree although a commit came between them."""
    put(state, 2)
    with state.reader() as connection:
        before = connection.execute("SELECT count(*) FROM items").fetchone()
        put(state, 3)
        assert connection.execute("SELECT count(*) FROM items").fetchone() == before
    assert items(state).keys() == {2, 3}


def test_a_reader_sees_no_open_transaction(state: StateFile) -> None:
    """Uncommitted rows are invisible to readers."""
    with state.transaction() as connection:
        connection.execute("INSERT INTO items VALUES (2, 'open')")
        assert items(state) == {}


def test_readers_cannot_write(state: StateFile) -> None:
    """A borrowed connection is read-only, and its failure does not harm the next reader."""
    with pytest.raises(sqlite3.OperationalError), state.reader() as connection:
        connection.execute("INSERT INTO items VALUES (1, 'x')")

    assert items(state) == {}


def test_durable_needs_no_log(state: StateFile, tmp_path: Path) -> None:
    """What make_durable returned is in the database file itself, should the log be lost."""
    put(state, 2)
    durable = state.make_durable()
    put(state, 3)
    (tmp_path / "cut").mkdir()
    shutil.copy(tmp_path / "shard" / "state.db.1", tmp_path / "cut" / "state.db.1")

    with closing(StateFile(tmp_path / "cut" / "state.db", SCHEMA)) as left:
        assert left.position() == (durable, 1) == (2, 1)
        assert items(left) == {2: "x"}


def test_an_old_reader_holds_durability_back(state: StateFile) -> None:
    """While a reader keeps the log from being copied whole, the previous index is claimed."""
    put(state, 2)
    assert state.make_durable() == 2
    put(state, 3)
    with state.reader() as connection:
        connection.execute("SELECT * FROM items").fetchall()
        put(state, 4)
        assert state.make_durable() == 2
    assert state.make_durable() == 4


def test_a_current_reader_does_not_hold_durability_back(state: StateFile) -> None:
    """A reader of the newest state keeps the log from being emptied, not from being copied."""
    put(state, 2)
    with state.reader() as connection:
        connection.execute("SELECT * FROM items").fetchall()
        assert state.make_durable() == 2
        put(state, 3)
    assert state.make_durable() == 3


def test_a_failed_checkpoint_is_never_retried(state: StateFile, tmp_path: Path) -> None:
    """After an IO error nothing more is called durable, although commits and reads go on."""
    put(state, 2, "x" * 100_000)
    log = tmp_path / "shard" / "state.db.1-wal"
    whole = log.read_bytes()
    os.truncate(log, 50_000)
    with pytest.raises(sqlite3.OperationalError, match="I/O"):
        state.make_durable()
    log.write_bytes(whole)
    put(state, 3)

    assert items(state).keys() == {2, 3}
    with pytest.raises(OSError, match="earlier checkpoint"):
        state.make_durable()


def test_make_durable_empties_the_log(state: StateFile, tmp_path: Path) -> None:
    """The write-ahead log does not grow for ever."""
    put(state, 2, "x" * 100_000)
    log = tmp_path / "shard" / "state.db.1-wal"
    assert log.stat().st_size > 100_000
    state.make_durable()

    assert log.stat().st_size == 0


def test_an_export_is_one_file(any_state: StateFile, tmp_path: Path) -> None:
    """An export carries rows and position, and has no sidecars or leftovers beside it."""
    put(any_state, 2, "a", term=4)
    target = tmp_path / "out" / "exported"
    (tmp_path / "out").mkdir()
    target.with_name("exported.partial").write_bytes(b"left by a crash")
    any_state.export(target)

    assert names(tmp_path / "out") == ["exported"]
    with closing(sqlite3.connect(target)) as connection:
        assert read_meta(connection) == {"applied_index": 2, "applied_term": 4}
        assert connection.execute("SELECT * FROM items").fetchall() == [(2, "a")]


def test_applying_goes_on_during_an_export(state: StateFile, tmp_path: Path) -> None:
    """An export taken beside a writer is one committed state: value sums match its position."""
    stop = threading.Event()

    def write() -> None:
        index = 2
        while not stop.is_set():
            put(state, index, "v" * 500)
            index += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            state.export(tmp_path / f"{number}")
    finally:
        stop.set()
        writer.join()
    for number in range(5):
        with closing(sqlite3.connect(tmp_path / f"{number}")) as connection:
            (count,) = connection.execute("SELECT count(*) FROM items").fetchone()
            assert read_meta(connection)["applied_index"] == count + 1


@pytest.mark.parametrize("image", [b"", b"no image", bytes(8192)])
def test_a_bad_image_is_refused(image: bytes) -> None:
    """CorruptState, and the state in memory is untouched."""
    with closing(StateFile(None, SCHEMA)) as state:
        put(state, 2)
        with pytest.raises(CorruptState):
            state.load(image)

        assert items(state) == {2: "x"}


def test_an_image_restores_the_state() -> None:
    """A dump holds rows and position; loading it undoes what came later."""
    with closing(StateFile(None, SCHEMA)) as state:
        put(state, 2, "a")
        image = state.dump()
        put(state, 3, "b")
        state.load(image)

        assert (state.position(), items(state)) == ((2, 1), {2: "a"})
        put(state, 3, "c")
        assert items(state) == {2: "a", 3: "c"}


def test_an_unfinished_creation_is_begun_anew(tmp_path: Path) -> None:
    """A state that died before its first file was published is created again."""
    (tmp_path / "state.db.upcoming").write_bytes(b"half")
    (tmp_path / "state.db.upcoming-journal").write_bytes(b"half")
    with closing(StateFile(tmp_path / "state.db", SCHEMA)) as state:
        assert state.position() == (1, 0)
    assert names(tmp_path) == ["state.db.1"]


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    """Sweeping unlinks the state's own generations only, the highest being the state."""
    keep = ["state.db", "state.db.x", "state.db.1.bak", "other.db.1", "state.db.2-wal.old"]
    sweep = ["state.db.1", "state.db.1-wal", "state.db.1-shm", "state.db.3-wal"]
    for name in [*keep, *sweep, "state.db.2"]:
        (tmp_path / name).touch()
    layout = StateLayout(tmp_path / "state.db")
    assert layout.current() == 2
    layout.sweep(2)

    assert names(tmp_path) == sorted([*keep, "state.db.2"])


def test_a_closed_state_serves_nothing(any_state: StateFile, tmp_path: Path) -> None:
    """Closing twice is fine; writing to, or making durable, a closed state is not."""
    any_state.close()
    any_state.close()
    with pytest.raises(AssertionError, match="open"):
        put(any_state, 2)


def test_a_reader_may_come_back_after_the_close(state: StateFile) -> None:
    """A reader that is out when the state closes finishes its work."""
    put(state, 2)
    with state.reader() as connection:
        state.close()
        assert connection.execute("SELECT count(*) FROM items").fetchone() == (1,)
    with pytest.raises(AssertionError, match="open"):
        items(state)


def test_missing_directories_are_made(tmp_path: Path) -> None:
    """Parents that do not exist are created on the way, existing ones are kept."""
    make_directory(tmp_path / "a" / "b" / "c")
    make_directory(tmp_path / "a" / "b")

    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_two_kinds_of_state_do_not_mix(tmp_path: Path) -> None:
    """A state opened with another schema is corrupt to it."""
    StateFile(tmp_path / "state.db", SCHEMA).close()
    with pytest.raises(CorruptState, match="kind"):
        StateFile(tmp_path / "state.db", "CREATE TABLE others (key INTEGER PRIMARY KEY);")


def test_reading_checkpointing_and_writing_at_once(state: StateFile, tmp_path: Path) -> None:
    """Under a writer, two checkpointers and readers, no commit is lost and none is half seen."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def repeat(action: str) -> None:
        try:
            while not stop.is_set():
                if action == "checkpoint":
                    applied = state.position()[0]
                    assert state.make_durable() <= state.position()[0]
                    assert applied <= state.position()[0]
                else:
                    with state.reader() as connection:
                        (count,) = connection.execute("SELECT count(*) FROM items").fetchone()
                        assert read_meta(connection)["applied_index"] == count + 1
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    actions = ["checkpoint", "checkpoint", "read", "read"]
    threads = [threading.Thread(target=repeat, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for index in range(2, 400):
        put(state, index, "v" * 300)
    stop.set()
    for thread in threads:
        thread.join()

    assert failures == []
    assert state.make_durable() == 399
    assert len(items(state)) == 398
    with state.reader() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_meta_is_replaced_by_key(any_state: StateFile) -> None:
    """Variables of the state's other writers live beside the position."""
    with any_state.transaction() as connection:
        write_meta(connection, {"clock": 5})
        write_meta(connection, {"clock": 6, "hash": b"x"})
    with any_state.reader() as connection:
        assert read_meta(connection) == {
            "applied_index": 1,
            "applied_term": 0,
            "clock": 6,
            "hash": b"x",
        }


def test_the_commit_that_syncs_the_log_is_announced(tmp_path: Path) -> None:
    """The first one after a checkpoint waits for the disk: the event loop leaves it to others."""
    with closing(StateFile(tmp_path / "state", "CREATE TABLE t (x);")) as state:
        busy = [state.busy]
        with state.transaction():
            state.set_position(2, 1)
        busy.append(state.busy)
        state.make_durable()
        busy.append(state.busy)
    assert busy == [True, False, True]
