"""`recollect up` with real nodes: each sentence that scripts rely on, one test."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from functools import partial

import pytest

from cluster.ports import taken
from storage.embedded_postgres import EmbeddedPostgres
from tests.helpers import (
    STOP_S,
    await_ready,
    call,
    eventually,
    is_running,
    running_cluster,
    start_cluster,
)
from tests.postgres import reachable_folder

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

TASK = {"id": 7, "task": "remember the harbour at night"}


def store(cluster, node=1):
    return cluster.call("POST", "/patterns/store", TASK, node=node).result


def stored_task(cluster, node=1):
    rows = cluster.call("POST", "/collections/patterns/points", {"ids": [TASK["id"]]}, node=node)
    return [row["payload"]["task"] for row in rows.result]


def has_task(cluster, node):
    return stored_task(cluster, node) == [TASK["task"]]


def test_nodes_serve_on_the_ports_that_follow_from_the_base(tmp_path):
    """Node k serves HTTP on P+k and peers on P+1000+k; pid files name the serving processes."""
    with running_cluster(tmp_path) as cluster:
        cluster.until_ready()
        for node in (1, 2, 3):
            raw = (cluster.folder / f"node{node}" / "pid").read_bytes()
            assert raw == b"%d\n" % int(raw)
            assert is_running(int(raw))
        peers = [cluster.port + 1000 + node for node in (1, 2, 3)]
        assert taken(peers) == peers
        assert sorted(p.name for p in cluster.folder.glob("node*")) == ["node1", "node2", "node3"]
        assert stat.S_IMODE((cluster.folder / "recollect.json").stat().st_mode) == 0o600


def test_ready_means_that_the_next_request_works(tmp_path):
    """Right after `Ready` a collection can be created and a memory stored on any node, at once."""
    with running_cluster(tmp_path) as cluster:
        for node in (3, 2, 1):
            vectors = {"vectors": {"size": 4, "distance": "Cosine"}}
            assert cluster.call("PUT", f"/collections/c{node}", vectors, node=node).result is True
        assert store(cluster)["id"] == TASK["id"]


def test_pid_is_the_process_that_serves(tmp_path):
    """Killing the process of the pid file silences that node, and the others go on."""
    with running_cluster(tmp_path) as cluster:
        store(cluster)
        cluster.kill(3)
        with pytest.raises(OSError, match=r"refused|reset"):
            cluster.call("GET", "/healthz", node=3)

        eventually(lambda: "it is left dead" in cluster.stderr.read_text())
        eventually(lambda: cluster.call("POST", "/patterns/store", TASK).status == 200, 20)
        assert cluster.process.poll() is None
        assert not cluster.is_ready(3)


def test_restart_brings_a_dead_node_back(tmp_path):
    """With --restart a killed node serves again, with what was acknowledged."""
    with running_cluster(tmp_path, "--restart") as cluster:
        store(cluster)
        killed = cluster.kill(2)
        eventually(lambda: cluster.pid(2) != killed)
        eventually(lambda: cluster.is_ready(2), 60)

        assert eventually(lambda: has_task(cluster, 2))


def test_folder_with_foreign_files_and_stale_pids(tmp_path):
    """DIR may exist and hold foreign files; a pid file of an earlier life is replaced."""
    folder = tmp_path / "data"
    (folder / "node1").mkdir(parents=True)
    (folder / "node1" / "pid").write_text(f"{os.getpid()}\n")
    (folder / "letters").mkdir()
    (folder / "notes.txt").write_text("mine")
    with running_cluster(tmp_path, nodes=1) as cluster:
        assert cluster.pid(1) != os.getpid()
        assert is_running(cluster.pid(1))
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "letters").is_dir()


@pytest.mark.parametrize(("nodes", "number"), [(1, signal.SIGINT), (3, signal.SIGTERM)])
def test_asked_to_end_and_resumed(tmp_path, nodes, number):
    """SIGTERM or Ctrl-C ends all within 20 s; the folder's cluster is resumed with its data."""
    with running_cluster(tmp_path, nodes=nodes) as cluster:
        store(cluster)
        pids = cluster.pids
        asked_s = time.monotonic()
        cluster.process.send_signal(number)

        assert cluster.process.wait(STOP_S) == 0
        assert time.monotonic() - asked_s < STOP_S
        assert not any(is_running(pid) for pid in pids)
        assert "had to kill" not in cluster.stderr.read_text()
    with running_cluster(tmp_path, nodes=nodes) as cluster:
        assert stored_task(cluster) == [TASK["task"]]


def test_killed_up_takes_its_nodes_along(tmp_path):
    """kill -9 of `up` ends its nodes; the next `up` resumes at once what was acknowledged."""
    with running_cluster(tmp_path) as cluster:
        store(cluster)
        pids = cluster.pids
        cluster.process.kill()
        cluster.process.wait()
        eventually(lambda: not any(is_running(pid) for pid in pids), STOP_S)
        port = cluster.port
    with running_cluster(tmp_path, port=port) as cluster:
        for node in (1, 2, 3):
            assert eventually(partial(has_task, cluster, node))


def counted_by_index(cluster, node):
    where = {"must": {"key": "task", "match": {"text": "harbour"}}}
    path = "/collections/patterns/points/count"
    answer = cluster.call("POST", path, {"filter": where}, node=node)
    assert answer.result == {"count": 1}
    return "usage" not in answer.body


def test_all_nodes_killed_at_once(tmp_path):
    """What was acknowledged survives kill -9 of every node, and so do payload indexes."""
    with running_cluster(tmp_path) as cluster:
        store(cluster)
        field = {"field_name": "task", "field_schema": "text"}
        indexed = cluster.call("PUT", "/collections/patterns/index?wait=true", field, node=2)
        assert indexed.result["status"] == "completed"
        for pid in cluster.pids:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: cluster.stderr.read_text().count("left dead") == 3)
        cluster.stop()
    with running_cluster(tmp_path) as cluster:
        assert stored_task(cluster) == [TASK["task"]]
        for node in (1, 2, 3):
            assert eventually(partial(counted_by_index, cluster, node))


def test_second_up_on_a_folder_is_refused(tmp_path):
    """A folder in use, and a resume with another number of nodes, are clear errors."""
    with running_cluster(tmp_path, nodes=1) as cluster:
        second = start_cluster(tmp_path, nodes=1, folder=cluster.folder)

        assert second.process.wait(20) == 1
        assert "is in use by another `recollect up`" in second.stderr.read_text()
        assert cluster.is_ready(1)
    third = start_cluster(tmp_path, nodes=3, folder=cluster.folder)

    assert third.process.wait(20) == 1
    assert "holds a cluster of 1 node, not 3" in third.stderr.read_text()


def test_ports_in_use_are_refused(tmp_path):
    """A second cluster on the same ports is refused before it starts anything."""
    with running_cluster(tmp_path, nodes=1) as cluster:
        other = tmp_path / "other"
        second = start_cluster(tmp_path, nodes=1, folder=other, port=cluster.port)

        assert second.process.wait(20) == 1
        assert f"ports {cluster.port + 1}, {cluster.port + 1001} are in use" in (
            second.stderr.read_text()
        )
        assert list(other.glob("node*")) == []


def test_key_is_inherited(tmp_path):
    """With a key in the environment every node asks for it, and still becomes ready."""
    with running_cluster(tmp_path, nodes=1, env={"RECOLLECT_API_KEY": "sesame"}) as cluster:
        assert call(cluster.url(1), "GET", "/collections").status == 401
        assert call(cluster.url(1), "GET", "/healthz").status == 200
        assert cluster.call("GET", "/collections").status == 200
        assert "sesame" not in cluster.logs()


def test_node_can_be_restarted_by_hand(tmp_path):
    """A dead node started again by its own command rejoins and catches up."""
    with running_cluster(tmp_path) as cluster:
        cluster.kill(2)
        eventually(lambda: cluster.call("POST", "/patterns/store", TASK).status == 200, 20)
        cluster.restart(2)

        assert eventually(lambda: has_task(cluster, 2))


def test_resume_on_other_ports(tmp_path):
    """The ports are no property of a folder: a cluster can be resumed on others."""
    with running_cluster(tmp_path, nodes=3) as cluster:
        store(cluster)
        first = cluster.port
    cluster = start_cluster(tmp_path, folder=cluster.folder, port=first + 10)
    try:
        await_ready(cluster)

        assert stored_task(cluster) == [TASK["task"]]
    finally:
        cluster.stop()


def recollect(*words, within):
    """Run a command in a folder, as somebody does who has set nothing; return what it says."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RECOLLECT_")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cluster.cli", *words, "--json"],
        env=kept,
        cwd=within,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout)


def test_own_postgres(tmp_path):
    """Without an address `up` runs a Postgres, which ends with it in every way, and is resumed;
    commands find it by the folder, whether it runs or not."""
    own = {"RECOLLECT_CHECKPOINT_URL": "", "RECOLLECT_CHECKPOINT_INTERVAL_S": "0"}
    with reachable_folder() as place:
        folder = place / "recollect-data"
        server = EmbeddedPostgres(folder / "postgres")
        with running_cluster(tmp_path, nodes=1, env=own, folder=folder) as cluster:
            store(cluster)
            eventually(server.is_ready, 60)
            made = recollect("checkpoint", "--url", cluster.url(), within=place)
            proved = recollect("verify", within=place)
            assert {each["state"] for each in proved["shards"]} == {"proved"}
            pid = int((server.data / "postmaster.pid").read_text().split()[0])
            cluster.process.kill()
            cluster.process.wait()
            eventually(lambda: not is_running(pid))
        done = recollect("restore", "--into", "2", "--data", "copy", within=place)
        assert (done["checkpoint"], done["records"]) == (made["id"], 1)
        assert not server.is_running()
        with running_cluster(tmp_path, nodes=1, env=own, folder=folder) as cluster:
            eventually(server.is_ready, 30)
            found = recollect("checkpoint", "--list", "--url", cluster.url(), within=place)
            assert [each["id"] for each in found["checkpoints"]] == [made["id"]]
            assert cluster.stop() == 0
            assert not server.is_running()


def test_no_postgres(tmp_path):
    """`up --no-postgres` runs none, and a checkpoint is refused with a sentence."""
    own = {"RECOLLECT_CHECKPOINT_URL": ""}
    with running_cluster(tmp_path, "--no-postgres", nodes=1, env=own) as cluster:
        assert not (cluster.folder / "postgres").exists()
        assert cluster.call("POST", "/cluster/checkpoint", {}).status == 400
