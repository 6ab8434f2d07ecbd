"""The way of a write: prepare the whole request, propose to every shard's leader, tell the outcome.

Shards are independent: they are proposed to concurrently, and each succeeds or fails by itself.
Within a shard commands go one after the other and stop at the first failure, so what was done of
it is a prefix. When a shard fails, the error lists the outcome of every shard; the request can be
repeated under the same request id, and what was applied is not applied again.

The answer waits, for a second at most, until this node's own replicas have applied the write, so
that a client that stays with one node finds what it wrote. The session token says the same to
every other node: it holds, per shard, the index from which the write is visible.

A write that `grows` the state is refused, whole, when a node that would have to hold it is full.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from cluster.batch import Share, Splitting
from cluster.command import DIGEST_MARK, Result
from cluster.errors import (
    BadRequest,
    CollectionNotFound,
    DeadlineExceeded,
    IdempotencyKeyReused,
    Overloaded,
    RecollectError,
    ShardsUnavailable,
    Unavailable,
    VersionConflict,
)
from cluster.full_nodes import FullNodes
from cluster.leaders import Leaders
from cluster.model import Collection, Options, Session, WriteAck
from cluster.routing import Routing
from storage.ids import decode_id

OWN_REPLICA_WAIT_S: Final = 1.0
REQUEST_ID_BYTES_MAX: Final = 256

Prepare = Callable[[Splitting], list[Share]]
"""Turns a request into commands; runs on a thread."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a request came in one shard."""

    shard: int
    done: int
    parts: int
    version: int
    error: RecollectError | None = None

    def text(self) -> str:
        """Return what to tell the user."""
        if self.error is None:
            return f"shard {self.shard}: applied at {self.version}"
        return (
            f"shard {self.shard}: {self.done} of {self.parts} parts applied, {self.error.message}"
        )


class WritePath:
    """Commits requests, whichever shards they touch."""

    def __init__(
        self,
        routing: Routing,
        leaders: Leaders,
        request_ids: Callable[[], str],
        guards: Sequence[FullNodes],
    ) -> None:
        self._routing = routing
        self._leaders = leaders
        self._request_ids = request_ids
        self._guards = guards

    async def commit(
        self,
        collection: Collection,
        prepare: Prepare,
        options: Options,
        *,
        grows: bool,
        light: bool = False,
    ) -> WriteAck:
        """Write what `prepare` makes of a request; a `light` one is not worth a thread.

        Raises what `prepare` raises, with nothing proposed; ShardsUnavailable, StorageFull or
        CollectionNotFound otherwise.
        """
        splitting = self._splitting(options)
        shares = prepare(splitting) if light else await self._routing.run(prepare, splitting)
        outcomes = await self._commit(collection, shares, options.deadline_s, grows=grows)
        return _ack(outcomes, options.session)

    async def commit_pages(
        self,
        collection: Collection,
        pages: AsyncGenerator[list[bytes]],
        prepare: Callable[[list[bytes], Splitting], list[Share]],
        options: Options,
        *,
        grows: bool,
    ) -> WriteAck:
        """Write to the points of `pages`, canonical ids that a filter found, page by page."""
        splitting = self._splitting(options)._replace(by_content=True)
        ack = WriteAck(options.session, version=0)
        async with aclosing(pages):
            async for ids in pages:
                shares = await self._routing.run(prepare, ids, splitting)
                outcomes = await self._commit(collection, shares, options.deadline_s, grows=grows)
                newest = _ack(outcomes, ack.session)
                ack = replace(newest, version=max(ack.version, newest.version))
        return ack

    async def _commit(
        self, collection: Collection, shares: Sequence[Share], deadline_s: float, *, grows: bool
    ) -> list[Outcome]:
        if grows:
            holders = {node for each in shares for node in self._routing.members(each.shard)}
            for guard in self._guards:
                guard.admit_growth(sorted(holders), self._routing.clock())
        outcomes = await self._propose_all(shares, deadline_s)
        _raise_failures(collection, outcomes)
        await self._wait_for_own(outcomes, deadline_s)
        return outcomes

    def _splitting(self, options: Options) -> Splitting:
        given = options.request_id
        marked = "\0" in given or DIGEST_MARK in given
        if marked or len(given.encode()) > REQUEST_ID_BYTES_MAX:
            text = f"a request id has at most {REQUEST_ID_BYTES_MAX} bytes, no NUL and no U+001F"
            raise BadRequest(text, field="request_id")
        config = self._routing.config
        request_id = f"r/{given or self._request_ids()}"
        view = self._routing.view()
        return Splitting(
            view.shards,
            view.command_bytes_max or config.command_bytes_max,
            request_id,
            request_digest=options.request_digest,
        )

    async def _propose_all(self, shares: Sequence[Share], deadline_s: float) -> list[Outcome]:
        if len(shares) == 1:
            return [await self._propose(shares[0], deadline_s)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._propose(share, deadline_s)) for share in shares]
        return [task.result() for task in tasks]

    async def _propose(self, share: Share, deadline_s: float) -> Outcome:
        """Never raises a RecollectError: the other shards' outcomes are wanted too."""
        version = 0
        for done, (request_id, body) in enumerate(share.parts):
            try:
                result = await self._leaders.propose(share.shard, request_id, body, deadline_s)
                _raise_refusal(result)
            except RecollectError as error:
                return Outcome(share.shard, done, len(share.parts), version, error)
            version = max(version, result.version)
        return Outcome(share.shard, len(share.parts), len(share.parts), version)

    async def _wait_for_own(self, outcomes: Sequence[Outcome], deadline_s: float) -> None:
        until_s = min(deadline_s, self._routing.clock() + OWN_REPLICA_WAIT_S)
        for outcome in outcomes:
            replica = self._routing.replicas.get(outcome.shard)
            if replica is not None and replica.applied_index < outcome.version:
                try:
                    await replica.wait_applied(outcome.version, until_s)
                except DeadlineExceeded:
                    return  # it is committed; this replica shows it when it has caught up


def _raise_refusal(result: Result) -> None:
    if result.error == "collection_dropped":
        raise CollectionNotFound("the collection was dropped")
    if result.error == "version_conflict":
        raise _version_conflict(result)
    if result.error == "request_id_reused":
        raise IdempotencyKeyReused
    if result.error == "payload_too_large":
        raise BadRequest("the payload of a point would grow beyond the limit", field="payload")
    if result.error is not None:
        raise RecollectError(f"the shard refused a command: {result.error}")


def _raise_failures(collection: Collection, outcomes: Sequence[Outcome]) -> None:
    """Raise what the request failed with, if it did, listing what became of every shard."""
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if not failed:
        return
    listing = "; ".join(outcome.text() for outcome in outcomes)
    for outcome in failed:
        if isinstance(outcome.error, CollectionNotFound):
            raise CollectionNotFound(f"collection '{collection.name}' was dropped")
        if not isinstance(outcome.error, Unavailable):
            assert outcome.error is not None, "failed outcomes have an error"
            raise _retold(outcome.error, listing)
    if all(isinstance(outcome.error, Overloaded) for outcome in failed):
        raise Overloaded(listing)
    shards = tuple(outcome.shard for outcome in failed)
    raise ShardsUnavailable(f"the write is not known to be whole: {listing}", shards=shards)


def _version_conflict(result: Result) -> VersionConflict:
    assert result.found is not None, "a conflict names what was found"
    point, version = decode_id(result.found.id), result.found.version
    state = f"has version {version}" if version else "does not exist (version 0)"
    text = f"point {point} {state}, so its condition does not hold"
    return VersionConflict(text, point=point, current_version=version)


def _retold(error: RecollectError, listing: str) -> RecollectError:
    """Return the error with every shard's outcome as its sentence."""
    if isinstance(error, VersionConflict):
        point, version = error.point, error.current_version
        return VersionConflict(listing, point=point, current_version=version)
    return type(error)(listing, field=error.field)


def _ack(outcomes: Sequence[Outcome], seen: Session) -> WriteAck:
    """Return the acknowledgement; its token covers what the client had seen before, too."""
    indexes = dict(seen.indexes)
    for outcome in outcomes:
        indexes[outcome.shard] = max(outcome.version, indexes.get(outcome.shard, 0))
    return WriteAck(Session(indexes), max((each.version for each in outcomes), default=0))
