"""Request schemas of searches whose results come in groups, in the shape of Qdrant's REST API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

from msgspec import UNSET, Meta, UnsetType

from cluster.api.schema import (
    KEYS_SCHEMA,
    SHOWN_VECTOR_SCHEMA,
    VECTOR_SCHEMA,
    Name,
    RequestBody,
    WithPayload,
    WithVector,
)
from cluster.api.search_schema import QUERY_SCHEMA, QueryPoints, SearchPoints

GroupSize = Annotated[int, Meta(ge=1, le=10_000)]
_SHOWN: Final[Mapping[str, Any]] = {
    "with_vector": SHOWN_VECTOR_SCHEMA,
    "shard_key": KEYS_SCHEMA,
}


class WithLookup(RequestBody):
    """A point of another collection for each group: the one whose id is the group's value."""

    described: ClassVar[Mapping[str, Any]] = {"with_vectors": SHOWN_VECTOR_SCHEMA}

    collection: Name
    with_payload: WithPayload = UNSET
    with_vectors: WithVector = UNSET


LookupIn = Name | WithLookup | UnsetType | None


class SearchGroups(SearchPoints, kw_only=True):
    """Body of `POST .../points/search/groups`: `limit` groups of up to `group_size` hits."""

    lacking: ClassVar[frozenset[str]] = frozenset({"offset"})
    described: ClassVar[Mapping[str, Any]] = {"vector": VECTOR_SCHEMA, **_SHOWN}

    group_by: Name
    group_size: GroupSize
    with_lookup: LookupIn = UNSET
    offset: Any = UNSET


class QueryGroups(QueryPoints, kw_only=True):
    """Body of `POST .../points/query/groups`; by default 10 groups of 3."""

    lacking: ClassVar[frozenset[str]] = frozenset({"prefetch", "using", "offset"})
    described: ClassVar[Mapping[str, Any]] = {"query": QUERY_SCHEMA, **_SHOWN}

    group_by: Name
    group_size: GroupSize | UnsetType | None = UNSET
    with_lookup: LookupIn = UNSET
    offset: Any = UNSET
