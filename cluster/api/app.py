"""The application factory: the whole HTTP API from its parts, in one place.

The route table is data: it makes the handlers, the API description, and the test that no route
is open without a key. Further resources join it as `extra_routes`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version as installed_version
from typing import Final, Never, cast

from aiohttp import web
from prometheus_client import CollectorRegistry

from cluster.api import (
    batch,
    changes,
    checkpoints,
    cluster_routes,
    collections,
    graph_asking,
    graph_chains,
    graphs,
    groups,
    openapi,
    outbox,
    patterns,
    point_payload,
    points,
    search,
    search_batch,
    sharding,
)
from cluster.api.backend import Api, Backend, PatternBackend, TextEmbedder
from cluster.api.body import BUDGET_BODIES, BodyBudget
from cluster.api.metrics import Metrics
from cluster.api.middleware import edge
from cluster.api.quick_route import QuickRoute
from cluster.api.route import Call, Route, endpoint
from cluster.api.server import QUICK_ROUTE
from cluster.api.streams import StreamLimits, Streams
from cluster.config import Config
from cluster.errors import NotServed
from cluster.memory_guard import MemoryGuard

ROUTES: Final[tuple[Route, ...]] = (
    *search.ROUTES,
    *search_batch.ROUTES,
    *groups.ROUTES,
    *points.ROUTES,
    *point_payload.ROUTES,
    *patterns.ROUTES,
    *changes.ROUTES,
    *collections.ROUTES,
    *graphs.ROUTES,
    *batch.ROUTES,
    *graph_asking.ROUTES,
    *graph_chains.ROUTES,
    *sharding.ROUTES,
    *cluster_routes.ROUTES,
    *checkpoints.ROUTES,
    *outbox.ROUTES,
)
PATTERN_ROUTES: Final[tuple[Route, ...]] = (*patterns.ROUTES, *cluster_routes.PROCESS_ROUTES)
"""What is served where patterns are all that there is."""


def build_app(  # noqa: PLR0913 - each part of a node comes by name
    *,
    router: Backend,
    config: Config,
    embedder: TextEmbedder,
    readiness: Callable[[], Sequence[str]],
    clock: Callable[[], float] = time.monotonic,
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    registry: CollectorRegistry | None = None,
    memory: MemoryGuard | None = None,
    streams: StreamLimits | None = None,
    routes: Sequence[Route] = ROUTES,
    extra_routes: Sequence[Route] = (),
) -> web.Application:
    """Return the API of one node; serve it with `cluster.api.server.ApiRunner`.

    `readiness` returns the reasons why the node cannot serve, [] when it can; `clock` is the
    monotonic clock, in seconds, on which the router reads deadlines; `wall_ms` and `new_id` stamp
    and name patterns; `registry` takes the HTTP metrics when the node has one of its own;
    `memory` refuses bodies that do not fit; `streams` bounds those who follow the changes. What
    `routes` lacks of ROUTES is refused by name.
    """
    served = (*routes, *extra_routes)
    metrics = Metrics(registry)
    api = Api(
        router=router,
        config=config,
        embedder=embedder,
        readiness=readiness,
        clock=clock,
        wall_ms=wall_ms,
        new_id=new_id,
        version=installed_version("recollect"),
        bodies=BodyBudget(BUDGET_BODIES * config.body_bytes_max, memory),
        metrics=metrics,
        streams=Streams(streams or StreamLimits(), metrics.registry),
    )
    app = web.Application(middlewares=[edge(api)], client_max_size=config.body_bytes_max)
    for route in (*served, openapi.route(served, api.version, locked=bool(config.api_key))):
        _add(app, api, route)
    for route in ROUTES:
        if route not in served:
            _add(app, api, _refused(route))
    app.on_shutdown.append(api.streams.close)
    if search.ROUTES[0] in served and router.quick is not None:
        app[QUICK_ROUTE] = QuickRoute(api, router.quick)
    return app


def build_patterns_app(
    *,
    backend: PatternBackend,
    config: Config,
    embedder: TextEmbedder,
    readiness: Callable[[], Sequence[str]],
    clock: Callable[[], float],
    registry: CollectorRegistry,
) -> web.Application:
    """Return the API of a backend that has patterns and nothing else; see `build_app`."""
    return build_app(
        # The handlers of PATTERN_ROUTES call no more of a router than this has.
        router=cast("Backend", backend),
        config=config,
        embedder=embedder,
        readiness=readiness,
        clock=clock,
        registry=registry,
        routes=PATTERN_ROUTES,
    )


def _refused(route: Route) -> Route:
    async def refuse(call: Call) -> Never:
        raise NotServed(f"{call.route.method} {route.path} is served by clusters only")

    return replace(route, handler=refuse, body=None, streams=None, plain=True)


def _add(app: web.Application, api: Api, route: Route) -> None:
    handler = endpoint(api, route)
    if route.method == "GET":
        app.router.add_get(route.path, handler, expect_handler=_expect)
    else:
        app.router.add_route(route.method, route.path, handler, expect_handler=_expect)


async def _expect(request: web.Request) -> None:
    """Send no `100 Continue` yet: the body reader does, once it wants the body."""
