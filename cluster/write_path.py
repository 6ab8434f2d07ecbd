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
from cluster.command import DIGEST_MARK, Body, Result, encode_body
from cluster.errors import (
    BadRequest,
    CollectionNotFound,
    DeadlineExceeded,
    GraphConflict,
    IdempotencyKeyReused,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RecollectError,
    ShardsUnavailable,
    Unavailable,
    VersionConflict,
)
from cluster.full_nodes import FullNodes
from cluster.leaders import Leaders
from cluster.model import Collection, Options, Session, WriteAck
from cluster.routing import Routing
from storage.graph_rows import element_name
from storage.ids import decode_id, shard_key_of

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
        splitting = self.splitting(options)
        shares = prepare(splitting) if light else await self._routing.run(prepare, splitting)
        dropped = _dropped(collection)
        outcomes = await self._commit(dropped, shares, options.deadline_s, grows=grows)
        return _ack(outcomes, options.session)

    async def commit_whole(
        self,
        shard: int,
        prepare: Callable[[], Body],
        dropped: NotFound,
        options: Options,
        *,
        grows: bool,
    ) -> WriteAck:
        """Write one command to one shard, whole; `prepare` makes it, on a thread.

        Raises what `prepare` raises, and what the command is refused with: `dropped` when what it
        is about is gone.
        """
        splitting = self.splitting(options)
        encoded = await self._routing.run(lambda: encode_body(prepare()))
        bytes_max = splitting.budget()
        if len(encoded) > bytes_max:
            raise PayloadTooLarge(
                f"the changes take {len(encoded)} bytes, and {bytes_max} can be made at once: "
                "send fewer elements at a time"
            )
        share = Share(shard, [(splitting.part_id(shard, 0, encoded), encoded)])
        outcomes = await self._commit(dropped, [share], options.deadline_s, grows=grows)
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
        splitting = self.splitting(options)._replace(by_content=True)
        ack = WriteAck(options.session, version=0)
        async with aclosing(pages):
            async for ids in pages:
                shares = await self._routing.run(prepare, ids, splitting)
                dropped = _dropped(collection)
                outcomes = await self._commit(dropped, shares, options.deadline_s, grows=grows)
                newest = _ack(outcomes, ack.session)
                ack = replace(newest, version=max(ack.version, newest.version))
        return ack

    async def _commit(
        self, dropped: NotFound, shares: Sequence[Share], deadline_s: float, *, grows: bool
    ) -> list[Outcome]:
        if grows:
            self.admit_growth([each.shard for each in shares])
        outcomes = await self._propose_all(shares, deadline_s)
        _raise_failures(dropped, outcomes)
        await self._wait_for_own(outcomes, deadline_s)
        return outcomes

    def admit_growth(self, shards: Sequence[int]) -> None:
        """Raise StorageFull when a node that holds one of these shards is full."""
        holders = {node for shard in shards for node in self._routing.members(shard)}
        for guard in self._guards:
            guard.admit_growth(sorted(holders), self._routing.clock())

    async def acknowledge(self, shard: int, version: int, options: Options) -> WriteAck:
        """Return the acknowledgement of a change that a shard's leader made at this version."""
        outcome = Outcome(shard, 1, 1, version)
        await self._wait_for_own([outcome], options.deadline_s)
        return _ack([outcome], options.session)

    def splitting(self, options: Options) -> Splitting:
        """Return how a request becomes commands. Raises BadRequest for an unusable request id."""
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
                raise_refusal(result)
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


def raise_refusal(result: Result) -> None:
    """Raise what a shard refused a command with, if it did."""
    if result.error == "collection_dropped":
        raise CollectionNotFound("the collection was dropped")
    if result.error == "version_conflict":
        raise _version_conflict(result)
    if result.error in ("node_missing", "node_in_use"):
        raise _graph_conflict(result)
    if result.error == "request_id_reused":
        raise IdempotencyKeyReused
    if result.error == "payload_too_large":
        raise BadRequest("the payload of a point would grow beyond the limit", field="payload")
    if result.error is not None:
        raise RecollectError(f"the shard refused a command: {result.error}")


def _dropped(collection: Collection) -> CollectionNotFound:
    return CollectionNotFound(f"collection '{collection.name}' was dropped")


def _raise_failures(dropped: NotFound, outcomes: Sequence[Outcome]) -> None:
    """Raise what the request failed with, if it did, listing what became of every shard."""
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if not failed:
        return
    listing = "; ".join(outcome.text() for outcome in outcomes)
    for outcome in failed:
        if isinstance(outcome.error, CollectionNotFound):
            raise dropped
        if not isinstance(outcome.error, Unavailable):
            assert outcome.error is not None, "failed outcomes have an error"
            raise _retold(outcome.error, listing)
    if all(isinstance(outcome.error, Overloaded) for outcome in failed):
        raise Overloaded(listing)
    shards = tuple(outcome.shard for outcome in failed)
    raise ShardsUnavailable(f"the write is not known to be whole: {listing}", shards=shards)


def _graph_conflict(result: Result) -> GraphConflict:
    assert result.found is not None, "a conflict names what was found"
    node = element_name(result.found.id)
    if result.error == "node_missing":
        return GraphConflict(f"node '{node}' does not exist, so no edge can join it")
    text = f"node '{node}' is joined by {result.found.version} edges; delete them, or cascade"
    return GraphConflict(text)


def _version_conflict(result: Result) -> RecollectError:
    assert result.found is not None, "a conflict names what was found"
    if not result.found.id:
        return GraphConflict(f"the graph has version {result.found.version}")
    point, version = decode_id(result.found.id), result.found.version
    key = shard_key_of(result.found.id)
    where = "" if key is None else f" under key {key!r}"
    state = f"has version {version}" if version else "does not exist (version 0)"
    text = f"point {point}{where} {state}, so its condition does not hold"
    return VersionConflict(text, point=point, current_version=version)


def _retold(error: RecollectError, listing: str) -> RecollectError:
    """Return the error with every shard's outcome as its sentence."""
    if isinstance(error, VersionConflict):
        point, version = error.point, error.current_version
        return VersionConflict(listing, point=point, current_version=version)
    if isinstance(error, GraphConflict):
        return error
    return type(error)(listing, field=error.field)


def _ack(outcomes: Sequence[Outcome], seen: Session) -> WriteAck:
    """Return the acknowledgement; its token covers what the client had seen before, too."""
    indexes = dict(seen.indexes)
    for outcome in outcomes:
        indexes[outcome.shard] = max(outcome.version, indexes.get(outcome.shard, 0))
    return WriteAck(Session(indexes), max((each.version for each in outcomes), default=0))
