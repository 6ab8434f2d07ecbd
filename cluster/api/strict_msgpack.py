"""Strict decoding of MessagePack bodies, by the schemas that JSON bodies have.

`msgpack_scan` has walked the bytes; here they become the schema's Struct. Binary data is taken out
before, because a schema that is also JSON's knows none, and put back as vectors where the schema
has vectors; anywhere else it is refused.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from cluster.api.json_location import render_path
from cluster.api.msgpack_scan import Path, Scan
from cluster.api.packed import PackedVector
from cluster.api.schema import RequestBody
from cluster.api.strict_json import convert, refuse_lacking, vector_fields
from cluster.errors import BadRequest

B = TypeVar("B", bound=RequestBody)


class MsgpackDecoder(Generic[B]):
    """Decodes bodies of one schema."""

    def __init__(self, schema: type[B]) -> None:
        self._schema = schema

    def decode(self, raw: bytes, scan: Scan) -> B:
        """Return a body that was scanned as its schema's Struct.

        Raises:
            BadRequest: not of the schema, or binary data where no vector is; `field` names it.
            UnsupportedFeature: a value in a field that is known but not served.
        """
        value = msgspec.msgpack.decode(raw)
        if not isinstance(value, dict):
            raise BadRequest("the body is a MessagePack map")
        taken = [(path, _take(value, path)) for path in scan.binaries]
        body = convert(value, self._schema, "")
        for path, binary in taken:
            _put(body, path, binary)
        refuse_lacking(body)
        return body


def _take(value: Any, path: Path) -> bytes:
    """Put an empty list in the place of binary data, which is returned."""
    for part in path[:-1]:
        value = value[part]
    binary: bytes = value[path[-1]]
    value[path[-1]] = []
    return binary


def _put(body: RequestBody, path: Path, binary: bytes) -> None:
    field = render_path(path)
    holder: Any = body
    allowed = False
    for part in path[:-1]:
        if isinstance(holder, RequestBody):
            allowed = part in vector_fields(type(holder))
            holder = getattr(holder, str(part))
        else:
            holder = holder[part]
    last = path[-1]
    if isinstance(holder, RequestBody):
        if last in vector_fields(type(holder)):
            setattr(holder, str(last), PackedVector(binary, field))
            return
    elif allowed:
        holder[last] = PackedVector(binary, field)
        return
    raise BadRequest("binary data is taken for vectors only", field=field)
