"""The wire beneath the routes: methods, media types, sizes, broken HTTP and slow clients."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.helpers import Cluster
from tests.system.exchange import Points, exchange, make, refusal, send

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

MIB = 1024 * 1024
HOST = b"Host: recollect\r\n"
JSON = HOST + b"Content-Type: application/json\r\n"
COUNT = b"POST /collections/wire/points/count HTTP/1.1\r\n" + JSON
PUT = b"PUT /collections/wire/points HTTP/1.1\r\n" + JSON
LAST = b"GET /healthz HTTP/1.1\r\nHost: recollect\r\nConnection: close\r\n\r\n"
ALIVE = (200, {"status": "ok"})


@pytest.fixture(scope="module")
def wire(shared: Cluster) -> Points:
    """A collection of one point, which nothing in this file may change."""
    points = make(shared.url(1), "wire", 2)
    points.put({"id": 1, "vector": [1, 2]})
    return points


def body_of(answer: tuple[int, Any]) -> tuple[int, str, str | None]:
    status, body = answer
    assert set(body) == {"status", "error", "time"}
    return status, body["error"]["code"], body["error"]["field"]


def is_served(url: str) -> bool:
    return [(status, body["result"]) for status, body in exchange(url, LAST)] == [ALIVE]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", "/collections/wire"),
        ("POST", "/collections/wire"),
        ("DELETE", "/collections/wire/points"),
        ("GET", "/collections/wire/points"),
        ("GET", "/collections/wire/points/query"),
        ("PUT", "/collections/wire/points/search"),
        ("PUT", "/patterns/store"),
        ("GET", "/patterns/search"),
        ("GET", "/vectors/search"),
        ("POST", "/readyz"),
        ("DELETE", "/healthz"),
        ("OPTIONS", "/collections/wire"),
        ("TRACE", "/collections/wire"),
        ("BREW", "/collections/wire"),
        ("PROPFIND", "/collections"),
        ("get", "/healthz"),
    ],
)
def test_unknown_methods(wire, method, path):
    """405, with the methods that there are, whatever else is wrong with the request."""
    answer = send(wire.url, method, path, headers={"Content-Type": None})

    assert refusal(answer) == (405, "method_not_allowed", None)
    assert answer.headers["allow"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/collections/",
        "/collections/wire/",
        "/collections/wire/nothing",
        "/collections/wire/points/1/2",
        "/collections/a/b/c/d",
        "/patterns",
        "/Collections",
        "//",
        "/collections/wire/points/query/deep",
        "/..%2f..%2fetc%2fpasswd",
    ],
)
def test_unknown_routes(wire, method, path):
    """404, on any method, with or without a body."""
    body: Any = {} if method in {"POST", "PUT"} else None

    assert refusal(send(wire.url, method, path, body)) == (404, "not_found", None)


@pytest.mark.parametrize(
    ("method", "what", "body"),
    [
        ("PUT", "/points", {"points": [{"id": 1, "vector": [1]}]}),
        ("POST", "/points", {"ids": [1]}),
        ("POST", "/points/query", {"query": [1]}),
        ("POST", "/points/search", {"vector": [1], "limit": 1}),
        ("POST", "/points/scroll", {}),
        ("POST", "/points/count", {}),
        ("POST", "/points/delete", {"points": [1]}),
        ("POST", "/points/payload", {"points": [1], "payload": {}}),
        ("PUT", "/index", {"field_name": "a", "field_schema": "keyword"}),
        ("GET", "", None),
        ("GET", "/points/1", None),
    ],
)
def test_unknown_collections(shared, method, what, body):
    """404 with a code of its own, on every route and every node."""
    for url in shared.urls:
        answer = send(url, method, f"/collections/nowhere{what}", body)

        assert refusal(answer)[:2] == (404, "collection_not_found")


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"Content-Type": "text/plain"}, "Content-Type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "Content-Type"),
        ({"Content-Type": "application/x-msgpack"}, "Content-Type"),
        ({"Content-Type": "application/jsonp"}, "Content-Type"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, "Content-Type"),
        ({"Content-Type": "application/json; charset=utf-16"}, "Content-Type"),
        ({"Content-Encoding": "gzip"}, "Content-Encoding"),
        ({"Content-Encoding": "deflate"}, "Content-Encoding"),
        ({"Content-Encoding": "br"}, "Content-Encoding"),
        ({"Content-Encoding": "zstd"}, "Content-Encoding"),
        ({"Content-Encoding": "identity, gzip"}, "Content-Encoding"),
    ],
)
def test_media_types_that_are_not_served(wire, headers, field):
    """415, before the body is looked at."""
    for method, path in (
        ("PUT", "/collections/wire/points"),
        ("POST", "/collections/wire/points/count"),
        ("POST", "/patterns/store"),
        ("PUT", "/collections/never"),
    ):
        answer = send(wire.url, method, path, raw="no JSON", headers=headers)

        assert refusal(answer) == (415, "unsupported_media_type", field)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": None},
        {"Content-Type": "application/json;charset=UTF-8"},
        {"Content-Type": 'APPLICATION/JSON; charset="utf-8"'},
        {"Content-Encoding": "identity"},
    ],
)
def test_media_types_that_are_served(wire, headers):
    """JSON by any of its names, or without one."""
    answer = send(wire.url, "POST", f"{wire.path}/points/count", raw="{}", headers=headers)

    assert answer.result == {"count": 1}


def test_a_transfer_is_not_unpacked_either(wire):
    """What was compressed on its way is no JSON, and not looked into."""
    coding = b"Transfer-Encoding: gzip, chunked\r\nConnection: close\r\n\r\n"
    (answer,) = exchange(wire.url, COUNT + coding + b"2\r\n{}\r\n0\r\n\r\n")

    assert body_of(answer) == (415, "unsupported_media_type", "Transfer-Encoding")


def test_a_compressed_bomb_is_not_unpacked(wire):
    """A small body cannot become a large one."""
    bomb = gzip.compress(b'{"task": "' + b" " * 64 * MIB + b'"}')
    answer = send(
        wire.url, "POST", "/patterns/store", raw=bomb, headers={"Content-Encoding": "gzip"}
    )

    assert len(bomb) < MIB
    assert refusal(answer)[0] == 415


@pytest.mark.parametrize("length", [64 * MIB + 1, 10 * 1024 * MIB, 2**62])
@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"])
def test_a_declared_length_beyond_the_limit(wire, length, expects):
    """413 at once: nothing of the body has been sent yet."""
    head = PUT + expects + b"Content-Length: %d\r\n\r\n" % length
    address = urlsplit(wire.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as line:
        line.sendall(head)
        first = line.recv(65536)

    assert first.startswith(b"HTTP/1.1 413 ")
    assert json.loads(first.partition(b"\r\n\r\n")[2])["error"]["code"] == "payload_too_large"


def test_a_body_without_a_length_is_counted_as_it_comes(wire):
    """A chunked body beyond the limit is cut off, one within it is served."""
    head = PUT + b"Transfer-Encoding: chunked\r\n\r\n"
    fine = (
        COUNT
        + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
    )
    chunk = b"%x\r\n" % MIB + b" " * MIB + b"\r\n"
    address = urlsplit(wire.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as line:
        line.sendall(head)
        for _ in range(66):
            line.sendall(chunk)
        first = line.recv(65536)

    assert first.startswith(b"HTTP/1.1 413 ")
    assert [body["result"] for _, body in exchange(wire.url, fine)] == [{"count": 1}]


def test_many_requests_of_no_value_at_once(wire):
    """Declared giants, from many connections at a time, take no memory and starve nobody."""
    address = urlsplit(wire.url)
    place = (address.hostname, address.port)
    lines = [socket.create_connection(place, timeout=10) for _ in range(40)]
    try:
        for line in lines:
            line.sendall(PUT + b"Content-Length: %d\r\n\r\n{" % (60 * MIB))

        assert is_served(wire.url)
        assert wire.count() == 1
    finally:
        for line in lines:
            line.close()
    assert wire.count() == 1


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n" + HOST + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"no colon\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"Name : x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\r\n folded\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n",
        b"GET /heal\0thz HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /collections/\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 2000 + b"\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        COUNT + b"Content-Length: x\r\n\r\n{}",
        COUNT + b"Content-Length: -2\r\n\r\n{}",
        COUNT + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        COUNT + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n{}",
        COUNT + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        COUNT + b"Transfer-Encoding: gzip\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        COUNT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda text: text[:60].decode("latin-1").replace("\r\n", " ").replace("\0", "0"),
)
def test_what_is_no_http(wire, text):
    """A 400 in the envelope, the connection closed, and the next one is served."""
    (answer,) = exchange(wire.url, text)

    assert body_of(answer) == (400, "bad_request", None)
    assert is_served(wire.url)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        (b"GET", b"/healthz?", 200),
        (b"GET", b"http://other/healthz", 200),
        (b"GET", b"/%", 404),
        (b"GET", b"/%ff%fe", 404),
        (b"GET", b"/collections/wire?%zz=%", 400),
        (b"GET", b"*", 400),
        (b"OPTIONS", b"*", 404),
    ],
)
def test_odd_targets(wire, method, target, status):
    """What is odd, but HTTP, is answered as what it means."""
    text = b"%s %s HTTP/1.1\r\n%sConnection: close\r\n\r\n" % (method, target, HOST)
    (answer,) = exchange(wire.url, text)

    assert answer[0] == status


def test_pipelined_requests_are_answered_in_order(wire):
    """Good ones and refused ones, each in its place, and the last one closes."""
    bad = COUNT + b"Content-Length: 1\r\n\r\n["
    good = COUNT + b"Content-Length: 2\r\n\r\n{}"
    unknown = b"GET /nothing HTTP/1.1\r\n" + HOST + b"\r\n"
    answers = exchange(wire.url, good + bad + unknown + good + LAST)

    assert [status for status, _ in answers] == [200, 400, 404, 200, 200]
    assert answers[3][1]["result"] == {"count": 1}


def test_bytes_beyond_the_declared_length_are_another_request(wire):
    """They are no part of the body, and what is no HTTP is refused as such."""
    answers = exchange(wire.url, COUNT + b"Content-Length: 2\r\n\r\n{}smuggled\r\n\r\n")

    assert answers[-1][0] == 400
    assert all(status < 500 for status, _ in answers)


def test_a_body_that_never_comes(wire):
    """408, retryable, within the promised time; meanwhile others are served."""
    slow: list[tuple[int, Any]] = []

    def wait() -> None:
        text = PUT + b'Content-Length: 1000\r\nConnection: close\r\n\r\n{"points": ['
        slow.extend(exchange(wire.url, text))

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert is_served(wire.url)
    assert wire.count() == 1
    waiting.join(20)

    ((status, body),) = slow
    assert (status, body["error"]["code"]) == (408, "request_timeout")
    assert body["error"]["retryable"] is True


def test_a_client_that_leaves_inside_its_body(wire):
    """Nothing of it is stored, and nobody else notices."""
    body = json.dumps({"points": [{"id": 2, "vector": [1, 2]}]}).encode()
    for cut in (0, 1, len(body) // 2, len(body) - 1):
        text = PUT + b"Content-Length: %d\r\n\r\n" % len(body) + body[:cut]

        assert all(status < 500 for status, _ in exchange(wire.url, text, end=True))
    assert is_served(wire.url)
    assert wire.count() == 1


def test_a_body_in_many_pieces_is_one_body(wire):
    """However it is cut by the network, and however many pieces there are."""
    body = json.dumps({"points": [{"id": 1, "vector": [1, 2]}]}).encode()
    head = PUT + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    pieces = [bytes([each]) for each in head + body]
    ((status, answer),) = exchange(wire.url, *pieces)

    assert (status, answer["result"]["status"]) == (200, "completed")
    assert wire.count() == 1


def test_expectations(wire):
    """`100-continue` is answered when the body is wanted; another one means nothing."""
    head = b"Connection: close\r\nContent-Length: 2\r\n\r\n"
    address = urlsplit(wire.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as line:
        line.sendall(COUNT + b"Expect: 100-continue\r\n" + head)
        invitation = line.recv(25)
        line.sendall(b"{}")
        answer = line.recv(15)
    odd = exchange(wire.url, COUNT + b"Expect: miracles\r\n" + head, b"{}")

    assert invitation == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer == b"HTTP/1.1 200 OK"
    assert [status for status, _ in odd] == [200]


def test_offers_to_upgrade_are_declined(wire):
    """The answer is plain HTTP."""
    for offer in (b"websocket", b"h2c"):
        text = b"GET /healthz HTTP/1.1\r\n" + HOST + b"Upgrade: " + offer
        answers = exchange(wire.url, text + b"\r\nConnection: close, Upgrade\r\n\r\n")

        assert [status for status, _ in answers] == [200]


def test_headers_that_are_no_text(wire):
    """Bytes beyond ASCII in our own headers are refused by the header's name."""
    for name in (b"X-Recollect-Session", b"Idempotency-Key"):
        end = b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"
        (answer,) = exchange(wire.url, COUNT + name + b": \xff\xfe\r\n" + end)

        assert body_of(answer) == (400, "bad_request", name.decode())


def test_the_nodes_are_none_the_worse(shared, wire):
    """Every node is ready, no request ended as an internal error, and nothing was stored."""
    shared.until_ready()
    for node, url in enumerate(shared.urls, 1):
        log = (shared.folder / f"node{node}" / "log").read_text()

        assert "Traceback" not in log
        assert "unexpected error" not in log
        assert Points(url, "wire").count(parameters="?consistency=all") == 1
