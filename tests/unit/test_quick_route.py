"""The quick way of a search: whatever is sent, it answers as the general way does, or leaves it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator

import msgspec
import numpy as np
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.api.app import build_app
from cluster.api.server import ApiRunner
from cluster.config import Config
from cluster.control_group import MemoryReading
from cluster.memory_guard import MemoryGuard
from cluster.model import Point
from cluster.quick_search import QuickQuery, QuickSearch
from storage.payload_index.fields import FieldIndex
from tests.unit.api_router import LetterEmbedder
from tests.unit.router_cluster import cluster

QUERY, SEARCH = "/collections/things/points/query", "/collections/things/points/search"
COUNT = 40
VECTORS = np.random.default_rng(11).normal(size=(COUNT, 4)).astype(np.float32)
PLAIN = {"query": [1, 0.5, -0.25, 0.1], "limit": 5}


class Counted:
    """A quick search that counts what it took; `held` keeps answers back, `failing` fails."""

    def __init__(self, inner: QuickSearch) -> None:
        self._inner = inner
        self.taken = 0
        self.held = asyncio.Event()
        self.held.set()
        self.failing = False

    def begin(self, query, done):
        begun = self._inner.begin(query, lambda answer: self._done(done, answer))
        self.taken += begun
        return begun

    def _done(self, done, answer):
        if self.failing:
            done(RuntimeError("a search failed"))
        elif self.held.is_set():
            done(answer)

    def session_token(self):
        return self._inner.session_token()

    def in_worker(self, turns):
        return self._inner.in_worker(turns)


class Wire:
    """A keep-alive connection over which raw requests go."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self):
        """Return status, headers and decoded body of the next answer."""
        async with asyncio.timeout(10):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            raw = await self.reader.readexactly(int(headers["content-length"]))
        form = msgspec.msgpack if "msgpack" in headers["content-type"] else msgspec.json
        return int(lines[0].split()[1]), headers, form.decode(raw)

    async def ask(self, path, body, more=""):
        self.writer.write(request(path, body, more))
        return await self.answer()


def request(path, body, more=""):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{more}Content-Length: {len(raw)}\r\n\r\n"
    return head.encode() + raw


class Ways:
    """The same router served twice: with its quick way, and without."""

    def __init__(self, wires: list[Wire], counted: Counted, runner, port, index) -> None:
        (self.quick, self.general), self.counted = wires, counted
        self.runner, self.port, self.index = runner, port, index

    async def both(self, path, body, more=""):
        """Return the two answers, without the times in which they differ."""
        answers = []
        for wire in (self.quick, self.general):
            status, headers, decoded = await wire.ask(path, body, more)
            decoded.pop("time"), headers.pop("date"), headers.pop("content-length")
            answers.append((status, headers, rounded(decoded)))
        return answers


def rounded(document):
    """Round scores: in which order a product is added up is not the same on both ways."""
    if isinstance(document, dict):
        return {name: rounded(each) for name, each in document.items()}
    if isinstance(document, list):
        return [rounded(each) for each in document]
    return float(f"{document:.5g}") if isinstance(document, float) else document


@contextlib.asynccontextmanager
async def both_ways(
    distance="Cosine", config=None, memory=None, *, indexed=False
) -> AsyncIterator[Ways]:
    with cluster([["node1"], ["node1"], ["node1"]]) as opened:
        router = opened["node1"]
        collection = await opened.collection(distance=distance)
        if indexed:
            field = FieldIndex("n", "integer")
            await router.put_index(collection, field, opened.options())
        points = [Point(n, VECTORS[n], {"n": n, "text": 'a "word"'}) for n in range(COUNT)]
        await router.upsert(collection, points, opened.options())
        counted = Counted(router.quick)
        wires, runners = [], []
        for quick in (counted, None):
            router.quick = quick  # type: ignore[assignment]
            app = build_app(
                router=router,
                config=config or Config(),
                embedder=LetterEmbedder(),
                readiness=list,
                clock=opened.clock,
                memory=memory,
            )
            runner = ApiRunner(app, shutdown_timeout=5.0)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            runners.append(runner)
            wire = Wire(*await asyncio.open_connection("127.0.0.1", runner.addresses[0][1]))
            await wire.ask(QUERY, PLAIN)
            wires.append(wire)
        try:
            index = opened.nodes["node1"].indexes.get(collection.uid)
            yield Ways(wires, counted, runners[0], runners[0].addresses[0][1], index)
        finally:
            for wire in wires:
                wire.writer.close()
            for runner in runners:
                await runner.cleanup()


QUICK = [
    (QUERY, PLAIN),
    (QUERY, {"query": [1, 2, 3, 4]}),
    (QUERY, {"query": [1e-30, 0, 0, 0], "limit": 1, "with_payload": True}),
    (QUERY, {"query": [3e38, 0, 0, 0], "limit": None, "with_payload": None, "params": None}),
    (QUERY, {"query": [1, 2, 3, 4], "params": {"hnsw_ef": 3}, "limit": 10000}),
    (QUERY, {"query": [1, 2, 3, 4], "params": {"hnsw_ef": None}, "with_payload": False}),
    (SEARCH, {"vector": [1, 2, 3, 4], "limit": 3, "with_payload": True}),
]


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid", "Manhattan"])
async def test_the_common_shape_is_answered_quickly_and_alike(distance):
    """Status, headers, session and hits are those of the general way."""
    async with both_ways(distance) as ways:
        for path, body in QUICK:
            before = ways.counted.taken
            quick, general = await ways.both(path, body)

            assert quick == general
            assert quick[0] == 200
            assert ways.counted.taken == before + 1, body


async def test_a_payload_that_changed_is_shown_anew():
    """What was read before a write is not shown after it, nor is a point that was deleted."""
    async with both_ways() as ways:
        body = {**PLAIN, "with_payload": True}
        first, _ = await ways.both(QUERY, body)
        assert (await ways.both(QUERY, body))[0] == first
        nearest = [point["id"] for point in first[2]["result"]["points"]]
        change = {"payload": {"text": "new"}, "points": nearest[:2]}
        await ways.general.ask("/collections/things/points/payload", change)
        await ways.general.ask("/collections/things/points/delete", {"points": nearest[2:3]})
        before = ways.counted.taken
        quick, general = await ways.both(QUERY, body)

        assert quick == general
        assert ways.counted.taken == before + 1
        points = quick[2]["result"]["points"]
        assert [point["payload"]["text"] for point in points[:2]] == ["new", "new"]
        assert nearest[2] not in [point["id"] for point in points]


async def test_the_event_loop_shows_payloads_that_are_known_and_reads_none(monkeypatch):
    """The rest is read where the search is finished, on a thread; then it is known."""
    async with both_ways() as ways:
        quick, begun = ways.counted._inner, []
        monkeypatch.setattr(quick._turns, "begin", lambda key, search: begun.append((key, search)))
        assert quick.begin(
            QuickQuery("things", [1, 0.5, -0.25, 0.1], 5, None, True), lambda _: None
        )
        (((index, limit, _), search),) = begun
        (hits,) = index.search_many(search.vector.reshape(1, -1), limit)
        with monkeypatch.context() as patched:
            patched.delattr("cluster.quick_search.fetch_rows")
            assert search.at_once(hits) is None
        shown = search.finish(hits)
        monkeypatch.delattr("cluster.quick_search.fetch_rows")

        assert search.at_once(hits) == shown


FILTERED = [
    {"must": [{"key": "n", "range": {"lt": 20}}]},
    {"must": {"key": "n", "match": {"value": 3}}, "should": None},
    {"must_not": [{"key": "n", "range": {"gte": 5}}], "should": [{"has_id": [1, 2, 3]}]},
    {"must": [{"key": "n", "match": {"value": 1000}}]},
]


@pytest.mark.parametrize("built", [False, True], ids=["beside the graph", "in the graph"])
async def test_a_filter_that_indexes_answer_is_quick(built):
    """With few rows to compare or many, with payloads or without."""
    async with both_ways(indexed=True) as ways:
        if built:
            while ways.index.build(COUNT):
                pass
            assert ways.index.is_quiet
        for where in FILTERED:
            for more in ({}, {"with_payload": True}, {"params": {"hnsw_ef": 4}, "limit": 3}):
                before = ways.counted.taken
                quick, general = await ways.both(QUERY, {**PLAIN, **more, "filter": where})

                assert quick == general
                assert quick[0] == 200
                assert ways.counted.taken == before + 1, where


async def test_a_body_that_comes_after_its_head_is_answered_quickly():
    """Many clients send the two one after the other."""
    async with both_ways() as ways:
        raw = request(QUERY, PLAIN)
        head = raw[: raw.index(b"\r\n\r\n") + 4]
        expected = (await ways.general.ask(QUERY, PLAIN))[2]["result"]
        for cuts in ([len(head)], [len(head), len(head) + 10], [len(head) - 2], [len(head) + 1]):
            before = ways.counted.taken
            for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
                ways.quick.writer.write(raw[start:end])
                await ways.quick.writer.drain()
                for _ in range(20):
                    await asyncio.sleep(0)  # lets the server see this piece by itself
            status, _, decoded = await ways.quick.answer()

            assert (status, rounded(decoded["result"])) == (200, rounded(expected))
            assert ways.counted.taken == before + 1


async def test_a_body_that_does_not_come_is_the_general_ways_to_wait_for(monkeypatch):
    """After a while; what comes then is answered all the same."""
    monkeypatch.setattr("cluster.api.protocol.HOLD_S", 0.01)
    async with both_ways() as ways:
        raw = request(QUERY, PLAIN)
        before = ways.counted.taken
        ways.quick.writer.write(raw[:-5])
        async with asyncio.timeout(10):
            while all(each._waiter is not None for each in ways.runner.server.connections):
                await asyncio.sleep(0)
        ways.quick.writer.write(raw[-5:])

        assert (await ways.quick.answer())[0] == 200
        assert ways.counted.taken == before
        assert (await ways.quick.ask(QUERY, PLAIN))[0] == 200
        assert ways.counted.taken == before + 1


async def test_a_client_that_leaves_in_the_middle_of_a_body_is_forgotten():
    """Others are served."""
    async with both_ways() as ways:
        reader, writer = await asyncio.open_connection("127.0.0.1", ways.port)
        wire = Wire(reader, writer)
        await wire.ask(QUERY, PLAIN)
        writer.write(request(QUERY, PLAIN)[:-5])
        await writer.drain()
        writer.close()
        async with asyncio.timeout(10):
            while len(ways.runner.server.connections) > 1:
                await asyncio.sleep(0)

        assert (await ways.quick.ask(QUERY, PLAIN))[0] == 200


async def test_a_search_that_is_answered_at_once_leaves_its_connection_open(monkeypatch):
    """The time that a head has to arrive runs when one has begun, not when all was answered."""
    monkeypatch.setattr("cluster.api.protocol.HEAD_S", 0.05)
    async with both_ways(indexed=True) as ways:
        while ways.index.build(COUNT):
            pass
        body = {**PLAIN, "filter": FILTERED[0]}
        await ways.quick.ask(QUERY, body)
        reader, writer = await asyncio.open_connection("127.0.0.1", ways.port)
        writer.write(b"POST / HT")
        async with asyncio.timeout(10):
            assert await reader.read() == b""  # its time has run out, and so has the other's
        writer.close()
        status, _, _ = await ways.quick.ask(QUERY, body)

        assert status == 200


async def test_a_search_that_fails_at_once_is_explained_by_the_general_way(monkeypatch):
    """Its connection stays, and what comes next is answered."""
    async with both_ways(indexed=True) as ways:
        while ways.index.build(COUNT):
            pass
        body = {**PLAIN, "filter": FILTERED[0]}
        with monkeypatch.context() as broken:
            broken.setattr("storage.filtered_search.search", fail)
            quick, general = await ways.both(QUERY, body)
        assert quick == general
        assert quick[0] == 500
        quick, general = await ways.both(QUERY, body)
        assert quick == general
        assert quick[0] == 200


def fail(*_arguments, **_choices):
    raise MemoryError


UNREADABLE = [
    {"must": [{"key": "n", "range": {"lt": "x"}}]},
    {"must": [{"key": "text", "match": {"value": 'a "word"'}}]},
    {"should": [{"key": "n", "match": {"value": 3}}, {"is_empty": {"key": "text"}}]},
    {"must": [{"key": "n", "nonsense": 1}]},
    {"must": [{"key": "n", "geo_radius": {}}]},
    {},
    [],
]


async def test_a_filter_that_indexes_do_not_answer_goes_the_general_way():
    """So does one that is refused, by the place of what is wrong."""
    async with both_ways(indexed=True) as ways:
        for where in UNREADABLE:
            before = ways.counted.taken
            quick, general = await ways.both(QUERY, {**PLAIN, "filter": where})

            assert quick == general
            assert ways.counted.taken == before, where


GENERAL = [
    (QUERY, b'{"query":[1,2,3,4],"query":[1,2,3,4]}'),
    (QUERY, b'{"query":[1,2,3,4],"params":{"hnsw_ef":9,"hnsw_ef":9}}'),
    (QUERY, b'{"query":[1,2,3,4]} x'),
    (QUERY, b'{"query":[1,2,3,NaN]}'),
    (QUERY, b'{"query":[1,2,3,1e400]}'),
    (QUERY, b'{"query":[1,2,3,1e39]}'),
    (QUERY, b'{"query":[3e38,3e38,3e38,3e38]}'),
    (QUERY, b'{"query":[0,0,0,0]}'),
    (QUERY, b'{"query":[1,2,3]}'),
    (QUERY, b'{"query":[1,2,3,true]}'),
    (QUERY, b'{"query":[1,2,3,"4"]}'),
    (QUERY, b'{"query":[1,2,3,4],"limit":0}'),
    (QUERY, b'{"query":[1,2,3,4],"limit":10001}'),
    (QUERY, b'{"query":[1,2,3,4],"limit":2.5}'),
    (QUERY, b'{"query":[1,2,3,4],"unheard":1}'),
    (QUERY, b'{"query":[1,2,3,4],"filter":{"must":[{"key":"n","match":{"value":3}}]}}'),
    (QUERY, b'{"query":[1,2,3,4],"offset":3}'),
    (QUERY, b'{"query":[1,2,3,4],"with_vector":true,"limit":2}'),
    (QUERY, b'{"query":[1,2,3,4],"with_payload":["n"],"limit":2}'),
    (QUERY, b'{"query":[1,2,3,4],"params":{"exact":true},"limit":2}'),
    (QUERY, b'{"query":7,"limit":2}'),
    (QUERY, b'{"limit":2}'),
    (QUERY, b""),
    (QUERY, b"\xff"),
    (SEARCH, b'{"vector":[1,2,3,4]}'),
    ("/collections/others/points/query", b'{"query":[1,2,3,4]}'),
    ("/collections/.things/points/query", b'{"query":[1,2,3,4]}'),
    (f"{QUERY}?consistency=majority", b'{"query":[1,2,3,4],"limit":2}'),
    (f"{QUERY}?nonsense=1", b'{"query":[1,2,3,4]}'),
]


async def test_everything_else_goes_the_general_way():
    """Other kinds of searches and all refusals, with the field that they name."""
    async with both_ways() as ways:
        before = ways.counted.taken
        for path, body in GENERAL:
            quick, general = await ways.both(path, body)

            assert quick == general, body
            assert ways.counted.taken == before, body


@pytest.fixture(scope="module")
def two_ways() -> Iterator[tuple[asyncio.Runner, Ways]]:
    """Both ways, served for as many examples as there are."""
    with asyncio.Runner() as runner:
        context = both_ways()
        ways = runner.run(context.__aenter__())
        yield runner, ways
        runner.run(context.__aexit__(None, None, None))


NUMBERS = st.one_of(
    st.floats(width=32).map(repr),
    st.floats().map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["1", "-0", "0.5", "1e38", "-1.5E-45", "01", ".5", "1.", "+1", "nan", "true"]),
)
VALUES = st.one_of(
    st.lists(NUMBERS, min_size=3, max_size=5).map(lambda parts: f"[{', '.join(parts)}]"),
    st.just("[1, 2, 3, 4]"),
    st.sampled_from(["null", "5", "1", "true", "false", '"x"', "{}", '{"hnsw_ef": 8}', "[]"]),
)
NAMES = st.sampled_from(
    ["query", "vector", "limit", "params", "with_payload", "offset", "x", "qu\\u0065ry"]
)
TAILS = st.sampled_from(["", " ", "\n", ",", "}", "{}", "\0"])
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=4)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from([QUERY, SEARCH]), fields=FIELDS, tail=TAILS, at_first=st.booleans())
def test_any_body_has_one_answer(two_ways, path, fields, tail, at_first):
    """Whatever JSON, or nearly JSON, the body is."""
    runner, ways = two_ways
    name = "query" if path == QUERY else "vector"
    fields = [(name, "[1, 2, 3, 4]"), *fields] if at_first else fields
    body = "{" + ", ".join(f'"{key}": {value}' for key, value in fields) + "}" + tail
    quick, general = runner.run(ways.both(path, body.encode()))

    assert quick == general


SENT = st.lists(
    st.sampled_from(
        [
            request(QUERY, PLAIN),
            request(QUERY, {**PLAIN, "limit": 2}),
            request(QUERY, {"query": [1, 2, 3]}),
            request(SEARCH, {"vector": [1, 2, 3, 4], "limit": 3}),
            request(QUERY, PLAIN, "Accept: application/msgpack\r\n"),
            b"GET /collections/things HTTP/1.1\r\nHost: x\r\n\r\n",
        ]
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=SENT, cuts=st.lists(st.integers(0, 1200), max_size=5))
def test_requests_mean_the_same_however_their_bytes_arrive(two_ways, sent, cuts):
    """Whole, in pieces, or several at once: each has its answer, in order."""
    runner, ways = two_ways
    raw = b"".join(sent)
    ends = sorted({min(cut, len(raw)) for cut in cuts} | {len(raw)})

    async def answers(wire):
        start = 0
        for end in ends:
            wire.writer.write(raw[start:end])
            await wire.writer.drain()
            await asyncio.sleep(0)  # lets the server see this piece by itself, if it comes so far
            start = end
        found = [await wire.answer() for _ in sent]
        return [(status, body.get("result"), body.get("error")) for status, _, body in found]

    assert runner.run(answers(ways.quick)) == runner.run(answers(ways.general))


HEADS = [
    ("Accept: */*\r\nUser-Agent: x\r\nContent-Type: application/json\r\n", True),
    ("Content-Type: text/plain\r\n", False),
    ("Content-Encoding: gzip\r\n", False),
    ("X-Recollect-Session: 0:1\r\n", False),
    ("X-Recollect-Session: nonsense\r\n", False),
    ("Idempotency-Key: k\r\n", False),
    ("Accept: application/msgpack\r\n", False),
    ("Content-Type: application/msgpack\r\n", False),
]


async def test_a_head_that_means_something_goes_the_general_way():
    """Headers that change the answer are the general way's to read."""
    async with both_ways() as ways:
        for more, quick in HEADS:
            before = ways.counted.taken
            one, other = await ways.both(QUERY, PLAIN, more)

            assert one == other, more
            assert (ways.counted.taken > before) is quick, more


async def test_the_key_is_asked_for():
    """With a key the quick way is open to who has it, and to nobody else."""
    async with both_ways(config=Config(api_key="secret")) as ways:
        refused = await ways.both(QUERY, PLAIN)
        wrong = await ways.both(QUERY, PLAIN, "api-key: other\r\n")
        assert refused[0] == refused[1]
        assert wrong[0] == wrong[1]
        assert (refused[0][0], wrong[0][0], ways.counted.taken) == (401, 401, 0)

        passed = await ways.both(QUERY, PLAIN, "Authorization: Bearer secret\r\n")
        assert passed[0] == passed[1]
        assert (passed[0][0], ways.counted.taken) == (200, 1)


async def test_a_node_that_is_short_of_memory_takes_no_body():
    """The quick way has no room of its own."""
    memory = MemoryGuard("node1")
    async with both_ways(memory=memory) as ways:
        assert (await ways.both(QUERY, PLAIN))[0][0] == 200
        memory.observe(MemoryReading(990, 1000))
        before = ways.counted.taken
        quick, general = await ways.both(QUERY, PLAIN)

        assert quick == general
        assert (quick[0], quick[2]["error"]["code"]) == (503, "overloaded")
        assert ways.counted.taken == before


async def test_requests_that_come_together_are_answered_in_order():
    """Pipelined requests, quick and general ones, keep their order and lose nothing."""
    async with both_ways() as ways:
        limits = [1, 2, 3, 4, 5, 6]
        for split in (7, 100, 10_000):
            raw = b"".join(request(QUERY, {**PLAIN, "limit": each}) for each in limits)
            for start in range(0, len(raw), split):
                ways.quick.writer.write(raw[start : start + split])
                await asyncio.sleep(0)
            found = [(await ways.quick.answer())[2] for _ in limits]

            assert [len(each["result"]["points"]) for each in found] == limits


async def test_a_request_behind_a_quick_one_waits_for_it():
    """What comes while a quick answer is awaited is answered after it."""
    async with both_ways() as ways:
        ways.quick.writer.write(request(QUERY, {**PLAIN, "limit": 1}))
        ways.quick.writer.write(request(QUERY, {**PLAIN, "limit": 2}))
        ways.quick.writer.write(request(QUERY, b"{"))

        assert len((await ways.quick.answer())[2]["result"]["points"]) == 1
        assert len((await ways.quick.answer())[2]["result"]["points"]) == 2
        assert (await ways.quick.answer())[0] == 400


async def test_a_search_that_fails_goes_the_general_way():
    """An error of a quick search is found again, and explained, by the general way."""
    async with both_ways() as ways:
        ways.counted.failing = True
        status, _, body = await ways.quick.ask(QUERY, PLAIN)

        assert (status, len(body["result"]["points"])) == (200, 5)


async def test_a_search_that_hangs_is_answered_in_time():
    """When time runs out the answer says so, and what comes too late is dropped."""
    async with both_ways(config=Config(request_timeout_ms=50)) as ways:
        ways.counted.held.clear()
        status, headers, body = await ways.quick.ask(QUERY, PLAIN)

        assert (status, body["error"]["code"]) == (503, "deadline_exceeded")
        assert headers["retry-after"] == "1"
        ways.counted.held.set()
        assert (await ways.quick.ask(QUERY, PLAIN))[0] == 200


async def test_each_of_several_that_hang_is_answered_in_time():
    """One timer serves them all: those that began later are not forgotten, nor is the next."""
    async with both_ways(config=Config(request_timeout_ms=50)) as ways:
        ways.counted.held.clear()
        for _ in range(2):
            others = [Wire(*await asyncio.open_connection("127.0.0.1", ways.port)) for _ in "abc"]
            for number, wire in enumerate(others):
                begun = ways.counted.taken
                wire.writer.write(request(QUERY, {**PLAIN, "limit": number + 1}))
                async with asyncio.timeout(10):
                    while ways.counted.taken == begun:
                        await asyncio.sleep(0)
            answers = [await wire.answer() for wire in others]
            for wire in others:
                wire.writer.close()

            assert [status for status, _, _ in answers] == [503] * 3


async def test_a_client_that_leaves_is_no_fault():
    """A connection that ends while its answer is awaited leaves nothing behind."""
    async with both_ways() as ways:
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", ways.port)
            other = Wire(reader, writer)
            await other.ask(QUERY, PLAIN)
            writer.write(request(QUERY, PLAIN))
            writer.close()
            await writer.wait_closed()

        assert (await ways.quick.ask(QUERY, PLAIN))[0] == 200


async def test_an_answer_that_is_awaited_comes_before_the_end():
    """A node that stops lets a quick answer out first."""
    async with both_ways() as ways:
        begun = ways.counted.taken
        ways.quick.writer.write(request(QUERY, PLAIN))
        async with asyncio.timeout(10):
            while ways.counted.taken == begun:
                await asyncio.sleep(0)
        await ways.runner.cleanup()

        assert (await ways.quick.answer())[0] == 200
