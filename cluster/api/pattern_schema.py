"""Request schemas of patterns (what was tried and how it went) and of search by text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, UnsetType

from cluster.api.schema import (
    ID_SCHEMA,
    NULL,
    FilterIn,
    Limit,
    Name,
    PointIdIn,
    RequestBody,
    VectorIn,
    Version,
)

Task = Annotated[str, Meta(min_length=1)]


class StorePattern(RequestBody):
    """Body of `POST /patterns/store`. Only `task` is needed.

    `embedding` is a vector of the collection's own embedding space; absent, the task is embedded.
    `id` makes the store repeatable: the same id replaces. With an `id`, `ifVersion` demands that
    the pattern has exactly this version, `ifAbsent` that there is none.
    """

    described: ClassVar[Mapping[str, Any]] = {"id": {"anyOf": [ID_SCHEMA, NULL]}}

    task: Task
    id: PointIdIn | UnsetType | None = UNSET
    input: str | UnsetType | None = UNSET
    output: str | UnsetType | None = UNSET
    critique: str | UnsetType | None = UNSET
    reward: float | UnsetType | None = UNSET
    success: bool | UnsetType | None = UNSET
    sessionId: str | UnsetType | None = UNSET  # noqa: N815 - the wire's spelling
    metadata: dict[str, Any] | UnsetType | None = UNSET
    embedding: VectorIn | UnsetType | None = UNSET
    embeddingSpace: str | UnsetType | None = UNSET  # noqa: N815 - the wire's spelling
    ifVersion: Version | UnsetType | None = UNSET  # noqa: N815 - the wire's spelling
    ifAbsent: bool | UnsetType | None = UNSET  # noqa: N815 - the wire's spelling


class SearchPatterns(RequestBody):
    """Body of `POST /patterns/search`: by `task` or by `embedding`."""

    one_of: ClassVar[tuple[str, ...]] = ("task", "embedding")

    task: Task | UnsetType | None = UNSET
    embedding: VectorIn | UnsetType | None = UNSET
    embeddingSpace: str | UnsetType | None = UNSET  # noqa: N815 - the wire's spelling
    k: Limit | UnsetType | None = UNSET
    threshold: float | UnsetType | None = UNSET
    filter: FilterIn | UnsetType | None = UNSET
    minReward: float | UnsetType | None = UNSET  # noqa: N815 - the wire's spelling
    onlySuccesses: bool | UnsetType | None = UNSET  # noqa: N815 - the wire's spelling
    onlyFailures: bool | UnsetType | None = UNSET  # noqa: N815 - the wire's spelling


class SearchVectors(RequestBody):
    """Body of `POST /vectors/search`: `query` is text or a vector."""

    query: VectorIn | Task
    k: Limit | UnsetType | None = UNSET
    threshold: float | UnsetType | None = UNSET
    filter: FilterIn | UnsetType | None = UNSET
    collection: Name | UnsetType | None = UNSET
