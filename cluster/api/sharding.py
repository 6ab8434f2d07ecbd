"""Keys of custom sharding as they arrive, and the two routes that Qdrant has for keys.

A key comes into being with the first point that is written under it, so creating one does nothing
but check that it could be used. Deleting one deletes its points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from msgspec import UNSET

from cluster.api.collection_schema import CreateShardKey, DeleteShardKey
from cluster.api.envelope import Answer
from cluster.api.route import Call, Route
from cluster.api.schema import ShardKeysIn
from cluster.errors import BadRequest
from cluster.model import Collection, Options
from cluster.scope import FIELD, Scope, scope_of
from storage.filters import Filter
from storage.ids import ID_MAX, ShardKey, key_bytes

Keys = tuple[ShardKey, ...]


async def create_shard_key(call: Call, body: CreateShardKey) -> Answer:
    """Check that a key can be written under; it needs no creation."""
    collection = await call.collection()
    scoped(call.options, collection, read_keys(body.shard_key))
    return Answer(result=True, session=call.options.session)


async def delete_shard_key(call: Call, body: DeleteShardKey) -> Answer:
    """Delete all points of a key."""
    collection = await call.collection()
    options = call.write_options(str(collection.uid))
    options = scoped(options, collection, read_keys(body.shard_key))
    ack = await call.api.router.delete(collection, Filter(), options)
    return call.written(result=True, ack=ack)


def read_keys(value: ShardKeysIn, field: str = FIELD) -> Keys | None:
    """Return the keys that a request names, or None when it names none.

    Raises:
        BadRequest: text that is empty or too long, or an integer out of range.
    """
    if value is UNSET or value is None:
        return None
    if isinstance(value, list):
        return tuple(_key(each, f"{field}[{at}]") for at, each in enumerate(value))
    return (_key(value, field),)


def scoped(
    options: Options,
    collection: Collection,
    keys: Keys | None,
    field: str = FIELD,
    check: Callable[[Scope], object] = lambda _: None,
) -> Options:
    """Return the options of a request about these keys.

    Raises:
        BadRequest: keys where a collection has none, or what `check` raises for this scope.
    """
    try:
        check(scope_of(collection, keys))
    except BadRequest as error:
        raise BadRequest(error.message, field=field) from None
    return options if keys is None else replace(options, shard_keys=keys)


def key_in_url(text: str | None) -> Keys | None:
    """Return the key of a query parameter: digits are an integer, unless they are in quotes."""
    if text is None:
        return None
    if text.isascii() and text.isdecimal() and (text == "0" or text[0] != "0"):
        number = int(text[:20])
        return (_key(number if len(text) <= len(str(ID_MAX)) else ID_MAX + 1, FIELD),)
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return (_key(text[1:-1] if quoted else text, FIELD),)


def _key(key: ShardKey, field: str) -> ShardKey:
    try:
        key_bytes(key)
    except ValueError as error:
        raise BadRequest(str(error), field=field) from None
    return key


_SHARDS: Final = "/collections/{collection_name}/shards"

ROUTES: Final = (
    Route(
        "PUT",
        _SHARDS,
        create_shard_key,
        "Check that points can be written under a key",
        body=CreateShardKey,
        answer=bool,
        writes=True,
        errors=(404,),
    ),
    Route(
        "POST",
        f"{_SHARDS}/delete",
        delete_shard_key,
        "Delete all points of a key",
        body=DeleteShardKey,
        answer=bool,
        writes=True,
        errors=(404,),
    ),
)
