"""Keys, readiness, and what a node says when it cannot serve: a cluster with an API key."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.helpers import READY_S, Cluster, Response, await_ready, eventually, start_cluster
from tests.system.exchange import SESSION, refusal, send

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

KEY = "a-key-of-32-visible-characters!!"
KEYED = {"api-key": KEY}
SHAPE = {"vectors": {"size": 2, "distance": "Euclid"}}
ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/", None),
    ("GET", "/readyz", None),
    ("GET", "/cluster", None),
    ("GET", "/metrics", None),
    ("GET", "/openapi.json", None),
    ("GET", "/collections", None),
    ("GET", "/collections/patterns", None),
    ("PUT", "/collections/never", SHAPE),
    ("DELETE", "/collections/patterns", None),
    ("PUT", "/collections/patterns/points", {"points": []}),
    ("POST", "/collections/patterns/points", {"ids": [1]}),
    ("POST", "/collections/patterns/points/query", {}),
    ("POST", "/collections/patterns/points/delete", {"filter": {}}),
    ("POST", "/patterns/store", {"task": "x"}),
    ("POST", "/patterns/search", {"task": "x"}),
    ("POST", "/vectors/search", {"query": "x"}),
    ("GET", "/nothing", None),
    ("PATCH", "/collections", None),
]


def ask(cluster: Cluster, node: int, method: str, path: str, body: Any = None) -> Response:
    return send(cluster.url(node), method, path, body, headers=KEYED)


def first_request(cluster: Cluster, node: int, name: str) -> Response:
    """Create a collection as soon as a node says that it is ready; there is no second try."""

    def is_ready() -> bool:
        with contextlib.suppress(OSError):
            answer = ask(cluster, node, "GET", "/readyz")
            if answer.status == 200:
                return True
            assert refusal(answer)[:2] == (503, "not_ready")
            assert answer.body["error"]["reasons"]
            assert float(answer.headers["retry-after"]) > 0
        return False

    eventually(is_ready, READY_S, f"readiness of node {node}")
    return ask(cluster, node, "PUT", f"/collections/{name}", SHAPE)


@pytest.fixture(scope="module")
def started(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Cluster, dict[int, Response]]]:
    """A cluster with a key, and what each node answered to its first request."""
    env = {"RECOLLECT_API_KEY": KEY}
    cluster = start_cluster(tmp_path_factory.mktemp("keyed"), env=env)
    try:
        first: dict[int, Response] = {}

        def watch(node: int) -> None:
            first[node] = first_request(cluster, node, f"first-of-{node}")

        threads = [threading.Thread(target=watch, args=(node,)) for node in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        await_ready(cluster)
        yield cluster, first
    finally:
        cluster.stop()


@pytest.fixture
def keyed(started: tuple[Cluster, dict[int, Response]]) -> Cluster:
    return started[0]


def test_ready_means_that_the_next_request_works(started):
    """On each node the first request after the first 200 of /readyz, to create, succeeded."""
    _, first = started

    assert sorted(first) == [1, 2, 3]
    assert [answer.result for answer in first.values()] == [True] * 3


def test_health_needs_no_key(keyed):
    """The one open route, on every node."""
    for url in keyed.urls:
        assert send(url, "GET", "/healthz").result == {"status": "ok"}
        assert send(url, "GET", "/healthz", headers={"api-key": "wrong"}).status == 200


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_everything_else_needs_it(keyed, method, path, body):
    """Without a key, or with another one, there is a 401 and nothing else to learn."""
    for node, headers in enumerate(({}, {"api-key": KEY[:-1]}, {"Authorization": "Bearer x"}), 1):
        answer = send(keyed.url(node), method, path, body, headers=headers)

        assert refusal(answer) == (401, "unauthorized", None)
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"api-key": KEY},
        {"API-KEY": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
        {"api-key": "wrong", "Authorization": f"Bearer {KEY}"},
    ],
)
def test_both_headers_carry_the_key(keyed, headers):
    """`api-key`, or `Authorization: Bearer`."""
    for url in keyed.urls:
        assert send(url, "GET", "/collections", headers=headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"api-key": ""},
        {"api-key": f"{KEY} x"},
        {"api-key": KEY.upper()},
        {"api-key": f"Bearer {KEY}"},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer"},
        {"api-key": "\xff\xfe"},
        {"api-key": KEY + "x" * 4000},
        {"Cookie": f"api-key={KEY}"},
    ],
)
def test_nothing_else_is_the_key(keyed, headers):
    """Neither a part of it, nor another scheme, nor the key in another place."""
    assert refusal(send(keyed.url(1), "GET", "/collections", headers=headers))[0] == 401
    assert refusal(send(keyed.url(1), "GET", f"/collections?api-key={KEY}"))[0] == 401


def test_a_stranger_sends_no_large_body(keyed):
    """The 401 comes before any of it is wanted."""
    address = urlsplit(keyed.url(1))
    head = "PUT /collections/x/points HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=10) as line:
        line.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        answer = line.recv(65536)

    assert answer.startswith(b"HTTP/1.1 401 ")


def test_the_command_line_and_the_nodes_keep_the_key_to_themselves(keyed):
    """It is in no log, no metric and no file of the cluster."""
    ask(keyed, 1, "POST", "/patterns/store", {"task": ""})
    metrics = send_text(keyed.url(1), "/metrics")

    assert "recollect" in metrics
    assert KEY not in metrics
    assert KEY not in keyed.logs()
    for file in keyed.folder.rglob("*"):
        if file.is_file() and file.stat().st_size < 2**20:
            assert KEY.encode() not in file.read_bytes(), file


def send_text(url: str, path: str) -> str:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as line:
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\napi-key: {KEY}\r\nConnection: close\r\n\r\n"
        line.sendall(head.encode())
        return line.makefile("rb").read().decode()


def insist(cluster: Cluster, node: int, method: str, path: str, body: Any = None) -> None:
    """Ask until it is done, as a client does while a new leader is found."""
    eventually(lambda: ask(cluster, node, method, path, body).status in {200, 409})


def test_what_one_node_dropped_another_cannot_acknowledge(keyed):
    """A node that slept through a drop and a new beginning writes to the new collection."""
    leader = ask(keyed, 1, "GET", "/cluster").result["metadata"]["leader"]
    sleeper, awake = [node for node in (1, 2, 3) if leader != f"node{node}"]
    name = "/collections/slept"
    assert ask(keyed, awake, "PUT", name, SHAPE).result is True
    assert ask(keyed, sleeper, "GET", f"{name}/exists").result == {"exists": True}
    address = urlsplit(keyed.url(sleeper))
    with socket.create_connection((address.hostname, address.port), timeout=20) as line:
        keyed.kill(sleeper, signal.SIGSTOP)
        try:
            insist(keyed, awake, "DELETE", name)
            insist(keyed, awake, "PUT", name, SHAPE)
            body = json.dumps({"points": [{"id": n, "vector": [n, 0]} for n in range(30)]})
            line.sendall(
                f"PUT {name}/points HTTP/1.1\r\nHost: x\r\napi-key: {KEY}\r\n"
                f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
        finally:
            keyed.kill(sleeper, signal.SIGCONT)
        answer = line.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 200 "), answer
    for node in (1, 2, 3):
        counted = ask(keyed, node, "POST", f"{name}/points/count?consistency=all", {})
        assert counted.result == {"count": 30}


def test_a_node_without_a_majority_says_so(keyed):
    """Not ready, with reasons; what it cannot do is a 503 with a time to try again."""
    put = {"points": [{"id": 1, "vector": [1, 1]}]}
    path = "/collections/first-of-1/points"
    stored = send(keyed.url(1), "PUT", path, put, headers=KEYED)
    assert stored.status == 200
    keyed.kill(2)
    keyed.kill(3)
    eventually(lambda: ask(keyed, 1, "GET", "/readyz").status == 503)
    unready = ask(keyed, 1, "GET", "/readyz")

    assert refusal(unready) == (503, "not_ready", None)
    assert unready.body["error"]["reasons"]
    assert unready.body["error"]["retryable"] is True
    assert ask(keyed, 1, "GET", "/healthz").status == 200
    tried: list[tuple[str, str, Any, Mapping[str, str]]] = [
        ("PUT", f"{path}?timeout=0.5", put, {}),
        ("POST", f"{path}/delete?timeout=0.5", {"filter": {}}, {}),
        ("POST", f"{path}?timeout=0.5&consistency=all", {"ids": [1]}, {}),
        ("POST", f"{path}/count?timeout=0.5", {}, {SESSION: "0:999999999"}),
        ("PUT", "/collections/more?timeout=0.5", SHAPE, {}),
        ("DELETE", "/collections/first-of-2?timeout=0.5", None, {}),
    ]
    for method, target, body, headers in tried:
        answer = send(keyed.url(1), method, target, body, headers={**KEYED, **headers})

        assert refusal(answer)[0] == 503, (method, target)
        assert float(answer.headers["retry-after"]) > 0
    bad = ask(keyed, 1, "PUT", path, {"points": [{"id": 1, "vector": [1]}]})
    assert refusal(bad) == (400, "bad_request", "points[0].vector")


def test_ready_again_means_the_same(keyed):
    """Back with a majority, the first request after the first 200 works, and all is there."""
    keyed.restart(2)
    again = first_request(keyed, 1, "after-the-loss")
    counted = ask(keyed, 2, "POST", "/collections/first-of-1/points/count?consistency=all", {})

    assert again.result is True
    assert counted.result == {"count": 1}
    keyed.restart(3)
