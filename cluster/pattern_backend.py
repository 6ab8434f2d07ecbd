"""The patterns API's backend over Postgres: what the router is over a cluster, for patterns alone.

There is one collection, one copy and one order of writes, so what a cluster's callers may ask for
(strong reads, sessions, partial answers) holds by itself: every read sees every write that was
acknowledged. Postgres is asked once: when it cannot answer now, the caller is told to come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from cluster.errors import (
    CollectionNotFound,
    DeadlineExceeded,
    IdempotencyKeyReused,
    NotReady,
    OutcomeUnknown,
    StorageFull,
    Unavailable,
    VersionConflict,
)
from cluster.formation import PATTERNS
from cluster.model import (
    SEEN_METADATA,
    Collection,
    Hit,
    Options,
    Point,
    SearchAnswer,
    SearchRequest,
    Session,
    Vector,
    WriteAck,
)
from storage.checkpoint.database import Database
from storage.checkpoint.errors import CheckpointError, DatabaseFull, DatabaseUnavailable
from storage.metric import Metric
from storage.postgres_patterns.searching import Wanted, nearest
from storage.postgres_patterns.table import PatternSpace
from storage.postgres_patterns.writing import Pattern, Request, RequestReused, Stored, store

TOKEN: Final = Session({SEEN_METADATA: 0})
"""The session of every answer: there is nothing that a client could have to wait for."""


class PostgresPatterns:
    """See the module. `space` is None until the table is known to be there."""

    def __init__(
        self, database: Database, *, request_id_ttl_ms: int, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._request_id_ttl_ms = request_id_ttl_ms
        self._clock = clock
        self.space: PatternSpace | None = None
        self.problem = "Postgres has not been asked yet"
        """Why nothing can be answered now; empty when all is well."""

    def reasons(self) -> list[str]:
        """Return why requests cannot be served."""
        return [self.problem] if self.problem else []

    async def collection(self, name: str, options: Options) -> Collection:
        """Return the collection of patterns; raises CollectionNotFound or NotReady."""
        del options
        if name != PATTERNS:
            raise CollectionNotFound(
                f"collection '{name}' does not exist: this server has patterns"
            )
        space = self._ready()
        return Collection(
            uid=1,
            name=name,
            dimension=space.dimension,
            distance="Cosine",
            embedding_space=space.embedding_space,
        )

    def session(self, seen: Session) -> Session:
        """Return the one token, whatever was seen."""
        del seen
        return TOKEN

    async def upsert(
        self, collection: Collection, points: Sequence[Point], options: Options
    ) -> WriteAck:
        """Store the one pattern of a request.

        Raises:
            VersionConflict: its condition does not hold.
            IdempotencyKeyReused: the key was given for another request.
            OutcomeUnknown: Postgres broke off.
            Unavailable, DeadlineExceeded, StorageFull: Postgres cannot do it now.
        """
        del collection
        (point,) = points
        space = self._ready()
        embedding = _unit(point.vector, space)
        pattern = Pattern(point.id, embedding, point.payload, point.if_version)
        async with self._within(options), self._database.connection() as connection:
            try:
                stored = await store(connection, space, pattern, self._request(options))
            except DatabaseFull:
                raise
            except DatabaseUnavailable as error:
                raise OutcomeUnknown(str(error)) from None
            except RequestReused:
                raise IdempotencyKeyReused from None
        if stored.conflict:
            raise _conflict(point, stored)
        return WriteAck(TOKEN, stored.version)

    async def search(
        self, collection: Collection, request: SearchRequest, options: Options
    ) -> SearchAnswer:
        """Return the nearest patterns; raises Unavailable, DeadlineExceeded or StorageFull."""
        del collection
        assert request.offset == 0, "searches of patterns have no pages"
        space = self._ready()
        vector = _unit(request.vector, space)
        wanted = Wanted(vector, request.limit, request.filter, request.score_threshold)
        async with self._within(options), self._database.connection() as connection:
            found = await nearest(connection, space, wanted)
        hits = [Hit(each.id, each.version, each.score, payload=each.payload) for each in found]
        return SearchAnswer(hits, shards_ok=())

    def _ready(self) -> PatternSpace:
        if self.space is None:
            raise NotReady(f"the server is not ready: {self.problem}", reasons=(self.problem,))
        return self.space

    def _request(self, options: Options) -> Request | None:
        if not options.request_id:
            return None
        return Request(options.request_id, options.request_digest, self._request_id_ttl_ms)

    @asynccontextmanager
    async def _within(self, options: Options) -> AsyncIterator[None]:
        """Bound what Postgres is asked by the request's time; its failures become the API's.

        When time is up the driver cancels the statement, in Postgres too.
        """
        try:
            async with asyncio.timeout(max(0.0, options.deadline_s - self._clock())):
                yield
        except TimeoutError:
            raise DeadlineExceeded("the request's time ran out") from None
        except DatabaseFull as error:
            raise StorageFull(str(error)) from None
        except CheckpointError as error:
            raise Unavailable(str(error)) from None


def _unit(vector: Vector, space: PatternSpace) -> list[float]:
    """Return a vector with norm 1, as a cluster's index has it: no product of two can overflow."""
    elements: list[float] = Metric("Cosine", space.dimension).query(vector).vector.tolist()
    return elements


def _conflict(point: Point, stored: Stored) -> VersionConflict:
    version = stored.version
    state = f"has version {version}" if version else "does not exist (version 0)"
    text = f"point {point.id} {state}, so its condition does not hold"
    return VersionConflict(text, point=point.id, current_version=version)
