"""Where requests begin among the bytes: certain, or never said to be."""

import asyncio

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.api.boundary import Boundary

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabcdef"
CHUNKED = b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


def followed(pieces):
    """Return whether a request begins after each piece, as is said."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
        boundary, said = Boundary(), []
        for piece in pieces:
            messages, _, _ = parser.feed_data(piece)
            boundary.follow(piece, [message for message, _ in messages])
            said.append(boundary.is_here)
        return said
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([GET, POST, GET], [True, True, True]),
        ([POST[:-4], POST[-4:], GET], [False, True, True]),
        ([POST[:-6], b"abc", b"def", POST], [False, False, True, True]),
        ([POST + b"G"], [False]),
        ([POST[:-1], b"f" + GET[:9], GET[9:], GET], [False] * 4),
        ([GET + GET, GET], [False, False]),
        ([GET[:9], GET[9:], GET], [False, False, False]),
        ([CHUNKED, GET], [False, False]),
    ],
)
def test_what_is_said_of_pieces(pieces, said):
    """Whole requests, and bodies in pieces; the rest is not certain, and stays so."""
    assert followed(pieces) == said


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([GET, POST]), max_size=6), st.data())
def test_it_is_never_said_wrongly(requests, data):
    """However the bytes are cut."""
    whole, pieces, at = b"".join(requests), [], 0
    ends: set[int] = set()
    for request in requests:
        ends.add(len(request) + max(ends, default=0))
    while at < len(whole):
        size = data.draw(st.integers(1, 60))
        pieces.append(whole[at : at + size])
        at += size
    place = 0
    for piece, is_here in zip(pieces, followed(pieces), strict=True):
        place += len(piece)
        assert not is_here or place in ends
