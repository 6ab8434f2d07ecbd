"""Reading bodies within bounds: refused by what they declare, counted as they arrive."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import msgspec
import pytest

from cluster.api.body import BodyBudget
from cluster.config import Config
from cluster.errors import Overloaded
from tests.unit.api_router import served, with_collection

UPSERT = {"points": [{"id": 1, "vector": [1, 2, 3], "payload": {"text": "x" * 2000}}]}
SMALL = Config(body_bytes_max=1000)
QUICK = Config(request_timeout_ms=100)


async def exchange(port: int, head: str, *pieces: bytes) -> tuple[int, Any, bytes]:
    """Send raw bytes and return status, decoded body and head of the first answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.replace("\n", "\r\n").encode("latin-1"))
        for piece in pieces:
            writer.write(piece)
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer.split()[1])
            lines = answer.lower().split(b"\r\n")
            length = next(int(line.split(b":")[1]) for line in lines if b"content-length" in line)
            return status, msgspec.json.decode(await reader.readexactly(length)), answer
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_declared_length_is_refused_before_the_body_is_sent():
    """A length beyond the limit is a 413 although not one byte of the body came."""
    async with served() as client:
        head = f"PUT /collections/c/points HTTP/1.1\nHost: x\nContent-Length: {10**12}\n\n"
        status, body, _ = await exchange(client.port, head)

        assert (status, body["error"]["code"]) == (413, "payload_too_large")


async def test_a_chunked_body_is_counted():
    """A body without a length is refused as soon as it is too long."""
    async with served(config=SMALL) as client:
        await with_collection(client)

        async def pieces():
            for _ in range(40):
                yield b" " * 100

        url = f"http://127.0.0.1:{client.port}/collections/c/points"
        headers = {"Content-Type": "application/json"}
        reply = await client.session.put(url, data=pieces(), headers=headers)

        assert reply.status == 413


async def test_a_body_of_the_limit_is_read():
    """The limit itself is allowed, declared or chunked."""
    raw = b'{"points": [{"id": 1, "vector": [1, 2, 3]}]}'.ljust(1000)
    async with served(config=SMALL) as client:
        await with_collection(client)

        async def pieces():
            yield raw[:10]
            yield raw[10:]

        assert (await client("PUT", "/collections/c/points", raw)).status == 200
        url = f"http://127.0.0.1:{client.port}/collections/c/points"
        assert (await client.session.put(url, data=pieces())).status == 415
        headers = {"Content-Type": "application/json"}
        assert (await client.session.put(url, data=pieces(), headers=headers)).status == 200


async def test_one_byte_more_is_refused():
    """One byte beyond the limit is refused."""
    async with served(config=SMALL) as client:
        reply = await client("PUT", "/collections/c/points", b" " * 1001)

        assert reply.refusal == (413, "payload_too_large", None)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP", "identity, gzip"])
async def test_encoded_bodies_are_refused(encoding):
    """No Content-Encoding is undone."""
    async with served() as client:
        raw = gzip.compress(b"{}")
        headers = {"Content-Encoding": encoding}
        reply = await client("PUT", "/collections/c/points", raw, headers=headers)

        assert reply.refusal == (415, "unsupported_media_type", "Content-Encoding")


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "application/json; charset=latin-1",
        "application/octet-stream",
        "",
    ],
)
async def test_other_media_types_are_refused(media_type):
    """Only JSON in UTF-8 is read."""
    async with served() as client:
        headers = {"Content-Type": media_type}
        reply = await client("PUT", "/collections/c/points", b"{}", headers=headers)

        assert reply.refusal == (415, "unsupported_media_type", "Content-Type")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": 'Application/JSON; Charset="UTF-8"'},
        {"Content-Type": "application/json;"},
        {"Content-Encoding": "identity"},
    ],
)
async def test_json_in_any_spelling_is_read(headers):
    """The media type's case, a UTF-8 charset and the identity encoding are accepted."""
    async with served() as client:
        await with_collection(client)

        assert (await client("PUT", "/collections/c/points", UPSERT, headers=headers)).status == 200


async def test_a_body_without_media_type_is_read():
    """A missing Content-Type is taken for JSON."""
    async with served() as client:
        await with_collection(client)
        raw = b"{}"
        head = "POST /collections/c/points/count HTTP/1.1\nHost: x\nContent-Length: 2\n\n"
        status, body, _ = await exchange(client.port, head, raw)

        assert (status, body["result"]) == (200, {"count": 0})


async def test_an_empty_body_is_refused():
    """A route that needs a body says so."""
    async with served() as client:
        assert (await client("POST", "/patterns/store")).refusal == (400, "bad_request", None)


async def test_a_stalled_body_is_answered():
    """A client that stops in the middle of its body gets a 408 instead of holding memory."""
    async with served(config=QUICK) as client:
        head = "PUT /collections/c/points HTTP/1.1\nHost: x\nContent-Length: 100\n\n"
        status, body, _ = await exchange(client.port, head, b'{"points"')

        assert (status, body["error"]["code"]) == (408, "request_timeout")


async def test_a_client_that_leaves_in_the_middle_does_no_harm(caplog):
    """A connection that ends inside a body is no fault of the server, which goes on."""
    async with served(config=QUICK) as client:
        await with_collection(client)
        for framing in ("Content-Length: 100", "Transfer-Encoding: chunked"):
            _, writer = await asyncio.open_connection("127.0.0.1", client.port)
            head = f"PUT /collections/c/points HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n"
            writer.write(head.encode())
            await writer.drain()
            assert (await client("GET", "/healthz")).status == 200
            writer.close()
            await writer.wait_closed()

            assert (await client("GET", "/healthz")).status == 200
    assert caplog.records == []


async def test_a_broken_chunk_is_a_bad_request():
    """A chunk whose size is no number is a 400."""
    async with served(config=QUICK) as client:
        head = "PUT /collections/c/points HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n"
        status, body, _ = await exchange(client.port, head, b"zz\r\n{}\r\n0\r\n\r\n")

        assert (status, body["error"]["code"]) == (400, "bad_request")


async def test_expect_continue_is_invited_only_when_the_body_is_wanted():
    """`100 Continue` is sent for a body that will be read, and not for one that is refused."""
    async with served(config=SMALL) as client:
        await with_collection(client)
        head = "POST /collections/c/points/count HTTP/1.1\nHost: x\nExpect: 100-continue\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(f"{head}Content-Length: 2\n\n".replace("\n", "\r\n").encode())
        invited = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"{}")
        answered = await reader.readuntil(b"\r\n")
        writer.close()
        await writer.wait_closed()
        status, _, _ = await exchange(client.port, f"{head}Content-Length: 9999\n\n")

        assert (invited, answered) == (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n")
        assert status == 413


def test_claims_share_a_budget():
    """Bodies together stay within the budget, and give back what they took."""
    budget = BodyBudget(100)
    with budget.claim() as first:
        first.grow(60)
        with budget.claim() as second:
            with pytest.raises(Overloaded):
                second.grow(41)
            second.grow(40)

        assert budget.bytes_taken == 60
    assert budget.bytes_taken == 0


async def test_the_budget_is_free_after_every_kind_of_answer():
    """Neither refusals nor answers keep bytes of the budget."""
    config = Config(body_bytes_max=3000)
    async with served(config=config) as client:
        await with_collection(client)
        for _ in range(20):
            assert (await client("PUT", "/collections/c/points", UPSERT)).status == 200
            assert (await client("PUT", "/collections/c/points", b" " * 2999)).status == 400
