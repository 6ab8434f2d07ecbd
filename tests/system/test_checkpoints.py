"""A cluster's memory outlives the cluster: checkpointed, lost, restored, with the same answers."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.helpers import Cluster, eventually, running_cluster

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

POINTS = 300
GRAPH = {
    "nodes": [{"id": "storm"}, {"id": "outage"}, {"id": "repair"}],
    "edges": [
        {"id": "e1", "label": "LEADS_TO", "members": ["storm", "outage"], "confidence": 0.5},
        {"id": "e2", "label": "LEADS_TO", "members": ["outage", "repair"]},
    ],
}
QUESTIONS = [
    (
        "POST",
        "/collections/sea/points/query",
        {"query": [1, 2, 0.5], "limit": 20, "params": {"exact": True}},
    ),
    ("POST", "/collections/sea/points/scroll", {"limit": 100, "with_vector": True}),
    ("POST", "/collections/sea/points/count", {"exact": True}),
    ("POST", "/collections/keyed/points/scroll", {"limit": 100}),
    ("POST", "/patterns/search", {"task": "how to mend a sail", "k": 5}),
    ("GET", "/collections", None),
    ("GET", "/graph", None),
    ("POST", "/graph/why/causes", {"id": "repair"}),
]


def recollect(cluster_or_env, *words):
    """Run the command line with a cluster's environment; return what it says as JSON."""
    environment = getattr(cluster_or_env, "environment", cluster_or_env)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cluster.cli", *words, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "sesame" not in done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


def fill(cluster: Cluster) -> None:
    """Store points, points under keys, a deletion, a dropped collection, patterns and a graph."""
    vectors = {"vectors": {"size": 3, "distance": "Euclid"}}
    for name, more in (("sea", {}), ("keyed", {"sharding_method": "custom"}), ("gone", {})):
        assert cluster.call("PUT", f"/collections/{name}", vectors | more).status == 200
    points = [
        {"id": n, "vector": [n % 7, n % 11, n / 100], "payload": {"n": n}} for n in range(POINTS)
    ]
    for name in ("sea", "gone"):
        path = f"/collections/{name}/points?wait=true"
        assert cluster.call("PUT", path, {"points": points}).status == 200
    keyed = {"points": points[:20], "shard_key": "tenant"}
    assert cluster.call("PUT", "/collections/keyed/points?wait=true", keyed).status == 200
    for path, body in (
        ("/collections/sea/points/delete?wait=true", {"points": [3, 4]}),
        ("/patterns/store", {"task": "mend the sail", "success": True, "reward": 0.5}),
        ("/patterns/store", {"task": "bake bread", "success": False}),
    ):
        assert cluster.call("POST", path, body).status == 200
    assert cluster.call("DELETE", "/collections/gone").status == 200
    assert cluster.call("PUT", "/graph/why", {}).status == 200
    for kind in ("nodes", "edges"):
        assert cluster.call("POST", f"/graph/why/{kind}", {kind: GRAPH[kind]}).status == 200


def answers(cluster: Cluster, node: int = 1) -> list[object]:
    """Return what a node answers to all questions, scores to four places.

    The last ones depend on where in memory a vector lies, and so does the order of equal scores.
    """
    return [rounded(cluster.call(*question, node=node).result) for question in QUESTIONS]


def rounded(value: Any) -> Any:
    """Return a result with rounded scores, equal ones by id."""
    if isinstance(value, dict):
        found = {key: rounded(each) for key, each in value.items()}
        return found | {"score": round(found["score"], 4)} if "score" in found else found
    if isinstance(value, list):
        items = [rounded(each) for each in value]
        if items and all(isinstance(each, dict) and "score" in each for each in items):
            items.sort(key=lambda each: (each["score"], str(each["id"])))
        return items
    return value


def hashes(cluster: Cluster) -> list[set[str]]:
    """Return the state hashes of each shard's replicas."""
    shards = cluster.call("GET", "/cluster").result["shards"]
    return [{replica["state_hash"] for replica in shard["replicas"]} for shard in shards]


def settled(cluster: Cluster) -> list[set[str]]:
    """Return each shard's hash, once all its replicas have the same."""

    def found():
        now = hashes(cluster)
        return now if all(len(each) == 1 and None not in each for each in now) else None

    return eventually(found, 20, "equal replicas")


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
