"""What a node does for its search workers: reads payloads, takes connections back, learns."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final

from cluster.workers.channel import Channel, MessageTooLarge, Needed, Payloads, Report
from cluster.workers.surface import Surface

log = logging.getLogger("recollect.workers")

SENT_AGAIN_S: Final = 0.005
SENT_TIMES_MAX: Final = 200
"""A worker that has read nothing for a second is not waited for any longer."""


class Errands:
    """See the module. None of them raises: what fails is one client's affair."""

    def __init__(self, surface: Surface) -> None:
        self._surface = surface

    async def adopt(self, connection: socket.socket, unread: bytes, patience: int) -> None:
        """Serve a connection that came back."""
        try:
            await self._surface.adopt(connection, unread, patience)
        except Exception:
            log.exception("a connection was lost on its way back from a search worker")
            connection.close()

    def note(self, report: Report) -> int:
        """Take in a report; return how many searches it tells of."""
        for route, taken in report.served.items():
            for seconds in taken:
                self._surface.observe(route, seconds)
        try:
            self._surface.learn(report)
        except Exception:
            log.exception("what a search worker has learned is lost")
        return sum(map(len, report.served.values()))

    async def fetch(self, channel: Channel, needed: Needed) -> bool:
        """Send a worker the payloads that it needs; False: it takes nothing any more.

        What goes wrong with reading is the general way's to meet again, and to explain.
        """
        try:
            rows, shown = await self._surface.payloads(needed.uid, needed.points)
        except Exception:  # noqa: BLE001 - see above
            return await self._send(channel, Payloads(needed.number, None, {}))
        try:
            return await self._send(channel, Payloads(needed.number, rows, shown))
        except MessageTooLarge:
            return await self._send(channel, Payloads(needed.number, None, {}))

    async def _send(self, channel: Channel, message: Payloads) -> bool:
        for _ in range(SENT_TIMES_MAX):
            try:
                channel.send(message)
            except BlockingIOError:
                await asyncio.sleep(SENT_AGAIN_S)
            except MessageTooLarge:
                raise
            except OSError:
                return False
            else:
                return True
        return False
