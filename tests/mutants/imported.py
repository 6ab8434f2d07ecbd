"""A pytest plugin: refuses to run when the tree imported is not the one in this folder.

An installed copy of the product would be tested in the place of the mutant, and would live.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import cluster.raft

ELSEWHERE = 9
"""Exit code; pytest's own end at 5."""


def pytest_sessionstart() -> None:
    found = Path(cluster.raft.__path__[0]).resolve()
    if found.parent.parent != Path.cwd().resolve():
        pytest.exit(f"imported {found}, which is not below {Path.cwd()}", returncode=ELSEWHERE)
