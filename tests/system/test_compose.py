"""The cluster in containers, as an operator meets it: built, used, broken and removed.

The tests build on one deployment and run in order. Each fault is made under load, at nodes with
512 MiB; after it, every acknowledged point is on every node, the state hashes are equal, no
request was kept waiting, and Postgres has not noticed.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from tests.compose import (
    ANSWER_S,
    BASE,
    IMAGE,
    NODES,
    RETURN_S,
    ROOT,
    Deployment,
    Load,
    new_deployment,
    why_not,
)
from tests.helpers import eventually

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

LOAD: Final = "/collections/load"
FILL: Final = "/collections/fill"
FAULT_S: Final = 20.0
STOP_S: Final = 10.0
MIB: Final = 1 << 20
IMAGE_MIB_MAX: Final = 300
FILL_DIMENSION: Final = 4096
FILL_BATCH: Final = 50
FILL_POINTS_MAX: Final = 40_000
"""Their vectors alone are larger than a node's memory."""


def say(request: pytest.FixtureRequest, text: str) -> None:
    """Print a line whatever pytest captures."""
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\ncompose: {text}", flush=True)


@pytest.fixture(scope="module")
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """Three nodes and a Postgres by `make up`; gone at the end."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    began = time.monotonic()
    made = new_deployment()
    try:
        up = made.make("up")
        assert up.returncode == 0, up.stdout + up.stderr
        say(request, f"make up took {time.monotonic() - began:.0f} s")
        made.postgres("CREATE TABLE kept (word text); INSERT INTO kept VALUES ('here')")
        yield made
        if request.session.testsfailed:
            say(request, made.logs())
    finally:
        made.remove()
        left = (made.containers(), made.volumes())
        made.engine.close()
        assert left == ([], [])
        say(request, f"all of it took {time.monotonic() - began:.0f} s")


def vector(number: int) -> list[float]:
    """A vector that says which point it belongs to: no other has it."""
    return [1.0, float(number % 40), float(number // 40 % 40), float(number // 1600)]


def point(number: int) -> dict[str, Any]:
    return {"id": number, "vector": vector(number), "payload": {"number": number}}


@pytest.fixture(scope="module")
def load(deployment: Deployment) -> Load:
    """Writers and searchers, not started."""
    body = {"vectors": {"size": 4, "distance": "Euclid"}}
    assert deployment.call("PUT", LOAD, body).result is True
    return Load(deployment, LOAD, point)


def missing(deployment: Deployment, collection: str, acked: set[int], node: int) -> set[int]:
    """Return the acknowledged points that a node does not have as they were written."""
    found: set[int] = set()
    wanted = sorted(acked)
    for start in range(0, len(wanted), 1000):
        ids = wanted[start : start + 1000]
        body = {"ids": ids, "with_payload": True, "with_vector": collection == LOAD}
        path = f"{collection}/points?consistency=majority"
        for record in deployment.call("POST", path, body, node=node).result:
            number = record["id"]
            assert record["payload"] == {"number": number}
            if collection == LOAD:
                assert record["vector"] == pytest.approx(vector(number))
            found.add(number)
    return acked - found


def hashes_agree(deployment: Deployment) -> bool:
    """Whether the three replicas of each shard stand at one index with one state hash."""
    answer = deployment.call("GET", "/cluster")
    return answer.status == 200 and all(
        len(shard["replicas"]) == len(NODES)
        and all(replica["state_hash"] for replica in shard["replicas"])
        and len({(r["applied_index"], r["state_hash"]) for r in shard["replicas"]}) == 1
        for shard in answer.result["shards"]
    )


def assert_postgres_unaffected(deployment: Deployment) -> None:
    container = deployment.container("postgres")
    assert container.status == "running"
    assert container.attrs["RestartCount"] == 0
    assert deployment.health("postgres") == "healthy"
    assert deployment.postgres("SELECT word FROM kept") == "here"


def assert_nothing_lost(deployment: Deployment, load: Load, request: pytest.FixtureRequest) -> None:
    """End the load and look at everything that a fault may have broken."""
    load.stop()
    say(
        request,
        f"{request.node.name}: {len(load.acked)} points acknowledged so far, {load.searches} "
        f"searches, slowest answer {load.slowest_s:.1f} s",
    )
    assert load.unexpected == []
    assert load.slowest_s < ANSWER_S
    deployment.await_ready()
    for node in NODES:
        assert missing(deployment, LOAD, load.acked, node) == set()
    eventually(lambda: hashes_agree(deployment), 60, "equal state hashes")
    assert_postgres_unaffected(deployment)


def test_make_up_leaves_healthy_nodes(deployment: Deployment) -> None:
    """All containers are healthy, all nodes can serve, and tell addresses that the host can use."""
    assert [deployment.health(node) for node in NODES] == ["healthy"] * 3
    deployment.await_ready()  # readiness is of the moment: beside other tests a group may elect
    assert_postgres_unaffected(deployment)
    told = {
        node["name"]: node["http"] for node in deployment.call("GET", "/cluster").result["nodes"]
    }
    assert told == {f"node{n}": deployment.url(n).removeprefix("http://") for n in NODES}


def test_containers_are_confined(deployment: Deployment) -> None:
    """No root, no capability, nothing writable but data and /tmp, one port on loopback."""
    for node in NODES:
        container = deployment.container(node)
        limits = container.attrs["HostConfig"]
        assert container.attrs["Config"]["User"] == "10001:10001"
        assert limits["ReadonlyRootfs"] is True
        assert limits["CapDrop"] == ["ALL"]
        assert "no-new-privileges:true" in limits["SecurityOpt"]
        assert limits["Memory"] == limits["MemorySwap"] == 512 * MIB
        port = {"HostIp": "127.0.0.1", "HostPort": str(deployment.port + node)}
        assert limits["PortBindings"] == {"5000/tcp": [port]}
        _, status = container.exec_run(["grep", "-E", "^(Uid|CapEff|NoNewPrivs)", "/proc/1/status"])
        rights = dict(line.split(":\t", 1) for line in status.decode().splitlines())
        assert rights["Uid"].split("\t") == ["10001"] * 4
        assert int(rights["CapEff"], 16) == 0
        assert rights["NoNewPrivs"] == "1"
        assert container.exec_run(["touch", "/opt/x"]).exit_code != 0


def test_image_is_small(deployment: Deployment, request: pytest.FixtureRequest) -> None:
    """The image holds the product and what it imports, and no tool to build more."""
    sizes = [deployment.engine.images.get(name).attrs["Size"] for name in (IMAGE, BASE)]
    say(request, f"the image has {(sizes[0] - sizes[1]) / MIB:.0f} MiB over its base")
    assert sizes[0] - sizes[1] <= IMAGE_MIB_MAX * MIB
    for tool in ("g++", "gcc", "pip", "/opt/recollect/bin/pip"):
        found = deployment.container(1).exec_run(["sh", "-c", f"command -v {tool}"])
        assert found.exit_code != 0, tool


def test_stored_at_one_found_at_another(deployment: Deployment) -> None:
    """What node 1 acknowledged node 3 finds, given the session token; without the key nobody."""
    pattern = {"task": "The upload of a large file timed out; in parts it worked"}
    stored = deployment.call("POST", "/patterns/store", pattern, node=1)
    session = {"X-Recollect-Session": stored.headers["x-recollect-session"]}
    query = {"task": "how to upload a big file", "k": 1}
    found = deployment.call("POST", "/patterns/search", query, node=3, headers=session)

    assert [hit["id"] for hit in found.result] == [stored.result["id"]]
    stranger = deployment.call("POST", "/patterns/search", query, headers={"api-key": "no"})
    assert stranger.status == 401


def test_commands_work_from_the_host(deployment: Deployment) -> None:
    """The command line needs the URL and the key, by environment or by option."""
    deployment.await_ready()
    for node in NODES:
        assert "Nodes: 3 of 3 up" in deployment.recollect("status", node=node).stdout
    stored = deployment.recollect("store", "rotate the key after a leak", "--json", node=2)
    assert stored.returncode == 0, stored.stderr
    wanted = json.loads(stored.stdout)["id"]
    found = deployment.recollect("search", "a secret got out", "--json", node=2)
    assert wanted in found.stdout
    by_option = deployment.recollect(
        "nodes", "--url", deployment.url(3), "--api-key", deployment.key
    )
    assert by_option.returncode == 0
    assert f"127.0.0.1:{deployment.port + 1}" in by_option.stdout
    eventually(lambda: deployment.recollect("shards").stdout.count("equal") == 12, 30, "shards")


def test_kill_9_of_a_node(
    deployment: Deployment, load: Load, request: pytest.FixtureRequest
) -> None:
    """A killed node is restarted by the engine; meanwhile the others go on."""
    before = deployment.restarts()
    load.start()
    load.grow_by(100)
    with load.without(2):
        deployment.kill_9(2)
        load.grow_by(100)
        eventually(lambda: deployment.restarts()[1] > before[1], RETURN_S, "the restart")
    assert_nothing_lost(deployment, load, request)
    assert deployment.restarts() == [before[0], before[1] + 1, before[2]]


def test_a_node_cut_off(deployment: Deployment, load: Load, request: pytest.FixtureRequest) -> None:
    """A node without a network refuses writes in time, and catches up when it is back."""
    load.start()
    load.grow_by(50)
    with load.without(3), deployment.cut_off(3):
        until = time.monotonic() + FAULT_S
        status, retry_after, seconds = deployment.store_from_inside(3)
        assert status == 503
        assert float(retry_after or 0) > 0
        assert seconds < ANSWER_S
        load.grow_by(100)
        eventually(lambda: time.monotonic() > until, 2 * FAULT_S)
    assert_nothing_lost(deployment, load, request)


def test_a_node_paused(deployment: Deployment, load: Load, request: pytest.FixtureRequest) -> None:
    """A node that stands still, leader of some shards, comes back as a follower of what went on."""
    load.start()
    load.grow_by(50)
    with load.without(1), deployment.paused(1):
        until = time.monotonic() + FAULT_S
        load.grow_by(100)
        eventually(lambda: time.monotonic() > until, 2 * FAULT_S)
    assert_nothing_lost(deployment, load, request)


def test_rolling_restart(
    deployment: Deployment, load: Load, request: pytest.FixtureRequest
) -> None:
    """Each node drains and ends by itself within its grace, and the cluster serves throughout."""
    load.start()
    for node in NODES:
        container = deployment.container(node)
        with load.without(node):
            began = time.monotonic()
            container.stop(timeout=int(STOP_S))
            assert time.monotonic() - began < STOP_S
            assert deployment.container(node).attrs["State"]["ExitCode"] == 0
            container.start()
            load.grow_by(50)
    load.grow_by(50)
    assert_nothing_lost(deployment, load, request)


def filling(number: int, digits: list[str]) -> str:
    """Return a point's JSON text, of one digit an element: little to send, much to keep."""
    turn = number % FILL_DIMENSION
    elements = [*f"{number:08d}", *(digits[turn:] + digits[:turn])[8:]]
    return f'{{"id":{number},"vector":[{",".join(elements)}],"payload":{{"number":{number}}}}}'


def fill(deployment: Deployment, acked: set[int]) -> list[Any]:
    """Write from three sides until each is refused for want of memory; return these answers."""
    digits = [str(pow(7, place, 997) % 10) for place in range(FILL_DIMENSION)]
    batches = itertools.count()
    path = f"{FILL}/points?wait=true"

    def write(node: int) -> Any:
        for batch in batches:
            numbers = range(batch * FILL_BATCH, (batch + 1) * FILL_BATCH)
            assert numbers.stop <= FILL_POINTS_MAX, "more than the memory was taken in"
            text = ",".join(filling(number, digits) for number in numbers)
            answer = send_text(deployment, node, path, f'{{"points":[{text}]}}')
            if answer.status == 507:
                return answer
            assert answer.status in {200, 503}, answer.body
            if answer.status == 200:
                acked.update(numbers)
        raise AssertionError("the batches do not end")

    with ThreadPoolExecutor(len(NODES)) as pool:
        return list(pool.map(write, NODES))


def send_text(deployment: Deployment, node: int, path: str, text: str) -> Any:
    """Send a body that is JSON already; three times, should the connection break."""
    for _ in range(2):
        try:
            return deployment.put_text(path, text, node=node)
        except (OSError, http.client.HTTPException):
            eventually(lambda: deployment.is_ready(node), RETURN_S, f"node{node} to return")
    return deployment.put_text(path, text, node=node)


def test_more_than_the_memory_holds(deployment: Deployment, request: pytest.FixtureRequest) -> None:
    """Full nodes refuse growth, read on, forget nothing in a crash, and recover by a drop."""
    shape = {"vectors": {"size": FILL_DIMENSION, "distance": "Euclid"}, "hnsw_config": {"m": 4}}
    assert deployment.call("PUT", FILL, shape).result is True
    before, acked = deployment.restarts(), set[int]()
    for answer in fill(deployment, acked):
        assert answer.body["error"]["code"] == "storage_full"
        assert float(answer.headers["retry-after"]) > 0
    say(request, f"{len(acked)} points of {FILL_DIMENSION} dimensions fill 512 MiB")

    query = {"query": [1.0] * FILL_DIMENSION, "limit": 1}
    found = deployment.call("POST", f"{FILL}/points/query", query).result["points"]
    assert len(found) == 1
    gone = max(acked)
    assert deployment.call("POST", f"{FILL}/points/delete", {"points": [gone]}).status == 200
    acked.discard(gone)
    assert deployment.restarts() == before

    for node in NODES:
        deployment.kill_9(node)
    eventually(lambda: deployment.restarts() > before, RETURN_S, "the restarts")
    deployment.await_ready()
    for node in NODES:
        assert missing(deployment, FILL, acked, node) == set()
    eventually(lambda: hashes_agree(deployment), 60, "equal state hashes")

    assert deployment.call("DELETE", FILL).result is True
    path = f"{LOAD}/points?wait=true"
    eventually(
        lambda: all(
            deployment.call("PUT", path, {"points": [point(0)]}, node=node).status == 200
            for node in NODES
        ),
        150,
        "writes after the drop",
    )
    assert_postgres_unaffected(deployment)


def test_a_failed_make_up_leaves_nothing(deployment: Deployment) -> None:
    """When a port is taken, what was started is removed again."""
    other = new_deployment()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", other.port + 2))
        taken.listen()
        failed = other.make("up")
    try:
        assert failed.returncode != 0
        assert "removing what it started" in failed.stderr
        assert other.containers() == []
    finally:
        other.remove()
        other.engine.close()
    assert [deployment.health(node) for node in NODES] == ["healthy"] * 3


def test_make_down_keeps_the_volumes(deployment: Deployment, load: Load) -> None:
    """Containers and network go; with the volumes the data comes back."""
    down = deployment.make("down")
    assert down.returncode == 0, down.stderr
    assert deployment.containers() == []
    assert deployment.engine.networks.list(names=[f"{deployment.project}_cluster"]) == []
    assert len(deployment.volumes()) == 4

    assert deployment.make("up").returncode == 0
    for node in NODES:
        assert missing(deployment, LOAD, load.acked, node) == set()
    assert deployment.postgres("SELECT word FROM kept") == "here"


def known(deployment: Deployment) -> list[Any]:
    """Return what the nodes answer, whatever cluster they are."""
    questions: list[tuple[str, str, Any]] = [
        ("POST", f"{LOAD}/points/query", {"query": vector(9), "limit": 1, "with_payload": True}),
        ("POST", f"{LOAD}/points/count", {"exact": True}),
        ("POST", f"{LOAD}/points/scroll", {"limit": 100, "with_vector": True}),
        ("POST", "/patterns/search", {"task": "how to upload a big file", "k": 3}),
        ("GET", "/collections", None),
        ("POST", "/graph/why/causes", {"id": "outage"}),
    ]
    return [
        deployment.call(method, path, body, node=node).result
        for method, path, body in questions
        for node in NODES
    ]


def hashes(deployment: Deployment) -> list[str]:
    """Return each shard's state hash, once its replicas agree."""
    eventually(lambda: hashes_agree(deployment), 60, "equal state hashes")
    shards = deployment.call("GET", "/cluster").result["shards"]
    return [shard["replicas"][0]["state_hash"] for shard in shards]


def test_lost_nodes_come_back_from_the_checkpoint(
    deployment: Deployment, load: Load, request: pytest.FixtureRequest
) -> None:
    """Without their volumes, but with Postgres, the nodes hold and answer what they did."""
    graph = {"nodes": [{"id": "storm"}, {"id": "outage"}]}
    edges = {"edges": [{"label": "LEADS_TO", "members": ["storm", "outage"]}]}
    for method, path, body in (
        ("PUT", "/graph/why", {}),
        ("POST", "/graph/why/nodes", graph),
        ("POST", "/graph/why/edges", edges),
    ):
        assert deployment.call(method, path, body).status == 200
    made = deployment.call("POST", "/cluster/checkpoint", {}, timeout_s=60).result
    assert made["state"] == "finished"
    answered, hashed = known(deployment), hashes(deployment)
    lost = deployment.call("GET", "/cluster").result["cluster_id"]

    refused = deployment.make("restore")
    assert refused.returncode != 0
    assert f"the volume {deployment.project}_node1 exists" in refused.stderr
    deployment.lose_nodes()
    began = time.monotonic()
    restored = deployment.make("restore")
    assert restored.returncode == 0, restored.stdout + restored.stderr
    say(request, f"make restore took {time.monotonic() - began:.0f} s")

    assert deployment.call("GET", "/cluster").result["cluster_id"] != lost
    assert hashes(deployment) == hashed
    assert known(deployment) == answered
    for node in NODES:
        assert missing(deployment, LOAD, load.acked, node) == set()
    proved = deployment.recollect_inside("verify", "--checkpoint", str(made["id"]))
    assert {shard["live"] for shard in proved["shards"]} == {"equal"}
    assert_postgres_unaffected(deployment)
    assert deployment.recollect("store", "life goes on").returncode == 0


def secrets_of_a_start(folder: Path, **environment: str) -> dict[str, str]:
    """Start the script in a folder of its own, with an engine that can do nothing."""
    for name in ("deploy", "bin"):
        (folder / name).mkdir(exist_ok=True)
    script, engine = folder / "deploy" / "compose.sh", folder / "bin" / "docker"
    script.write_bytes((ROOT / "deploy" / "compose.sh").read_bytes())
    engine.write_text('#!/bin/sh\ncase "$*" in info | compose*version) ;; *) exit 1 ;; esac\n')
    engine.chmod(0o755)
    kept = {"PATH": f"{engine.parent}:{os.environ['PATH']}", **environment}
    failed = subprocess.run(["sh", script, "up"], env=kept, capture_output=True, check=False)
    assert failed.returncode != 0
    found = folder / ".env"
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    return dict(line.split("=") for line in found.read_text().splitlines())


def test_secrets_are_made_once(tmp_path: Path) -> None:
    """Three of 256 bits, in a file for its owner alone; a second start keeps them."""
    made = secrets_of_a_start(tmp_path)

    assert set(made) == {"RECOLLECT_API_KEY", "RECOLLECT_PEER_SECRET", "POSTGRES_PASSWORD"}
    assert len(set(made.values())) == 3
    assert all(len(bytes.fromhex(secret)) == 32 for secret in made.values())
    (tmp_path / ".env").chmod(0o644)
    assert secrets_of_a_start(tmp_path) == made


def test_secrets_that_lack_are_added(tmp_path: Path) -> None:
    """A file of one's own is completed; an empty variable counts as none."""
    (tmp_path / ".env").write_text("POSTGRES_PASSWORD=mine")
    made = secrets_of_a_start(tmp_path, RECOLLECT_API_KEY="")

    assert set(made) == {"RECOLLECT_API_KEY", "RECOLLECT_PEER_SECRET", "POSTGRES_PASSWORD"}
    assert made["POSTGRES_PASSWORD"] == "mine"


def test_secrets_of_the_environment_are_not_written(tmp_path: Path) -> None:
    """What the environment has is used as it is, and stays out of the file."""
    made = secrets_of_a_start(tmp_path, RECOLLECT_API_KEY="mine")

    assert set(made) == {"RECOLLECT_PEER_SECRET", "POSTGRES_PASSWORD"}
