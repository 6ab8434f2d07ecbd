"""The commands around checkpoints: what they print, and how they refuse."""

import asyncio
import json
from pathlib import Path

import pytest

from cluster.cli import run
from cluster.shard import ShardMachine
from storage.checkpoint.database import Database
from storage.checkpoint.migrate import migrate
from storage.embedded_postgres import EmbeddedPostgres
from tests.postgres import checkpoint_shard, empty_database
from tests.shard_commands import TTL_MS, apply, command, point, upsert
from tests.stand_in_node import stand_in_node

SHARD = {
    "shard": 0, "node": "node2", "applied_index": 7, "state_hash": "ab", "records": 2,
    "tombstones": 0, "nodes": 1, "hyperedges": 0, "rows_written": 3,
}  # fmt: skip


@pytest.fixture
def said(capsys, monkeypatch):
    """Run a command line; return its exit code and what it printed."""
    monkeypatch.delenv("RECOLLECT_CHECKPOINT_URL", raising=False)

    def recollect(*words):
        code = run(words)
        return code, capsys.readouterr()

    return recollect


@pytest.fixture
def node():
    with stand_in_node() as made:
        yield made


@pytest.fixture
def written(postgres, tmp_path):
    """The URL of a database with a checkpoint of one shard, and its manifest."""
    machine = ShardMachine(None, request_id_ttl_ms=TTL_MS)
    apply(machine, command(upsert(point(1), point(2))))

    async def prepare(url):
        async with Database.opened(url) as database:
            await migrate(database)
            return await checkpoint_shard(database, machine, tmp_path)

    with asyncio.Runner() as runner:
        place = empty_database(postgres)
        url = runner.run(place.__aenter__())
        yield url, runner.run(prepare(url))
        runner.run(place.__aexit__(None, None, None))


def test_a_checkpoint_is_told(said, node):
    """What every shard came to is a table; one that takes long is said to go on."""
    whole = {"id": 4, "state": "finished", "seconds": 0.5, "shards": [SHARD]}
    running = {"id": 0, "state": "running", "seconds": 0.0, "shards": []}
    node.answer("POST", "/cluster/checkpoint", (200, whole), (200, running))
    _, first = said("checkpoint", "--url", node.url)
    _, second = said("checkpoint", "--url", node.url)

    assert "Checkpoint 4 is whole (0.50 s)" in first.out
    assert "node2" in first.out
    assert "Checkpoint of now is under way: 0 shards" in second.out


def test_checkpoints_are_listed(said, node):
    """The newest comes first; what is wrong is said."""
    listed = {
        "id": 4, "finished_at": "2026-01-01", "records": 5, "nodes": 0, "hyperedges": 0,
        "rows_written": 1,
    }  # fmt: skip
    found = {"checkpoints": [listed], "problem": "the last one failed"}
    node.answer("GET", "/cluster/checkpoints", (200, found), (200, {**found, "checkpoints": []}))
    _, table = said("checkpoint", "--list", "--url", node.url)
    _, none = said("checkpoint", "--list", "--url", node.url)

    assert "2026-01-01" in table.out
    assert "Problem: the last one failed" in table.out
    assert "No checkpoint yet" in none.out


def test_a_cluster_is_compared_with_a_checkpoint_of_its_own(said, node, written):
    """Another cluster's checkpoint in the same database proves nothing about this one."""
    url, _ = written
    node.answer("GET", "/cluster", (200, {"cluster_id": "c2", "shards": [{"replicas": []}]}))
    code, shown = said("verify", "--from", url, "--url", node.url)

    assert code == 1
    assert "no finished checkpoint" in shown.err


def test_a_checkpoint_is_verified(said, node, written):
    """Each shard is proved, and compared with a running cluster when there is one."""
    url, manifest = written
    known = manifest.state_hash.hex()
    replicas = [
        {"applied_index": 9, "state_hash": known},
        {"applied_index": 9, "state_hash": "ff"},
        {"applied_index": manifest.applied_index, "state_hash": "ff"},
        {"applied_index": None, "state_hash": None},
    ]
    answers = [
        (200, {"cluster_id": "c1", "shards": [{"replicas": [replica]}]}) for replica in replicas
    ]
    node.answer("GET", "/cluster", *answers)
    codes, verdicts = [], []
    for _ in replicas:
        code, shown = said("verify", "--from", url, "--url", node.url, "--json")
        codes.append(code)
        verdicts.append(json.loads(shown.out)["shards"][0]["live"])
    _, alone = said("verify", "--from", url)

    assert verdicts == ["equal", "changed since", "DIFFERENT", "no answer"]
    assert codes == [0, 0, 1, 0]
    assert "proved" in alone.out


def test_damage_is_an_exit_code(said, written):
    """A shard that is not as it was written is named, and the command fails."""
    url, _ = written

    async def spoil():
        async with Database.opened(url) as database:
            await database.run(lambda c: c.execute("DELETE FROM records WHERE id_text = '1'"))

    asyncio.run(spoil())
    code, shown = said("verify", "--from", url)

    assert code == 1
    assert "DAMAGED" in shown.out
    assert "shards 0 are not as they were written" in shown.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("verify",), "no database was given"),
        (("restore", "--from", "sesame"), "is no URL of a Postgres"),
        (("verify", "--from", "postgresql://sesame@[1"), "cannot be read"),
        (("verify", "--from", "postgresql://u:sesame@127.0.0.1:1/x"), "cannot be reached"),
    ],
)
def test_what_is_wrong_with_the_database_is_said(said, tmp_path, monkeypatch, words, sentence):
    """One sentence, a hint, and nothing of the URL."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cluster.commands.checkpoint_options.PATIENCE_S", 0.1)
    code, shown = said(*words)

    assert code == 1
    assert sentence in shown.err
    assert "Hint: " in shown.err
    assert "sesame" not in shown.out + shown.err


def test_postgres_is_started_and_stopped(said, tmp_path_factory, postgres):
    """The words of `recollect postgres`, on a server that runs and on one that never did."""
    folder = str(postgres.folder)
    _, shown = said("postgres", "url", "--data", folder)
    running, state = said("postgres", "status", "--data", folder)
    started, again = said("postgres", "start", "--data", folder)
    nowhere = str(tmp_path_factory.mktemp("none"))
    idle, complaint = said("postgres", "status", "--data", nowhere)
    _, stopped = said("postgres", "stop", "--data", nowhere, "--json")

    assert shown.out == again.out == f"{postgres.url}\n"
    assert (running, started, idle) == (0, 0, 1)
    assert state.out == f"Running: {postgres.url}\n"
    assert "no Postgres runs in" in complaint.err
    assert json.loads(stopped.out) == {"stopped": False}


def test_a_long_folder_has_a_short_socket(tmp_path):
    """A socket's path is limited: a long folder's is elsewhere, and the same each time."""
    long = tmp_path / ("x" * 100)
    first, second = EmbeddedPostgres(long), EmbeddedPostgres(long)

    assert first.url == second.url
    assert "xxx" not in first.url
    assert "?host=%2Fsrv%2Fy%2Fsocket" in EmbeddedPostgres(Path("/srv/y")).url
