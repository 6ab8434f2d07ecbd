"""A cluster that is formed from a checkpoint: nobody touches its nodes' folders but the nodes."""

import asyncio
import contextlib
import shutil
from dataclasses import dataclass

import asyncpg
import pytest

from tests.helpers import Cluster, await_ready, eventually, start_cluster
from tests.postgres import empty_database
from tests.system.checkpointed import answers, fill, recollect, settled

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

SEA = "/collections/sea/points"


@pytest.fixture
async def url(postgres):
    """Return the URL of a database of its own, with a password that nobody may see."""
    async with empty_database(postgres) as made:
        yield made.replace("postgres@", "postgres:sesame@")


def sql(url: str, statement: str) -> list[tuple[object, ...]]:
    """Run a statement in the database."""

    async def run():
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    return asyncio.run(run())


def why_not_ready(cluster: Cluster, node: int = 1) -> str:
    """Return what a node waits for."""
    answer = cluster.call("GET", "/readyz", node=node)
    return "" if answer.status == 200 else str(answer.body["error"]["reasons"])


def waits_for(cluster: Cluster, text: str, node: int = 1) -> bool:
    """Say whether a node answers that it waits for something."""
    try:
        return text in why_not_ready(cluster, node)
    except OSError:
        return False


def shards_of(cluster: Cluster, node: int) -> list[int]:
    """Return the shards whose state is in a node's folder."""
    found = (cluster.folder / f"node{node}" / "data" / "groups").glob("shard-????.1")
    return sorted(int(path.name[6:10]) for path in found)


@dataclass
class Known:
    """A checkpoint, and what its cluster answered when it was made."""

    id: int
    rows_written: int
    answers: list[object]
    hashes: list[set[str]]

    @classmethod
    def of(cls, cluster: Cluster) -> "Known":
        """Make a checkpoint."""
        made = cluster.call("POST", "/cluster/checkpoint", {}).result
        assert made["state"] == "finished"
        rows = sum(each["rows_written"] for each in made["shards"])
        return cls(made["id"], rows, answers(cluster), settled(cluster))


@contextlib.contextmanager
def started(tmp_path, *options, **shape):
    """Start a cluster, and remove it with all that it has."""
    cluster = start_cluster(tmp_path, *options, **shape)
    try:
        yield cluster
        assert "sesame" not in cluster.logs()
    finally:
        cluster.stop()
    shutil.rmtree(cluster.folder)


def prove_equal(cluster: Cluster, number: int) -> None:
    """Every shard holds what the checkpoint does, and so does each of its replicas."""
    words = ("verify", "--checkpoint", str(number), "--url", cluster.url())
    code, proved = recollect(cluster, *words)
    assert (code, {shard["live"] for shard in proved["shards"]}) == (0, {"equal"})


def put(cluster: Cluster, *numbers: int) -> None:
    """Write points."""
    points = [{"id": number, "vector": [5, 5, number / 7]} for number in numbers]
    assert cluster.call("PUT", f"{SEA}?wait=true", {"points": points}).status == 200


def version(cluster: Cluster, number: int) -> int:
    """Return a point's version."""
    (found,) = cluster.call("POST", f"{SEA}?consistency=majority", {"ids": [number]}).result
    return int(found["version"])


def break_a_shard(url: str) -> int:
    """Damage the last shard that holds records; return its number."""
    ((shard,),) = sql(
        url,
        "UPDATE records SET version = version + 1000 WHERE id_text = '7' AND shard = "
        "(SELECT max(shard) FROM records WHERE id_text = '7') RETURNING shard",
    )
    return int(str(shard))


def test_a_cluster_is_formed_from_its_checkpoint(tmp_path, url):
    """Three nodes are lost, and two come back by themselves, through damage and a kill."""
    environment = {"RECOLLECT_CHECKPOINT_URL": url, "RECOLLECT_CHECKPOINT_INTERVAL_S": "0"}
    with started(tmp_path, env=environment) as first:
        await_ready(first)
        fill(first)
        known, before = Known.of(first), version(first, 7)

    damaged = break_a_shard(url)
    with started(tmp_path, "--restore", "latest", nodes=2, env=environment) as second:
        at = f"restoring shard {damaged + 1} of 12 from checkpoint {known.id}: shard {damaged}"
        for node in (1, 2):
            eventually(lambda: waits_for(second, at, node), 30, f"node{node} at {at}")  # noqa: B023
            assert shards_of(second, node) == list(range(damaged))
        second.kill(2)
        sql(url, "UPDATE records SET version = version - 1000 WHERE version > 1000")
        second.restart(2)
        await_ready(second)
        prove_equal(second, known.id)
        assert [answers(second, node) for node in (1, 2)] == [known.answers] * 2
        assert settled(second) == known.hashes

        put(second, 7, 9001)
        assert version(second, 7) > before
        assert Known.of(second).rows_written > 200
        put(second, 8)
        later = Known.of(second)
        assert later.rows_written == 1

    environment["RECOLLECT_RESTORE"] = "latest"
    with started(tmp_path, env=environment) as third:
        await_ready(third)
        prove_equal(third, later.id)
        assert answers(third, 3) == later.answers
        come_back_with_an_empty_disk(third, 3)


def come_back_with_an_empty_disk(cluster: Cluster, node: int) -> None:
    """A node that lost its disk is refilled by the others, and needs no Postgres for it."""
    cluster.kill(node)
    shutil.rmtree(cluster.folder / f"node{node}" / "data")
    put(cluster, 9002)
    del cluster.environment["RECOLLECT_CHECKPOINT_URL"]
    cluster.restart(node)
    settled(cluster)
    assert version(cluster, 9002) > 0
    log = (cluster.folder / f"node{node}" / "log").read_text()
    assert log.count("refilled by a snapshot") >= 12
    assert "restore is ignored: the cluster was formed before" in log


def test_without_a_checkpoint_there_is_no_cluster(tmp_path, url):
    """An empty cluster in the place of the lost one would be worse than none."""
    environment = {"RECOLLECT_CHECKPOINT_URL": url, "RECOLLECT_RESTORE": "latest"}
    said = "not formed from a checkpoint: the database has no finished checkpoint"
    with started(tmp_path, nodes=1, env=environment) as asked:
        eventually(lambda: waits_for(asked, said), 30, said)
        assert shards_of(asked, 1) == []
