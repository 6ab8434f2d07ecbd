"""Answers of a worker that show payloads: the node reads what is not known."""

from __future__ import annotations

import asyncio

import pytest

from cluster.api.protocol import PATIENCE
from cluster.workers import worker as worker_module
from cluster.workers.channel import Back, Leaving, Needed, Payloads
from tests.unit.test_quick_route import COUNT, PLAIN, QUERY, VECTORS, request
from tests.unit.worker_staff import alike, general, in_thread, staff


async def test_payloads_that_are_not_known_are_the_nodes_to_read():
    """The answer waits for them, others do not; what is read once is known."""
    async with staff() as made:
        body = {**PLAIN, "with_payload": True, "limit": 4}
        expected = await general(made.ways, body)

        def check():
            client, other = made.lend(), made.lend()
            client.send(request(QUERY, body))
            needed, _ = made.hear(Needed)
            assert needed.uid == made.uid
            assert other.ask()[0] == 200
            made.node.send(Payloads(needed.number, made.searches.read(*needed_of(needed)), {0: 99}))
            assert alike(client.answer()) == expected
            assert made.shown == [(0, 99)], "they may be newer than the copy"
            assert alike(client.ask(body)) == expected
            assert alike(other.ask(body)) == expected

        await asyncio.to_thread(check)


def needed_of(needed):
    return needed.uid, needed.points


@in_thread
def test_a_point_that_is_gone_when_its_payload_is_read_is_left_out(made):
    """It was deleted meanwhile. Payloads that do not fit into a message make it the node's."""
    body = {**PLAIN, "with_payload": True, "limit": 3}
    client = made.lend()
    client.send(request(QUERY, body))
    needed, _ = made.hear(Needed)
    rows = made.searches.read(needed.uid, needed.points)
    made.node.send(Payloads(needed.number, rows[1:], {}))
    assert len(client.answer()[1]["result"]["points"]) == 2

    far = {**body, "query": (-VECTORS[0]).tolist(), "limit": COUNT}
    client.send(request(QUERY, far))
    needed, _ = made.hear(Needed)
    made.node.send(Payloads(needed.number, None, {}))
    back, _ = made.hear(Back)
    assert back == Back(request(QUERY, far), 2 * PATIENCE, is_moving=False)


@in_thread
def test_more_points_than_fit_into_a_message_are_the_nodes(made):
    """Where an answer needs very many payloads."""
    client = made.lend()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cluster.workers.channel.MESSAGE_BYTES_MAX", 400)
        client.send(request(QUERY, {**PLAIN, "with_payload": True, "limit": COUNT}))
        assert made.hear(Back)[0].patience == 2 * PATIENCE
    assert made.lend(request(QUERY, PLAIN)).answer()[0] == 200


@in_thread
def test_a_descriptor_that_takes_anothers_number_gets_no_answer_of_it(made):
    """Payloads that come for a connection which has gone back are for nobody."""
    body = {**PLAIN, "with_payload": True}
    client = made.lend(request(QUERY, body))
    needed, _ = made.hear(Needed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "IDLE_S", 0.0)
        assert made.hear(Back)[0].unread == request(QUERY, body)
    other = made.lend()
    assert other.ask()[0] == 200
    made.node.send(Payloads(needed.number, [], {}))
    status, found = other.ask({**PLAIN, "limit": 2})
    assert (status, len(found["result"]["points"])) == (200, 2)
    assert client is not None


@in_thread
def test_what_is_sent_ahead_while_payloads_are_read_waits(made):
    """Neither request is lost, and their answers come in order."""
    client = made.lend(request(QUERY, {**PLAIN, "with_payload": True, "limit": 4}))
    needed, _ = made.hear(Needed)
    client.send(request(QUERY, {**PLAIN, "limit": 2}))
    assert made.lend(request(QUERY, PLAIN)).answer()[0] == 200
    made.node.send(Payloads(needed.number, made.searches.read(needed.uid, needed.points), {}))

    assert [len(client.answer()[1]["result"]["points"]) for _ in range(2)] == [4, 2]


@in_thread
def test_an_answer_that_waits_for_payloads_goes_back_with_its_request(made):
    """When the worker leaves; the payloads that come then are for nobody."""
    body = {**PLAIN, "with_payload": True}
    client = made.lend()
    client.send(request(QUERY, body))
    needed, _ = made.hear(Needed)
    made.shared.change()
    made.hear(Leaving)

    assert made.hear(Back)[0].unread == request(QUERY, body)
    made.node.send(Payloads(needed.number, [], {}))
    assert made.lend(request(QUERY, PLAIN)) is not None
    assert made.hear(Back)[0].unread == request(QUERY, PLAIN)
