"""Whole requests out of bytes: what a worker takes is what the node's parser says."""

import pytest
from aiohttp import hdrs
from aiohttp.http import HttpVersion11

from cluster.workers import requests
from cluster.workers.requests import NotForWorkers, Requests

HEAD = (
    b"POST /collections/x/points/query HTTP/1.1\r\nHost: a\r\nX-Y: 1\r\nContent-Length: 4\r\n\r\n"
)


def all_posts(message):
    return message.method == "POST" and hdrs.CONTENT_LENGTH in message.headers


def test_a_request_is_taken_when_it_is_whole():
    """Byte by byte, nothing is taken before the last."""
    taker = Requests(all_posts)
    whole = HEAD + b"abcd"
    for end in range(len(whole)):
        assert taker.take(whole[:end]) is None, end
    request = taker.take(whole)

    assert request is not None
    assert request.body == b"abcd"
    assert request.message.path == "/collections/x/points/query"
    assert request.message.version == HttpVersion11
    assert request.message.headers["x-y"] == "1"


def test_a_head_is_judged_once():
    """The same bytes mean the same; others are judged anew."""
    judged = []

    def judge(message):
        judged.append(message)
        return all_posts(message)

    taker = Requests(judge)
    for body in (b"abcd", b"efgh"):
        request = taker.take(HEAD + body)
        assert request is not None
        assert request.body == body
    taker.take(HEAD.replace(b": 4", b": 3") + b"abc")

    assert [message.headers["Content-Length"] for message in judged] == ["4", "3"]


@pytest.mark.parametrize(
    "unread",
    [
        HEAD + b"abcdP",  # another follows
        HEAD + b"abcd" + HEAD + b"abcd",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nabcd",
        b"x" * (requests.HEAD_BYTES_MAX + 1),
        b"POST / HTTP/1.1\r\nA: " + b"x" * 9000 + b"\r\nContent-Length: 4\r\n\r\nabcd",
    ],
)
def test_the_rest_is_the_nodes(unread):
    """Whatever is not one request that is admitted."""
    with pytest.raises(NotForWorkers):
        Requests(all_posts).take(unread)


def test_heads_do_not_pile_up():
    """Each length of a body makes another head; few are remembered."""
    taker = Requests(all_posts)
    for length in range(1, requests.HEADS_MAX + 3):
        assert taker.take(HEAD.replace(b": 4", b": %d" % length)) is None
        assert len(taker._heads) <= requests.HEADS_MAX
    large = HEAD.replace(b"X-Y: 1", b"X-Y: " + b"1" * requests.KNOWN_BYTES_MAX)
    known = len(taker._heads)
    assert taker.take(large + b"abcd") is not None
    assert len(taker._heads) == known
