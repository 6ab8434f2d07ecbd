"""Small documents by (kind, name), with an incremental hash over all of them."""

from __future__ import annotations

import sqlite3
from typing import Final

from storage.record_hash import DIGEST_BYTES, SetHash, document_digest
from storage.state_file import read_meta, write_meta

DOCUMENTS_SCHEMA: Final = """
CREATE TABLE documents (
  kind TEXT NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
"""


class Documents:
    """The table of documents on an open connection; after changes, `finish` before the commit."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._hash = SetHash(read_meta(connection).get("document_hash", bytes(DIGEST_BYTES)))

    def state_hash(self) -> bytes:
        """Return the 16-byte hash over all documents as they stand."""
        return self._hash.digest()

    def get(self, kind: str, name: str) -> bytes | None:
        """Return a document's value, or None."""
        query = "SELECT value FROM documents WHERE kind = ? AND name = ?"
        row = self._connection.execute(query, (kind, name)).fetchone()
        return None if row is None else bytes(row[0])

    def of_kind(self, kind: str) -> dict[str, bytes]:
        """Return the values of a kind by name, ascending."""
        query = "SELECT name, value FROM documents WHERE kind = ? ORDER BY name"
        return dict(self._connection.execute(query, (kind,)))

    def put(self, kind: str, name: str, value: bytes) -> None:
        """Set a document."""
        self.remove(kind, name)
        self._connection.execute("INSERT INTO documents VALUES (?, ?, ?)", (kind, name, value))
        self._hash.add([document_digest(kind, name, value)])

    def remove(self, kind: str, name: str) -> bool:
        """Delete a document; return whether there was one."""
        value = self.get(kind, name)
        if value is None:
            return False
        self._connection.execute("DELETE FROM documents WHERE kind = ? AND name = ?", (kind, name))
        self._hash.remove([document_digest(kind, name, value)])
        return True

    def finish(self) -> None:
        """Write what is kept beside the table."""
        write_meta(self._connection, {"document_hash": self._hash.digest()})


def recompute_document_hash(connection: sqlite3.Connection) -> bytes:
    """Return the hash of all documents from the table itself."""
    total = SetHash()
    rows = connection.execute("SELECT kind, name, value FROM documents")
    total.add(document_digest(*row) for row in rows)
    return total.digest()
