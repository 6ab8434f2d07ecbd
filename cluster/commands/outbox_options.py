"""What the commands around outboxes share: where the tables are, and how errors sound."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from cluster.errors import CommandFailed

if TYPE_CHECKING:
    from storage.checkpoint.database import Database

T = TypeVar("T")

From = Annotated[
    str,
    typer.Option(
        "--from",
        envvar="RECOLLECT_OUTBOX_URL",
        help="Postgres with the table; better given by the variable, which no process list shows.",
        show_default=False,
        show_envvar=True,
    ),
]
Collection = Annotated[str, typer.Option("--collection", help="The collection that is filled.")]
PATIENCE_S: Final = 5.0
_HINTS: Final = {
    "DatabaseUnavailable": "is Postgres running, and is nobody holding a lock on the table?",
    "DatabaseRefused": "check the URL; the user has to own the table, and may need CREATE",
    "OutboxRefused": "`recollect outbox status` lists what there is",
}


def with_outbox(url: str, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    """Return what `work` makes of the database; raises CommandFailed."""
    import asyncio

    from storage.checkpoint.database import Database
    from storage.checkpoint.errors import CheckpointError, DatabaseUnavailable

    if not url:
        raise CommandFailed(
            "no database was given", hint="set RECOLLECT_OUTBOX_URL, or pass --from"
        )

    async def run() -> T:
        async with Database.opened(url, connections=1, patience_s=PATIENCE_S) as database:
            return await work(database)

    try:
        return asyncio.run(run())
    except CheckpointError as error:
        raise CommandFailed(
            str(error),
            hint=_HINTS.get(type(error).__name__, ""),
            code="outbox_failed",
            retryable=isinstance(error, DatabaseUnavailable),
        ) from None
