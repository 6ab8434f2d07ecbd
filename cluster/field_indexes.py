"""Indexes on payload fields: how they come and go, and what they are good for.

A definition is part of its collection, in the metadata group. Each node that applies it begins to
read its own rows; until it has, it answers filters without the index, and so nothing waits for it
but whoever created it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cluster.catalog import Catalog, raise_refusal
from cluster.errors import BadRequest, CollectionNotFound
from cluster.metadata import DropFieldIndex, PutFieldIndex
from cluster.metadata_command import IndexBody
from cluster.model import Collection, Options
from cluster.routing import Routing
from storage.filters import Filter
from storage.index_set import IndexSet
from storage.payload_index.fields import FIELDS_MAX, FieldIndex

LOOK_S: Final = 0.01
LOOK_S_MAX: Final = 0.25
ANSWER_S: Final = 0.5
"""What is left of a request's time when its answer stops waiting for an index."""


@dataclass(frozen=True)
class FieldIndexes:
    """Defines indexes, and says whether this node has them."""

    routing: Routing
    catalog: Catalog
    indexes: IndexSet

    async def put(self, collection: Collection, field: FieldIndex, options: Options) -> bool:
        """Have an index on a field; return whether it is filled on this node by the deadline.

        Raises CollectionNotFound, or BadRequest when there are too many.
        """
        body = PutFieldIndex(collection.uid, field)
        await self._change(collection, body, f"put_index/{field.name}", options)
        return await self._filled(collection.uid, field, options.deadline_s - ANSWER_S)

    async def drop(self, collection: Collection, name: str, options: Options) -> None:
        """Have no index on a field. Raises CollectionNotFound."""
        body = DropFieldIndex(collection.uid, name)
        await self._change(collection, body, f"drop_index/{name}", options)

    def unindexed(self, collection: Collection, where: Filter) -> list[str]:
        """Return the paths that a filter tests without help of an index of this node."""
        index = self.indexes.get(collection.uid)
        return [] if index is None else index.payloads.unindexed(where)

    async def _change(
        self, collection: Collection, body: IndexBody, what: str, options: Options
    ) -> None:
        result = await self.catalog.propose(body, f"{what}/{collection.uid}", options)
        if result.error == "collection_dropped":
            raise CollectionNotFound(f"collection '{collection.name}' was dropped")
        if result.error == "too_many_indexes":
            text = f"a collection has at most {FIELDS_MAX} payload indexes"
            raise BadRequest(text, field="field_name")
        raise_refusal(result)
        await self.catalog.show(result.version, options.deadline_s)

    async def _filled(self, uid: int, field: FieldIndex, until_s: float) -> bool:
        pause_s = LOOK_S
        while True:
            index = self.indexes.get(uid)
            if index is not None and index.payloads.is_ready(field):
                return True
            if self.routing.clock() + pause_s > until_s:
                return False
            await self.routing.sleep(pause_s)
            pause_s = min(2 * pause_s, LOOK_S_MAX)
