"""The edge: keys, unknown routes and methods, errors of every kind, in one envelope."""

from __future__ import annotations

import asyncio

import pytest

from cluster.api.app import ROUTES
from cluster.api.openapi import public_path
from cluster.config import Config
from cluster.errors import (
    DeadlineExceeded,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    ShardsUnavailable,
    StorageFull,
)
from tests.unit.api_router import MemoryRouter, served, with_collection

KEY = "correct-horse-battery-staple"
LOCKED = Config(api_key=KEY)
PLACES = sorted({(route.method, public_path(route)) for route in ROUTES})


def concrete(path: str) -> str:
    """Return a route's path with its variables filled in."""
    values = {
        "collection_name": "c",
        "graph_name": "g",
        "algorithm": "pagerank",
        "id": "1",
        "field_name": "f",
    }
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)
    return path


async def test_every_route_but_health_needs_the_key():
    """Each row of the route table, and what is no route, answers 401 without a key."""
    async with served(config=LOCKED) as client:
        places = [*PLACES, ("GET", "/openapi.json"), ("GET", "/nothing"), ("DELETE", "/")]
        refused = {
            (method, path)
            for method, path in places
            if (await client(method, concrete(path))).status == 401
        }

        assert set(places) - refused == {("GET", "/healthz")}


@pytest.mark.parametrize(
    "headers",
    [
        {"api-key": "wrong"},
        {"api-key": ""},
        {"api-key": KEY + " x"},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer"},
        {"api-key": "\udcff"},
    ],
)
async def test_other_keys_are_refused(headers):
    """Anything but the key is a 401 that tells how to send one and does not repeat it."""
    async with served(config=LOCKED) as client:
        reply = await client("GET", "/collections", headers=headers)

        assert reply.refusal == (401, "unauthorized", None)
        assert reply.headers["WWW-Authenticate"] == "Bearer"
        assert KEY not in str(reply.body)


@pytest.mark.parametrize(
    "headers",
    [
        {"api-key": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
        {"api-key": "wrong", "Authorization": f"Bearer {KEY}"},
    ],
)
async def test_the_key_opens(headers):
    """The key is accepted in both headers."""
    async with served(config=LOCKED) as client:
        assert (await client("GET", "/collections", headers=headers)).status == 200


async def test_without_a_configured_key_everything_is_open():
    """A node without a key asks for none."""
    async with served() as client:
        assert (await client("GET", "/collections")).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/collections/",
        "/collections/c/points/",
        "/collections//points",
        "/points",
        "//",
    ],
)
async def test_unknown_routes_are_404(path):
    """What is no route is a 404 in the envelope."""
    async with served() as client:
        assert (await client("GET", path)).refusal == (404, "not_found", None)


@pytest.mark.parametrize(
    "name", ["discover", "batch", "vectors", "recommend/batch", "recommend/groups"]
)
async def test_routes_of_the_public_shape_that_are_lacking_are_404(name):
    """A route that other servers have is no id of a point here."""
    async with served() as client:
        for method in ("GET", "POST", "PUT"):
            reply = await client(method, f"/collections/c/points/{name}", {})

            assert reply.refusal == (404, "not_found", None)


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_unknown_methods_are_405(method):
    """A route answers 405, with what it allows, to every method that it does not have."""
    async with served() as client:
        known = {path for listed, path in PLACES if listed == method}
        if "/graph/{graph_name}" in known:
            known |= {"/graph/cypher", "/graph/recall"}  # which are names of graphs, too
        for path in sorted({path for _, path in PLACES} - known):
            reply = await client(method, concrete(path))

            assert reply.refusal == (405, "method_not_allowed", None), path
            assert reply.headers["Allow"]


async def test_head_answers_without_a_body():
    """HEAD is answered as GET is, without the body."""
    async with served() as client:
        for path, status in (("/healthz", 200), ("/collections", 200), ("/nothing", 404)):
            reply = await client("HEAD", path)

            assert (reply.status, reply.body) == (status, None)
            assert int(reply.headers["Content-Length"]) > 0


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (DeadlineExceeded("late"), 503, "deadline_exceeded"),
        (NotLeader("no", leader="node2"), 503, "not_leader"),
        (OutcomeUnknown("perhaps"), 503, "outcome_unknown"),
        (Overloaded("full"), 503, "overloaded"),
        (TimeoutError(), 503, "deadline_exceeded"),
        (StorageFull("disk"), 507, "storage_full"),
        (ExceptionGroup("two", [ValueError(), Overloaded("full")]), 503, "overloaded"),
    ],
)
async def test_failures_of_the_cluster_say_when_to_retry(error, status, code):
    """What may succeed later is retryable and carries Retry-After in seconds."""
    async with served() as client:
        await with_collection(client)
        client.router.failing = error
        reply = await client("GET", "/collections/c")

        assert reply.refusal == (status, code, None)
        assert reply.error["retryable"] is True
        assert float(reply.headers["Retry-After"]) > 0


async def test_a_request_never_hangs():
    """When the router keeps no deadline, the edge answers in its place."""

    class HangingRouter(MemoryRouter):
        async def collection(self, name, options):  # type: ignore[explicit-override]
            await asyncio.Event().wait()

    async with served(
        router=HangingRouter(), config=Config(request_timeout_ms=50), patterns=False
    ) as client:
        for method, path, body in (
            ("GET", "/collections/c", None),
            ("POST", "/collections/c/points/count?timeout=0.01", {}),
        ):
            assert (await client(method, path, body)).refusal == (503, "deadline_exceeded", None)


async def test_missing_shards_are_named():
    """An answer that lacks shards says which."""
    async with served() as client:
        await with_collection(client)
        client.router.failing = ShardsUnavailable("two are down", shards=(3, 5))

        assert (await client("GET", "/collections/c")).error["shards"] == [3, 5]


async def test_bugs_are_500_without_details(caplog):
    """An unexpected exception is logged, and nothing of it is shown."""
    router = MemoryRouter()
    async with served(router=router) as client:
        router.failing = ValueError("secret detail")
        reply = await client("GET", "/collections/c")

        assert reply.refusal == (500, "internal", None)
        assert "secret" not in str(reply.body)
        assert "secret detail" in caplog.text


async def test_answers_name_the_server_and_their_type():
    """Every JSON answer says that it is JSON, and no answer tells versions of its parts."""
    async with served() as client:
        for path in ("/healthz", "/nothing"):
            reply = await client("GET", path)

            assert reply.headers["Content-Type"] == "application/json"
            assert reply.headers["Server"] == "recollect"
