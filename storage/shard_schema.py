"""What tables a shard's state file has: in one place, for who replicates and who restores it."""

from __future__ import annotations

from pathlib import Path

from storage.graph_rows import GRAPH_SCHEMA
from storage.records import RECORDS_BY_KEY, RECORDS_CHANGES, RECORDS_SCHEMA
from storage.requests import REQUESTS_SCHEMA
from storage.state_file import StateFile


def open_shard_state(path: Path | None) -> StateFile:
    """Open a shard's state, or make an empty one; raises what `StateFile` raises."""
    first = RECORDS_SCHEMA + REQUESTS_SCHEMA
    return StateFile(path, first, RECORDS_BY_KEY + GRAPH_SCHEMA, RECORDS_CHANGES)
