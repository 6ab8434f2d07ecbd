"""From a body's bytes to its schema, JSON or MessagePack: measured first, then decoded.

What a body becomes is claimed from the memory budget before it is made. Large bodies are measured
and decoded in a thread, so that the loop goes on.
"""

from __future__ import annotations

import asyncio
from typing import Final, Generic, TypeVar

from aiohttp import web

from cluster.api.body import Claim
from cluster.api.forms import is_msgpack
from cluster.api.msgpack_scan import Scan, scan
from cluster.api.schema import RequestBody
from cluster.api.strict_json import StrictDecoder
from cluster.api.strict_msgpack import MsgpackDecoder

LARGE_BODY_BYTES: Final = 256 * 1024
"""Bodies from here on are decoded and converted in a thread, so that the loop goes on."""

B = TypeVar("B", bound=RequestBody)


class BodyDecoder(Generic[B]):
    """Decodes the bodies of one route."""

    def __init__(self, schema: type[B]) -> None:
        self._json = StrictDecoder(schema)
        self._msgpack = MsgpackDecoder(schema)

    def empty(self, request: web.BaseRequest) -> bytes:
        """Return the body of a request that may have none."""
        return b"\x80" if is_msgpack(request) else b"{}"

    async def decode(self, request: web.BaseRequest, raw: bytes, claim: Claim) -> B:
        """Return the decoded body; raises as the decoders and `Claim.grow_decoded` do."""
        packed = is_msgpack(request)
        if len(raw) < LARGE_BODY_BYTES:
            measured = _measured(raw, packed=packed)
            claim.grow_decoded(measured.values)
            return self._decoded(raw, measured, packed=packed)
        measured = await asyncio.to_thread(_measured, raw, packed=packed)
        claim.grow_decoded(measured.values)
        return await asyncio.to_thread(self._decoded, raw, measured, packed=packed)

    def _decoded(self, raw: bytes, measured: Scan, *, packed: bool) -> B:
        return self._msgpack.decode(raw, measured) if packed else self._json.decode(raw)


def _measured(raw: bytes, *, packed: bool) -> Scan:
    # JSON has no more array elements and fields than commas.
    return scan(raw) if packed else Scan(raw.count(b","), [])
