"""The commands against a real cluster: what a person types, and what comes back."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers import eventually, running_cluster

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Three nodes for all tests of this file."""
    with running_cluster(tmp_path_factory.mktemp("commands")) as running:
        yield running


@pytest.fixture
def recollect(cluster):
    """Runs a command as a process and returns it when it has ended."""

    def call(*words, text=""):
        return subprocess.run(
            [sys.executable, "-P", "-m", "cluster.cli", *words],
            env=dict(os.environ) | {"RECOLLECT_URL": cluster.url(2)},
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return call


def test_store_and_search(recollect):
    """A stored sentence is found by its meaning, first among others."""
    lines = ["The cat slept on the warm roof", "Interest rates rose again in spring"]
    stored = recollect("store", "-", text="\n".join(json.dumps(line) for line in lines))
    found = recollect("search", "a kitten napping", "-k", "2", "--json")

    assert stored.returncode == 0
    assert stored.stdout == "Stored 2 memories\n"
    assert json.loads(found.stdout)[0]["task"] == lines[0]


def test_search_with_filter(recollect):
    """A filter narrows what a search may return."""
    recollect("store", "Upload in small parts", "--success", "--session", "a")
    recollect("store", "Upload in one piece", "--failure", "--session", "b")
    wanted = {"must": [{"key": "sessionId", "match": {"value": "b"}}]}
    found = recollect("search", "upload", "--filter", json.dumps(wanted), "--json")

    assert [hit["task"] for hit in json.loads(found.stdout)] == ["Upload in one piece"]


def test_status_nodes_and_shards(recollect):
    """All three agree on a healthy cluster, and its replicas become equal.

    Who leads a shard is of the moment, and so is whether a node is ready.
    """

    def told():
        """Return what status and nodes say when every shard has a leader, else None."""
        asked = recollect("status", "--json"), recollect("nodes", "--json")
        if any(command.returncode for command in asked):
            return None
        status, nodes = (json.loads(command.stdout) for command in asked)
        led = not status["shards_without_leader"]
        return (
            (status, nodes) if led and sum(n["leads"] for n in nodes) == status["shards"] else None
        )

    status, nodes = eventually(told, 30, "a leader of every shard")

    assert status["nodes"] == {"node1": "up", "node2": "up", "node3": "up"}
    assert "patterns" in {row["name"] for row in status["collections"]}
    assert all(node["alive"] for node in nodes)
    eventually(lambda: recollect("shards").stdout.count(" equal") == status["shards"], 30)


def test_refusal_is_a_sentence(recollect):
    """What the node refuses reaches the person as its sentence, with code 1."""
    refused = recollect("search", "x", "--collection", "absent")

    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: ")
    assert "absent" in refused.stderr
