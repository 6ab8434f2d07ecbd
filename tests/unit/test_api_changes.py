"""Streams of changes over HTTP: what they begin with, what they leave out, how they end."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from cluster.api.app import build_app
from cluster.api.server import ApiRunner
from cluster.api.streams import StreamLimits
from cluster.config import Config
from cluster.model import Collection, Options, Point
from cluster.router import Router
from tests.change_listener import Event
from tests.unit.api_router import LetterEmbedder
from tests.unit.router_cluster import RouterCluster, cluster

EVERYWHERE = [["node1", "node2", "node3"]] * 3
QUICK = StreamLimits(streams_max=3, keep_alive_s=0.1, stalled_s=0.3)
WAIT_S = 10.0


def clock() -> float:
    return 10_000 + time.monotonic()


def real(nodes: RouterCluster, name: str) -> Router:
    """Return a router of a node that lives in real time, and put it on the wire."""
    router = nodes.new_router(name, clock=clock, sleep=asyncio.sleep)
    nodes.wire.channels[name].handlers.clear()
    router.register_handlers()
    return router


@contextmanager
def three_nodes() -> Iterator[RouterCluster]:
    with cluster(EVERYWHERE) as nodes:
        yield nodes


class Api:
    """A served node, and streams from it."""

    def __init__(self, session: aiohttp.ClientSession, port: int, runner: ApiRunner) -> None:
        self.session, self.port, self.runner = session, port, runner

    def get(self, path: str, **headers: str):
        url = f"http://127.0.0.1:{self.port}{path}"
        return self.session.get(url, headers={k.replace("_", "-"): v for k, v in headers.items()})


@asynccontextmanager
async def served(router: Router, limits: StreamLimits = QUICK) -> AsyncIterator[Api]:
    """Serve a router on a free port, and watch for changes."""
    app = build_app(
        router=router,
        config=Config(),
        embedder=LetterEmbedder(),
        readiness=list,
        clock=clock,
        streams=limits,
    )
    runner = ApiRunner(app, shutdown_timeout=5.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    watching = asyncio.ensure_future(router.changes.run())
    try:
        async with aiohttp.ClientSession() as session:
            yield Api(session, runner.addresses[0][1], runner)
    finally:
        await runner.cleanup()
        watching.cancel()
        await asyncio.wait([watching])


class Lines:
    """What a stream sends, told apart."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        assert answer.status == 200
        self._answer = answer
        self.position = ""
        self.others: list[str] = []

    async def begin(self) -> str:
        """Return the position that the stream begins behind."""
        async with asyncio.timeout(WAIT_S):
            while not self.position:
                await self._line()
        return self.position

    async def take(self, count: int) -> list[Event]:
        """Return the next events."""
        events: list[Event] = []
        async with asyncio.timeout(WAIT_S):
            kind = ""
            while len(events) < count:
                name, value = await self._line()
                kind = value if name == "event" else kind
                if name == "data":
                    events.append(Event(kind, self.position, json.loads(value)))
        return events

    async def rest(self) -> list[str]:
        """Return the lines until the stream ends."""
        async with asyncio.timeout(WAIT_S):
            return (await self._answer.content.read()).decode().splitlines()

    async def until_comment(self) -> None:
        async with asyncio.timeout(WAIT_S):
            while not self.others:
                await self._line()

    async def _line(self) -> tuple[str, str]:
        line = (await self._answer.content.readline()).decode()
        assert line, "the stream goes on"
        name, _, value = line.strip().partition(": ")
        if name == "id":
            self.position = value
        if line.startswith(":"):
            self.others.append(line)
        return name, value


async def put(nodes: RouterCluster, collection: Collection, *ids: int, text: str = "") -> None:
    vector = np.array([1, 2, 3, 4], np.float32)
    points = [Point(each, vector, {"text": text} if text else {}) for each in ids]
    await nodes["node1"].upsert(collection, points, nodes.options())


def ids_of(events: list[Event]) -> list[int]:
    return sorted(event.data["id"] for event in events)


async def test_a_stream_begins_now_or_at_the_start_or_behind_an_event():
    """`now` leaves out what was, `start` gives it first, an id gives what came after it."""
    with three_nodes() as nodes:
        things = await nodes.collection()
        await put(nodes, things, 1, 2)
        async with served(real(nodes, "node2")) as api:
            async with api.get("/changes") as now, api.get("/changes?from=start") as start:
                behind_now, behind_start = Lines(now), Lines(start)
                await behind_now.begin()
                both = await behind_start.take(2)
                await put(nodes, things, 3)
                new = await behind_now.take(1)
            async with api.get("/changes", Last_Event_ID=both[0].id) as again:
                rest = await Lines(again).take(2)

    assert ids_of(both) == [1, 2]
    assert ids_of(new) == [3]
    assert ids_of([both[0], *rest]) == [1, 2, 3]


async def test_a_node_without_replicas_streams_what_others_hold():
    """Changes come through a node that has no shard, and the others tell it when to look."""
    shards = [["node1", "node2"], ["node2", "node3"], ["node3", "node1"]]
    with cluster([*shards, ["node4", "node1"]], metadata_members=["node1"]) as nodes:
        watching = [asyncio.ensure_future(real(nodes, f"node{n}").changes.run()) for n in (1, 2, 3)]
        async with (
            served(real(nodes, "node4")) as api,
            api.get("/changes?collection=things") as answer,
        ):
            lines = Lines(answer)
            await lines.begin()
            things = await nodes.collection()
            others = await nodes.collection("others")
            await put(nodes, others, 7, 8, 9)
            await put(nodes, things, *range(20))
            events = await lines.take(20)
        for each in watching:
            each.cancel()
        await asyncio.wait(watching)

    assert ids_of(events) == list(range(20))
    assert {event.data["shard"] for event in events} == {0, 1, 2, 3}
    assert {event.data["collection"] for event in events} == {"things"}


async def test_events_tell_what_became_of_a_point():
    """Upsert, payload, deletion and the end of the collection come as they were, in order."""
    with cluster([["node1"]]) as nodes:
        things = await nodes.collection(distance="Dot")
        async with (
            served(real(nodes, "node1")) as api,
            api.get("/changes?with_vector=true") as answer,
        ):
            lines = Lines(answer)
            await lines.begin()
            await put(nodes, things, 1, text="a")
            first = await lines.take(1)
            await nodes["node1"].delete(things, [1], nodes.options())
            second = await lines.take(1)
            await nodes["node1"].drop_collection("things", nodes.options())
            third = await lines.take(1)

    event = {"collection": "things", "collection_uid": things.uid, "shard": 0}
    content = {"id": 1, "payload": {"text": "a"}, "vector": [1.0, 2.0, 3.0, 4.0]}
    assert [(each.kind, each.data) for each in (*first, *second, *third)] == [
        ("upsert", {**event, "version": 2, **content}),
        ("delete", {**event, "version": 3, "id": 1, "deleted": True}),
        ("drop", {**event, "version": 4, "deleted": True}),
    ]


async def test_patterns_have_a_stream_of_their_own():
    """It has the shape of patterns and nothing of other collections."""
    with cluster([["node1"]]) as nodes:
        things, patterns = await nodes.collection(), await nodes.collection("patterns")
        async with (
            served(real(nodes, "node1")) as api,
            api.get("/patterns/stream?from=start") as answer,
        ):
            await put(nodes, things, 1)
            point = Point(5, np.ones(4, np.float32), {"task": "rest", "reward": 0.5})
            await nodes["node1"].upsert(patterns, [point], nodes.options())
            (event,) = await Lines(answer).take(1)

    assert event.kind == "upsert"
    told = {key: value for key, value in event.data.items() if value is not None}
    assert told == {"id": 5, "shard": 0, "version": 3, "task": "rest", "reward": 0.5}


async def test_a_silent_stream_shows_that_it_lives():
    """A comment comes when nothing else does."""
    with three_nodes() as nodes:
        async with served(real(nodes, "node1")) as api, api.get("/changes") as answer:
            lines = Lines(answer)
            await lines.until_comment()

    assert lines.others == [": keep-alive\n"]


async def test_a_shard_that_nobody_can_read_holds_up_no_other():
    """Changes of the other shards come at once, and those of this one when it is back."""
    with three_nodes() as nodes:
        things = await nodes.collection()
        silenced = [nodes.replica(node, 1) for node in nodes.names]
        async with served(real(nodes, "node1")) as api, api.get("/changes?from=start") as answer:
            lines = Lines(answer)
            await lines.begin()
            for replica in silenced:
                replica.is_stale = True
            await put(nodes, things, *range(30))
            hidden = nodes.replica("node1", 1).machine.count(things.uid)
            events = await lines.take(30 - hidden)
            for replica in silenced:
                replica.is_stale = False
            late = await lines.take(hidden)

    assert {event.data["shard"] for event in events} == {0, 2}
    assert {event.data["shard"] for event in late} == {1}
    assert ids_of(events + late) == list(range(30))


async def test_a_listener_that_lags_is_cut_off_and_goes_on():
    """Its place is free again; from its last id it gets the rest, and nothing twice."""
    with cluster([["node1"]]) as nodes:
        things = await nodes.collection()
        for first in range(0, 300, 10):
            await put(nodes, things, *range(first, first + 10), text="x" * 60_000)
        limits = StreamLimits(streams_max=1, stalled_s=0.3)
        async with served(real(nodes, "node1"), limits) as api:
            with _sleeper(api.port) as sleeper:
                await _until(api, 503)
                await _until(api, 200)
                taken = await asyncio.to_thread(_drained, sleeper)
                farewell = taken.pop()
            async with api.get("/changes", Last_Event_ID=taken[-1].id) as answer:
                rest = await Lines(answer).take(300 - len(taken))

    assert farewell.kind == "lagging"
    assert 0 < len(taken) < 300
    assert ids_of(taken + rest) == list(range(300))


@contextmanager
def _sleeper(port: int) -> Iterator[socket.socket]:
    """Ask for everything, and take nothing."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(WAIT_S)
        connection.connect(("127.0.0.1", port))
        connection.sendall(b"GET /changes?from=start HTTP/1.1\r\nHost: here\r\n\r\n")
        yield connection


async def _until(api: Api, status: int) -> None:
    url = f"http://127.0.0.1:{api.port}/changes"
    async with asyncio.timeout(WAIT_S):
        while True:
            async with api.session.head(url) as answer:
                if answer.status == status:
                    return


def _drained(connection: socket.socket) -> list[Event]:
    """Return the events that came whole before the connection ended."""
    raw = b""
    try:
        while part := connection.recv(1 << 20):
            raw += part
    except ConnectionError:
        pass
    body = _unchunked(raw.partition(b"\r\n\r\n")[2])
    events: list[Event] = []
    for block in body.split(b"\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.decode().splitlines())
        if "event" in fields:
            position = fields.get("id", events[-1].id if events else "")
            events.append(Event(fields["event"], position, json.loads(fields["data"])))
    return events


def _unchunked(raw: bytes) -> bytes:
    body = b""
    while b"\r\n" in raw:
        size, _, raw = raw.partition(b"\r\n")
        body, raw = body + raw[: int(size, 16)], raw[int(size, 16) + 2 :]
    return body


async def test_streams_have_a_number():
    """One stream too many is refused, and whoever goes makes room."""
    with three_nodes() as nodes:
        async with served(real(nodes, "node1"), StreamLimits(streams_max=1)) as api:
            async with api.get("/changes") as answer:
                await Lines(answer).begin()
                async with api.get("/changes") as refused:
                    status, body = refused.status, await refused.json()
                    retry = refused.headers["Retry-After"]
            await _until(api, 200)

    assert (status, body["error"]["code"], retry) == (503, "overloaded", "1")


async def test_streams_end_with_their_node():
    """A listener is told to come back, and the answer ends as it should."""
    with three_nodes() as nodes:
        async with served(real(nodes, "node1")) as api, api.get("/changes") as answer:
            lines = Lines(answer)
            await lines.begin()
            await api.runner.cleanup()
            last = await lines.rest()

    assert last[-2:] == ["retry: 1000", ""]


async def test_a_stream_from_now_needs_to_know_what_now_is():
    """While a shard has no leader nobody can say; from an id it goes on all the same."""
    with three_nodes() as nodes:
        router = nodes["node1"]
        position = router.changes.beginning().text
        for group in nodes.groups:
            group.elect(None)
        short = Options(deadline_s=nodes.clock() + 0.5)
        with pytest.raises(Exception, match="leader"):
            await router.changes.end(short)

        assert router.changes.parse(position).text == position


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("form=start", "form"),
        ("from=now&from=now", "from"),
        ("from=yesterday", "from"),
        ("from=a.1", "from"),
        ("collection=.x", "collection"),
        ("collection=a,", "collection"),
        ("with_payload=1", "with_payload"),
        ("with_vector=true&with_vector=true", "with_vector"),
    ],
)
async def test_bad_parameters_are_named(query: str, field: str):
    """What a stream does not take is refused before it begins."""
    with three_nodes() as nodes:
        async with served(real(nodes, "node1")) as api, api.get(f"/changes?{query}") as answer:
            body = await answer.json()

    assert (answer.status, body["error"]["field"]) == (400, field)
