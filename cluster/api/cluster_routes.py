"""Health, readiness, the cluster's state, metrics, the API description, and the product's name.

`/healthz` says that the process answers and is the one route without a key; `/readyz` says that
the node can serve, with reasons when it cannot.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from cluster.api import answers
from cluster.api.envelope import SERVER, Answer
from cluster.api.metrics import CONTENT_TYPE
from cluster.api.route import Call, Route
from cluster.errors import NotReady

TITLE: Final = "recollect - a distributed memory store for AI agents"
OPEN_PATHS: Final = frozenset({"/healthz"})
"""Paths that need no key."""


async def product(call: Call) -> Answer:
    """Return name and version, in the envelope and beside it, where Qdrant has them."""
    named = {"title": TITLE, "version": call.api.version}
    return Answer(named, beside=named)


async def healthz(call: Call) -> Answer:
    """Answer that the process is alive."""
    del call
    return Answer({"status": "ok"})


async def readyz(call: Call) -> Answer:
    """Answer whether the node can serve; 503 with reasons when it cannot."""
    reasons = tuple(call.api.readiness())
    if reasons:
        raise NotReady("the node is not ready: " + "; ".join(reasons), reasons=reasons)
    return Answer({"ready": True})


async def cluster(call: Call) -> Answer:
    """Return nodes, leaders, shards and replicas."""
    return Answer(await call.api.router.cluster_status())


async def metrics(call: Call) -> web.Response:
    """Return metrics in Prometheus' text format."""
    headers = {"Content-Type": CONTENT_TYPE, "Server": SERVER}
    return web.Response(body=call.api.metrics.render(), headers=headers)


PROCESS_ROUTES: Final = (
    Route("GET", "/", product, "Name and version", answer=answers.Product, plain=True),
    Route("GET", "/healthz", healthz, "Is the process alive", answer=answers.Healthy, plain=True),
    Route(
        "GET",
        "/readyz",
        readyz,
        "Can the node serve",
        answer=answers.Ready,
        plain=True,
        errors=(503,),
    ),
    Route("GET", "/metrics", metrics, "Metrics in Prometheus' text format", plain=True),
)
"""What concerns the process alone, whatever stands behind it."""
ROUTES: Final = (
    *PROCESS_ROUTES,
    Route("GET", "/cluster", cluster, "Nodes, shards and replicas", answer=dict[str, Any]),
)
