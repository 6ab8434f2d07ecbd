"""Checkpoints while Postgres stands still, and with -9 for whoever takes part in them."""

import asyncio
import contextlib
import tempfile
import threading
from pathlib import Path

import asyncpg
import pytest

from tests.checkpoint_crashes import drawn, run
from tests.helpers import eventually, running_cluster
from tests.postgres import empty_database
from tests.system.checkpointed import recollect

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

LOG_BYTES = 65536
SEGMENT_BYTES = 2 << 20
POINTS = "/collections/sea/points?wait=true"
BATCH = 200


@pytest.fixture
def url(postgres):
    """Return the URL of an empty database."""
    with asyncio.Runner() as runner:
        place = empty_database(postgres)
        yield runner.run(place.__aenter__())
        runner.run(place.__aexit__(None, None, None))


@contextlib.contextmanager
def stalled(url, table):
    """Hold a lock that every COPY into a table waits for, while the block runs."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))
        try:
            runner.run(connection.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
            yield
        finally:
            runner.run(connection.close())


def is_waiting(url):
    """Say whether somebody waits for a lock in Postgres."""

    async def ask():
        connection = await asyncpg.connect(url)
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        try:
            return await connection.fetchval(query) > 0
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_writes_go_on_while_postgres_stands_still(tmp_path, url):
    """They are acknowledged, the logs are cut behind them, and in the end all is checkpointed."""
    environment = {
        "RECOLLECT_CHECKPOINT_URL": url,
        "RECOLLECT_CHECKPOINT_INTERVAL_S": "0",
        "RECOLLECT_SHARDS": "1",
        "RECOLLECT_LOG_BYTES_MAX": str(LOG_BYTES),
        "RECOLLECT_SEGMENT_BYTES": str(SEGMENT_BYTES),
    }
    with running_cluster(tmp_path, env=environment) as cluster:
        vectors = {"vectors": {"size": 2, "distance": "Dot"}}
        assert cluster.call("PUT", "/collections/sea", vectors).status == 200
        payload, numbers = {"text": "t" * 5000}, iter(range(0, 10**6, BATCH))

        def write():
            first = next(numbers)
            points = [{"id": first + k, "vector": [1, k], "payload": payload} for k in range(BATCH)]
            assert cluster.call("PUT", POINTS, {"points": points}).status == 200
            return first + BATCH

        def segments():
            return {file.name for file in cluster.folder.glob("node*/data/log/*.wal")}

        write()
        assert recollect(cluster, "checkpoint", "--url", cluster.url())[1]["state"] == "finished"
        write()
        with stalled(url, "records"):
            asking = threading.Thread(target=cluster.call, args=("POST", "/cluster/checkpoint", {}))
            asking.start()
            eventually(lambda: is_waiting(url), 20, "the checkpoint waits for Postgres")
            before = segments()
            eventually(lambda: write() and not before & segments(), 60, "logs that are cut")
            assert is_waiting(url)
            asking.join()
        total = write()
        code, made = recollect(cluster, "checkpoint", "--url", cluster.url())
        while made["state"] == "running":
            code, made = recollect(cluster, "checkpoint", "--url", cluster.url())
        code, proved = recollect(cluster, "verify", "--url", cluster.url())
        listed = cluster.call("GET", "/cluster/checkpoints").result["checkpoints"]

    assert (code, {shard["live"] for shard in proved["shards"]}) == (0, {"equal"})
    assert [each["records"] for each in listed][::2] == [total, BATCH]


def test_kill_9_at_any_moment_leaves_the_last_checkpoint():
    """Of a node, of Postgres and of a restoration; `python -m tests.checkpoint_crashes` has more.

    What was complete verifies, what was not does not count, and the next one succeeds.
    """
    story: list[str] = []
    with tempfile.TemporaryDirectory(prefix="recollect-test-") as folder:
        tally = run(Path(folder), drawn(1500, 16, 3), 2, 3, story.append)

    assert sum(tally.values()) == 4, story
    assert tally["restore"] == 2
    assert story[-1].endswith("every shard is equal")
