"""Compare-and-set, idempotency keys, versions and staleness, as a client meets them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Cluster, Response, await_ready, eventually, running_cluster, start_cluster
from tests.system.exchange import SESSION, Points, make, refusal, send

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

KEY = "Idempotency-Key"


@pytest.fixture(scope="module")
def ledger(shared: Cluster) -> list[Points]:
    """One collection, as each of the nodes serves it."""
    made = make(shared.url(1), "ledger", 2, "Euclid")
    return [Points(url, made.name) for url in shared.urls]


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "vector": [number, 1], **more}


def put(points: Points, *rows: dict[str, Any], key: str | None = None) -> Response:
    return send(
        points.url, "PUT", f"{points.path}/points", {"points": list(rows)}, headers={KEY: key}
    )


def drop(points: Points, body: Any, key: str | None = None) -> Response:
    return send(points.url, "POST", f"{points.path}/points/delete", body, headers={KEY: key})


def stored(points: Points, number: int) -> Any:
    """Return a point as a strong read shows it, or None."""
    found = points.by_id(number, parameters="?consistency=all")
    return found[0] if found else None


def conflict(response: Response) -> tuple[int, int, str | None]:
    """Return the point, its version, and the field; fail unless it is a conflict."""
    assert refusal(response)[:2] == (409, "version_conflict")
    error = response.body["error"]
    return error["point"], error["current_version"], error["field"]


def test_versions_are_shown(ledger):
    """The answer of a write names the version that reads show, and it grows."""
    first = ledger[0].put(row(1)).result["version"]
    second = ledger[1].put(row(1)).result["version"]
    one = send(ledger[2].url, "GET", f"{ledger[2].path}/points/1?consistency=all").result
    page = ledger[0].post("/scroll", {"limit": 1}, "?consistency=all")["points"]

    assert second > first
    assert stored(ledger[0], 1)["version"] == one["version"] == page[0]["version"] == second


def test_if_version(ledger):
    """Written only on top of the version that was read, through any node."""
    version = ledger[0].put(row(2)).result["version"]
    newer = put(ledger[1], row(2, if_version=version)).result["version"]
    late = put(ledger[2], row(2, if_version=version))
    absent = put(ledger[2], row(3, if_version=version))

    assert conflict(late) == (2, newer, "points[0]")
    assert f"point 2 has version {newer}" in late.body["status"]["error"]
    assert conflict(absent) == (3, 0, "points[0]")
    assert stored(ledger[0], 2)["version"] == newer
    assert stored(ledger[0], 3) is None


def test_if_absent(ledger):
    """Created once; deleted, it may be created again."""
    version = put(ledger[0], row(4, if_absent=True)).result["version"]
    assert conflict(put(ledger[1], row(4, if_absent=True))) == (4, version, "points[0]")
    ledger[2].post("/delete", {"points": [4]})

    assert put(ledger[1], row(4, if_absent=True)).status == 200
    assert put(ledger[1], row(4, if_absent=False)).status == 200
    assert put(ledger[1], row(4, if_absent=None, if_version=None)).status == 200


def test_deleting_a_version(ledger):
    """Only the version that was read is deleted."""
    old = ledger[0].put(row(5)).result["version"]
    new = ledger[0].put(row(5)).result["version"]

    assert conflict(drop(ledger[1], {"points": [5], "if_version": old})) == (5, new, "points[0]")
    assert drop(ledger[1], {"points": [5], "if_version": new}).result["status"] == "completed"
    assert conflict(drop(ledger[2], {"points": [5], "if_version": new})) == (5, 0, "points[0]")


def test_a_batch_over_several_shards(ledger):
    """The shards without a conflict have applied their part, and the answer lists them."""
    version = ledger[0].put(row(100)).result["version"]
    rows = [row(n, if_absent=True) for n in range(100, 160)]
    refused = put(ledger[1], *rows)
    sentence = refused.body["status"]["error"]
    there = {
        each["id"] for each in ledger[2].by_id(*range(100, 160), parameters="?consistency=all")
    }

    assert conflict(refused) == (100, version, "points[0]")
    assert sentence.count("shard ") == 12
    assert sentence.count("0 of 1 parts applied") == 1
    assert 100 in there
    assert 30 < len(there) < 60


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"points": [row(1, if_version=3, if_absent=True)]}, "points[0].if_absent"),
        ({"points": [row(1), row(2, if_version=0)]}, "points[1].if_version"),
        ({"points": [row(1, if_version=-1)]}, "points[0].if_version"),
        ({"points": [row(1, if_version=2**63)]}, "points[0].if_version"),
        ({"points": [row(1, if_version="3")]}, "points[0].if_version"),
        ({"points": [row(1, if_version=True)]}, "points[0].if_version"),
        ({"points": [row(1, if_absent=1)]}, "points[0].if_absent"),
        ({"points": [row(1, if_absent=True), row(1)]}, "points[1].id"),
        ({"points": [row(1), row(1, if_version=3)]}, "points[1].id"),
        ({"batch": {"ids": [1], "vectors": [[1, 1]], "if_versions": [3]}}, "batch.if_versions"),
    ],
)
def test_bad_conditions_are_named(ledger, body, field):
    """Refused whole, before anything is written."""
    before = ledger[0].count(parameters="?consistency=all")
    answer = send(ledger[0].url, "PUT", f"{ledger[0].path}/points", body)

    assert refusal(answer)[::2] == (400, field)
    assert ledger[0].count(parameters="?consistency=all") == before


@pytest.mark.parametrize(
    "body",
    [
        {"points": [1, 2], "if_version": 3},
        {"filter": {}, "if_version": 3},
        {"points": [1], "if_version": 0},
        {"points": [1], "if_version": 1.5},
    ],
)
def test_bad_conditions_of_deletions_are_named(ledger, body):
    """A condition goes with exactly one id."""
    assert refusal(drop(ledger[0], body))[::2] == (400, "if_version")


def test_patterns_have_conditions(shared):
    """In their own spelling, beside the id that they are about."""
    pattern = {"task": "count the books", "id": 9000}

    def store(node: int, **more: Any) -> Response:
        return send(shared.url(node), "POST", "/patterns/store", {**pattern, **more})

    version = store(1, ifAbsent=True).result["version"]
    assert conflict(store(2, ifAbsent=True)) == (9000, version, "id")
    newer = store(3, ifVersion=version).result["version"]

    assert newer > version
    assert conflict(store(1, ifVersion=version)) == (9000, newer, "id")
    assert refusal(store(1, id=None, ifAbsent=True))[::2] == (400, "id")
    assert refusal(store(1, ifVersion=3, ifAbsent=True))[::2] == (400, "ifAbsent")


def test_a_counter_loses_no_step(ledger):
    """Clients of all nodes count by read, change, compare-and-set: nobody's step is lost."""
    ledger[0].put(row(200, payload={"n": 0}))
    steps, workers = 8, 6

    def work(worker: int) -> None:
        points, done = ledger[worker % 3], 0
        while done < steps:
            seen = stored(points, 200)
            payload = {"n": seen["payload"]["n"] + 1}
            done += put(points, row(200, payload=payload, if_version=seen["version"])).status == 200

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)

    assert stored(ledger[0], 200)["payload"] == {"n": steps * workers}


def test_a_key_gives_the_first_answer_again(ledger):
    """A conflict too, although its condition would hold by now; and through any node."""
    first = put(ledger[0], row(300, if_absent=True), key="first")
    refused = put(ledger[0], row(300, if_absent=True), key="second")
    drop(ledger[1], {"points": [300]})
    again = [put(points, row(300, if_absent=True), key="second") for points in ledger]

    assert put(ledger[2], row(300, if_absent=True), key="first").result == first.result
    assert [conflict(each) for each in again] == [conflict(refused)] * 3
    assert stored(ledger[0], 300) is None


def test_a_key_belongs_to_its_body(ledger):
    """Used for something else it is refused, and the first request stays what it was."""
    put(ledger[0], row(301, payload={"n": 1}), key="belongs")
    other = put(ledger[1], row(301, payload={"n": 2}), key="belongs")

    assert refusal(other) == (422, "idempotency_key_reused", KEY)
    assert put(ledger[2], row(301, payload={"n": 1}), key="belongs").status == 200
    assert stored(ledger[0], 301)["payload"] == {"n": 1}


def test_creating_and_dropping_have_keys(shared):
    """A repeated creation is the same one; a repeated drop spares the next of that name."""
    body = {"vectors": {"size": 2, "distance": "Dot"}}

    def create(node: int, key: str | None = None) -> Response:
        return send(shared.url(node), "PUT", "/collections/brief2", body, headers={KEY: key})

    def remove(node: int, key: str | None = None) -> Response:
        return send(shared.url(node), "DELETE", "/collections/brief2", headers={KEY: key})

    assert [create(1, "make").result, create(2, "make").result] == [True, True]
    assert refusal(create(3))[:2] == (409, "collection_exists")
    assert remove(3, "drop").result is True
    assert create(1).result is True
    assert remove(2, "drop").result is True
    exists = send(shared.url(1), "GET", "/collections/brief2/exists?consistency=all")
    assert exists.result == {"exists": True}
    assert remove(1).result is True


def test_a_token_covers_the_catalogue(shared):
    """With the token of a creation, or of a write, no node answers from a dropped namesake."""
    body = {"vectors": {"size": 2, "distance": "Dot"}}
    path = "/collections/phoenix"
    for turn in range(6):
        here, there = shared.url(1 + turn % 3), shared.url(1 + (turn + 1) % 3)
        made = send(here, "PUT", path, body)
        points = Points(here, "phoenix")
        written = points.put(*(row(n) for n in range(turn + 1)))
        for token in (made.headers[SESSION], written.headers[SESSION]):
            listed = send(there, "GET", "/collections", headers={SESSION: token}).result
            assert {"name": "phoenix"} in listed["collections"]
        headers = {SESSION: written.headers[SESSION]}
        assert Points(there, "phoenix").count(headers=headers) == turn + 1
        gone = send(here, "DELETE", path, headers=headers)
        later = send(there, "GET", f"{path}/exists", headers={SESSION: gone.headers[SESSION]})
        assert later.result == {"exists": False}


def test_reads_carry_tokens(ledger):
    """What one node showed, the next one shows too."""
    for turn in range(6):
        first, second = ledger[turn % 3], ledger[(turn + 1) % 3]
        first.put(row(400, payload={"turn": turn}))
        one = send(first.url, "GET", f"{first.path}/points/400")
        found = send(first.url, "POST", f"{first.path}/points/query", {"query": [400, 1]})
        for seen in (one, found):
            headers = {SESSION: seen.headers[SESSION]}
            shown = send(second.url, "GET", f"{second.path}/points/400", headers=headers).result
            assert shown["payload"] == {"turn": turn}


@pytest.mark.parametrize("bound", ["0", "200", "3600000"])
def test_staleness_is_accepted(ledger, bound):
    """Any bound is served while the cluster is well."""
    ledger[0].put(row(500))

    assert ledger[0].by_id(500, parameters=f"?max_staleness_ms={bound}")[0]["id"] == 500


@pytest.mark.parametrize("bound", ["-1", "x", "1.5", "", "3600001"])
def test_bad_staleness_is_refused(ledger, bound):
    """The parameter is named."""
    path = f"{ledger[0].path}/points/count?max_staleness_ms={bound}"

    assert refusal(send(ledger[0].url, "POST", path, {}))[::2] == (400, "max_staleness_ms")


def test_keys_outlive_leaders_and_all_nodes(tmp_path: Path) -> None:
    """The first answer again after the leader's death, and after the death of all nodes."""
    with running_cluster(tmp_path, "--shards", "3") as cluster:
        points = [Points(url, "safe") for url in cluster.urls]
        make(cluster.url(1), "safe", 2, "Euclid")
        rows = [row(n, if_absent=True) for n in range(1, 40)]
        first = put(points[0], *rows, key="batch")
        taken = put(points[0], row(1, if_absent=True), key="taken")
        assert conflict(taken)[0] == 1

        def answers(node: int) -> list[Response]:
            return [
                put(points[node - 1], *rows, key="batch"),
                put(points[node - 1], row(1, if_absent=True), key="taken"),
            ]

        def same(found: list[Response]) -> bool:
            settled = all(each.status in {200, 409} for each in found)
            if settled:
                assert found[0].result == first.result
                assert conflict(found[1]) == conflict(taken)
            return settled

        cluster.kill(1)
        eventually(lambda: same(answers(2)), 30, "the first answers from another leader")
        for node in (2, 3):
            cluster.kill(node)
    with start_again(tmp_path, cluster) as cluster:
        assert eventually(lambda: same(answers(3)), 30, "the first answers after everybody's death")


def start_again(tmp_path: Path, cluster: Cluster) -> Any:
    """Run the cluster that is in the folder."""
    return running_cluster(tmp_path, folder=cluster.folder, port=cluster.port)


def test_a_cut_off_majority_leaves_stale_reads_to_those_who_ask(tmp_path: Path) -> None:
    """Without leaders a default read is refused; one that accepts more staleness is served."""
    with running_cluster(tmp_path, "--shards", "3") as cluster:
        make(cluster.url(1), "old", 2, "Euclid")
        points = Points(cluster.url(3), "old")
        points.put(row(1, payload={"n": 1}))
        cluster.kill(1)
        cluster.kill(2)

        def one(parameters: str) -> Response:
            return send(points.url, "GET", f"{points.path}/points/1{parameters}")

        eventually(lambda: one("?timeout=0.5").status == 503, 20, "the refusal of a default read")
        assert one("?max_staleness_ms=3600000").result["payload"] == {"n": 1}
        assert one("?max_staleness_ms=3600000&consistency=all&timeout=1").status == 503


def test_a_key_outlives_its_time_in_a_short_log(tmp_path: Path) -> None:
    """What took effect lately by the log is remembered although its time, here 1 ms, is over."""
    short = {"RECOLLECT_REQUEST_ID_TTL_MS": "1"}
    with running_cluster(tmp_path, "--shards", "2", env=short) as cluster:
        make(cluster.url(1), "brief", 2, "Euclid")
        points = Points(cluster.url(2), "brief")
        first = put(points, row(1), key="key").result["version"]
        later = [put(points, row(1)).result["version"] for _ in range(10)]
        assert later == sorted(later)
        assert later[0] > first
        assert put(points, row(1), key="key").result["version"] == first
    # Another setting later does not change what the cluster decided, nor does a restart forget.
    cluster = start_cluster(tmp_path, folder=cluster.folder, port=cluster.port)
    try:
        await_ready(cluster)
        assert put(points, row(1), key="key").result["version"] == first
        assert "request_id_ttl_ms is 1 in this cluster" in cluster.logs()
    finally:
        cluster.stop()
