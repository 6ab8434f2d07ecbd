"""What commands that read checkpoints share: where the database is, and how its errors sound."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
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
        help="Postgres that holds the checkpoints, or the folder of a cluster with one of its own. "
        "A URL is better given by the variable, which no process list shows.",
        show_default="./recollect-data",
        show_envvar=True,
    ),
]
Number = Annotated[
    int | None,
    typer.Option("--checkpoint", min=1, help="Number of the checkpoint.", show_default="newest"),
]
DEFAULT_DATA: Final = "recollect-data"
PATIENCE_S: Final = 10.0
# What was given is not repeated: it may be a URL with a password and a slip in it.
_NO_DATABASE: Final = "--from is no URL of a Postgres, nor a folder that holds one"
_WAYS: Final = (
    "set RECOLLECT_CHECKPOINT_URL, or pass --from with a URL, or with the --data of `recollect up`"
)


def with_database(url: str, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    """Return what `work` makes of the database; raises CommandFailed.

    `url` may also be the folder of a cluster; its Postgres is started if it does not run.
    """
    import asyncio

    from storage.checkpoint.database import Database

    async def run(address: str) -> T:
        async with Database.opened(address, patience_s=PATIENCE_S) as database:
            return await work(database)

    with _address(url) as address, checkpoint_failures():
        return asyncio.run(run(address))


@contextlib.contextmanager
def _address(given: str) -> Iterator[str]:
    """Yield the URL that was given, or that of a folder's own Postgres, which then runs."""
    from cluster.config import NOWHERE

    if "://" in given:
        yield given
        return
    from cluster.postgres_child import postgres_failures, running_postgres
    from storage.embedded_postgres import EmbeddedPostgres

    place = Path(DEFAULT_DATA if given in {"", NOWHERE} else given)
    with postgres_failures():
        servers = [EmbeddedPostgres(folder) for folder in (place / "postgres", place)]
    server = next((each for each in servers if each.holds_database()), None)
    if server is None:
        raise CommandFailed(_NO_DATABASE if given else "no database was given", hint=_WAYS)
    if server.is_running():
        yield server.url
        return
    with postgres_failures():
        server.prepare()
    with running_postgres(server) as child:
        child.await_ready()
        yield server.url


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
