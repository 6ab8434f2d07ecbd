"""`recollect postgres`: a Postgres for checkpoints, with nothing to install or to set up."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.options import Json
from cluster.commands.output import show, show_json
from cluster.errors import CommandFailed

if TYPE_CHECKING:
    from storage.embedded_postgres import EmbeddedPostgres

postgres = typer.Typer(
    name="postgres",
    help="Run a Postgres for checkpoints apart from `recollect up`, which runs one by itself.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Data = Annotated[Path, typer.Option(help="Folder of the database.")]
DEFAULT_DATA = Path("recollect-postgres")


@postgres.command()
def start(data: Data = DEFAULT_DATA, as_json: Json = False) -> None:
    """Start it, and make the database the first time; it runs on when this command ends.

    Example:

        export RECOLLECT_CHECKPOINT_URL=$(recollect postgres start)
    """
    with _server(data) as server:
        server.start()
        _show_url(server, as_json=as_json)


@postgres.command()
def run(
    data: Data = DEFAULT_DATA,
    parent_pid: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run it in the foreground until Ctrl-C, and make the database the first time."""
    from cluster.parent_death import end_with

    def tie(number: signal.Signals) -> None:
        if parent_pid is not None:
            end_with(parent_pid, number=number)

    tie(signal.SIGKILL)
    with _server(data) as server:
        # Another user's process has lost the first tie; the server ends in order by SIGINT.
        server.become(lambda: tie(signal.SIGINT))


@postgres.command()
def stop(data: Data = DEFAULT_DATA, as_json: Json = False) -> None:
    """Stop it; the database stays in its folder."""
    with _server(data) as server:
        ran = server.stop()
    if as_json:
        show_json({"stopped": ran})
    else:
        show("Stopped" if ran else "It did not run")


@postgres.command()
def status(data: Data = DEFAULT_DATA, as_json: Json = False) -> None:
    """Say whether it runs; exit code 1 when it does not."""
    with _server(data) as server:
        if not server.is_running():
            raise CommandFailed(
                f"no Postgres runs in {data}",
                hint="`recollect postgres start` starts it",
                code="not_running",
            )
        if as_json:
            show_json({"running": True, "url": server.url})
        else:
            show(f"Running: {server.url}")


@postgres.command()
def url(data: Data = DEFAULT_DATA, as_json: Json = False) -> None:
    """Print the URL under which it is reached on this machine, running or not."""
    with _server(data) as server:
        _show_url(server, as_json=as_json)


def _show_url(server: EmbeddedPostgres, *, as_json: bool) -> None:
    if as_json:
        show_json({"url": server.url})
    else:
        show(server.url)


@contextlib.contextmanager
def _server(data: Path) -> Iterator[EmbeddedPostgres]:
    from cluster.postgres_child import postgres_failures
    from storage.embedded_postgres import EmbeddedPostgres

    with postgres_failures():
        yield EmbeddedPostgres(data)
