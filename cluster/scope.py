"""Which part of a collection a request is about, where points are written under keys.

In a collection with automatic sharding an id is a point, and its hash says in which shard. With
custom sharding a point is an id under a key that its writer chooses: the same id under two keys is
two points, and the key's hash alone says in which shard, so that what belongs together (a session,
a tenant, a graph's points) lies together. A write by id has to name the key. A read, or a write by
filter, may name some: then only points under these are seen, and only their shards are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from cluster.errors import BadRequest
from cluster.model import Collection
from cluster.ring import shards_of
from cluster.write_commands import canonical_ids
from storage.filter_nodes import Filter, HasKey, HasKeyedId, with_keyed_ids
from storage.ids import PointId, ShardKey, id_part, key_bytes, keyed_id, keyed_range

FIELD: Final = "shard_key"


class Scope(NamedTuple):
    """The points of a collection that a request is about: those under `keys`, None: all."""

    collection: Collection
    keys: tuple[bytes, ...] | None

    @property
    def is_open(self) -> bool:
        """Whether an id alone does not say which point is meant."""
        return self.collection.custom_sharding and self.keys is None

    def require_keys(self) -> None:
        """Raise BadRequest unless an id says which point is meant."""
        if self.is_open:
            name = self.collection.name
            text = f"collection '{name}' has custom sharding: say under which key"
            raise BadRequest(text, field=FIELD)

    def key(self) -> bytes | None:
        """Return the key that points are written under; None: they have none.

        Raises BadRequest unless it is one where keys are needed.
        """
        self.require_keys()
        if self.keys is not None and len(self.keys) > 1:
            raise BadRequest("a point is written under one key", field=FIELD)
        return self.keys[0] if self.keys else None

    def canonical_ids(self, ids: Sequence[PointId], name: str) -> list[bytes]:
        """Return the identities of these ids, of each id under every key.

        Raises BadRequest naming a bad one, or when keys are missing.
        """
        self.require_keys()
        plain = canonical_ids(ids, name)
        if self.keys is None:
            return plain
        return [keyed_id(each, key) for each in plain for key in self.keys]

    def page_start(self, offset: PointId | None) -> bytes | None:
        """Return where a page begins that has the points of this id."""
        if offset is None:
            return None
        (plain,) = canonical_ids([offset], "offset")
        return keyed_range(plain)[0] if self.collection.custom_sharding else plain

    def filter(self, where: Filter | None) -> Filter | None:
        """Return the filter that holds for what passes `where` and is in this scope."""
        if where is not None and self.collection.custom_sharding:
            where = with_keyed_ids(where, self.collection.uid)
        if self.keys is None:
            return where
        # Beside the other conditions, not around them: filters nest as deeply as SQLite can take.
        where = where or Filter()
        return msgspec.structs.replace(where, must=(HasKey(self.keys), *where.must))

    def under_any_key(self, ids: Sequence[PointId]) -> Filter:
        """Return the filter that holds for the points of these ids, whatever their key."""
        distinct = tuple(dict.fromkeys(canonical_ids(ids, "ids")))
        return Filter(must=(HasKeyedId(self.collection.uid, distinct),))

    def shards(self, count: int) -> Sequence[int]:
        """Return those of `count` shards that may have points in this scope."""
        if self.keys is None:
            return range(count)
        return sorted(dict.fromkeys(shards_of(self.keys, count).tolist()))


def scope_of(collection: Collection, shard_keys: Sequence[ShardKey] | None) -> Scope:
    """Return the scope that users' keys make; None, like no keys at all, is the whole collection.

    Raises BadRequest for a malformed key, or one where a collection has none.
    """
    if shard_keys is None:
        return Scope(collection, None)
    if not collection.custom_sharding:
        text = f"collection '{collection.name}' has automatic sharding: its points have no key"
        raise BadRequest(text, field=FIELD)
    try:
        return Scope(collection, tuple(dict.fromkeys(map(key_bytes, shard_keys))))
    except ValueError as error:
        raise BadRequest(str(error), field=FIELD) from None


def by_id(identities: Sequence[bytes]) -> dict[bytes, list[bytes]]:
    """Return the identities of each id."""
    found: dict[bytes, list[bytes]] = {}
    for each in identities:
        found.setdefault(id_part(each), []).append(each)
    return found
