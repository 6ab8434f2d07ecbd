"""Strict decoding of request bodies: one pass of msgspec, then what no JSON reader checks.

msgspec refuses NaN, Infinity, numbers beyond float64, invalid UTF-8, lone surrogates, trailing
junk and whatever the schema does not allow. It keeps the last of duplicate keys without a word,
so they are found by counting: every string of the text is a key or a value, two quotes each, and
a decoded body that has fewer strings has lost some. Counting quotes costs a scan of the bytes,
and arrays that the schema knows to hold numbers are skipped, so 1,000 vectors cost their parse.
What the schema leaves as text (`Raw`) is for its reader to check.

The same walk refuses integers beyond 64 bits and nesting that later readers could not follow.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import UNSET

from cluster.api.json_location import (
    find_value,
    path_at,
    path_at_depth,
    path_of_duplicate,
    render_path,
    vector_of,
)
from cluster.api.schema import RequestBody
from cluster.errors import BadRequest, PayloadTooLarge, UnsupportedFeature

B = TypeVar("B", bound=RequestBody)

NESTING_MAX: Final = 200
INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**64 - 1
COUNTED_BYTES: Final = 1024 * 1024
VALUES_MAX: Final = 8 * 1024 * 1024
QUOTED_MAX: Final = 200

_AT: Final = re.compile(r"^(.*?)(?: - at (?:`key` in )?`(\$.*)`)?$", re.DOTALL)
_NAMED: Final = re.compile(r"^Object (contains unknown|missing required) field `(.*)`$", re.DOTALL)
_BYTE: Final = re.compile(r"\(byte (\d+)\)$")
_CONSTANT: Final = re.compile(rb"N|-?I")
_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|[c-fC-F][0-9a-fA-F]{2})"
)


class _Nested(Exception):
    """Containers nest deeper than NESTING_MAX."""


class _Lacking(Exception):
    """A field that is not served has a value."""


class _Wide(Exception):
    """An integer does not fit 64 bits."""


class StrictDecoder(Generic[B]):
    """Decodes bodies of one schema."""

    def __init__(self, schema: type[B]) -> None:
        self._decoder = msgspec.json.Decoder(schema)
        _plan(schema)

    def decode(self, raw: bytes) -> B:
        """Return the body as its schema's Struct.

        Raises:
            BadRequest: not JSON, not of the schema, a key twice, a NUL in text, an integer beyond
                64 bits, too deep; `field` names the place.
            UnsupportedFeature: a value in a field that is known but not served.
            PayloadTooLarge: more values than a body may hold, however few bytes they take.
        """
        if len(raw) > COUNTED_BYTES and raw.count(b",") > VALUES_MAX:
            raise PayloadTooLarge(f"the body holds more than {VALUES_MAX} values")
        try:
            body = self._decoder.decode(raw)
        except msgspec.ValidationError as error:
            raise _refused(str(error)) from None
        except RecursionError:
            raise BadRequest("nested too deeply", field=_deep_field(raw)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _malformed(raw, error) from None
        _check(raw, body)
        return body


def convert(value: Any, schema: type[B], path: str) -> B:
    """Read an already decoded object as a schema; fields are named below `path`."""
    try:
        return msgspec.convert(value, schema)
    except msgspec.ValidationError as error:
        raise _refused(str(error), path) from None


def refuse_lacking(body: RequestBody, path: str = "") -> None:
    """Refuse a value in a field that the public shape has and this product lacks.

    Raises:
        UnsupportedFeature: naming the first such field, in this body or one inside it.
    """
    for name, _, lacking in _plan(type(body)):
        value = getattr(body, name)
        if lacking and value is not None and value is not UNSET:
            raise UnsupportedFeature(f"'{name}' is not supported", field=f"{path}{name}")
        if isinstance(value, RequestBody):
            refuse_lacking(value, f"{path}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], RequestBody):
            for position, item in enumerate(value):
                refuse_lacking(item, f"{path}{name}[{position}].")


def _check(raw: bytes, body: RequestBody) -> None:
    strings, has_nul = _strings_in_text(raw)
    try:
        decoded = _count_body(body)
    except _Nested:
        raise BadRequest("nested too deeply", field=_deep_field(raw)) from None
    except _Lacking:
        refuse_lacking(body)
        raise
    except _Wide:
        parts = find_value(msgspec.json.decode(raw), _is_wide)
        raise BadRequest(
            "an integer does not fit 64 bits", field=render_path(parts or [])
        ) from None
    if decoded != strings:
        assert decoded < strings, "decoding invents no strings"
        raise BadRequest("a key appears twice in one object", field=path_of_duplicate(raw))
    if has_nul:
        parts = find_value(msgspec.json.decode(raw), _has_nul)
        raise BadRequest("text must not contain NUL", field=render_path(parts or []) or None)


def _strings_in_text(raw: bytes) -> tuple[int, bool]:
    """Return how many strings a valid JSON text holds, and whether one contains NUL."""
    if b"\\" not in raw:
        return raw.count(b'"') // 2, False
    # Without escaped backslashes a backslash always escapes what follows it.
    plain = raw.replace(b"\\\\", b"")
    quotes = plain.count(b'"') - plain.count(b'\\"')
    return quotes // 2, b"\\u0000" in plain


_Plan = tuple[tuple[str, bool, bool], ...]
_plans: dict[type[RequestBody], _Plan] = {}


def _plan(schema: type[RequestBody]) -> _Plan:
    """Return each field's name, whether an array in it holds numbers only, and if it is lacking."""
    found = _plans.get(schema)
    if found is None:
        info = msgspec.inspect.type_info(schema)
        assert isinstance(info, msgspec.inspect.StructType), "schemas are Structs"
        found = tuple(
            (item.name, _holds_numbers(item.type), item.name in schema.lacking)
            for item in info.fields
        )
        _plans[schema] = found
    return found


def _holds_numbers(kind: msgspec.inspect.Type) -> bool:
    if isinstance(kind, msgspec.inspect.Metadata):
        return _holds_numbers(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(_holds_numbers(part) for part in kind.types)
    if isinstance(kind, msgspec.inspect.ListType):
        inner = kind.item_type
        if isinstance(inner, msgspec.inspect.UnionType):
            return False  # it may hold text, too
        return isinstance(inner, msgspec.inspect.FloatType) or _holds_numbers(inner)
    return False


@cache
def vector_fields(schema: type[RequestBody]) -> frozenset[str]:
    """Return the fields of a schema that hold vectors, whatever else they may hold."""
    return schema.examples | {name for name, numbers, _ in _plan(schema) if numbers}


def _count_body(body: RequestBody) -> int:
    """Return how many strings (keys and values) a body was decoded from."""
    count = 0
    for name, numbers, lacking in _plan(type(body)):
        value = getattr(body, name)
        if value is UNSET:
            continue
        count += 1
        if value is None:
            continue
        if lacking:
            raise _Lacking
        kind = type(value)
        if kind is str:
            count += 1
        elif kind is dict or (kind is list and not numbers):
            count += _count(value, NESTING_MAX)
        elif kind is msgspec.Raw:
            count += _strings_in_text(bytes(value))[0]
        elif isinstance(value, RequestBody):
            count += _count_body(value)
    return count


def _count(value: Any, room: int) -> int:
    """Return how many strings a decoded value of any type holds."""
    kind = type(value)
    if kind is str:
        return 1
    if kind is dict or kind is list:
        if not room:
            raise _Nested
        count = 0
        if kind is dict:
            count = len(value)
            value = value.values()
        for item in value:
            count += 1 if type(item) is str else _count(item, room - 1)
        return count
    if kind is int and not INTEGER_MIN <= value <= INTEGER_MAX:
        raise _Wide
    return _count_body(value) if isinstance(value, RequestBody) else 0


def _is_wide(value: Any) -> bool:
    return type(value) is int and not INTEGER_MIN <= value <= INTEGER_MAX


def _has_nul(value: Any) -> bool:
    return type(value) is str and "\0" in value


def _deep_field(raw: bytes) -> str | None:
    """Return the field in which nesting went too deep, without the nesting itself."""
    path = path_at_depth(raw, NESTING_MAX)
    return None if path is None else field_of_nesting(path)


def field_of_nesting(path: str) -> str | None:
    """Return the field that a path leads through, without what is nested in it."""
    found = re.match(r"(?:\w+\[\d+\]\.|batch\.)?\w+(?:\[\d+\])?", path)
    return found[0] if found else None


def _refused(message: str, prefix: str = "") -> BadRequest:
    """Translate msgspec's sentence and `$.points[3].vector[0]` path into ours."""
    parts = _AT.match(message)
    assert parts is not None, "the pattern matches any text"
    sentence, path = parts[1], (parts[2] or "$")[1:].lstrip(".")
    path = ".".join(part for part in (prefix, path) if part).replace(".[", "[")
    named = _NAMED.match(sentence)
    if named:
        name = named[2][:QUOTED_MAX]
        field = f"{path}.{name}" if path else name
        known = "unknown field" if named[1].startswith("contains") else "missing field"
        return BadRequest(f"{known} '{name}'", field=field)
    path = path.partition("[...]")[0]
    if "out of range" in sentence:
        return BadRequest("a number is out of range", field=vector_of(path) or None)
    sentence = sentence.replace("`", "")[:QUOTED_MAX]
    return BadRequest(sentence[0].lower() + sentence[1:], field=path or None)


def _malformed(raw: bytes, error: Exception) -> BadRequest:
    """Explain a text that is not JSON, and name the place when it can be found."""
    try:
        raw.decode()
    except UnicodeDecodeError as broken:
        return BadRequest("the body is not valid UTF-8", field=path_at(raw, broken.start))
    found = _BYTE.search(str(error))
    lone = _LONE_SURROGATE.search(raw)
    if lone and (found is None or "surrogate" in str(error)):
        return BadRequest("text must not contain lone surrogates", field=path_at(raw, lone.end()))
    if found is None:
        return BadRequest("the body is not JSON: it ends too early")
    offset = int(found[1])
    field = path_at(raw, offset)
    if _CONSTANT.match(raw, offset):
        field = vector_of(field) if field else None
        return BadRequest("NaN and Infinity are not numbers in JSON", field=field)
    return BadRequest(f"the body is not JSON at byte {offset}", field=field)
