"""Applies what waits in an outbox, in one node at a time: whoever leads the metadata group.

    take - the batch in flight is in Postgres from here on
      apply - rows that cannot be are dead letters, and the rest is taken again
        acknowledge - the batch leaves the outbox

Two nodes may both believe to lead for a moment; the lock of a source, in Postgres, is with one.
Notifications make it quick; since one may be lost, the outbox is also looked at every second.

A source that fails is tried again after a pause that doubles, and left alone for a while when it
keeps failing; the others go on. When Postgres fails, everything begins anew with a new connection.
Writes of others wait for nothing of this.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, wait_exponential

from cluster.circuit_breaker import CircuitBreaker
from cluster.errors import RecollectError
from cluster.metadata import ClusterView
from cluster.outbox_writer import OutboxWriter
from cluster.routing import GroupReplica
from storage.checkpoint.errors import CheckpointError
from storage.outbox.errors import OutboxMoved
from storage.outbox.model import APPLY_S, Batch, Rejected, Source
from storage.outbox.session import Session

log = logging.getLogger("recollect.outbox")

POLL_S: Final = 1.0
PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 10.0
DOUBLINGS_MAX: Final = 7


@dataclass
class Course:
    """How one source has fared here."""

    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    due_s: float = 0.0
    """Not before this time is it tried again."""


@dataclass(kw_only=True)
class OutboxConsumer:
    """See the module. `chance` draws from 0..1; `problem` is what is wrong with Postgres."""

    url: str
    dead_letters_max: int
    metadata: GroupReplica
    view: Callable[[], ClusterView | None]
    writer: OutboxWriter
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    chance: Callable[[], float]
    problem: str = ""
    _courses: dict[int, Course] = field(default_factory=dict)

    async def run(self) -> None:
        """Consume whenever this node leads, until cancelled."""
        pauses = wait_exponential(multiplier=PAUSE_FIRST_S, max=PAUSE_MAX_S)
        while True:
            async for attempt in AsyncRetrying(wait=pauses, sleep=self.sleep, before_sleep=_tell):
                with attempt:
                    await self._lead()
            await self.sleep(POLL_S)

    async def _lead(self) -> None:
        """Consume as long as this node leads and Postgres answers; raises when it never did."""
        if not self.metadata.is_leader:
            self.problem = ""
            return
        try:
            async with Session.opened(self.url) as session:
                self.problem = ""
                while self.metadata.is_leader:
                    if not await self.round(session):
                        await session.wait(POLL_S)
        except CheckpointError as error:
            if not self.problem:
                log.warning("the connection to the outbox has ended: %s", error)
            again, self.problem = bool(self.problem), str(error)
            if again:
                raise

    async def round(self, session: Session) -> bool:
        """Apply a batch of each source that has one; return whether any went on."""
        view = self.view()
        went_on = False
        if view is not None:
            for source in await session.sources():
                if source.cluster_id not in (None, view.cluster_id):
                    continue
                if await session.lock(source.source) and self._may_try(source):
                    went_on |= await self._step(session, source, view.cluster_id)
        return went_on

    def _may_try(self, source: Source) -> bool:
        course = self._courses.setdefault(source.source, Course())
        return (
            source.waiting
            and not source.paused
            and source.dead < self.dead_letters_max
            and course.due_s <= self.clock()
            and course.breaker.retry_in_s(self.clock()) == 0
        )

    async def _step(self, session: Session, source: Source, cluster_id: str) -> bool:
        """Return whether a batch of a source was applied, or its dead letters taken out."""
        # Counted from before the batch is taken: however long this process is stopped in between,
        # it does not write when others have gone on.
        deadline_s = self.clock() + APPLY_S
        try:
            batch = await session.take(source.source, cluster_id)
        except OutboxMoved:
            return False
        course = self._courses[source.source]
        if batch is None or not course.breaker.lets_through(self.clock()):
            return False
        try:
            rejected = await self.writer.apply(source, batch, deadline_s)
        except RecollectError as error:
            problem = error.message
        except Exception:
            log.exception("a batch for '%s' failed", source.collection)
            problem = "an internal error; the node's log has it"
        else:
            course.breaker.succeeded()
            return await self._settle(session, source, batch, rejected)
        await self._note_failure(session, source, course, problem)
        return False

    async def _settle(
        self, session: Session, source: Source, batch: Batch, rejected: list[Rejected]
    ) -> bool:
        """Write down in Postgres what became of a batch, unless somebody else went on with it."""
        if rejected and not batch.sole:
            # Without them the batch has other request ids: an attempt of somebody who has lost
            # the lock, and does not know yet, would not be recognised.
            self._courses[source.source].due_s = self.clock() + APPLY_S
            return False
        with contextlib.suppress(OutboxMoved):
            if rejected:
                room = self.dead_letters_max - source.dead
                assert room > 0, "a source without room for dead letters is not tried"
                log.warning("'%s': %d dead letters", source.collection, len(rejected))
                await session.set_aside(source.source, batch, rejected[:room])
            else:
                await session.acknowledge(source.source, batch)
        return True

    async def _note_failure(
        self, session: Session, source: Source, course: Course, problem: str
    ) -> None:
        breaker = course.breaker
        breaker.failed(self.clock(), self.chance())
        doublings = min(breaker.failures - 1, DOUBLINGS_MAX)
        course.due_s = self.clock() + min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0**doublings)
        log.warning("changes for '%s' wait (%s): %s", source.collection, breaker.state, problem)
        await session.report(source.source, breaker.state, problem)


def _tell(state: RetryCallState) -> None:
    assert state.outcome is not None, "an attempt has ended"
    error = state.outcome.exception()
    if not isinstance(error, CheckpointError):
        log.error("the outbox is begun anew", exc_info=error)
    else:
        log.warning("the outbox cannot be reached: %s", error)
