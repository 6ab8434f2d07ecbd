"""Whole requests out of a connection's bytes, for a worker that reads them itself.

What a head means, and whether it is one for a worker at all, the node's own parser says. A client
sends the same head again and again on a connection it keeps: what was said of a head's bytes holds
for the same bytes, so it is said once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

from aiohttp import hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser

HEAD_BYTES_MAX: Final = 16 * 1024
HEADS_MAX: Final = 512
KNOWN_BYTES_MAX: Final = 1024
"""So many heads of at most so many bytes are remembered; bodies of other lengths make others."""
_END: Final = b"\r\n\r\n"


class Request(NamedTuple):
    """A request that is here whole."""

    message: RawRequestMessage
    body: bytes


class NotForWorkers(Exception):
    """The bytes are, or begin, something else than one request that a worker may answer."""


class Requests:
    """See the module. `admits` judges a request by its head."""

    def __init__(self, admits: Callable[[RawRequestMessage], bool]) -> None:
        self._admits = admits
        self._heads: dict[bytes, tuple[RawRequestMessage, int] | None] = {}
        """Of each head its message and the length of its body; None: it is not for workers."""

    def take(self, unread: bytes) -> Request | None:
        """Return the request that the bytes are; None: its rest is to come.

        Raises NotForWorkers.
        """
        end = unread.find(_END)
        if end < 0:
            if len(unread) > HEAD_BYTES_MAX:
                raise NotForWorkers
            return None
        start = end + len(_END)
        known = self._known(unread[:start])
        if known is None or len(unread) > start + known[1]:
            raise NotForWorkers  # what comes behind a request is for the node, too
        message, length = known
        return Request(message, unread[start:]) if len(unread) == start + length else None

    def _known(self, head: bytes) -> tuple[RawRequestMessage, int] | None:
        if len(head) > KNOWN_BYTES_MAX:
            return self._read(head)
        if head not in self._heads:
            if len(self._heads) >= HEADS_MAX:
                self._heads.clear()
            self._heads[head] = self._read(head)
        return self._heads[head]

    def _read(self, head: bytes) -> tuple[RawRequestMessage, int] | None:
        if len(head) > HEAD_BYTES_MAX:
            return None
        try:
            messages, _, _ = _parser().feed_data(head)
        except HttpProcessingError:
            return None
        if len(messages) != 1:
            return None
        message = messages[0][0]
        if not isinstance(message, RawRequestMessage) or not self._admits(message):
            return None
        return message, int(message.headers[hdrs.CONTENT_LENGTH])


class _NoLoop:
    """Stands where the parser wants an event loop, of which a head needs nothing."""

    def get_debug(self) -> bool:
        return False


def _parser() -> Any:
    """Return the node's parser, with the limits that aiohttp's server gives it."""
    loop = cast("asyncio.AbstractEventLoop", _NoLoop())
    return HttpRequestParser(
        BaseProtocol(loop),
        loop,
        HEAD_BYTES_MAX,
        max_line_size=8190,
        max_field_size=8190,
        max_headers=128,
        auto_decompress=False,
    )
