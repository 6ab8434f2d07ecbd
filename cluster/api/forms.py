"""The forms an answer can take: JSON, and MessagePack for those who ask for it.

`Accept` decides, for answers and for errors:

    application/msgpack                   vectors are arrays of numbers
    application/msgpack; vectors=float32  vectors are bytes, little-endian
    application/json, a wildcard, none    JSON

Between the two the greater `q` wins, and MessagePack when they are equal, since nobody names it by
accident. Who accepts neither is told so before anything is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import orjson
from aiohttp import hdrs, web

from cluster.errors import BadRequest, NotAcceptable

JSON_TYPE: Final = "application/json"
MSGPACK_TYPE: Final = "application/msgpack"
VECTORS_PARAMETER: Final = "vectors"
VECTORS_BINARY: Final = "float32"
ACCEPT_LENGTH_MAX: Final = 1000
"""A longer header is not looked into: it gets JSON."""
_WILDCARDS: Final = frozenset({"*/*", "application/*"})


class Form(NamedTuple):
    """A media type, and how an envelope becomes its bytes."""

    media_type: str
    encode: Callable[[Mapping[str, Any]], bytes]


def is_msgpack(request: web.BaseRequest) -> bool:
    """Return whether a request's body says that it is MessagePack."""
    kind = request.headers.get(hdrs.CONTENT_TYPE)
    return kind is not None and media_type(kind) == MSGPACK_TYPE


def media_type(text: str) -> str:
    """Return a media type without its parameters."""
    return text.partition(";")[0].strip().lower()


def form_of(request: web.BaseRequest) -> Form:
    """Return the form of a request's answer.

    Raises:
        NotAcceptable: the client takes no form that there is.
        BadRequest: vectors are wanted in a form that there is not.
    """
    accept = request.headers.get(hdrs.ACCEPT)
    if accept is None or accept == "*/*" or accept == JSON_TYPE or not accept.strip():
        return JSON
    if len(request.headers.getall(hdrs.ACCEPT)) > 1:
        accept = ",".join(request.headers.getall(hdrs.ACCEPT))
    return JSON if len(accept) > ACCEPT_LENGTH_MAX else _chosen(accept)


def form_of_error(request: web.BaseRequest) -> Form:
    """Return the form of a refusal: JSON for those who accept nothing."""
    try:
        return form_of(request)
    except (NotAcceptable, BadRequest):
        return JSON


@lru_cache(maxsize=64)
def _chosen(accept: str) -> Form:
    weights = {JSON_TYPE: -1.0, MSGPACK_TYPE: -1.0}
    wildcard, packed = -1.0, MSGPACK
    for part in accept.split(","):
        kind, parameters = media_type(part), _parameters(part)
        weight = _weight(parameters.get("q"))
        if kind in _WILDCARDS:
            wildcard = max(wildcard, weight)
        elif kind in weights and weight > weights[kind]:
            weights[kind] = weight
            if kind == MSGPACK_TYPE:
                packed = _packed(parameters)
    plain, dense = weights[JSON_TYPE], weights[MSGPACK_TYPE]
    if plain < 0:
        plain = wildcard
    if dense > 0 and (dense >= plain or weights[JSON_TYPE] < 0):
        return packed
    if plain > 0:
        return JSON
    raise NotAcceptable(f"answers are {JSON_TYPE} or {MSGPACK_TYPE}", field=hdrs.ACCEPT)


def _packed(parameters: Mapping[str, str]) -> Form:
    wanted = parameters.get(VECTORS_PARAMETER)
    if wanted is None:
        return MSGPACK
    if wanted != VECTORS_BINARY:
        text = f"{VECTORS_PARAMETER} is {VECTORS_BINARY}, or not given"
        raise BadRequest(text, field=hdrs.ACCEPT)
    return MSGPACK_BINARY


def _parameters(part: str) -> dict[str, str]:
    pairs = (each.partition("=") for each in part.split(";")[1:])
    return {name.strip().lower(): value.strip().strip('"').lower() for name, _, value in pairs}


def _weight(text: str | None) -> float:
    """Return a q-value; one that is none counts as 1, as if it were not there."""
    if text is None or not text.replace(".", "", 1).isdecimal() or not text.isascii():
        return 1.0
    return min(float(text), 1.0)


def _as_json(envelope: Mapping[str, Any]) -> bytes:
    return orjson.dumps(envelope, option=orjson.OPT_SERIALIZE_NUMPY)


def _numbers(value: Any) -> Any:
    """Return what MessagePack has for a vector, or for a part that is JSON already."""
    return value.tolist() if isinstance(value, np.ndarray) else _plain(value)


def _binary(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value, dtype="<f4").tobytes()
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    assert isinstance(value, orjson.Fragment), "results are plain values, numpy's and fragments"
    return msgspec.json.decode(orjson.dumps(value))


JSON: Final = Form(JSON_TYPE, _as_json)
MSGPACK: Final = Form(MSGPACK_TYPE, msgspec.msgpack.Encoder(enc_hook=_numbers).encode)
MSGPACK_BINARY: Final = Form(MSGPACK_TYPE, msgspec.msgpack.Encoder(enc_hook=_binary).encode)
