"""Bytes that are no valid HTTP: refused in the envelope, and nothing else suffers."""

from __future__ import annotations

import asyncio

import pytest

from cluster.api import protocol
from tests.unit.api_router import served
from tests.unit.test_api_body import exchange


@pytest.mark.parametrize(
    "head",
    [
        "NONSENSE\n\n",
        "GET /healthz HTTP/9.9\n\n",
        "GET /healthz HTTP/1.1\nHost: x\nno colon here\n\n",
        "GET /healthz HTTP/1.1\nHost: x\nBad Header: y\n\n",
        "PUT /collections/c HTTP/1.1\nHost: x\nContent-Length: -1\n\n",
        "PUT /collections/c HTTP/1.1\nHost: x\nContent-Length: 1x\n\n",
        "PUT /collections/c HTTP/1.1\nHost: x\nContent-Length: 2\nContent-Length: 3\n\n{}",
        "PUT /collections/c HTTP/1.1\nHost: x\nContent-Length: 2\nTransfer-Encoding: chunked\n\n{}",
        f"GET /{'x' * 20000} HTTP/1.1\nHost: x\n\n",
        f"GET /healthz HTTP/1.1\nHost: x\nX-Long: {'y' * 20000}\n\n",
        "GET /healthz HTTP/1.1\nHost: x\n" + "".join(f"X-{n}: y\n" for n in range(500)) + "\n",
        "\x16\x03\x01\x02\n\n",
    ],
)
async def test_broken_http_is_a_400_in_the_envelope(head):
    """What cannot be parsed is answered with the envelope, and the next request is served."""
    async with served() as client:
        status, body, _ = await exchange(client.port, head)

        assert status == 400
        assert body["error"] == {"code": "bad_request", "field": None, "retryable": False}
        assert (await client("GET", "/healthz")).status == 200


@pytest.mark.parametrize("method", ["BREW", "GETT", "get", "X-Y", "P!", "SUBSCRIBE", "MKCOL"])
async def test_methods_that_no_route_has_are_405(method):
    """A method is refused as such, whether or not the parser knows it."""
    async with served() as client:
        status, body, answer = await exchange(
            client.port, f"{method} /healthz HTTP/1.1\nHost: x\n\n"
        )

        assert (status, body["error"]["code"]) == (405, "method_not_allowed")
        assert b"\r\nallow: " in answer.lower()


async def test_an_unknown_expectation_is_ignored_or_refused():
    """An `Expect` that means nothing brings no 5xx, on routes and elsewhere."""
    async with served() as client:
        for path, status in (("/healthz", 200), ("/nothing", 400)):
            head = f"GET {path} HTTP/1.1\nHost: x\nExpect: the-unexpected\n\n"
            found, _, _ = await exchange(client.port, head)

            assert found == status


@pytest.mark.parametrize(
    "target", ["/healthz?a=%", "/healthz?%zz", "//healthz", "/%", "/\xff", "*", "http://other/x"]
)
async def test_odd_targets_bring_no_server_error(target):
    """A target that is odd, but HTTP, is answered below 500."""
    async with served() as client:
        status, _, _ = await exchange(client.port, f"GET {target} HTTP/1.1\nHost: x\n\n")

        assert status < 500


async def test_pipelined_requests_are_answered_in_order():
    """Two requests in one packet get two answers."""
    async with served() as client:
        head = "GET /healthz HTTP/1.1\nHost: x\n\n"
        status, body, _ = await exchange(client.port, head + head)

        assert (status, body["result"]) == (200, {"status": "ok"})


async def test_a_head_that_does_not_end_is_cut_off(monkeypatch):
    """Half a head holds its connection for a bounded time; an idle connection stays."""
    monkeypatch.setattr(protocol, "HEAD_S", 0.05)
    async with served() as client:
        half, writer = await asyncio.open_connection("127.0.0.1", client.port)
        idle, other = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        other.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(5):
            assert await half.read() == b""
        assert (await idle.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        other.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await idle.readuntil(b"HTTP/1.1 200")
        for each in (writer, other):
            each.close()
