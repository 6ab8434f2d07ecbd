"""Where requests begin and end among the bytes of a connection, as far as that is certain. Pure.

A connection can go to another process only between two requests: what a parser has swallowed of the
next one cannot be handed over. The parser does not say how far it is, but it says what came whole,
so each request's length is known, and the bytes are counted. Once that is not certain (a body in
chunks, several requests in one piece, a head in two) it never is again on that connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aiohttp import hdrs
from aiohttp.http import RawRequestMessage

_HEAD_END: Final = b"\r\n\r\n"


class Boundary:
    """See the module."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left: int | None = 0
        """Bytes of the request that has begun which are to come; None: not certain."""

    @property
    def is_here(self) -> bool:
        """Whether what comes next begins a request."""
        return self._left == 0

    def follow(self, data: bytes, heads: Sequence[object]) -> None:
        """Take notice of data that came, and of the requests whose heads were complete with it."""
        if self._left == 0:
            self._left = _rest(data, heads)
        elif self._left is not None:
            rest = self._left - len(data)
            self._left = None if rest < 0 or heads else rest


def _rest(data: bytes, heads: Sequence[object]) -> int | None:
    if len(heads) != 1 or not isinstance(heads[0], RawRequestMessage):
        return None
    message, end = heads[0], data.find(_HEAD_END)
    if end < 0 or message.chunked or message.upgrade:
        return None
    length = int(message.headers.get(hdrs.CONTENT_LENGTH, 0))
    rest = end + len(_HEAD_END) + length - len(data)
    return rest if rest >= 0 else None
