"""What commands that read checkpoints share: where the database is, and how its errors sound."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Iterator
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
        envvar="RECOLLECT_CHECKPOINT_URL",
        help="Postgres that holds the checkpoints; better given by the variable, which no "
        "process list shows.",
        show_default=False,
        show_envvar=True,
    ),
]
Number = Annotated[
    int | None,
    typer.Option("--checkpoint", min=1, help="Number of the checkpoint.", show_default="newest"),
]
PATIENCE_S: Final = 10.0


def with_database(url: str, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    """Return what `work` makes of the database; raises CommandFailed."""
    import asyncio

    from storage.checkpoint.database import Database

    if not url:
        raise CommandFailed(
            "no database was given",
            hint="set RECOLLECT_CHECKPOINT_URL, or pass --from; `recollect postgres url` tells "
            "that of the embedded one",
        )

    async def run() -> T:
        async with Database.opened(url, patience_s=PATIENCE_S) as database:
            return await work(database)

    with checkpoint_failures():
        return asyncio.run(run())


@contextlib.contextmanager
def checkpoint_failures() -> Iterator[None]:
    """Raise a CheckpointError as CommandFailed."""
    from storage.checkpoint.errors import CheckpointError, DatabaseUnavailable

    try:
        yield
    except CheckpointError as error:
        raise CommandFailed(
            str(error),
            hint=_HINTS.get(type(error).__name__, ""),
            code="checkpoint_failed",
            retryable=isinstance(error, DatabaseUnavailable),
        ) from None


_HINTS: Final = {
    "DatabaseUnavailable": "is Postgres running, and is the address right?",
    "DatabaseRefused": "check the URL, and the rights of its user",
    "CheckpointMissing": "`recollect checkpoint --list` lists what there is",
    "FormatMismatch": "use the version of recollect that wrote it",
    "CheckpointDamaged": "restore an older checkpoint; `recollect verify` proves one",
}
