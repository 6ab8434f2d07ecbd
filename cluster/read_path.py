"""The way of a read: which shards, from which index on, then rows in the order they are wanted.

The default read takes any fresh replica. A session token demands, per shard, the index that the
client has seen. A strong read first asks every shard's leader for its read index (Ongaro's
thesis, section 6.4), which turns it into the same demand: a read at that index or later sees all
that was acknowledged before the question, on whichever replica it is done.

Reads of many points happen in two steps, find and fetch: first every shard names the ids, which
are small, and the first of all are chosen; then only their rows are fetched, from the nodes that
named them, in as many answers as their size needs.

Where points have keys an id alone may be many points, in any shard: they are found first, too, and
a page, which ends at an id, has them all.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from collections.abc import Collection as Container
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
import orjson

from cluster.errors import BadRequest, RecollectError
from cluster.fan_out import fan_out
from cluster.leaders import Leaders
from cluster.local_reads import LocalReads
from cluster.model import Collection, Options, Record
from cluster.peer_methods import Count, Fetch, Fetched, FetchedRow, FoundId, Page
from cluster.ring import shards_of
from cluster.routing import Routing
from cluster.scatter import Gathered, ReadTerms, Scatter, shards_unavailable
from cluster.scope import Scope, by_id, scope_of
from cluster.write_commands import canonical_ids
from storage.filters import Filter
from storage.ids import PointId, decode_id, id_part, shard_key_of

FILTER_PAGE_IDS: Final = 10_000
"""Ids that a write by filter finds, and writes, at a time."""
SHARED_MAX: Final = 10_000
"""So many points may be answered for because they share ids that were asked for."""
SHARED_STEP: Final = 1_000
"""Of the points that share a page's last id so many are found at a time."""

Rows = dict[bytes, FetchedRow]


@dataclass(frozen=True)
class ReadPath:
    """Reads points by id or in id order, and counts them."""

    routing: Routing
    leaders: Leaders
    local: LocalReads
    scatter: Scatter

    async def terms(self, options: Options, shards: Container[int]) -> ReadTerms:
        """Return what a read of `shards` is held to under `options`.

        Raises Unavailable when a strong read finds no leader in time.
        """
        seen = options.session.indexes
        required = {shard: index for shard, index in seen.items() if shard in shards}
        if options.strong:
            for shard, index in (await self._barrier(list(shards), options.deadline_s)).items():
                required[shard] = max(index, required.get(shard, 0))
        return ReadTerms(
            options.deadline_s,
            required,
            max_staleness_ms=options.max_staleness_ms,
            reflected=options.reflected,
        )

    async def retrieve(
        self,
        collection: Collection,
        ids: Sequence[PointId],
        *,
        with_payload: bool,
        with_vector: bool,
        options: Options,
    ) -> list[Record]:
        """Return the points that exist, in the order asked.

        Those of one id under several keys are together, by key. Raises ShardsUnavailable, and
        BadRequest when too many have these ids.
        """
        scope = scope_of(collection, options.shard_keys)
        source: Mapping[int, str] = {}
        if scope.is_open:
            wanted, source = await self._under_any_key(scope, ids, options)
        else:
            wanted = scope.canonical_ids(ids, "ids")
        by_shard = self._by_shard(dict.fromkeys(wanted))
        terms = await self.terms(options, by_shard)
        fetch = Fetch(collection.uid, by_shard, with_vector, with_payload)
        rows, _ = await self.rows(fetch, terms, source)
        return [record_of(rows[each]) for each in wanted if each in rows]

    async def scroll(  # noqa: PLR0913 - all that a page is
        self,
        collection: Collection,
        where: Filter | None,
        limit: int,
        offset: PointId | None,
        *,
        with_payload: bool,
        with_vector: bool,
        options: Options,
    ) -> tuple[list[Record], PointId | None]:
        """Return points in id order from `offset` on, and the id that follows them, if any.

        The page has all points of its last id, so it may be longer than `limit`. Raises
        BadRequest when these are too many.
        """
        scope = scope_of(collection, options.shard_keys)
        shards = scope.shards(self.routing.view().shards)
        terms = await self.terms(options, shards)
        start = scope.page_start(offset)
        query = Page(collection.uid, limit + 1, start, scope.filter(where))
        page, following, source = await self._whole_page(query, terms, shards)
        fetch = Fetch(collection.uid, ids_by_shard(page), with_vector, with_payload)
        rows, _ = await self.rows(fetch, terms, source)
        records = [record_of(rows[each.id]) for each in page if each.id in rows]
        return records, None if following is None else decode_id(following.id)

    async def count(self, collection: Collection, where: Filter | None, options: Options) -> int:
        """Return how many points there are, or pass. Raises ShardsUnavailable."""
        scope = scope_of(collection, options.shard_keys)
        shards = scope.shards(self.routing.view().shards)
        terms = await self.terms(options, shards)
        query = Count(collection.uid, scope.filter(where))
        gathered = await self.scatter.gather(self.local.count, lambda _: query, shards, terms)
        return sum(gathered.found)

    async def pages_of_ids(
        self, collection: Collection, where: Filter, options: Options
    ) -> AsyncGenerator[list[bytes]]:
        """Yield the ids that pass as of a strong read, page by page, in ascending order."""
        scope = scope_of(collection, options.shard_keys)
        shards = scope.shards(self.routing.view().shards)
        terms = await self.terms(replace(options, strong=True), shards)
        start: bytes | None = None
        while True:
            query = Page(collection.uid, FILTER_PAGE_IDS + 1, start, scope.filter(where))
            found, _ = await self._ids(query, terms, shards)
            if found:
                yield [each.id for each in found[:FILTER_PAGE_IDS]]
            if len(found) <= FILTER_PAGE_IDS:
                return
            start = found[FILTER_PAGE_IDS].id

    async def rows(
        self, query: Fetch, terms: ReadTerms, source: Mapping[int, str]
    ) -> tuple[Rows, set[int]]:
        """Return the rows of `query.ids` that exist, and the shards that did not answer.

        `source`: the node to ask first for each shard. What does not fit into one answer is
        asked for again.
        """
        rows: Rows = {}
        missing: set[int] = set()
        ids = query.ids
        while ids:
            gathered = await self._fetch(query, ids, terms, source)
            missing.update(gathered.missing)
            rows.update((row.id, row) for fetched in gathered.found for row in fetched.rows)
            rests = [fetched.rest for fetched in gathered.found]
            ids = {shard: left for rest in rests for shard, left in rest.items()}
        return rows, missing

    async def _fetch(
        self,
        query: Fetch,
        ids: Mapping[int, list[bytes]],
        terms: ReadTerms,
        source: Mapping[int, str],
    ) -> Gathered[Fetched]:
        def query_of(shards: Sequence[int]) -> Fetch:
            return msgspec.structs.replace(query, ids={shard: ids[shard] for shard in shards})

        return await self.scatter.gather(self.local.fetch, query_of, ids, terms, source)

    async def _under_any_key(
        self, scope: Scope, ids: Sequence[PointId], options: Options
    ) -> tuple[list[bytes], Mapping[int, str]]:
        """Return the identities of these ids, in the order asked, and who named each shard's."""
        shards = scope.shards(self.routing.view().shards)
        terms = await self.terms(options, shards)
        query = Page(scope.collection.uid, SHARED_MAX + 1, None, scope.under_any_key(ids))
        found, source = await self._ids(query, terms, shards)
        known = by_id([each.id for each in found])
        asked = [known.get(each, []) for each in canonical_ids(ids, "ids")]
        if max(len(found), sum(map(len, asked))) > SHARED_MAX:
            text = f"more than {SHARED_MAX} points have these ids: say under which key"
            raise BadRequest(text, field="shard_key")
        return [each for identities in asked for each in identities], source

    async def _whole_page(
        self, query: Page, terms: ReadTerms, shards: Sequence[int]
    ) -> tuple[list[FoundId], FoundId | None, Mapping[int, str]]:
        """Return a page that has all points of its last id, what follows, and who named it.

        `query` asks for one more than the page is meant to have.
        """
        found, source = await self._ids(query, terms, shards)
        end = query.limit - 1
        while end < len(found) and id_part(found[end].id) == id_part(found[end - 1].id):
            end += 1
            if end - query.limit >= SHARED_MAX:
                text = f"more than {SHARED_MAX} points have the id {decode_id(found[-1].id)}"
                raise BadRequest(f"{text}: say under which key", field="shard_key")
            if end == len(found):
                last = found[-1].id
                rest = msgspec.structs.replace(query, start=last, limit=SHARED_STEP)
                more, answered_by = await self._ids(rest, terms, shards)
                found += [each for each in more if each.id > last]
                source |= answered_by
        return found[:end], found[end] if end < len(found) else None, source

    async def _ids(
        self, query: Page, terms: ReadTerms, shards: Sequence[int]
    ) -> tuple[list[FoundId], dict[int, str]]:
        """Return the first ids of these shards, and the node that named each shard's."""
        gathered = await self.scatter.gather(self.local.page, lambda _: query, shards, terms)
        found = sorted(each for page in gathered.found for each in page)
        return found[: query.limit], gathered.answered_by

    async def _barrier(self, shards: Sequence[int], deadline_s: float) -> dict[int, int]:
        answers = await fan_out([self.leaders.read_index(each, deadline_s) for each in shards])
        indexes: dict[int, int] = {}
        failures: dict[int, str] = {}
        for shard, answer in zip(shards, answers, strict=True):
            if isinstance(answer, RecollectError):
                failures[shard] = answer.message
            else:
                indexes[shard] = answer
        if failures:
            raise shards_unavailable(failures)
        return indexes

    def _by_shard(self, ids: Iterable[bytes]) -> dict[int, list[bytes]]:
        distinct = list(ids)
        owners = shards_of(distinct, self.routing.view().shards).tolist()
        return ids_by_shard(map(FoundId, distinct, owners))


def ids_by_shard(found: Iterable[FoundId]) -> dict[int, list[bytes]]:
    """Return the ids of each shard."""
    by_shard: dict[int, list[bytes]] = {}
    for canonical_id, shard in ((each.id, each.shard) for each in found):
        by_shard.setdefault(shard, []).append(canonical_id)
    return by_shard


def record_of(row: FetchedRow) -> Record:
    """Return a row as a user sees it."""
    return Record(
        decode_id(row.id),
        row.version,
        None if row.vector is None else np.frombuffer(row.vector, "<f4"),
        None if row.payload is None else orjson.loads(row.payload),
        row.created_ms,
        row.updated_ms,
        shard_key_of(row.id),
    )
