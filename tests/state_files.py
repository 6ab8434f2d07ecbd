"""A small kind of state for the tests of state files."""

from contextlib import closing
from pathlib import Path

from storage.state_file import StateFile

SCHEMA = "CREATE TABLE items (key INTEGER PRIMARY KEY, value TEXT NOT NULL);"


def put(state: StateFile, index: int, value: str = "x", term: int = 1) -> None:
    with state.transaction() as connection:
        connection.execute("REPLACE INTO items VALUES (?, ?)", (index, value))
        state.set_position(index, term)


def items(state: StateFile) -> dict[int, str]:
    with state.reader() as connection:
        return dict(connection.execute("SELECT key, value FROM items"))


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def exported(folder: Path, index: int = 9, value: str = "new") -> Path:
    """Return an export whose position is (index, 2)."""
    with closing(StateFile(folder / "origin" / "state.db", SCHEMA)) as source:
        put(source, index, value, term=2)
        source.export(folder / "exported")
    return folder / "exported"
