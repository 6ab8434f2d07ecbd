"""How the outboxes fare that fill collections from tables of a Postgres."""

from __future__ import annotations

from typing import Any, Final

from cluster.api.envelope import Answer
from cluster.api.route import Call, Route
from cluster.outbox import described, required


async def show_outbox(call: Call) -> Answer:
    """Return every source with its lag, read from Postgres now."""
    outbox = required(call.api.router.outbox)
    sources = [described(each, outbox.dead_letters_max) for each in await outbox.statuses()]
    return Answer({"sources": sources, "problem": outbox.problem or None})


ROUTES: Final = (
    Route(
        "GET",
        "/outbox",
        show_outbox,
        "How far collections are behind the tables that fill them",
        answer=dict[str, Any],
    ),
)
