"""A data folder has one user, and is what it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.data_lock import FolderRefused, claim

MEMBERS = ("node1", "node2", "node3")


def test_a_folder_is_claimed_once(tmp_path: Path) -> None:
    """A second node on the folder is refused until the first has ended."""
    held = claim(tmp_path, "node1", MEMBERS)
    with pytest.raises(FolderRefused, match="another process"):
        claim(tmp_path, "node1", MEMBERS)
    os.close(held)
    os.close(claim(tmp_path, "node1", MEMBERS))


def test_a_folder_belongs_to_one_node(tmp_path: Path) -> None:
    """Starting another node on it would mix two histories."""
    os.close(claim(tmp_path, "node1", MEMBERS))
    with pytest.raises(FolderRefused, match="belongs to node1"):
        claim(tmp_path, "node2", MEMBERS)


def test_state_without_its_log_is_refused(tmp_path: Path) -> None:
    """A node that forgot its votes could vote again in the same term."""
    os.close(claim(tmp_path, "node1", MEMBERS))
    (tmp_path / "groups").mkdir()
    (tmp_path / "groups" / "metadata").mkdir()
    with pytest.raises(FolderRefused, match="no log"):
        claim(tmp_path, "node1", MEMBERS)
    (tmp_path / "log").mkdir()
    segment = tmp_path / "log" / "0000000000000001-00000000.wal"
    segment.write_bytes(bytes(4096))
    with pytest.raises(FolderRefused, match="no log"):
        claim(tmp_path, "node1", MEMBERS)
    segment.write_bytes(b"RCL1" + bytes(4096))
    os.close(claim(tmp_path, "node1", MEMBERS))


def test_the_metadata_group_keeps_its_members(tmp_path: Path) -> None:
    """A node that counts other majorities than its peers could elect a second leader."""
    os.close(claim(tmp_path, "node1", MEMBERS))
    os.close(claim(tmp_path, "node1", MEMBERS[::-1]))
    with pytest.raises(FolderRefused, match="metadata group is node1, node2, node3"):
        claim(tmp_path, "node1", ("node1",))
