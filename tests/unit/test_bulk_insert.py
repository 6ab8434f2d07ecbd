"""Rows that go into a table by the dozen."""

import sqlite3
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from storage.bulk_insert import BulkInsert


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 9)), max_size=200))
def test_rows_go_in_one_after_the_other(rows: list[tuple[int, int]]) -> None:
    """Of rows with one key the last counts, whichever statements they were in."""
    then = "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE kept (key INTEGER PRIMARY KEY, value INTEGER)")

        BulkInsert("INSERT INTO kept (key, value)", 2, then).run(connection, rows)

        assert dict(connection.execute("SELECT key, value FROM kept")) == dict(rows)
