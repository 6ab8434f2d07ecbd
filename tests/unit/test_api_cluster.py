"""Health, readiness, the cluster's state, metrics, and the name of the product."""

from __future__ import annotations

from importlib.metadata import version

from cluster.api.metrics import Metrics
from tests.unit.api_router import served, with_collection


async def test_health_is_answered_in_the_envelope():
    """/healthz says ok whatever the state of the cluster."""
    async with served(reasons=["no leader"]) as client:
        assert (await client("GET", "/healthz")).result == {"status": "ok"}


async def test_readiness_has_reasons():
    """/readyz is 200 without reasons and 503 with them."""
    async with served() as ready, served(reasons=["no leader", "disk is full"]) as unready:
        reply = await unready("GET", "/readyz")

        assert (await ready("GET", "/readyz")).result == {"ready": True}
        assert reply.refusal == (503, "not_ready", None)
        assert reply.error["reasons"] == ["no leader", "disk is full"]
        assert reply.error["retryable"] is True
        assert float(reply.headers["Retry-After"]) > 0


async def test_the_cluster_is_what_the_router_says():
    """/cluster hands on the router's description."""
    async with served() as client:
        assert (await client("GET", "/cluster")).result["cluster_id"] == "memory"


async def test_the_root_names_the_product():
    """/ has name and version in the envelope, and beside it for clients of the public shape."""
    async with served() as client:
        reply = await client("GET", "/")

        assert reply.result["version"] == reply.body["version"] == version("recollect")
        assert reply.body["title"].startswith("recollect")


async def test_requests_are_counted_by_route():
    """Metrics carry the route's template, never the text of a request."""
    async with served() as client:
        await with_collection(client)
        await client("GET", "/collections/secret-name")
        await client("GET", "/no/such/secret-route")
        url = f"http://127.0.0.1:{client.port}/metrics?name[]=x"
        async with client.session.request("PROPFIND", url):
            pass
        async with client.session.get(url) as answer:
            text = await answer.text()

        assert answer.content_type == "text/plain"
        line = 'method="GET",route="/collections/{collection_name}",status="404"} 1.0'
        assert f"recollect_http_requests_total{{{line}" in text
        assert 'method="other",route="unknown",status="405"} 1.0' in text
        assert "secret" not in text.lower()
        assert "process_resident_memory_bytes" in text


def test_metrics_are_of_one_node():
    """Two applications in one process do not share counters."""
    left, right = Metrics(), Metrics()
    left.observe("GET", "/", 200, 0.1)

    assert b'status="200"' in left.render()
    assert b'status="200"' not in right.render()
