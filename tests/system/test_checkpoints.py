"""A cluster's memory outlives the cluster: checkpointed, lost, restored, with the same answers."""

import pytest

from tests.helpers import running_cluster
from tests.system.checkpointed import answers, fill, recollect, settled

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.fixture
def url(postgres):
    """Return the URL of a Postgres, with a password that nobody may see."""
    return postgres.url.replace("postgres@", "postgres:sesame@")


def test_a_cluster_comes_back_from_its_checkpoint(tmp_path, url):
    """Three nodes are lost with all they had; one node, and five, answer as they did."""
    environment = {"RECOLLECT_CHECKPOINT_URL": url, "RECOLLECT_CHECKPOINT_INTERVAL_S": "0"}
    with running_cluster(tmp_path, env=environment) as cluster:
        fill(cluster)
        code, made = recollect(cluster, "checkpoint", "--url", cluster.url())
        assert (code, made["state"], len(made["shards"])) == (0, "finished", 12)
        code, listed = recollect(cluster, "checkpoint", "--list", "--url", cluster.url(2))
        assert [each["id"] for each in listed["checkpoints"]] == [made["id"]]
        code, proved = recollect(cluster, "verify", "--url", cluster.url())
        assert (code, {shard["live"] for shard in proved["shards"]}) == (0, {"equal"})
        number = str(made["id"])
        wanted, wanted_hashes = answers(cluster), settled(cluster)
        assert "sesame" not in cluster.logs()
    for nodes in (1, 5):
        folder = tmp_path / f"restored-{nodes}"
        code, done = recollect(
            cluster, "restore", "--checkpoint", number, "--into", str(nodes), "--data", str(folder)
        )
        assert (code, done["checkpoint"]) == (0, made["id"])
        with running_cluster(tmp_path, nodes=nodes, env=environment, folder=folder) as copy:
            assert [answers(copy, node) for node in (1, nodes)] == [wanted, wanted]
            assert settled(copy) == wanted_hashes
            code, _ = recollect(copy, "verify", "--checkpoint", number,
                                "--url", copy.url())  # fmt: skip
            assert code == 0
            assert copy.call("POST", "/patterns/store", {"task": "sail on"}).status == 200
            code, again = recollect(copy, "checkpoint", "--url", copy.url())
            assert (code, again["state"]) == (0, "finished")


def test_a_folder_in_use_is_refused(tmp_path, url):
    """Nothing is ever restored over something, and what does not exist is named."""
    environment = {"RECOLLECT_CHECKPOINT_URL": url, "PATH": "/usr/bin:/bin"}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").write_text("dear")
    code, refused = recollect(environment, "restore", "--data", str(tmp_path / "full"))
    assert (code, refused["error"]["code"]) == (1, "folder_not_empty")
    code, missing = recollect(
        environment, "restore", "--checkpoint", "999999", "--data", str(tmp_path / "new")
    )

    assert (code, missing["error"]["code"]) == (1, "checkpoint_failed")
    assert "no finished checkpoint 999999" in missing["error"]["message"]
    assert not (tmp_path / "new").exists()
