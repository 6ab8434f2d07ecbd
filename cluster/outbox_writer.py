"""Applies a batch of changes: texts get vectors, points are written, under names that a repeat has.

What is the fault of a row is told apart from what is not. A row that cannot become a point, or
whose text the embedder refuses, is rejected, with nothing written of the batch: it is to be taken
out first. When the cluster or the embedder cannot do it now the batch waits. But a row may also be
what the embedder keeps failing on: after some attempts, if the embedder does answer for a text of
ours, the row is searched for by halves.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from cluster.api.backend import TextEmbedder
from cluster.api.embedding import embedded, require_space
from cluster.api.vectors import check_vector
from cluster.errors import BadRequest, RecollectError, Unavailable
from cluster.model import Collection, Options, Point, WriteAck
from cluster.outbox_points import Draft, Drafts, read_batch
from storage.embedding import NoEmbedding
from storage.outbox.model import Batch, Reason, Rejected, Source
from storage.outbox.plan import request_id

PREPARE_S: Final = 12.0
ATTEMPTS_MAX: Final = 5
"""After so many attempts a row may be at fault."""
_PROBE: Final = "recollect"
_BLAMED: Final = re.compile(r"points\[(\d+)\]")


class Writes(Protocol):
    """The router, as far as it is needed here."""

    async def collection(self, name: str, options: Options) -> Collection:
        """Return a collection; raises CollectionNotFound."""

    async def upsert(
        self, collection: Collection, points: Sequence[Point], options: Options
    ) -> WriteAck:
        """Write points."""

    async def delete(self, collection: Collection, selector: Any, options: Options) -> WriteAck:
        """Delete points by their ids."""


@dataclass(frozen=True)
class OutboxWriter:
    """See the module. `clock` is the one of deadlines."""

    router: Writes
    embedder: TextEmbedder
    payload_bytes_max: int
    clock: Callable[[], float]

    async def apply(self, source: Source, batch: Batch, deadline_s: float) -> list[Rejected]:
        """Write a batch, or return the changes that cannot be, with nothing written.

        Raises RecollectError when it cannot be done now, or is not by the deadline.
        """
        options = Options(deadline_s=deadline_s)
        try:
            async with asyncio.timeout(PREPARE_S):
                collection = await self._collection(source, options)
                drafts = await asyncio.to_thread(
                    read_batch, source, collection, batch.events, self.payload_bytes_max
                )
                if drafts.rejected:
                    return drafts.rejected
                points = await self._points(collection, drafts.upserts, batch.attempts)
        except TimeoutError:
            raise Unavailable("the batch could not be prepared in time") from None
        if isinstance(points, Rejected):
            return [points]
        return await self._write(source, batch, collection, points, drafts, options)

    async def _collection(self, source: Source, options: Options) -> Collection:
        until_s = min(options.deadline_s, self.clock() + PREPARE_S)
        options = replace(options, strong=True, deadline_s=until_s)
        collection = await self.router.collection(source.collection, options)
        if collection.custom_sharding:
            raise BadRequest(f"'{collection.name}' has custom sharding, which no outbox fills")
        if source.text_column is not None:
            require_space(collection, self.embedder, "text")
        return collection

    async def _points(
        self, collection: Collection, drafts: Sequence[Draft], attempts: int
    ) -> list[Point] | Rejected:
        """Return the points, with the vectors of their texts, or a row that has none."""
        texts = [draft.text for draft in drafts if draft.vector is None]
        if not texts:
            return [_point(draft, draft.vector) for draft in drafts]
        try:
            vectors = await embedded(self.embedder, texts)
        except NoEmbedding as error:
            return _rejected(drafts[error.position], "embedding_failed", str(error))
        except BadRequest as error:
            return await self._culprit(drafts, "embedding_failed", error)
        except RecollectError as error:
            if attempts < ATTEMPTS_MAX or not await self._answers([_PROBE]):
                raise
            return await self._culprit(drafts, "max_retries_exceeded", error)
        return await asyncio.to_thread(_with_vectors, collection, drafts, vectors)

    async def _culprit(
        self, drafts: Sequence[Draft], reason: Reason, error: RecollectError
    ) -> Rejected:
        """Return one row that cannot be embedded, of some that cannot be together."""
        while len(drafts) > 1:
            half = drafts[: len(drafts) // 2]
            answers = await self._answers([draft.text for draft in half])
            drafts = drafts[len(half) :] if answers else half
        return _rejected(drafts[0], reason, error.message)

    async def _answers(self, texts: list[str]) -> bool:
        try:
            await embedded(self.embedder, texts)
        except RecollectError:
            return False
        return True

    async def _write(
        self,
        source: Source,
        batch: Batch,
        collection: Collection,
        points: list[Point],
        drafts: Drafts,
        options: Options,
    ) -> list[Rejected]:
        events = batch.events
        try:
            if points:
                named = replace(options, request_id=request_id(source.uid, events, "upsert"))
                await self.router.upsert(collection, points, named)
            if drafts.deletes:
                named = replace(options, request_id=request_id(source.uid, events, "delete"))
                await self.router.delete(collection, drafts.deletes, named)
        except RecollectError as error:
            blamed = _BLAMED.match(error.field or "")
            if error.retryable or blamed is None:
                raise
            return [_rejected(drafts.upserts[int(blamed[1])], "invalid_payload", error.message)]
        return []


def _point(draft: Draft, vector: Any) -> Point:
    return Point(draft.id, vector, draft.payload)


def _with_vectors(
    collection: Collection, drafts: Sequence[Draft], vectors: Any
) -> list[Point] | Rejected:
    points = []
    for draft, vector in zip(drafts, vectors, strict=True):
        try:
            points.append(_point(draft, check_vector(vector.tolist(), collection, "text")))
        except BadRequest as error:
            return _rejected(draft, "embedding_failed", error.message)
    return points


def _rejected(draft: Draft, reason: Reason, detail: str) -> Rejected:
    return Rejected(draft.event, reason, detail)
