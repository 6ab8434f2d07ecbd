"""`RECOLLECT_BACKEND=postgres`: one process that answers the patterns API from a Postgres.

It keeps nothing, so any number may run beside each other. A watch makes the table fit at the start
and looks at Postgres every second, on a connection of its own that no crowd of requests can occupy:
what it finds is what `/readyz` says. Whatever becomes of Postgres, the process stays and recovers.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.process_collector import ProcessCollector

from cluster.api.app import build_patterns_app
from cluster.api.backend import TextEmbedder
from cluster.api.server import ApiRunner
from cluster.config import Config
from cluster.embedding_client import make_embedder
from cluster.pattern_backend import PostgresPatterns
from cluster.surroundings import REAL
from storage.checkpoint.database import Database
from storage.checkpoint.errors import CheckpointError, DatabaseRefused
from storage.embedding import BundledEmbedder
from storage.postgres_patterns.searching import SETTINGS
from storage.postgres_patterns.table import check, prepare

log = logging.getLogger("recollect.patterns")

CONNECTIONS: Final = 8
LOOK_EVERY_S: Final = 1.0
LOOK_S: Final = 5.0
"""Postgres is gone when it has not answered within this."""
PREPARE_S: Final = 60.0
_SPARE_MS: Final = 1000


async def run_pattern_server(config: Config) -> None:
    """Serve until SIGTERM or SIGINT; raises OSError when the address is taken."""
    embedder = make_embedder(config)
    if isinstance(embedder, BundledEmbedder):
        await asyncio.to_thread(embedder.embed, [embedder.space])
    async with AsyncExitStack() as stack:
        asked = await stack.enter_async_context(
            Database.opened(
                config.checkpoint_url, connections=CONNECTIONS, settings=_settings(config)
            )
        )
        own = await stack.enter_async_context(
            Database.opened(config.checkpoint_url, connections=1, patience_s=0)
        )
        backend = PostgresPatterns(
            asked, request_id_ttl_ms=config.request_id_ttl_ms, clock=REAL.clock
        )
        await _serve(config, embedder, backend, Watch(own, backend, embedder))


class Watch:
    """Keeps `backend.space` and `backend.problem` true; see the module."""

    def __init__(
        self, database: Database, backend: PostgresPatterns, embedder: TextEmbedder
    ) -> None:
        self._database, self._backend, self._embedder = database, backend, embedder

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            problem = await self._look()
            if problem != self._backend.problem:
                log.info("%s", problem or "ready to serve")
            self._backend.problem = problem
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self) -> str:
        backend = self._backend
        try:
            async with asyncio.timeout(LOOK_S if backend.space else PREPARE_S):
                if backend.space is None:
                    space, dimension = self._embedder.space, self._embedder.dimension
                    backend.space = await prepare(self._database, space, dimension)
                await check(self._database)
        except TimeoutError:
            return "Postgres does not answer"
        except DatabaseRefused as error:
            backend.space = None  # another database, perhaps: begin again
            return str(error)
        except CheckpointError as error:
            return str(error)
        return ""


async def _serve(
    config: Config, embedder: TextEmbedder, backend: PostgresPatterns, watch: Watch
) -> None:
    app = build_patterns_app(
        backend=backend,
        config=config,
        embedder=embedder,
        readiness=backend.reasons,
        clock=REAL.clock,
        registry=_metrics(backend),
    )
    runner = ApiRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, config.http_host, config.http_port).start()
        log.info("patterns are served on port %d", config.http_port)
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch.run())
            await _until_signalled()
            watching.cancel()
    finally:
        await runner.cleanup()


async def _until_signalled() -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


def _settings(config: Config) -> dict[str, str]:
    """Return what every session has: durable commits, and an end for what nobody waits for."""
    limit_ms = config.request_timeout_ms + _SPARE_MS
    return {**SETTINGS, "synchronous_commit": "on", "statement_timeout": str(limit_ms)}


def _metrics(backend: PostgresPatterns) -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    gauge = Gauge("recollect_ready", "1 while requests can be served.", registry=registry)
    gauge.set_function(lambda: float(not backend.problem))
    return registry
