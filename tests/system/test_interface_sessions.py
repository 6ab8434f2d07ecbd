"""Who sees a write: its node at once, another with the session token, all with `consistency`."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest

from tests.helpers import Cluster
from tests.system.exchange import SESSION, Points, ids, make, refusal, send

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

TOKEN = re.compile(r"m:[0-9]+(,[0-9]+:[0-9]+)*")
ROUNDS = 12


@pytest.fixture(scope="module")
def diary(shared: Cluster) -> list[Points]:
    """One collection, as each of the nodes serves it."""
    made = make(shared.url(1), "diary", 2, "Euclid")
    return [Points(url, made.name) for url in shared.urls]


def turns(nodes: list[Points]) -> Any:
    """Yield a round's number, who writes and who reads, so that every pair has its turn."""
    for turn in range(ROUNDS):
        writer = turn % 3
        yield turn, nodes[writer], nodes[(writer + 1 + turn // 3 % 2) % 3]


def seen_through(
    points: Points, number: int, parameters: str, headers: dict[str, str]
) -> list[Any]:
    """Return the version of a point that every kind of read shows; None where it is missing."""
    where = {"must": [{"has_id": [number]}]}
    query = {"query": [number, 1], "limit": 1, "with_payload": True, "filter": where}
    exact = {"vector": [number, 1], "limit": 1, "with_payload": True, "params": {"exact": True}}
    near = {"query": [number, 1], "limit": 1, "with_payload": True}
    one = f"{points.path}/points/{number}{parameters}"
    found = [
        points.post("", {"ids": [number]}, parameters, headers=headers),
        points.post("/scroll", {"filter": where}, parameters, headers=headers)["points"],
        points.post("/query", query, parameters, headers=headers)["points"],
        points.post("/query", near, parameters, headers=headers)["points"],
        points.post("/search", exact, parameters, headers=headers),
        [send(points.url, "GET", one, headers=headers).body.get("result", {})],
    ]
    assert points.count(where, parameters, headers=headers) == 1
    return [rows[0].get("payload", {}).get("version") if rows else None for rows in found]


def test_every_write_carries_a_token(shared, diary):
    """The catalogue's place, then shard:index of every shard that the write touched."""
    points = diary[0]
    rows = [{"id": n, "vector": [n, 0]} for n in range(1000, 1100)]
    answers = [
        points.put(*rows),
        send(
            points.url, "POST", f"{points.path}/points/payload", {"payload": {}, "points": [1000]}
        ),
        send(points.url, "POST", f"{points.path}/points/delete", {"points": [1000, 1001]}),
        send(points.url, "POST", f"{points.path}/points/delete", {"filter": {}}),
        send(points.url, "POST", "/patterns/store", {"task": "keep a diary", "id": 1}),
    ]

    for answer in answers:
        assert answer.status == 200
        assert TOKEN.fullmatch(answer.headers[SESSION])
    shards = [part.split(":")[0] for part in answers[0].headers[SESSION].split(",")]
    assert shards == ["m", *(str(shard) for shard in range(12))]
    made = send(
        shared.url(1), "PUT", "/collections/brief", {"vectors": {"size": 2, "distance": "Dot"}}
    )
    gone = send(shared.url(1), "DELETE", "/collections/brief")
    places = [int(each.headers[SESSION].removeprefix("m:")) for each in (made, gone)]
    assert places[0] < places[1]


def test_the_node_that_wrote_shows_it_at_once(diary):
    """No token, no waiting: every read on that node has the write, searches included."""
    for turn, writer, _ in turns(diary):
        writer.put({"id": 1, "vector": [1, 1], "payload": {"version": turn}})

        assert seen_through(writer, 1, "", {}) == [turn] * 6


def test_another_node_shows_it_to_who_has_the_token(diary):
    """A read that brings the token sees the write, whichever node it goes to."""
    for turn, writer, reader in turns(diary):
        stored = writer.put({"id": 2, "vector": [2, 1], "payload": {"version": turn}})
        headers = {SESSION: stored.headers[SESSION]}

        assert seen_through(reader, 2, "", headers) == [turn] * 6


@pytest.mark.parametrize("level", ["majority", "quorum", "all", "strong"])
def test_a_strong_read_shows_what_was_acknowledged(diary, level):
    """On any node, without a token."""
    for turn, writer, reader in turns(diary):
        writer.put({"id": 3, "vector": [3, 1], "payload": {"version": turn}})

        assert seen_through(reader, 3, f"?consistency={level}", {}) == [turn] * 6


def test_deletions_are_seen_likewise(diary):
    """A deleted point is gone from the writing node at once, elsewhere under the token."""
    for turn, writer, reader in turns(diary):
        writer.put({"id": 4, "vector": [4, 1]}, {"id": 5, "vector": [5, 1]})
        selector = {"points": [4]} if turn % 2 else {"filter": {"must": [{"has_id": [4]}]}}
        deleted = send(writer.url, "POST", f"{writer.path}/points/delete", selector)
        headers = {SESSION: deleted.headers[SESSION]}
        near = {"query": [4, 1], "limit": 1}

        for points, sent in ((writer, {}), (reader, headers)):
            assert points.post("", {"ids": [4]}, headers=sent) == []
            assert points.count({"must": [{"has_id": [4]}]}, headers=sent) == 0
            assert ids(points.post("/query", near, headers=sent)["points"]) != [4]


def test_a_token_remembers_earlier_writes(diary):
    """A write that brings a token answers with one that covers both."""
    first = diary[0].put({"id": 6, "vector": [6, 1], "payload": {"version": 1}})
    second = diary[1].put(
        *({"id": 100 + n, "vector": [n, 9]} for n in range(3)),
        headers={SESSION: first.headers[SESSION]},
    )
    before = dict(part.split(":") for part in first.headers[SESSION].split(","))
    after = dict(part.split(":") for part in second.headers[SESSION].split(","))

    assert all(int(after[shard]) >= int(index) for shard, index in before.items())
    assert seen_through(diary[2], 6, "", {SESSION: second.headers[SESSION]}) == [1] * 6


@pytest.mark.parametrize("value", ["1", "2", "3", "99", ""])
def test_a_number_of_replicas_is_the_default_read(diary, value):
    """Accepted, and served by the node itself."""
    diary[0].put({"id": 7, "vector": [7, 1], "payload": {"version": 7}})

    assert seen_through(diary[0], 7, f"?consistency={value}", {}) == [7] * 6


@pytest.mark.parametrize(
    "value", ["0", "-1", "1.5", "weak", "linearizable", "majority,all", "%00", "majority%20"]
)
def test_other_levels_are_refused(diary, value):
    """A misspelt level must not weaken a read in silence."""
    path = f"{diary[0].path}/points?consistency={value}"

    assert refusal(send(diary[0].url, "POST", path, {"ids": [1]}))[::2] == (400, "consistency")


@pytest.mark.parametrize(
    "token",
    ["x", "1", "1:", ":1", "-1:1", "0:1,", "0:1,0:2", "0:" + "9" * 30, "0: 1", "9999:1", "\x80"],
)
def test_tokens_that_are_none_are_refused(diary, token):
    """A token is shard:index pairs."""
    answer = send(
        diary[0].url, "POST", f"{diary[0].path}/points", {"ids": [1]}, headers={SESSION: token}
    )

    assert refusal(answer) == (400, "bad_request", "X-Recollect-Session")


def test_patterns_honour_tokens_too(shared):
    """What an agent stored through one node it finds through another."""
    for turn in range(6):
        writer, reader = shared.url(1 + turn % 3), shared.url(1 + (turn + 1) % 3)
        task = f"water the plants in room {turn}"
        stored = send(writer, "POST", "/patterns/store", {"task": task, "id": 500 + turn})
        headers = {SESSION: stored.headers[SESSION]}
        found = send(reader, "POST", "/patterns/search", {"task": task, "k": 1}, headers=headers)
        same = send(writer, "POST", "/patterns/search", {"task": task, "k": 1})
        text = send(reader, "POST", "/vectors/search", {"query": task, "k": 1}, headers=headers)

        assert ids(found.result) == ids(same.result) == ids(text.result) == [500 + turn]


def test_many_writers_each_find_their_own(shared, diary):
    """Under concurrent writes every client of a node reads what it wrote, and all of it stays."""
    failures: list[str] = []

    def work(worker: int) -> None:
        points = diary[worker % 3]
        for turn in range(10):
            number = 10_000 + worker * 100 + turn
            points.put({"id": number, "vector": [number, 1], "payload": {"version": turn}})
            seen = seen_through(points, number, "", {})
            if seen != [turn] * 6:
                failures.append(f"{number}: {seen}")

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    expected = [10_000 + worker * 100 + turn for worker in range(6) for turn in range(10)]
    body = {"offset": 10_000, "limit": 100}
    rows = [points.post("/scroll", body, "?consistency=all")["points"] for points in diary]

    assert failures == []
    assert [ids(found) for found in rows] == [expected] * 3


def test_repeating_a_write_under_its_key_applies_it_once(diary):
    """The same idempotency key and body is the same write, through any node."""
    body = {"points": [{"id": 8, "vector": [8, 1], "payload": {"version": 1}}]}
    path = f"{diary[0].path}/points"
    headers = {"Idempotency-Key": "diary-8"}
    first = send(diary[0].url, "PUT", path, body, headers=headers)
    diary[0].post("/payload", {"payload": {"version": 2}, "points": [8]})
    again = send(diary[1].url, "PUT", path, body, headers=headers)

    assert again.result == first.result
    assert diary[2].by_id(8, parameters="?consistency=all")[0]["payload"] == {"version": 2}
