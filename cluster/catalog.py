"""Collections: which there are, and how they come and go.

They live in the metadata group. A node looks in its own view first; what it does not find there
may be younger than its view, so before it says "not found" it catches up with the group's leader
(ReadIndex). Hence a collection that was created through one node can be used through any other
at once. A node whose own metadata replica cannot follow, say for want of space on its disk, takes
the view of another member, so that its strong reads are answered all the same.

Dropping takes two steps. The name goes first, in the metadata group. Then a drop goes into the log
of every shard, and when all have it, the collection is purged from the metadata. A node whose
view is old still writes to the old uid, and a shard that has not heard of the drop would
acknowledge what nobody will ever read; so the second step begins before the drop is answered.
What it cannot do in time is left to the janitor, run by whoever leads the metadata group. Each
step can be repeated, by another node too.

A strong read, of which nothing acknowledged may be hidden, looks its collection up as strongly. A
session token says which index of the metadata group its owner has seen: a node that slept through
a drop and a new creation must not answer from the collection that is gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from cluster.command import DIGEST_MARK, Result, encode_body
from cluster.command import DropCollection as DropRows
from cluster.errors import (
    CollectionExists,
    CollectionNotFound,
    DeadlineExceeded,
    IdempotencyKeyReused,
    NotReady,
    RecollectError,
    Unavailable,
)
from cluster.fan_out import fan_out
from cluster.leaders import Leaders
from cluster.metadata import (
    ClusterView,
    CreateCollection,
    DropCollection,
    MetadataBody,
    PurgeCollection,
)
from cluster.model import SEEN_METADATA, Collection, Options
from cluster.peer_methods import FETCH_VIEW, FetchView
from cluster.routing import METADATA_GROUP, Routing

FENCE_S: Final = 2.0
"""How long the answer to a drop waits for the shards; to delete many rows may take longer."""
OWN_REPLICA_S: Final = 0.25
"""How long this node's own metadata replica is waited for before another member is asked."""


@dataclass(frozen=True)
class Catalog:
    """Finds, creates and drops collections."""

    routing: Routing
    leaders: Leaders
    request_ids: Callable[[], str]

    def collections(self) -> list[Collection]:
        """Return the collections that this node knows; empty before the cluster is formed."""
        try:
            return list(self.routing.view().collections.values())
        except NotReady:
            return []

    async def collection(self, name: str, options: Options) -> Collection:
        """Return a collection. Raises CollectionNotFound, or Unavailable when nobody can tell."""
        await self.catch_up_for(options)
        found = self.routing.view().collections.get(name)
        if found is None and not options.strong:
            await self.catch_up(options.deadline_s)
            found = self.routing.view().collections.get(name)
        if found is None:
            raise CollectionNotFound(f"there is no collection '{name}'")
        return found

    async def create(
        self, wanted: CreateCollection, options: Options, *, must_be_new: bool = False
    ) -> Collection:
        """Create a collection, or find the equal one that exists.

        Raises CollectionExists when one of that name differs, or, if it `must_be_new`, exists.
        """
        result = await self.propose(wanted, f"create/{wanted.name}", options)
        if result.error == "collection_exists":
            text = f"collection '{wanted.name}' exists with other parameters"
            raise CollectionExists(text, field="collection_name")
        raise_refusal(result)
        if must_be_new and result.affected == 0:
            text = f"collection '{wanted.name}' already exists"
            raise CollectionExists(text, field="collection_name")
        await self.show(result.version, options.deadline_s)
        await self._fence(wanted.name, options.deadline_s)
        return await self.collection(wanted.name, options)

    async def drop(self, name: str, options: Options) -> bool:
        """Take a collection's name away; return whether there was one."""
        result = await self.propose(DropCollection(name), f"drop/{name}", options)
        raise_refusal(result)
        await self.show(result.version, options.deadline_s)
        await self._fence(name, options.deadline_s)
        return result.affected > 0

    async def catch_up(self, deadline_s: float) -> None:
        """Make this node's view reflect all that was acknowledged before the call."""
        metadata = self.routing.metadata
        if metadata is None:
            await self._fetch_view(deadline_s)
        else:
            index = await self.leaders.read_index(METADATA_GROUP, deadline_s)
            await self.show(index, deadline_s)

    async def catch_up_for(self, options: Options) -> None:
        """Make this node's view as new as a strong read, or the session, demands.

        Raises Unavailable when it cannot be in time.
        """
        if options.strong:
            await self.catch_up(options.deadline_s)
        wanted = options.session.indexes.get(SEEN_METADATA, 0)
        if wanted > self.routing.view().applied_index:
            await self.show(wanted, options.deadline_s)
            if wanted > self.routing.view().applied_index:
                raise Unavailable("the catalogue has not reached what the session token has seen")

    async def purge_dropped(self) -> int:
        """Remove the rows of dropped collections; return how many collections are gone.

        Does nothing unless this node leads the metadata group. What cannot be done now is left
        for the next run.
        """
        metadata = self.routing.metadata
        view = self.routing.local_view()
        if metadata is None or not metadata.is_leader or view is None:
            return 0
        purged = 0
        for collection in view.dropping:
            deadline_s = self.routing.deadline_after(self.routing.config.request_timeout_ms)
            purged += await self._purge(collection, view.shards, deadline_s)
        return purged

    def register(self) -> None:
        """Answer nodes that have no replica of the metadata group."""
        self.routing.peers.serve(FETCH_VIEW, self._serve_view)

    async def _fence(self, name: str, deadline_s: float) -> None:
        """Purge the dropped collections that had this name, as far as there is time."""
        until_s = min(deadline_s, self.routing.clock() + FENCE_S)
        view = self.routing.view()
        for collection in view.dropping:
            if collection.name == name:
                await self._purge(collection, view.shards, until_s)

    async def _purge(self, collection: Collection, shards: int, deadline_s: float) -> bool:
        uid = collection.uid
        body = encode_body(DropRows(uid, collection.name))
        propose = self.leaders.propose
        outcomes = await fan_out(
            [propose(shard, f"purge/{uid}:{shard}", body, deadline_s) for shard in range(shards)]
        )
        if any(isinstance(each, RecollectError) or each.error is not None for each in outcomes):
            return False
        purge = msgspec.msgpack.encode(PurgeCollection(uid))
        (purged,) = await fan_out([propose(METADATA_GROUP, f"purge/{uid}", purge, deadline_s)])
        return not isinstance(purged, RecollectError)

    async def propose(self, body: MetadataBody, what: str, options: Options) -> Result:
        """Return what a command gives in the metadata group's log; `what` names it among those of
        one request."""
        request_id = f"{what}:{options.request_id or self.request_ids()}"
        if options.request_digest:
            request_id += DIGEST_MARK + options.request_digest
        encoded = msgspec.msgpack.encode(body)
        return await self.leaders.propose(METADATA_GROUP, request_id, encoded, options.deadline_s)

    async def show(self, index: int, deadline_s: float) -> None:
        """Wait until this node's view reflects an index of the metadata group.

        Raises Unavailable or DeadlineExceeded when it does not in time.
        """
        metadata = self.routing.metadata
        if metadata is None:
            await self._fetch_view(deadline_s)
            return
        if index <= self.routing.view().applied_index:
            return
        try:
            own_until_s = min(deadline_s, self.routing.clock() + OWN_REPLICA_S)
            await metadata.wait_applied(index, own_until_s)
        except DeadlineExceeded:
            await self._fetch_view_at(index, deadline_s)

    async def _fetch_view_at(self, index: int, deadline_s: float) -> None:
        """Take the view of another member that has one of `index`; raises DeadlineExceeded.

        One that does not answer costs half of the time that is left.
        """
        clock, peers = self.routing.clock, self.routing.peers
        for node in self.routing.metadata_members:
            if node == self.routing.me or not peers.connected(node) or clock() >= deadline_s:
                continue
            until_s = (clock() + deadline_s) / 2
            request = FetchView(self.routing.left_ms(until_s), index)
            with contextlib.suppress(Unavailable):
                self.routing.learn_view(await peers.call(node, FETCH_VIEW, request, until_s))
                assert self.routing.view().applied_index >= index, "the view is what was asked for"
                return
        raise DeadlineExceeded("this node's view of the cluster did not catch up in time")

    async def _fetch_view(self, deadline_s: float) -> None:
        async def ask(node: str, until_s: float) -> ClusterView:
            request = FetchView(self.routing.left_ms(until_s))
            return await self.routing.peers.call(node, FETCH_VIEW, request, until_s)

        self.routing.learn_view(await self.leaders.ask_leader(METADATA_GROUP, ask, deadline_s))

    async def _serve_view(self, request: FetchView) -> ClusterView:
        """Answer with a view no older than the question, or of the index that it names; never by
        asking another node."""
        metadata = self.routing.metadata
        if metadata is None:
            raise NotReady(f"{self.routing.me} has no replica of the metadata group")
        deadline_s = self.routing.deadline_after(request.timeout_ms)
        index = request.index or await metadata.read_index(deadline_s)
        await metadata.wait_applied(index, deadline_s)
        return self.routing.view()


def raise_refusal(result: Result) -> None:
    """Raise what a command of the metadata group was refused with, if it was."""
    if result.error == "request_id_reused":
        raise IdempotencyKeyReused
    if result.error == "not_ready":
        raise NotReady("the cluster is not formed yet")
    if result.error is not None:
        raise RecollectError(f"the metadata group refused a command: {result.error}")
