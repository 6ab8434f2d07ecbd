"""Rows of a table flow into collections, whoever is killed; a backlog is told as it grows."""

import asyncio
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import asyncpg
import pytest

from tests.helpers import call, eventually
from tests.outbox_run import Stage, run, stage

ROWS = 1500


def recollect(on_stage: Stage, *words: str):
    """Run `recollect outbox` as its own process; return what it printed as JSON."""
    command = [sys.executable, "-P", "-m", "cluster.cli", "outbox", *words, "--json"]
    environment = {**on_stage.cluster.environment}
    done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    return json.loads(done.stdout)


@pytest.mark.timeout(300)
def test_every_row_once_while_nodes_and_postgres_die(tmp_path: Path):
    """Each collection becomes the table, and each row that was written once came once."""
    with stage(tmp_path) as on_stage:
        outcome = run(on_stage, ROWS, 2)
        assert outcome.changes > outcome.inserted >= ROWS
        assert outcome.rolled_back > 0
        assert outcome.applied >= outcome.rows

        _expect_falling_coherency(on_stage)
        assert "sesame" not in on_stage.cluster.logs()


def _expect_falling_coherency(on_stage: Stage) -> None:
    """Pause, and look at every node and the metrics while a change waits; then resume."""
    recollect(on_stage, "pause", "--collection", "texts")
    _insert(on_stage)
    lag_ms, coherency = 0.0, 1.0
    for bound in (0.9, 0.7, 0.5, 0.0):
        for node in (1, 2, 3):
            found = eventually(lambda: _behind(on_stage, node, bound), 20)  # noqa: B023
            assert (found["state"], found["pending"], found["gap"]) == ("paused", 1, False)
            assert found["lag_ms"] > lag_ms
            assert found["coherency_with_truth"] <= coherency
            lag_ms, coherency = found["lag_ms"], found["coherency_with_truth"]
    (shown,) = [
        each for each in recollect(on_stage, "status")["sources"] if each["collection"] == "texts"
    ]
    assert shown["lag_ms"] > lag_ms >= 5000
    assert on_stage.outbox()["vectors"]["coherency_with_truth"] == 1.0
    assert _has_metric(on_stage, 'recollect_outbox_coherency_with_truth{collection="texts"} 0.0')
    assert all(on_stage.cluster.is_ready(node) for node in (1, 2, 3))
    recollect(on_stage, "resume", "--collection", "texts")
    eventually(lambda: on_stage.outbox()["texts"]["coherency_with_truth"] == 1.0, 20)


def _behind(on_stage: Stage, node: int, bound: float):
    found = on_stage.outbox(node).get("texts")
    return found if found and found["coherency_with_truth"] <= bound else None


def _has_metric(on_stage: Stage, line: str) -> bool:
    def found() -> bool:
        with urllib.request.urlopen(f"{on_stage.cluster.url()}/metrics") as answer:
            return line in answer.read().decode().splitlines()

    return eventually(found, 20, line)


def _insert(on_stage: Stage) -> None:
    async def work() -> None:
        connection = await asyncpg.connect(on_stage.server.url)
        await connection.execute("INSERT INTO rows VALUES (0, 'a lonely row', '{1,2,3,4}')")
        await connection.close()

    asyncio.run(work())


def test_without_a_url_there_is_no_outbox(shared):
    """The answer says which setting is missing."""
    answer = call(shared.url(), "GET", "/outbox")

    assert answer.status == 400
    assert "RECOLLECT_OUTBOX_URL" in answer.body["status"]["error"]
