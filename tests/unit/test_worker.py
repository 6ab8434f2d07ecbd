"""What a worker does with connections: it answers as the node does, or gives them back whole.

The worker is the real one, with the real route, on a thread; the test is the node on the other side
of its channel.
"""

from __future__ import annotations

import asyncio
import select
import threading
import time

import msgspec
import numpy as np
import pytest

from cluster.api.protocol import PATIENCE
from cluster.indexing import Changed
from cluster.workers import worker as worker_module
from cluster.workers.channel import Back, Leaving, Lent, Report
from cluster.workers.lent import RARE
from cluster.workers.turn import UNKNOWN_PART
from storage.ids import encode_id
from tests.unit.test_quick_route import COUNT, PLAIN, QUERY, request
from tests.unit.worker_staff import NUMBER, TIME_S, alike, general, in_thread, staff


async def test_searches_are_answered_as_the_node_answers_them():
    """One after the other, with what was read of the first by the node."""
    async with staff() as made:
        bodies = [PLAIN, {"query": [1, 2, 3, 4]}, {**PLAIN, "limit": 1}]
        expected = [await general(made.ways, body) for body in bodies]

        def check():
            client = made.lend(request(QUERY, bodies[0]))
            assert alike(client.answer()) == expected[0]
            for body, answer in zip(bodies[1:], expected[1:], strict=True):
                assert alike(client.ask(body)) == answer
            assert made.worker._lent.closed == 0

        await asyncio.to_thread(check)


@in_thread
def test_what_was_answered_is_reported(made):
    """By route and time; the rehearsal is no answer."""
    client = made.lend()
    for _ in range(3):
        client.ask()
    served: list[float] = []
    while len(served) < 3:
        report, _ = made.hear(Report)
        assert set(report.served) <= {"/collections/{collection_name}/points/query"}
        served += [each for taken in report.served.values() for each in taken]

    assert len(served) == 3
    assert all(0 <= seconds < TIME_S for seconds in served)
    client.far.close()
    while (report := made.hear(Report)[0]).closed == 0:
        pass
    assert report.closed == 1


REFUSED = [
    b"GET /collections HTTP/1.1\r\nHost: x\r\n\r\n",
    request(QUERY, {**PLAIN, "limit": -1}),
    request(QUERY, {**PLAIN, "query": [1, 2]}),
    request(QUERY, PLAIN, "X-Recollect-Session: abc\r\n"),
    request(QUERY, PLAIN, "Connection: close\r\n"),
    request("/collections/others/points/query", PLAIN),
    request(QUERY, PLAIN) + request(QUERY, PLAIN),
    b"nonsense\r\n\r\n",
]


@pytest.mark.parametrize("raw", REFUSED)
async def test_what_is_not_for_workers_goes_back_with_every_byte(raw):
    """And the connection with it, to be watched for longer."""

    @in_thread
    def check(made):
        client = made.lend()
        client.ask()
        client.send(raw)
        back, connection = made.hear(Back)
        assert back == Back(raw, 2 * PATIENCE, is_moving=False)
        connection.sendall(b"from the node")
        assert client.far.recv(99) == b"from the node"
        connection.close()

    await check()


@in_thread
def test_a_refusal_that_is_rare_is_forgiven(made):
    """Who has had many answers is not watched for longer."""
    client = made.lend(patience=2)
    for _ in range(2 * RARE):
        client.ask()
    client.send(REFUSED[0])

    assert made.hear(Back)[0].patience == PATIENCE


@in_thread
def test_a_request_in_pieces_is_answered_when_it_is_whole(made):
    """Others are answered meanwhile."""
    raw = request(QUERY, PLAIN)
    slow, quick = made.lend(raw[:10]), made.lend()
    for end in (30, 120):
        slow.send(raw[10:end] if end == 30 else raw[30:end])
        assert quick.ask()[0] == 200
    slow.send(raw[120:])

    assert slow.answer()[0] == 200


@in_thread
def test_what_is_sent_ahead_is_answered_in_turn(made):
    """A request that comes while another is answered waits; two that come as one are the node's."""
    first, second = (request(QUERY, {**PLAIN, "limit": limit}) for limit in (2, 3))
    for _ in range(20):
        client = made.lend()
        client.send(first)
        client.send(second)
        back = next_back(made, client)
        if back is None:
            answers = [client.answer(), client.answer()]
            assert [len(each[1]["result"]["points"]) for each in answers] == [2, 3]
        else:
            assert back.unread == first + second


def next_back(made, client):
    """Return what came back, or None as soon as there is an answer."""
    while True:
        ready, _, _ = select.select([client.far, made.node._socket], [], [], TIME_S)
        assert ready, "neither an answer nor the connection"
        if client.far in ready:
            return None
        message, connection = made.node.receive()
        if connection is not None:
            made.opened.append(connection)
            return message


@in_thread
def test_a_client_that_reads_slowly_gets_all(made):
    """An answer that does not fit is sent as its client takes it; others go on."""
    slow, quick = made.lend(filled=True), made.lend()
    slow.send(request(QUERY, PLAIN))
    for _ in range(8):
        assert quick.ask()[0] == 200

    slow.drain()
    assert slow.answer()[0] == 200
    assert slow.ask()[0] == 200


@in_thread
def test_an_answer_that_nobody_takes_ends_its_connection_alone(made):
    """When all go back, a client that does not read is waited for, but not for long."""
    slow, other = made.lend(filled=True), made.lend()
    slow.send(request(QUERY, PLAIN))
    other.ask()
    other.ask()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "FLUSH_S", 0.0)
        made.shared.change()
        made.hear(Leaving)
        assert made.hear(Back)[0] == Back(b"", PATIENCE, is_moving=True)
        while not any(report.closed for report in made.reports):
            made.reports.append(made.hear(Report)[0])
    slow.drain()
    assert slow.far.recv(99) == b""


@in_thread
def test_after_a_change_that_is_no_row_nothing_is_answered(made):
    """The worker says so, and gives back what it has and what still comes."""
    client, idle = made.lend(), made.lend()
    client.ask()
    idle.ask()
    made.shared.change()
    client.send(request(QUERY, PLAIN))
    made.hear(Leaving)
    backs = [made.hear(Back)[0] for _ in range(2)]
    late = made.lend(request(QUERY, PLAIN))
    backs.append(made.hear(Back)[0])

    assert late is not None
    assert {back.unread for back in backs} <= {b"", request(QUERY, PLAIN)}
    assert all(back.is_moving for back in backs)
    assert all(back.patience == PATIENCE for back in backs)


@in_thread
def test_replicas_that_may_be_old_are_not_read(made):
    """Only what was asked goes back: they may be fresh again in a moment."""
    client, idle = made.lend(), made.lend()
    client.ask()
    idle.ask()
    made.shared.set_fresh_until(time.monotonic() - 1)
    client.send(request(QUERY, PLAIN))

    assert made.hear(Back)[0] == Back(request(QUERY, PLAIN), PATIENCE, is_moving=False)
    made.shared.set_fresh_until(time.monotonic() + 600)
    assert idle.ask()[0] == 200


@in_thread
def test_the_node_says_how_fresh_replicas_are(made):
    """A copy of a replica hears of no leader, and looks older from moment to moment."""
    client, replicas = made.lend(), made.searches._routing.replicas.values()
    client.ask()
    for replica in replicas:
        replica.is_stale = True
    made.searches._routing.clock.now_s += 10  # that they are fresh is believed for a moment

    assert not any(replica.fresh(1000) for replica in replicas)
    assert client.ask()[0] == 200


@in_thread
def test_rows_that_were_written_are_found(made):
    """What is in the ring before a request comes is in its answer; what is gone is not."""
    client = made.lend()
    for number in range(30):
        vector = np.zeros(4, "<f4")
        vector[number % 4] = 1.0
        row = (10_000 + number, 1000, encode_id(10_000 + number), vector.tobytes())
        gone = [10_000 + number - 1] if number else []
        changed = Changed(made.uid, 0, 77 + number, [row], gone, [])
        assert made.ring.append(msgspec.msgpack.encode(changed))
        _, found = client.ask({"query": vector.tolist(), "limit": COUNT + 5})
        ids = {point["id"] for point in found["result"]["points"]}
        assert 10_000 + number in ids
        assert 10_000 + number - 1 not in ids

    assert made.shown == [(0, 77 + number) for number in range(30)]


@in_thread
def test_rows_are_taken_in_though_nobody_searches(made):
    """Else the ring would be full some time."""
    vector = np.ones(4, "<f4").tobytes()
    record = msgspec.msgpack.encode(
        Changed(made.uid, 0, 5, [(20_000, 1000, encode_id(20_000), vector)], [], [])
    )
    deadline_s = time.monotonic() + TIME_S
    written = 0
    while written * len(record) < 3 * made.ring._size:
        written += made.ring.append(record)
        assert time.monotonic() < deadline_s


@in_thread
def test_kinds_of_search_that_are_not_known_get_a_part_of_the_time(made):
    """Others would wait for them: the node finds out what they cost, on its threads."""
    client, time_s = made.lend(), [1000.0]
    client.ask()
    made.turn._clock = lambda: time_s[0]
    made.turn._credit_s, made.turn._counted_s = -1.0, time_s[0]
    client.send(request(QUERY, {**PLAIN, "limit": 17}))
    assert made.hear(Back)[0].patience == 2 * PATIENCE
    assert made.lend(request(QUERY, PLAIN)).answer()[0] == 200, "this one is known"
    time_s[0] += 1.01 / UNKNOWN_PART
    assert made.lend(request(QUERY, {**PLAIN, "limit": 17})).answer()[0] == 200


@in_thread
def test_a_connection_for_which_there_is_no_descriptor_is_counted_as_closed(made):
    """The worker goes on."""
    made.node.send(Lent(request(QUERY, PLAIN), PATIENCE))
    while not any(report.closed for report in made.reports):
        made.reports.append(made.hear(Report)[0])

    assert made.lend(request(QUERY, PLAIN)).answer()[0] == 200


@in_thread
def test_a_search_while_rows_are_written_finds_them(made):
    """What comes into the ring after a request has begun and before it is searched is found."""
    vector = np.array([0, 0, 0, 1], "<f4")
    row = (30_000, 1000, encode_id(30_000), vector.tobytes())
    record = msgspec.msgpack.encode(Changed(made.uid, 0, 5, [row], [], []))
    client, take = made.lend(), made.worker._requests.take

    def take_and_write(unread):
        assert made.ring.append(record)
        return take(unread)

    made.worker._requests.take = take_and_write
    _, found = client.ask({"query": vector.tolist(), "limit": 3})
    assert found["result"]["points"][0]["id"] == 30_000


@in_thread
def test_a_search_that_is_known_to_be_long_is_the_nodes(made):
    """Others on the same worker would wait for it."""
    client = made.lend()
    client.ask()
    calls = made.turn._calls
    for kind in calls._cost_s:
        calls._cost_s[kind] = 1.0
    client.send(request(QUERY, PLAIN))

    assert made.hear(Back)[0].patience == 2 * PATIENCE
    made.turn.forget()
    assert made.lend(request(QUERY, PLAIN)).answer()[0] == 200


@in_thread
def test_connections_that_nobody_uses_go_back(made):
    """Also those on which a request comes too slowly."""
    idle, slow = made.lend(), made.lend(b"POST /coll")
    idle.ask()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "IDLE_S", 0.0)
        backs = [made.hear(Back)[0] for _ in range(2)]

    assert {back.unread for back in backs} == {b"", b"POST /coll"}
    assert not any(back.is_moving for back in backs), "the node ends what is idle for long"
    assert all(back.patience == PATIENCE for back in backs)
    assert slow is not None


async def test_a_worker_that_fails_gives_its_connections_back():
    """With what was not answered; and it says that it has failed."""
    async with staff() as made:
        failures: list[BaseException] = []

        def check():
            client, other = made.lend(), made.lend()
            client.ask()
            other.ask()

            def fail():
                raise MemoryError("no room for a row")

            patch.setattr(made.worker._parts.copy, "catch_up", fail)
            client.send(request(QUERY, PLAIN))
            backs = [made.hear(Back)[0] for _ in range(2)]
            assert {back.unread for back in backs} <= {b"", request(QUERY, PLAIN)}
            assert all(back.is_moving for back in backs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading, "excepthook", lambda args: failures.append(args.exc_value))
            await asyncio.to_thread(check)
            made.thread.join(TIME_S)
        assert [type(each) for each in failures] == [MemoryError]


@in_thread
def test_a_worker_shows_that_it_goes_on(made):
    """Its node ends one that does not."""
    before = made.shared.beats(NUMBER)
    deadline_s = time.monotonic() + TIME_S
    while made.shared.beats(NUMBER) == before:
        assert time.monotonic() < deadline_s
    assert made.shared.beats(NUMBER + 1) == 0


async def test_a_filter_is_answered_by_payload_indexes():
    """As the node does; without an index for it, it is the node's."""
    async with staff(indexed=True) as made:
        body = {**PLAIN, "filter": {"must": [{"key": "n", "range": {"lt": 9}}]}}
        other = {**PLAIN, "filter": {"must": [{"key": "text", "match": {"value": "x"}}]}}
        deadline_s = time.monotonic() + TIME_S
        while made.ways.index.payloads.has_work:
            made.ways.index.build(100)
            assert time.monotonic() < deadline_s
        expected = await general(made.ways, body)

        def check():
            client = made.lend()
            for _ in range(30):
                assert alike(client.ask(body)) == expected
            client.send(request(QUERY, other))
            assert made.hear(Back)[0].unread == request(QUERY, other)

        await asyncio.to_thread(check)
        assert made.ways.index._state.kept.bytes == 0
