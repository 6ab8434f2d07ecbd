"""The OpenAPI 3.1 document, made from the route table and the schemas: it cannot disagree.

Request and result schemas are msgspec's own; what is said here is the rest: parameters, the
envelope, the statuses that every route may answer, and where the key goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import orjson
from aiohttp import web

from cluster.api import answers
from cluster.api.cluster_routes import OPEN_PATHS
from cluster.api.collection_schema import VectorParams
from cluster.api.envelope import EVENT_TYPE, SERVER, SESSION_HEADER
from cluster.api.forms import JSON_TYPE, MSGPACK_TYPE
from cluster.api.identity import NAME_PATTERN
from cluster.api.parameters import (
    IDEMPOTENCY_HEADER,
    KEY_PARAMETER,
    KEY_PATTERN,
    PARAMETER_NAMES,
    SESSION_PATTERN,
    STALENESS_MAX_MS,
)
from cluster.api.route import Call, Route
from cluster.api.schema import ID_SCHEMA, KEY_SCHEMA, RequestBody
from cluster.api.usage import SCHEMA as USAGE_SCHEMA
from graph.algorithms import ALGORITHMS

_REFERENCE: Final = "#/components/schemas/{name}"
_VARIABLE: Final = re.compile(r"\{(\w+)(?::[^}]*)?\}")

_PATH_SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "collection_name": {"type": "string", "pattern": NAME_PATTERN},
    "id": ID_SCHEMA,
    "graph_name": {"type": "string", "pattern": NAME_PATTERN},
    "algorithm": {"enum": sorted(ALGORITHMS)},
    "field_name": {"type": "string", "minLength": 1, "maxLength": 255},
}
_QUERY_SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "timeout": {"type": "number", "minimum": 0.001},
    "wait": {"type": "boolean"},
    "ordering": {"enum": ["weak", "medium", "strong"]},
    "consistency": {
        "anyOf": [
            {"type": "integer", "minimum": 1},
            {"enum": ["majority", "quorum", "all", "strong"]},
        ]
    },
    "max_staleness_ms": {"type": "integer", "minimum": 0, "maximum": STALENESS_MAX_MS},
    "allow_partial": {"type": "boolean"},
}
_STATUSES: Final = {
    400: "The request is malformed; `error.field` names the culprit",
    401: "No API key, or not one of ours",
    404: "It does not exist",
    406: "The client accepts neither JSON nor MessagePack",
    408: "The client stopped sending its request",
    409: "It contradicts what is stored",
    413: "The body is too large",
    415: "The media type or Content-Encoding is not served",
    422: "The idempotency key was used for another request",
    503: "The cluster cannot answer now; try again after Retry-After",
    507: "No space left to write",
}


def route(routes: Sequence[Route], version: str, *, locked: bool) -> Route:
    """Return the route that serves the description of `routes` and of itself."""
    body = b""

    async def describe(call: Call) -> web.Response:
        """Return the OpenAPI document."""
        del call
        return web.Response(body=body, headers={"Content-Type": JSON_TYPE, "Server": SERVER})

    own = Route("GET", "/openapi.json", describe, "This description", plain=True)
    body = orjson.dumps(describe_api((*routes, own), version, locked=locked))
    return own


def describe_api(routes: Sequence[Route], version: str, *, locked: bool) -> dict[str, Any]:
    """Return the OpenAPI document of a route table; `locked` says that a key is needed."""
    types = [answers.ErrorEnvelope, VectorParams]
    for item in routes:
        types += [kind for kind in (item.body, item.answer) if kind is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    known = dict(zip(map(_key, types), schemas, strict=True))
    _complete(components)
    paths: dict[str, dict[str, Any]] = {}
    for item in routes:
        paths.setdefault(public_path(item), {})[item.method.lower()] = _operation(item, known)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Recollect", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "api-key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": [{"key": []}, {"bearer": []}] if locked else [],
    }


def public_path(item: Route) -> str:
    """Return a route's path without the patterns of its variables."""
    return _VARIABLE.sub(r"{\1}", item.path)


def _key(kind: Any) -> str:
    return repr(kind)


def _complete(components: dict[str, Any]) -> None:
    """Say what types cannot: fields that may be null only, or hold less, or exclude others."""
    for schema in _subclasses(RequestBody):
        described = components.get(schema.__name__, {})
        properties = described.get("properties", {})
        for name in schema.lacking & properties.keys():
            properties[name] = {"type": "null", "description": "Not served: null only."}
        for name in schema.described.keys() & properties.keys():
            properties[name] = schema.described[name]
        if schema.one_of and properties:
            described["oneOf"] = [_only(name, schema.one_of) for name in schema.one_of]


def _only(name: str, names: Sequence[str]) -> dict[str, Any]:
    null = {"type": "null"}
    others = {other: null for other in names if other != name}
    return {"required": [name], "properties": {name: {"not": null}, **others}}


def _subclasses(schema: type[RequestBody]) -> Iterable[type[RequestBody]]:
    for inner in schema.__subclasses__():
        yield inner
        yield from _subclasses(inner)


def _operation(item: Route, known: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": item.summary,
        "operationId": item.handler.__name__,
        "tags": [public_path(item).split("/")[1] or "product"],
        "parameters": _parameters(item),
        "responses": {"200": _success(item, known), **_errors(item)},
    }
    if item.body is not None:
        schema = known[_key(item.body)]
        content = _content(schema)
        operation["requestBody"] = {"required": not item.body_optional, "content": content}
    if item.path in OPEN_PATHS:
        operation["security"] = []
    return operation


def _parameters(item: Route) -> list[dict[str, Any]]:
    found = [
        _parameter(name, "path", _PATH_SCHEMAS[name], required=True)
        for name in _VARIABLE.findall(item.path)
    ]
    if item.plain:
        return found
    if item.streams is not None:
        return found + [_parameter(*parameter) for parameter in item.streams]
    found += [_parameter(name, "query", _QUERY_SCHEMAS[name]) for name in PARAMETER_NAMES]
    if item.keyed:
        found.append(_parameter(KEY_PARAMETER, "query", KEY_SCHEMA))
    found.append(
        _parameter(SESSION_HEADER, "header", {"type": "string", "pattern": SESSION_PATTERN})
    )
    if item.writes:
        schema = {"type": "string", "pattern": KEY_PATTERN}
        found.append(_parameter(IDEMPOTENCY_HEADER, "header", schema))
    return found


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the forms of a body: in MessagePack a vector may also be float32 in bytes."""
    return {JSON_TYPE: {"schema": schema}, MSGPACK_TYPE: {"schema": schema}}


def _parameter(
    name: str, place: str, schema: dict[str, Any], *, required: bool = False
) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": schema}


def _success(item: Route, known: dict[str, Any]) -> dict[str, Any]:
    if item.streams is not None:
        return {"description": item.summary, "content": {EVENT_TYPE: {}}}
    if item.answer is None:
        kind = JSON_TYPE if item.path.endswith(".json") else "text/plain"
        return {"description": item.summary, "content": {kind: {}}}
    properties: dict[str, Any] = {
        "result": known[_key(item.answer)],
        "status": {"const": "ok"},
        "time": {"type": "number"},
    }
    if item.searches:
        shards = {"type": "array", "items": {"type": "integer"}}
        properties |= {"partial": {"type": "boolean"}, "shards_ok": shards}
        properties["shards_failed"] = shards
    if item.filters:
        properties["usage"] = USAGE_SCHEMA
    schema = {
        "type": "object",
        "properties": properties,
        "required": ["result", "status", "time"],
    }
    described: dict[str, Any] = {
        "description": item.summary,
        "content": _content(schema),
    }
    if item.path.startswith(("/collections", "/patterns", "/vectors", "/graph", "/batch")):
        described["headers"] = {SESSION_HEADER: {"schema": {"type": "string"}}}
    return described


def _errors(item: Route) -> dict[str, Any]:
    statuses = {400, *item.errors}
    if item.path not in OPEN_PATHS:
        statuses |= {401}
    if not item.plain:
        statuses |= {503}
    if not item.plain and item.streams is None:
        statuses |= {406}
    if item.body is not None:
        statuses |= {408, 413, 415}
    if item.writes:
        statuses |= {422, 507}
    schema = {"$ref": _REFERENCE.format(name=answers.ErrorEnvelope.__name__)}
    return {
        str(status): {
            "description": _STATUSES[status],
            "content": {JSON_TYPE: {"schema": schema}} if item.plain else _content(schema),
        }
        for status in sorted(statuses)
    }
