"""Applies a batch of changes: texts get vectors, points are written, under names that a repeat has.

What is the fault of a row is told apart from what is not. A row that cannot become a point, or
whose text the embedder refuses, is rejected, with nothing written of the batch: it is to be taken
out first. When the cluster or the embedder cannot do it now the batch waits. But a row may also be
what the embedder keeps failing on: after some attempts, if the embedder does answer for a text of
ours, the row is searched for by halves. At fault is only what fails by itself.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
TEXTS_AT_ONCE: Final = 64
"""So many texts are embedded together at first, and half as many with every further attempt."""
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
    _known: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Vectors of texts in a source's batch, by the source's uid: an attempt goes on where the one
    before ran out of time."""

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
                points = await self._points(source, collection, drafts.upserts, batch.attempts)
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
        self, source: Source, collection: Collection, drafts: Sequence[Draft], attempts: int
    ) -> list[Point] | Rejected:
        """Return the points, with the vectors of their texts, or a row that has none."""
        if all(draft.vector is not None for draft in drafts):
            return [_point(draft, draft.vector) for draft in drafts]
        known = self._known.get(source.uid, {})
        known = {draft.text: known[draft.text] for draft in drafts if draft.text in known}
        self._known[source.uid] = known
        lacking = [draft for draft in drafts if draft.text not in known]
        size = max(1, TEXTS_AT_ONCE >> min(attempts, TEXTS_AT_ONCE.bit_length()))
        for start in range(0, len(lacking), size):
            rejected = await self._embed(lacking[start : start + size], known, attempts)
            if rejected is not None:
                return rejected
        vectors = [known[draft.text] for draft in drafts]
        return await asyncio.to_thread(_with_vectors, collection, drafts, vectors)

    async def _embed(
        self, drafts: Sequence[Draft], known: dict[str, Any], attempts: int
    ) -> Rejected | None:
        """Learn the vectors of texts, or return a row that by itself has none.

        What fails together may succeed by halves: the endpoint may be slow, or refuse so many.
        """
        reason: Reason = "embedding_failed"
        try:
            vectors = await embedded(self.embedder, [draft.text for draft in drafts])
        except NoEmbedding as error:
            return _rejected(drafts[error.position], reason, str(error))
        except RecollectError as error:
            if not isinstance(error, BadRequest):
                reason = "max_retries_exceeded"
                if attempts < ATTEMPTS_MAX or not await self._answers([_PROBE]):
                    raise
            if len(drafts) == 1:
                return _rejected(drafts[0], reason, error.message)
            middle = len(drafts) // 2
            return await self._embed(drafts[:middle], known, attempts) or await self._embed(
                drafts[middle:], known, attempts
            )
        known.update(zip((draft.text for draft in drafts), vectors, strict=True))
        return None

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
            self._known.pop(source.uid, None)
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
