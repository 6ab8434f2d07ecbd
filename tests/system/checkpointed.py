"""What a cluster is given to remember, and asked, before and after it was lost."""

import json
import subprocess
import sys
from typing import Any

from tests.helpers import Cluster, eventually

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
