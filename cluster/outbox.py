"""What a node has to do with outboxes: it tells how they fare, and consumes them if it leads.

Sources, positions, dead letters and who consumes are in the user's Postgres; the node knows its URL
and nothing else. Every node can therefore tell all there is to tell, also of a backlog that nobody
works on. Without RECOLLECT_OUTBOX_URL nothing of this exists, and requests are told so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cluster.errors import BadRequest, NotReady, OutboxFailed
from cluster.outbox_consumer import OutboxConsumer
from cluster.outbox_writer import OutboxWriter
from storage.checkpoint.database import Database
from storage.checkpoint.errors import CheckpointError
from storage.outbox.lag import coherency_with_truth, has_gap, state_of
from storage.outbox.model import Status
from storage.outbox.status import statuses

if TYPE_CHECKING:
    from cluster.node import Node
    from cluster.routing import Routing

log = logging.getLogger("recollect.outbox")

CONNECTIONS: Final = 2
PATIENCE_S: Final = 1.0
ASK_S: Final = 3.0
WATCH_S: Final = 5.0
"""How old the figures of the metrics are at most, but for the time that Postgres takes."""


@dataclass(kw_only=True)
class Outbox:
    """See the module. `consumer` is None on nodes outside the metadata group."""

    url: str
    dead_letters_max: int
    routing: Routing
    consumer: OutboxConsumer | None = None
    seen: Sequence[Status] = field(default=())
    """What Postgres said last,"""
    reachable: bool = False
    """and whether it said anything when it was asked last."""
    _database: Database | None = None

    async def run(self) -> None:
        """Watch, and consume if this node is to, until cancelled."""
        opened = Database.opened(self.url, connections=CONNECTIONS, patience_s=PATIENCE_S)
        async with opened as self._database, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            if self.consumer is not None:
                tasks.create_task(self.consumer.run())

    async def statuses(self) -> Sequence[Status]:
        """Return how every source fares, now; raises OutboxFailed or NotReady."""
        if self._database is None:
            raise NotReady("the node is starting")
        try:
            async with asyncio.timeout(ASK_S):
                return await statuses(self._database)
        except CheckpointError as error:
            raise OutboxFailed(str(error)) from None
        except TimeoutError:
            raise OutboxFailed("Postgres does not answer in time") from None

    @property
    def problem(self) -> str:
        """What keeps this node from its outboxes, as far as it knows."""
        return "" if self.consumer is None else self.consumer.problem

    async def _watch(self) -> None:
        while True:
            try:
                self.seen, self.reachable = await self.statuses(), True
            except OutboxFailed:
                self.reachable = False
            except Exception:
                log.exception("how the outboxes fare is not known")
                self.reachable = False
            await self.routing.sleep(WATCH_S)


def outbox_of(node: Node, routing: Routing) -> Outbox:
    """Return a node's part in outboxes."""
    config = node.config
    made = Outbox(
        url=config.outbox_url, dead_letters_max=config.outbox_dead_letters_max, routing=routing
    )
    if node.metadata is not None:
        made.consumer = OutboxConsumer(
            url=config.outbox_url,
            dead_letters_max=config.outbox_dead_letters_max,
            metadata=node.metadata,
            view=node.view,
            writer=OutboxWriter(
                router=node.router,
                embedder=node.embedder,
                payload_bytes_max=config.payload_bytes_max,
                clock=routing.clock,
            ),
            clock=routing.clock,
            sleep=routing.sleep,
            chance=lambda: node.surroundings.random_number(4) / 2**32,
        )
    return made


def required(found: Outbox | None) -> Outbox:
    """Return a node's part in outboxes; raises BadRequest when it has none."""
    if found is None:
        raise BadRequest("no outbox is configured: RECOLLECT_OUTBOX_URL says where it is")
    return found


def described(status: Status, dead_letters_max: int) -> dict[str, Any]:
    """Return how a source fares as JSON-able data."""
    gap = has_gap(status)
    return {
        "collection": status.source.collection,
        "table": status.source.table,
        "state": state_of(status, dead_letters_max),
        "lag_ms": status.lag_ms,
        "coherency_with_truth": round(coherency_with_truth(status.lag_ms, gap=gap), 6),
        "gap": gap,
        "pending": status.pending,
        "committed_seq": status.committed_seq,
        "applied_seq": status.applied_seq,
        "applied": status.applied,
        "repeated": status.repeated,
        "dead_letters": status.source.dead,
        "circuit": status.circuit,
        "problem": status.problem,
        "cluster_id": status.source.cluster_id,
    }
