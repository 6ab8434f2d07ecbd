"""Query parameters and headers: strictly read, and handed to the router."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.api.parameters import STALENESS_MAX_MS, parse_session, request_digest, scoped_id
from cluster.errors import BadRequest
from cluster.model import Session
from tests.unit.api_router import served, with_collection

COUNT = ("POST", "/collections/c/points/count")


@pytest.mark.parametrize("value", ["majority", "quorum", "all", "strong", "MAJORITY"])
async def test_consistency_asks_for_a_strong_read(value):
    """The names of strong consistency all read through the leader."""
    async with served() as client:
        await with_collection(client)
        reply = await client(COUNT[0], f"{COUNT[1]}?consistency={value}", {})

        assert reply.status == 200
        assert client.router.seen[-1].strong is True


@pytest.mark.parametrize("value", ["", "1", "3"])
async def test_a_number_of_replicas_is_the_default_read(value):
    """An integer, or nothing, leaves the default read."""
    async with served() as client:
        await with_collection(client)
        reply = await client(COUNT[0], f"{COUNT[1]}?consistency={value}", {})

        assert reply.status == 200
        assert client.router.seen[-1].strong is False


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("consistency=most", "consistency"),
        ("consistency=0", "consistency"),
        ("consistency=-1", "consistency"),
        ("consistency=1.5", "consistency"),
        ("consistncy=strong", "consistncy"),
        ("wait=yes", "wait"),
        ("wait=", "wait"),
        ("ordering=random", "ordering"),
        ("allow_partial=2", "allow_partial"),
        ("timeout=0", "timeout"),
        ("timeout=-1", "timeout"),
        ("timeout=soon", "timeout"),
        ("timeout=nan", "timeout"),
        ("timeout=1e", "timeout"),
        ("timeout=1e999", "timeout"),
        ("timeout=1_0", "timeout"),
        ("timeout=infinity", "timeout"),
        ("wait=true&wait=true", "wait"),
        ("%ff=1", "\ufffd"),
    ],
)
async def test_bad_query_parameters_are_named(query, field):
    """A malformed, repeated or unknown query parameter is a 400 that names it."""
    async with served() as client:
        await with_collection(client)

        assert (await client(COUNT[0], f"{COUNT[1]}?{query}", {})).refusal == (
            400,
            "bad_request",
            field,
        )


async def test_parameters_without_effect_are_accepted():
    """Write parameters of other servers are validated and accepted."""
    async with served() as client:
        await with_collection(client)
        path = "/collections/c/points?wait=true&ordering=strong&timeout=60"
        reply = await client("PUT", path, {"points": [{"id": 1, "vector": [1, 2, 3]}]})

        assert reply.result["status"] == "completed"


async def test_timeout_is_honoured_up_to_the_limit():
    """A deadline is the caller's, but never later than the configured one."""
    async with served() as client:
        await with_collection(client)
        for timeout in ("0.5", "3600"):
            await client(COUNT[0], f"{COUNT[1]}?timeout={timeout}", {})
        short, long = (client.router.seen[at].deadline_s for at in (-4, -1))

        assert 3.0 < long - short < 10.0


async def test_a_session_travels_both_ways():
    """A write's token covers what the request's token had seen, and reads hand it on."""
    async with served() as client:
        await with_collection(client)
        body = {"points": [{"id": 1, "vector": [1, 2, 3]}]}
        reply = await client(
            "PUT", "/collections/c/points", body, headers={"X-Recollect-Session": "0:1,2:77"}
        )
        token = reply.headers["X-Recollect-Session"]
        await client(*COUNT, {}, headers={"X-Recollect-Session": token})

        assert token.startswith("m:5,0:")
        assert token.endswith(",2:77")
        assert client.router.seen[-1].session == parse_session(token)


async def test_a_read_answers_with_what_it_reflects():
    """Its token covers that, what the request's token had seen, and the catalogue."""
    async with served() as client:
        await with_collection(client)
        client.router.reflects = {0: 9, 1: 4}
        seen = {"X-Recollect-Session": "1:7,2:3"}
        tokens = [
            (await client(*COUNT, {}, headers=headers)).headers["X-Recollect-Session"]
            for headers in (seen, {})
        ]
        one = await client("GET", "/collections/c/points/1", headers=seen)
        client.router.reflects = dict.fromkeys(range(1024), 1)
        wide = await client(*COUNT, {})

        assert tokens == ["m:5,0:9,1:7,2:3", "m:5,0:9,1:4"]
        assert one.status == 404
        assert "X-Recollect-Session" not in wide.headers


async def test_creating_and_dropping_move_the_token():
    """What was seen before stays seen, and the catalogue's place is added."""
    async with served() as client:
        headers = {"X-Recollect-Session": "m:2,3:4"}
        body = {"vectors": {"size": 3, "distance": "Dot"}}
        made = await client("PUT", "/collections/c", body, headers=headers)
        gone = await client("DELETE", "/collections/c")

        assert made.headers["X-Recollect-Session"] == "m:5,3:4"
        assert gone.headers["X-Recollect-Session"] == "m:5"


async def test_listing_collections_honours_the_token():
    """The router is asked to catch up with it before it is asked for names."""
    async with served() as client:
        await client("GET", "/collections", headers={"X-Recollect-Session": "m:2"})

        assert client.router.seen[-1].session == Session({-1: 2})


@pytest.mark.parametrize("value", ["0", "1", "1000", str(STALENESS_MAX_MS)])
async def test_staleness_is_bounded_by_request(value):
    """What a read accepts reaches the router; without it the node's setting counts."""
    async with served() as client:
        await with_collection(client)
        await client(COUNT[0], f"{COUNT[1]}?max_staleness_ms={value}", {})
        assert client.router.seen[-1].max_staleness_ms == int(value)
        await client(*COUNT, {})
        assert client.router.seen[-1].max_staleness_ms is None


@pytest.mark.parametrize("value", ["", "-1", "1.5", "1s", str(STALENESS_MAX_MS + 1), "9" * 20, "٣"])
async def test_bad_staleness_is_refused(value):
    """A bound that is none must not weaken a read in silence."""
    async with served() as client:
        await with_collection(client)
        path = f"{COUNT[1]}?max_staleness_ms={quote(value)}"

        assert (await client(COUNT[0], path, {})).refusal[::2] == (400, "max_staleness_ms")


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "1",
        "1:",
        ":1",
        "1:2,",
        "1:2,1:3",
        "-1:2",
        "1:-2",
        "9999:1",
        "1:2 ,3:4",
        "1:2;3:4",
        "m",
        "m:",
        "1:2,m:3",
    ],
)
async def test_bad_sessions_are_refused(token):
    """A token that this server did not write is a 400, never ignored."""
    async with served() as client:
        await with_collection(client)
        reply = await client(*COUNT, {}, headers={"X-Recollect-Session": token})

        assert reply.refusal == (400, "bad_request", "X-Recollect-Session")


SESSIONS = st.dictionaries(st.integers(-1, 1023), st.integers(0, 2**63 - 1), max_size=8).map(
    Session
)


@given(SESSIONS)
def test_sessions_survive_the_header(session):
    """A token is read back as it was written."""
    assert parse_session(session.encode()) == session


@given(SESSIONS, SESSIONS)
def test_merged_sessions_have_seen_both(left, right):
    """A merged session is at least as far as either, on every shard."""
    merged = left.merged(right.indexes).indexes
    shards = left.indexes.keys() | right.indexes.keys()

    assert merged == {
        shard: max(left.indexes.get(shard, 0), right.indexes.get(shard, 0)) for shard in shards
    }


async def test_an_idempotency_key_makes_a_repeated_write_one_write():
    """The same key and body reach the router as the same request id."""
    async with served() as client:
        await with_collection(client)
        body = {"points": [{"id": 1, "vector": [1, 2, 3]}]}
        headers = {"Idempotency-Key": "once"}
        first = await client("PUT", "/collections/c/points", body, headers=headers)
        again = await client("PUT", "/collections/c/points", body, headers=headers)

        assert first.result == again.result
        assert len(client.router.applied) == 1


async def test_an_idempotency_key_belongs_to_its_operation():
    """One key used for another operation or another collection is another request."""
    async with served() as client:
        await with_collection(client)
        vectors = {"size": 3, "distance": "Dot"}
        await client("PUT", "/collections/d", {"vectors": vectors})
        headers = {"Idempotency-Key": "once"}
        for name in ("c", "d"):
            body = {"points": [{"id": 1, "vector": [1, 2, 3]}]}
            await client("PUT", f"/collections/{name}/points", body, headers=headers)
        for action in ("delete", "payload/clear"):
            selection = {"points": [1]}
            await client("POST", f"/collections/c/points/{action}", selection, headers=headers)

        assert len(client.router.applied) == 4


async def test_an_idempotency_key_belongs_to_its_body():
    """One key used for other data is refused while the first use is remembered."""
    async with served() as client:
        await with_collection(client)
        headers = {"Idempotency-Key": "once"}
        replies = []
        for vector in ([1, 2, 3], [3, 2, 1], [1, 2, 3]):
            body = {"points": [{"id": 1, "vector": vector}]}
            replies.append(await client("PUT", "/collections/c/points", body, headers=headers))
        first, other, again = replies

        assert other.refusal == (422, "idempotency_key_reused", "Idempotency-Key")
        assert other.error["retryable"] is False
        assert again.result == first.result


async def test_an_idempotency_key_of_a_request_without_a_body():
    """Dropping has a key too, and its scope is the collection's name."""
    async with served() as client:
        for name in ("c", "d"):
            await client("PUT", f"/collections/{name}", {"vectors": {"size": 3, "distance": "Dot"}})
        client.router.seen.clear()
        for name in ("c", "d", "c"):
            await client("DELETE", f"/collections/{name}", headers={"Idempotency-Key": "once"})
        ids = [options.request_id for options in client.router.seen]

        assert all(ids)
        assert ids[0] == ids[2] != ids[1]


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "ключ"])
async def test_bad_idempotency_keys_are_refused(key):
    """A key is 1 to 255 visible ASCII characters."""
    async with served() as client:
        await with_collection(client)
        body = {"points": [{"id": 1, "vector": [1, 2, 3]}]}
        reply = await client("PUT", "/collections/c/points", body, headers={"Idempotency-Key": key})

        assert reply.refusal == (400, "bad_request", "Idempotency-Key")


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_request_digests_tell_requests_apart(body, other_body):
    """Digests agree exactly when bodies agree."""
    assert (request_digest(body) == request_digest(other_body)) == (body == other_body)


def test_scopes_are_not_confused():
    """The parts of a scope cannot run into each other."""
    assert scoped_id("d", "a", "bc") != scoped_id("d", "ab", "c")


def test_an_empty_session_has_seen_nothing():
    """A client that sends an empty token is served as one that sends none."""
    assert parse_session("") == Session()
    with pytest.raises(BadRequest):
        parse_session(" ")
