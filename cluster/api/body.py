"""Reading a request body within bounds, before memory is taken for it.

The declared length is compared with the limit before the first byte is read; a body without one
is counted as it arrives. All bodies being processed share a budget of bytes, so that many
allowed bodies together cannot exhaust the node; what they become when they are decoded must fit
its memory too. No Content-Encoding is undone: a small body
cannot become a large one. A client that stalls is answered 408 instead of holding its budget.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

from aiohttp import hdrs, web

from cluster.api.forms import JSON_TYPE, MSGPACK_TYPE
from cluster.errors import (
    BadRequest,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from cluster.memory_guard import MemoryGuard

BUDGET_BODIES: Final = 4
"""How many bodies of the largest size may be in memory at once."""
DECODED_BYTES: Final = 40
"""What an element of a JSON array is as an object: measured 33 to 38, and vectors come beside."""
UTF8: Final = frozenset({"utf-8", "utf8"})


class BodyBudget:
    """Bytes of request bodies that may be in memory at once; `memory` judges what else there is."""

    def __init__(self, bytes_max: int, memory: MemoryGuard | None = None) -> None:
        self.bytes_max = bytes_max
        self.memory = memory
        self.bytes_taken = 0
        self.bytes_decoded = 0

    def claim(self) -> Claim:
        """Return an empty claim; use it as a context manager."""
        return Claim(self)


class Claim:
    """The part of a budget that one request holds until it is answered."""

    __slots__ = ("_budget", "_bytes", "_decoded")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._bytes = 0
        self._decoded = 0

    def grow(self, count: int) -> None:
        """Take `count` more bytes.

        Raises:
            Overloaded: other requests hold too much.
        """
        budget = self._budget
        if budget.bytes_taken + count > budget.bytes_max:
            raise Overloaded("too many request bytes are being processed")
        self._admit(count)
        budget.bytes_taken += count
        self._bytes += count

    def grow_decoded(self, elements: int) -> None:
        """Take what a body of so many elements becomes when it is decoded.

        Raises:
            PayloadTooLarge: more than the node's memory can ever hold.
            Overloaded: more than it can now.
        """
        if self._budget.memory is not None:
            count = DECODED_BYTES * elements
            self._admit(count)
            self._budget.bytes_decoded += count
            self._decoded += count

    def _admit(self, count: int) -> None:
        budget = self._budget
        if budget.memory is not None:
            budget.memory.admit_body(count, budget.bytes_taken + budget.bytes_decoded)

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._budget.bytes_taken -= self._bytes
        self._budget.bytes_decoded -= self._decoded
        assert self._budget.bytes_taken >= 0, "a claim gives back what it took"


async def read_body(
    request: web.Request, bytes_max: int, pause_s_max: float, claim: Claim
) -> bytes:
    """Return the whole body; `pause_s_max` bounds the wait for each further piece of it.

    Raises:
        PayloadTooLarge: by its declared length, or as soon as more than `bytes_max` came.
        UnsupportedMediaType: a Content-Encoding, or a media type that is not served.
        BadRequest: no body, or one whose framing is broken.
        RequestTimeout: the client stopped sending.
        Overloaded: the budget is used up.
    """
    _check_headers(request, bytes_max)
    content = request.content
    if content.is_eof():
        raw = content.read_nowait()
        if len(raw) > bytes_max:
            raise PayloadTooLarge(f"the body is larger than {bytes_max} bytes")
        claim.grow(len(raw))
    else:
        raw = await _collect(request, bytes_max, pause_s_max, claim)
    if not raw:
        raise BadRequest("a JSON body is needed")
    return raw


def _check_headers(request: web.Request, bytes_max: int) -> None:
    headers = request.headers
    length = headers.get(hdrs.CONTENT_LENGTH)
    if length is not None:
        if int(length) > bytes_max:
            raise PayloadTooLarge(f"the body is larger than {bytes_max} bytes")
        if int(length) == 0:
            raise BadRequest("a JSON body is needed")
    encoding = headers.get(hdrs.CONTENT_ENCODING)
    if encoding is not None and encoding.strip().lower() not in {"", "identity"}:
        raise UnsupportedMediaType("no Content-Encoding is served", field=hdrs.CONTENT_ENCODING)
    if headers.get(hdrs.TRANSFER_ENCODING, "chunked").strip().lower() != "chunked":
        text = "no Transfer-Encoding but chunked is served"
        raise UnsupportedMediaType(text, field=hdrs.TRANSFER_ENCODING)
    media_type = headers.get(hdrs.CONTENT_TYPE)
    if media_type is not None and media_type != JSON_TYPE:
        _check_media_type(media_type)


def _check_media_type(text: str) -> None:
    kind, _, parameters = text.partition(";")
    if kind.strip().lower() == MSGPACK_TYPE:
        return
    if kind.strip().lower() != JSON_TYPE:
        text = f"the body must be {JSON_TYPE} or {MSGPACK_TYPE}"
        raise UnsupportedMediaType(text, field=hdrs.CONTENT_TYPE)
    for parameter in filter(None, (part.strip() for part in parameters.split(";"))):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in UTF8:
            raise UnsupportedMediaType("JSON is UTF-8", field=hdrs.CONTENT_TYPE)


async def _collect(request: web.Request, bytes_max: int, pause_s_max: float, claim: Claim) -> bytes:
    await _invite(request)
    pieces: list[bytes] = []
    size = 0
    content = request.content
    while not content.at_eof():
        piece = await _piece(request, pause_s_max)
        size += len(piece)
        if size > bytes_max:
            raise PayloadTooLarge(f"the body is larger than {bytes_max} bytes")
        claim.grow(len(piece))
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _piece(request: web.Request, pause_s_max: float) -> bytes:
    try:
        async with asyncio.timeout(pause_s_max):
            return await request.content.readany()
    except TimeoutError:
        raise RequestTimeout(f"nothing of the body arrived for {pause_s_max:g} s") from None
    except web.RequestPayloadError:
        raise BadRequest("the body's transfer encoding is broken") from None
    except ConnectionError:
        # Nobody reads this answer; it keeps a client's leaving from looking like a fault.
        raise BadRequest("the connection ended inside the body") from None


async def _invite(request: web.Request) -> None:
    """Answer `Expect: 100-continue` only now that the body is wanted."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # aiohttp counts output to know whether an answer has begun; this was none.
        request.writer.output_size = 0
