"""One contract for patterns, over both backends: a cluster's node, and a server over Postgres.

Each is a process of its own, asked over HTTP. Where both can be asked the same, both must answer
the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from tests.helpers import Cluster, eventually, running_cluster
from tests.pattern_server import PatternServer, running_patterns
from tests.postgres import kill_9, running_postgres
from tests.system.bad_bodies import PATTERN_SEARCHES, PATTERNS, VECTOR_SEARCHES
from tests.system.description import Description
from tests.system.exchange import SESSION, ids, refusal, send

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SUBJECTS = ("apple trees", "the users table", "a slow query", "Übermut 🦉", "the night train")
ACTIONS = ("prune", "migrate", "explain", "describe in 日本語", "cancel")
CORPUS: list[dict[str, Any]] = [
    {
        "id": number if number % 3 else f"00000000-0000-4000-8000-{number:012d}",
        "task": f"{action} {subject}",
        "reward": [None, -1.5, 0, 0.25, 1][number % 5],
        "success": [True, False, None][number % 3],
        "sessionId": f"session {number % 4}",
        "input": "schema v4" if number % 2 else None,
        "output": 'swap\n\ttables \\ "quoted"' if number % 4 else None,
        "critique": "ß≠ss 🧪" if number % 5 else None,
        "metadata": {"n": number, "big": 2**63 - number, "list": [1, 2.5, None, {"a": [True]}]}
        if number % 2
        else None,
    }
    for number, (action, subject) in enumerate(itertools.product(ACTIONS, SUBJECTS), 1)
]
QUERIES = ("prune the apple trees", "why is the database slow", "Zug bei Nacht 🦉")
NARROWING: dict[str, list[Any]] = {
    "k": [1, 7, 10_000],
    "minReward": [None, 0.25],
    "outcome": [None, "onlySuccesses", "onlyFailures"],
    "threshold": [None, 0.31, -1],
}
FILTERS: list[Any] = [
    {"must": [{"key": "sessionId", "match": {"value": "session 2"}}]},
    {"must": [{"key": "reward", "range": {"gt": -2, "lt": 1}}]},
    {"must_not": [{"key": "success", "match": {"value": True}}]},
    {"should": [{"key": "metadata.n", "range": {"gte": 20}}, {"has_id": [1, 2]}]},
    {"must": [{"key": "metadata.list[]", "match": {"value": 1}}, {"has_id": [1, 5, 7, 999]}]},
    {"must": {"key": "critique", "match": {"text": "🧪"}}},
    {"must": [{"is_empty": {"key": "reward"}}]},
    {"min_should": {"conditions": [{"has_id": [4]}, {"is_null": {"key": "task"}}], "min_count": 1}},
    {"must": [{"key": "createdAt", "range": {"gte": "2020-01-01T00:00:00Z"}}]},
    {"must": [{"key": "createdAt", "range": {"lt": "2020-01-01T00:00:00Z"}}]},
    {"must": [{"key": "reward", "range": {"gte": 2**53 + 1}}]},
    {"must": [{"key": "metadata.big", "match": {"value": 2**63 - 1}}]},
]
RAW: list[tuple[dict[str, str | None], bytes]] = [
    ({}, b""),
    ({}, b"{"),
    ({}, b"[]"),
    ({}, b'{"task": "a"} x'),
    ({}, b'{"task": "a", "task": "b"}'),
    ({}, b'{"task": "\\ud800"}'),
    ({}, b'{"task": "\xff"}'),
    ({"Content-Type": "text/plain"}, b'{"task": "a"}'),
    ({"Content-Encoding": "gzip"}, b'{"task": "a"}'),
    ({"Idempotency-Key": "a b"}, b'{"task": "a"}'),
    ({"X-Recollect-Session": "x"}, b'{"task": "a"}'),
]
CREATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@dataclass
class Served:
    """A backend as its users see it, and how it is made to crash."""

    url: str
    crash: Callable[[], None]
    recover: Callable[[], None]

    def store(self, body: Any, **options: Any) -> Any:
        return send(self.url, "POST", "/patterns/store", body, **options).result

    def search(self, **body: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = send(self.url, "POST", "/patterns/search", body).result
        return found


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("node"), nodes=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PatternServer, Any]]:
    folder = tmp_path_factory.mktemp("server")
    with running_postgres() as database, running_patterns(database.url, folder) as found:
        found.await_ready()
        yield found, database


@pytest.fixture(scope="module")
def both(node: Cluster, server: tuple[PatternServer, Any]) -> dict[str, Served]:
    """Both backends, with the same patterns."""
    patterns, database = server

    def crash() -> None:
        kill_9(database)
        patterns.kill()

    def recover() -> None:
        database.start()
        patterns.start()
        patterns.await_ready()

    found = {
        "cluster": Served(node.url(), lambda: void(node.kill(1)), lambda: node.restart(1)),
        "postgres": Served(patterns.url, crash, recover),
    }
    for each in found.values():
        for pattern in CORPUS:
            each.store(pattern)
    return found


@pytest.fixture(params=["cluster", "postgres"])
def served(request: pytest.FixtureRequest, both: dict[str, Served]) -> Served:
    return both[request.param]


def void(_: object) -> None:
    """Leave a value alone."""


def alike(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    """Fail unless two answers are the same but for their times, and nearly so in their scores."""
    for found in (first, second):
        assert all(CREATED.fullmatch(hit.pop("createdAt")) for hit in found)
    scores = [[hit.pop("score") for hit in found] for found in (first, second)]

    assert scores[0] == sorted(scores[0], reverse=True)
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)
    assert second == first


def narrowed(k: int, reward: float | None, outcome: str | None, least: float | None) -> Any:
    body = {"k": k, "minReward": reward, "threshold": least}
    return body if outcome is None else {**body, outcome: True}


def test_searches_are_the_same(both):
    """Ids, order, scores and every field, for each option alone and for all combinations."""
    sizes = set()
    for query, options in itertools.product(QUERIES, itertools.product(*NARROWING.values())):
        body = {"task": query, **narrowed(*options)}
        first, second = (each.search(**body) for each in both.values())
        alike(first, second)
        sizes.add(len(first))

    assert {0, 1, 7, len(CORPUS)} <= sizes


@pytest.mark.parametrize("where", FILTERS, ids=str)
def test_filters_are_the_same(both, where):
    """The filter language means the same to both, alone and beside a pattern's own options."""
    for more in ({}, {"minReward": 0}, {"onlyFailures": True, "k": 2}, {"threshold": 0.2}):
        body = {"task": QUERIES[0], "k": 50, "filter": where, **more}
        first, second = (each.search(**body) for each in both.values())
        alike(first, second)


def test_vector_searches_are_the_same(both):
    """By text and by vector; points come with their payloads and versions."""
    embedding = [((number * 37) % 101 - 50) / 7 for number in range(256)]
    for query in (QUERIES[1], embedding, [each * 1e30 for each in embedding]):
        answers = []
        for each in both.values():
            body = {"query": query, "k": 9, "filter": FILTERS[1]}
            found = send(each.url, "POST", "/vectors/search", body).result
            assert all(hit.pop("version") > 0 for hit in found)
            payloads = [hit.pop("payload") for hit in found]
            answers.append(
                [{**hit, **payload} for hit, payload in zip(found, payloads, strict=True)]
            )
        assert len(answers[0]) == 9
        alike(*answers)


def test_own_embeddings_are_the_same(both):
    """A vector of any length and size of numbers stands in for the task."""
    for number, scale in enumerate((1.0, 1e-30, 1e30), 700):
        embedding = [scale * (1 + (element * number) % 13) for element in range(256)]
        for each in both.values():
            each.store({"id": number, "task": "numbers", "embedding": embedding})
    probe = [float(1 + (element * 701) % 13) for element in range(256)]
    first, second = (each.search(embedding=probe, k=3) for each in both.values())
    alike(first, second)

    assert ids(first) == [701, *[each for each in ids(first) if each != 701]]


@pytest.mark.parametrize(
    ("path", "cases"),
    [
        ("/patterns/store", PATTERNS),
        ("/patterns/search", PATTERN_SEARCHES),
        ("/vectors/search", VECTOR_SEARCHES),
    ],
)
def test_bad_bodies_are_refused_alike(both, path, cases):
    """Status, code and field are the same, and the field is the one to blame."""
    for body, field in cases:
        first, second = (refusal(send(each.url, "POST", path, body)) for each in both.values())
        assert second == first, body
        assert first[2] == field


def test_bad_requests_are_refused_alike(both):
    """Broken JSON, media types, headers and parameters, on both routes that take a task."""
    for path in ("/patterns/store", "/patterns/search"):
        for headers, raw in RAW:
            first, second = (
                refusal(send(each.url, "POST", path, raw=raw, headers=headers))
                for each in both.values()
            )
            assert second == first
        for parameters in ("?colour=1", "?consistency=none", "?timeout=0", "?allow_partial=x"):
            first, second = (
                refusal(send(each.url, "POST", path + parameters, {"task": "a"}))
                for each in both.values()
            )
            assert second == first
    other = {"query": "a", "collection": "other"}
    first, second = (
        refusal(send(each.url, "POST", "/vectors/search", other)) for each in both.values()
    )
    assert second == first == (404, "collection_not_found", None)


def test_an_own_id_replaces(served):
    """All fields are those of the last store, `createdAt` too, and the version has grown."""
    full = {**CORPUS[6], "id": "A5B6C7D8-0000-4000-8000-000000000001", "task": "paint it green"}
    first = served.store(full)
    before = served.search(task="paint it green", k=1)[0]
    second = served.store({"id": full["id"], "task": "paint it blue"})
    after = served.search(task="paint it blue", k=1)[0]

    assert first["id"] == second["id"] == before["id"] == full["id"].lower()
    assert second["version"] > first["version"]
    assert {name: before[name] for name in full} == full | {"id": first["id"]}
    assert after["task"] == "paint it blue"
    assert after["createdAt"] >= before["createdAt"]
    assert [after[name] for name in ("reward", "success", "metadata", "critique")] == [None] * 4


def test_conditions_hold(served):
    """A version that is not there, or is another, is a conflict that tells the present one."""
    body = {"id": 801, "task": "hold the lock"}
    missing = send(served.url, "POST", "/patterns/store", {**body, "ifVersion": 3})
    version = served.store({**body, "ifAbsent": True})["version"]
    taken = send(served.url, "POST", "/patterns/store", {**body, "ifAbsent": True})
    newer = served.store({**body, "ifVersion": version})["version"]
    stale = send(served.url, "POST", "/patterns/store", {**body, "ifVersion": version})
    conflicts = [missing, taken, stale]

    assert [refusal(each) for each in conflicts] == [(409, "version_conflict", "id")] * 3
    found = [each.body["error"] for each in conflicts]
    assert [each["current_version"] for each in found] == [0, version, newer]
    assert [each["point"] for each in found] == [801] * 3


def test_an_idempotency_key_makes_one_store(served):
    """A repeated request gets its first result, a conflict too; another body is refused."""
    key = {"Idempotency-Key": "once"}
    first = served.store({"task": "send the letter once"}, headers=key)
    again = served.store({"task": "send the letter once"}, headers=key)
    other = send(served.url, "POST", "/patterns/store", {"task": "another"}, headers=key)
    condition = {"id": 811, "task": "take it", "ifVersion": 1}
    late = {"Idempotency-Key": "late"}
    conflict = send(served.url, "POST", "/patterns/store", condition, headers=late)
    served.store({"id": 811, "task": "it is there now"})
    repeated = send(served.url, "POST", "/patterns/store", condition, headers=late)

    assert again == first
    assert refusal(other) == (422, "idempotency_key_reused", "Idempotency-Key")
    assert repeated.body["error"] == conflict.body["error"]
    assert conflict.body["error"]["current_version"] == 0
    found = served.search(task="send the letter once", k=3)
    assert [hit["task"] for hit in found].count("send the letter once") == 1


def test_sessions_are_carried(served):
    """A write's token can be sent with any request."""
    stored = send(served.url, "POST", "/patterns/store", {"id": 821, "task": "carry a token"})
    token = {SESSION: stored.headers[SESSION]}
    found = send(
        served.url, "POST", "/patterns/search?consistency=strong", {"task": "carry a token"},
        headers=token,
    )  # fmt: skip

    assert stored.headers[SESSION]
    assert ids(found.result)[0] == 821


def test_answers_are_as_described(served):
    """What /openapi.json says of a route is what the route answers."""
    description = Description(send(served.url, "GET", "/openapi.json").body)
    bodies: dict[str, list[Any]] = {
        "/patterns/store": [
            {"id": 831, "task": "describe"},
            {},
            {"id": 831, "task": "a", "ifVersion": 1},
        ],
        "/patterns/search": [{"task": "describe"}, {"task": "a", "k": 0}],
        "/patterns/search?allow_partial=true": [{"task": "describe"}],
        "/vectors/search": [{"query": "describe"}, {"query": "a", "collection": "other"}],
    }
    for path, listed in bodies.items():
        for body in listed:
            description.check("POST", path, send(served.url, "POST", path, body))
    for path in ("/", "/healthz", "/readyz"):
        answer = send(served.url, "GET", path)
        description.check("GET", path, answer)
        assert answer.status == 200


def test_commands_work(served):
    """`recollect store` and `recollect search` speak HTTP, and so with either."""

    def recollect(*words: str) -> str:
        command = [sys.executable, "-P", "-m", "cluster.cli", *words, "--url", served.url]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    recollect("store", "water the ferns on Sunday", "--reward", "0.5", "--success")
    said = recollect("search", "water the ferns on Sunday", "-k", "1")

    assert "water the ferns on Sunday" in said


def test_a_crash_loses_nothing(served):
    """After kill -9 of every process that is behind it, all that was acknowledged is there."""
    stored: list[Any] = []

    def keep_storing() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):
            while True:
                stored.append(served.store({"task": f"survive number {len(stored)}"}))

    before = served.search(task="survive", k=10_000)
    with ThreadPoolExecutor() as threads:
        threads.submit(keep_storing)
        eventually(lambda: len(stored) >= 20, what="stores")
        served.crash()
    served.recover()
    after = {hit.pop("id"): hit for hit in served.search(task="survive", k=10_000)}

    assert {each["id"] for each in stored} <= after.keys()
    for hit in before:
        assert after[hit.pop("id")] == hit | {"score": pytest.approx(hit["score"], abs=1e-5)}


def test_what_is_not_served_is_refused_by_name(server):
    """A route of clusters is no mystery; one that exists nowhere is only not found."""
    url = server[0].url
    described = send(url, "GET", "/openapi.json").body["paths"]
    for method, path in (
        ("GET", "/cluster"),
        ("GET", "/changes"),
        ("GET", "/patterns/stream"),
        ("PUT", "/collections/docs"),
        ("GET", "/collections/patterns"),
        ("POST", "/collections/patterns/points/query"),
        ("POST", "/graph/cypher"),
        ("POST", "/cluster/checkpoint"),
    ):
        assert refusal(send(url, method, path)) == (404, "not_served", None)
    assert refusal(send(url, "GET", "/nothing")) == (404, "not_found", None)
    assert set(described) == {
        *("/patterns/store", "/patterns/search", "/vectors/search"),
        *("/", "/healthz", "/readyz", "/metrics", "/openapi.json"),
    }


def test_an_absent_postgres_is_told_and_comes_back(server):
    """503 with Retry-After and a reason; nothing has to be restarted but Postgres."""
    patterns, database = server
    kill_9(database)
    try:
        refused = [
            send(patterns.url, "POST", "/patterns/store", {"task": "a"}),
            send(patterns.url, "POST", "/patterns/search", {"task": "a"}),
        ]
        eventually(lambda: not patterns.is_ready(), what="a server that is not ready")
        unready = patterns.readiness()
        alive = send(patterns.url, "GET", "/healthz")
    finally:
        database.start()
    patterns.await_ready()
    stored = send(patterns.url, "POST", "/patterns/store", {"task": "a"})

    assert [each.status for each in refused] == [503, 503]
    assert all(each.body["error"]["retryable"] for each in refused)
    assert all(float(each.headers["retry-after"]) > 0 for each in refused)
    assert unready is not None
    assert refusal(unready) == (503, "not_ready", None)
    assert "Postgres" in unready.body["error"]["reasons"][0]
    assert alive.status == 200
    assert stored.status == 200


def test_a_request_ends_in_time_in_postgres_too(server):
    """A statement that waits is cancelled when its request's time is over."""
    patterns, database = server

    async def held() -> list[Any]:
        holder = await asyncpg.connect(database.url)
        watcher = await asyncpg.connect(database.url)
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%INTO stored_patterns%' "
            "AND wait_event_type = 'Lock'"
        )
        try:
            async with holder.transaction():
                await holder.execute("LOCK TABLE stored_patterns")
                refused = await asyncio.to_thread(
                    send, patterns.url, "POST", "/patterns/store?timeout=0.3", {"task": "a"}
                )
                while await watcher.fetchval(waiting):
                    await asyncio.sleep(0.02)
                return [refused]
        finally:
            await holder.close()
            await watcher.close()

    (refused,) = asyncio.run(asyncio.wait_for(held(), 20))

    assert refusal(refused) == (503, "deadline_exceeded", None)
    assert send(patterns.url, "POST", "/patterns/store", {"task": "a"}).status == 200


def test_a_password_is_nowhere(tmp_path):
    """A Postgres that cannot be reached is named without the secret of its URL."""
    with running_patterns("postgresql://me:hidden-word@127.0.0.1:1/none", tmp_path) as server:
        eventually(lambda: "reached" in str(server.readiness()), 30, "a reason")
        told = send(server.url, "GET", "/readyz")
        refused = send(server.url, "POST", "/patterns/search", {"task": "a"})
    texts = (str(told.body), str(refused.body), server.log.read_text())

    assert told.status == refused.status == 503
    assert not any("hidden-word" in text for text in texts)
