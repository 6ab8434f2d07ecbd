"""The HTTP layer's test bed: a router that keeps points in a dict, served on a real socket."""

from __future__ import annotations

import contextlib
import io
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import numpy as np
from aiohttp import web
from yarl import URL

from cluster.api.app import ROUTES, build_app
from cluster.api.openapi import public_path
from cluster.api.server import ApiRunner
from cluster.config import Config
from cluster.errors import (
    CollectionExists,
    CollectionNotFound,
    IdempotencyKeyReused,
    VersionConflict,
)
from cluster.memory_guard import MemoryGuard
from cluster.model import (
    SEEN_METADATA,
    Collection,
    Hit,
    Options,
    Point,
    Record,
    SearchAnswer,
    SearchRequest,
    Session,
    WriteAck,
)
from storage.filter_parse import written_key
from storage.filters import matches
from storage.ids import PointId, ShardKey, encode_id, key_bytes
from storage.payload_index.conditions import unindexed

NOW_MS = 1_760_000_000_123
MSGPACK = "application/msgpack"
SPACE = "space-of-the-test-embedder"

Identity = tuple[PointId, ShardKey | None]


@dataclass
class Info:
    """What collection_info returns."""

    points_count: int
    indexed_count: int
    status: str = "green"
    shards: int = 3
    replication: int = 1
    field_counts: dict[str, int] = field(default_factory=dict)


@dataclass
class MemoryRouter:
    """The router's methods over dicts; `failing` raises from every method, `seen` keeps options."""

    shards_failed: tuple[int, ...] = ()
    failing: Exception | None = None
    known: dict[str, Collection] = field(default_factory=dict)
    points: dict[int, dict[Identity, Record]] = field(default_factory=dict)
    seen: list[Options] = field(default_factory=list)
    applied: dict[str, WriteAck] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    reflects: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.graphs: Any = None
        self.quick: Any = None
        self.checkpoints: Any = None
        self.outbox: Any = None
        self.changes: Any = None
        """Graphs are tested on whole nodes."""
        self._versions = itertools.count(2)
        self._uids = itertools.count(1)

    def _note(self, options: Options) -> None:
        self.seen.append(options)
        options.reflected.update(self.reflects)
        if self.failing is not None:
            raise self.failing

    async def create_collection(
        self,
        name,
        *,
        dimension,
        distance,
        hnsw_m,
        hnsw_ef_construct,
        embedding_space,
        options,
        must_be_new=False,
        custom_sharding=False,
    ) -> Collection:
        self._note(options)
        if name in self.known and must_be_new:
            raise CollectionExists(name, field="collection_name")
        if name in self.known:
            return self.known[name]
        made = Collection(
            uid=next(self._uids),
            name=name,
            dimension=dimension,
            distance=distance,
            hnsw_m=hnsw_m,
            hnsw_ef_construct=hnsw_ef_construct,
            embedding_space=embedding_space,
            custom_sharding=custom_sharding,
        )
        self.known[name] = made
        self.points[made.uid] = {}
        return made

    async def put_index(self, collection: Collection, field, options: Options) -> bool:
        self._note(options)
        known = [each for each in collection.payload_indexes if each.name != field.name]
        self._define(collection, (*known, field))
        return True

    async def drop_index(self, collection: Collection, name: str, options: Options) -> None:
        self._note(options)
        left = [each for each in collection.payload_indexes if each.name != name]
        self._define(collection, tuple(left))

    def _define(self, collection: Collection, fields) -> None:
        made = msgspec.structs.replace(collection, payload_indexes=fields)
        self.known[collection.name] = made

    def unindexed(self, collection: Collection, where) -> list[str]:
        kinds = {field.path(): [field.type] for field in collection.payload_indexes}
        return [written_key(path) for path in unindexed(where, kinds)]

    async def drop_collection(self, name: str, options: Options) -> bool:
        self._note(options)
        return self.known.pop(name, None) is not None

    def collections(self) -> list[Collection]:
        return list(self.known.values())

    async def catch_up(self, options: Options) -> None:
        self._note(options)

    def session(self, seen: Session) -> Session:
        return seen.merged({SEEN_METADATA: METADATA_INDEX})

    async def collection(self, name: str, options: Options) -> Collection:
        self._note(options)
        if name not in self.known:
            raise CollectionNotFound(f"no collection '{name}'", field="collection_name")
        return self.known[name]

    async def collection_info(self, name: str, options: Options) -> Info:
        stored = self.points[(await self.collection(name, options)).uid]
        return Info(points_count=len(stored), indexed_count=len(stored))

    def _written(self, options: Options, change: Callable[[int], None]) -> WriteAck:
        self._note(options)
        if options.request_id in self.applied:
            if self.digests[options.request_id] != options.request_digest:
                raise IdempotencyKeyReused
            return self.applied[options.request_id]
        version = next(self._versions)
        change(version)
        ack = WriteAck(session=Session({0: version}), version=version)
        if options.request_id:
            self.applied[options.request_id] = ack
            self.digests[options.request_id] = options.request_digest
        return ack

    def _require(
        self, collection: Collection, conditions: Mapping[PointId, int | None], key: Any
    ) -> None:
        for each, wanted in conditions.items():
            stored = self.points[collection.uid].get((each, key))
            version = stored.version if stored else 0
            if wanted not in {None, version}:
                raise VersionConflict("no", point=each, current_version=version)

    def _visible(self, collection: Collection, options: Options) -> list[Record]:
        """Return the records under the keys of the request, in the order of their identities."""
        assert collection.custom_sharding or options.shard_keys is None
        records = self.points[collection.uid].values()
        keys = options.shard_keys
        seen = [each for each in records if keys is None or each.shard_key in keys]
        return sorted(seen, key=_place)

    async def upsert(
        self, collection: Collection, points: Sequence[Point], options: Options
    ) -> WriteAck:
        def change(version: int) -> None:
            (key,) = options.shard_keys or (None,)
            assert collection.custom_sharding is (key is not None)
            self._require(collection, {point.id: point.if_version for point in points}, key)
            for point in points:
                vector = _stored(collection, point.vector)
                self.points[collection.uid][point.id, key] = Record(
                    point.id, version, vector, dict(point.payload), shard_key=key
                )

        return self._written(options, change)

    def _selected(self, collection: Collection, selector: Any, options: Options) -> list[Record]:
        visible = self._visible(collection, options)
        if isinstance(selector, list):
            assert not collection.custom_sharding or options.shard_keys is not None
            return [record for record in visible if record.id in selector]
        return [record for record in visible if _passes(selector, record)]

    async def delete(
        self, collection: Collection, selector: Any, options: Options, *, if_version=None
    ) -> WriteAck:
        def change(version: int) -> None:
            if if_version is not None:
                (key,) = options.shard_keys or (None,)
                self._require(collection, {selector[0]: if_version}, key)
            for record in self._selected(collection, selector, options):
                del self.points[collection.uid][record.id, record.shard_key]

        return self._written(options, change)

    async def set_payload(
        self,
        collection: Collection,
        selector: Any,
        mode: str,
        payload: Mapping[str, Any],
        keys: Sequence[str],
        options: Options,
    ) -> WriteAck:
        def change(version: int) -> None:
            for record in self._selected(collection, selector, options):
                old = record.payload or {}
                new = {
                    "merge": {**old, **payload},
                    "replace": dict(payload),
                    "remove": {key: value for key, value in old.items() if key not in keys},
                    "clear": {},
                }[mode]
                key = record.shard_key
                changed = Record(record.id, version, record.vector, new, shard_key=key)
                self.points[collection.uid][record.id, key] = changed

        return self._written(options, change)

    async def retrieve(
        self, collection: Collection, ids, *, with_payload: bool, with_vector: bool, options
    ) -> list[Record]:
        self._note(options)
        visible = self._visible(collection, options)
        return [
            _shown(record, with_payload=with_payload, with_vector=with_vector)
            for item in ids
            for record in visible
            if record.id == item
        ]

    async def search(
        self, collection: Collection, request: SearchRequest, options: Options
    ) -> SearchAnswer:
        self._note(options)
        hits = []
        for record in self._visible(collection, options):
            if request.filter is None or _passes(request.filter, record):
                score = _score(collection, record, request.vector)
                hits.append((score, record))
        less_is_better = collection.distance in {"Euclid", "Manhattan"}
        sign = 1 if less_is_better else -1
        hits.sort(key=lambda hit: (sign * hit[0], _place(hit[1])))
        limit = request.score_threshold
        if limit is not None:
            hits = [hit for hit in hits if (hit[0] <= limit if less_is_better else hit[0] >= limit)]
        page = hits[request.offset : request.offset + request.limit]
        return SearchAnswer(
            [
                Hit(
                    record.id,
                    record.version,
                    score,
                    record.vector if request.with_vector else None,
                    record.payload if request.with_payload else None,
                    record.shard_key,
                )
                for score, record in page
            ],
            shards_ok=tuple(shard for shard in range(3) if shard not in self.shards_failed),
            shards_failed=self.shards_failed,
        )

    async def search_many(
        self, collection: Collection, requests: Sequence[SearchRequest], options: Options
    ) -> list[SearchAnswer]:
        return [await self.search(collection, request, options) for request in requests]

    async def scroll(
        self,
        collection: Collection,
        where: Any,
        limit: int,
        offset: PointId | None,
        *,
        with_payload: bool,
        with_vector: bool,
        options: Options,
    ) -> tuple[list[Record], PointId | None]:
        self._note(options)
        start = b"" if offset is None else encode_id(offset)
        found = [
            record
            for record in self._visible(collection, options)
            if encode_id(record.id) >= start and (where is None or _passes(where, record))
        ]
        end = limit
        while end < len(found) and found[end].id == found[end - 1].id:
            end += 1
        page = [
            _shown(record, with_payload=with_payload, with_vector=with_vector)
            for record in found[:end]
        ]
        return page, found[end].id if len(found) > end else None

    async def count(self, collection: Collection, where: Any, options: Options) -> int:
        self._note(options)
        visible = self._visible(collection, options)
        return sum(1 for record in visible if where is None or _passes(where, record))

    async def cluster_status(self) -> dict[str, Any]:
        return {"cluster_id": "memory", "nodes": [], "shards": []}


def _place(record: Record) -> tuple[bytes, bytes]:
    key = record.shard_key
    return encode_id(record.id), b"" if key is None else key_bytes(key)


def _passes(where: Any, record: Record) -> bool:
    return bool(matches(where, record.id, record.payload or {}))


def _stored(collection: Collection, vector: Any) -> Any:
    if collection.distance != "Cosine":
        return vector
    norm = np.linalg.norm(vector.astype(np.float64))
    return (vector / norm).astype(np.float32)


def _score(collection: Collection, record: Record, vector: Any) -> float:
    assert record.vector is not None
    stored = record.vector.astype(np.float64)
    asked = _stored(collection, vector).astype(np.float64)
    if collection.distance in {"Cosine", "Dot"}:
        return float(stored @ asked)
    order = 2 if collection.distance == "Euclid" else 1
    return float(np.linalg.norm(stored - asked, ord=order))


def _shown(record: Record, *, with_payload: bool, with_vector: bool) -> Record:
    return Record(
        record.id,
        record.version,
        record.vector if with_vector else None,
        record.payload if with_payload else None,
        shard_key=record.shard_key,
    )


class LetterEmbedder:
    """Embeds a text by how often it has each of the letters a to h; other texts have no vector."""

    space = SPACE
    dimension = 8

    def embed(self, texts: Sequence[str]) -> Any:
        counts = [[text.count(letter) for letter in "abcdefgh"] for text in texts]
        return np.array(counts, dtype=np.float32)


METADATA_INDEX = 5
"""Where the memory router's view stands."""


@dataclass
class Reply:
    """One answer: status, headers, and the decoded envelope."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def result(self) -> Any:
        """The result of a success, whose envelope is checked here."""
        assert self.status == 200, self.body
        assert self.body["status"] == "ok"
        assert self.body["time"] >= 0
        return self.body["result"]

    @property
    def error(self) -> dict[str, Any]:
        """The error of a refusal, whose envelope is checked here."""
        assert set(self.body) == {"status", "error", "time"}, self.body
        assert isinstance(self.body["status"]["error"], str)
        assert {"code", "field", "retryable"} <= set(self.body["error"])
        assert self.status >= 400
        detail: dict[str, Any] = self.body["error"]
        return detail

    @property
    def refusal(self) -> tuple[int, str, str | None]:
        """Status, code and field of a refusal."""
        return self.status, self.error["code"], self.error["field"]


class ApiClient:
    """Talks to a served application and holds every result against the described shape."""

    def __init__(self, session: aiohttp.ClientSession, port: int, router: MemoryRouter) -> None:
        self.session = session
        self.port = port
        self.router = router

    async def __call__(self, method: str, path: str, body: Any = None, **extra: Any) -> Reply:
        """Send one request; `body` becomes what its Content-Type says, or is bytes as they are."""
        headers = dict(extra.pop("headers", {}))
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        raw = body if body is None or isinstance(body, bytes) else _encoded(body, headers)
        data = None if raw is None else io.BytesIO(raw)
        url = URL(f"http://127.0.0.1:{self.port}{path}", encoded=True)
        request = self.session.request(method, url, data=data, headers=headers, **extra)
        async with request as answer:
            raw = await answer.read()
            packed = answer.headers["Content-Type"] == MSGPACK
            decoded = (msgspec.msgpack if packed else msgspec.json).decode(raw) if raw else None
            reply = Reply(answer.status, answer.headers, decoded)
        if reply.status == 200 and decoded is not None and "vectors=" not in str(headers):
            _hold_against_shape(method, path.partition("?")[0], reply)
        return reply


def _encoded(body: Any, headers: Mapping[str, str]) -> bytes:
    packed = headers["Content-Type"] == MSGPACK
    return msgspec.msgpack.encode(body) if packed else msgspec.json.encode(body)


def _hold_against_shape(method: str, path: str, reply: Reply) -> None:
    parts = path.strip("/").split("/")
    candidates = []
    for route in ROUTES:
        template = public_path(route).strip("/").split("/")
        if route.method == method and len(template) == len(parts):
            pairs = list(zip(template, parts, strict=True))
            if all(left == right or left.startswith("{") for left, right in pairs):
                candidates.append((sum(left != right for left, right in pairs), route))
    if candidates:
        route = min(candidates, key=lambda item: item[0])[1]
        if route.answer is not None:
            msgspec.convert(reply.body["result"], route.answer)


@contextlib.asynccontextmanager
async def served(
    *,
    router: MemoryRouter | None = None,
    config: Config | None = None,
    reasons: Sequence[str] = (),
    embedder: Any = None,
    patterns: bool = True,
    memory: MemoryGuard | None = None,
) -> AsyncIterator[ApiClient]:
    """Serve the API over a memory router on a free port."""
    router = router or MemoryRouter()
    ids = itertools.count(1)
    if patterns and "patterns" not in router.known:
        await router.create_collection(
            "patterns",
            dimension=8,
            distance="Cosine",
            hnsw_m=16,
            hnsw_ef_construct=200,
            embedding_space=SPACE,
            options=Options(deadline_s=0),
        )
        router.seen.clear()
    app = build_app(
        router=router,
        config=config or Config(),
        embedder=embedder or LetterEmbedder(),
        readiness=lambda: reasons,
        memory=memory,
        clock=time.monotonic,
        wall_ms=lambda: NOW_MS,
        new_id=lambda: f"00000000-0000-4000-8000-{next(ids):012d}",
    )
    runner = ApiRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            yield ApiClient(session, port, router)
    finally:
        await runner.cleanup()


async def with_collection(client: ApiClient, **vectors: Any) -> None:
    """Create the collection `c`, of three dimensions under Cosine unless said otherwise."""
    params = {"size": 3, "distance": "Cosine", **vectors}
    assert (await client("PUT", "/collections/c", {"vectors": params})).result is True
