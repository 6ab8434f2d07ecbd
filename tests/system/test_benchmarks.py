"""Benchmarks that run nodes themselves: small, so that they go on working."""

import subprocess
import sys

import numpy as np
import pytest

from bench import dataset
from bench.plain import plain
from bench.systems import InProcess


def run(*words):
    """Run a benchmark; return what it prints."""
    command = [sys.executable, "-m", "bench", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)

    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.timeout(200)
def test_a_killed_node_finds_what_was_acknowledged():
    """After kill -9 it answers as before, and finds rows that its index file does not have."""
    said = run("restart", "--rows", "600", "--newer", "300", "--rounds", "1")

    assert "newer, median" in said


@pytest.mark.timeout(200)
def test_rewriting_everything_costs_no_recall():
    """So few rows are found as well as exact search finds them, whatever was rewritten."""
    said = run("rewrites", "--rows", "400", "--queries", "50", "--rewrites", "2")
    rows = [line.split("│") for line in said.splitlines() if line.startswith("│")]

    assert [row[1].strip() for row in rows] == ["stored", "same", "swapped", "moved", "readded"]
    assert all(float(row[2]) > 0.99 for row in rows)


@pytest.mark.timeout(200)
def test_memory_is_told_by_what_it_is():
    """The regions of a process add up to a table."""
    said = run("memory", "--rows", "300", "--seconds", "1")

    assert "all (PSS)" in said


def test_a_plain_server_finds_what_hnswlib_finds():
    """It has the index of hnswlib in process, and adds HTTP alone."""
    data = dataset.opened(None, rows=500, queries=20)
    limit = InProcess(data.vectors.shape[1])
    limit.store(data.vectors)
    with plain(limit, 40) as server:
        assert server.is_indexed(500)
        assert server.find(data.queries, None) == limit.find(data.queries, 40)
        speed = server.speed(data.queries, None, 2, 1.0)

    assert speed.rate > 0
    assert np.isfinite(speed.p99_ms)
