"""The HTTP server around the application.

Compressed bodies are never inflated, idle connections are closed, and a handler's work has a
bounded time to finish when the node stops. What happens on a connection is in `protocol`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from cluster.api.middleware import refusal
from cluster.api.protocol import READ_BUFFER_BYTES, ApiProtocol, Lender
from cluster.api.quick_route import QuickRoute

KEEPALIVE_S: Final = 75.0
SHUTDOWN_S: Final = 5.0
QUICK_ROUTE: Final = web.AppKey("quick_route", QuickRoute)
"""Where an application has its quick route, if it has one."""


class ApiRunner(web.AppRunner):
    """Runs the application; use it in place of `web.AppRunner`."""

    def __init__(self, app: web.Application, **settings: Any) -> None:
        defaults: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": KEEPALIVE_S,
            "read_bufsize": READ_BUFFER_BYTES,
            "shutdown_timeout": SHUTDOWN_S,
        }
        super().__init__(app, **(defaults | settings))

    async def _make_server(self) -> web.Server:  # type: ignore[explicit-override]
        made = await super()._make_server()
        server = _Server(
            _enveloped(made.request_handler),
            request_factory=made.request_factory,
            loop=asyncio.get_running_loop(),
            **self._kwargs,
        )
        server.quick = self.app.get(QUICK_ROUTE)
        self._api_server = server
        return server

    def lend_to(self, lender: Lender) -> None:
        """Have search workers from now on; after `setup`."""
        self._api_server.lender = lender

    @property
    def served(self) -> int:
        """Connections that this process serves just now."""
        return len(self._api_server.connections)

    async def adopt(self, connection: socket.socket, unread: bytes, patience: int) -> None:
        """Serve a connection that comes back from a search worker."""
        protocol = self._api_server()
        protocol.take_back(unread, patience)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, connection)
        except OSError:
            connection.close()  # its client has gone


class _Server(web.Server):
    quick: QuickRoute | None = None
    lender: Lender | None = None

    def __call__(self) -> ApiProtocol:  # type: ignore[explicit-override]
        return ApiProtocol(self, self.quick, self.lender, loop=self._loop, **self._kwargs)


def _enveloped(
    handler: Callable[[Any], Awaitable[web.StreamResponse]],
) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """Wrap what aiohttp raises around the middleware, such as for an unknown `Expect`."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            return refusal(error, 0.0)

    return handle
