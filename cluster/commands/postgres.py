"""`recollect postgres`: a Postgres for checkpoints, with nothing to install or to set up."""

from __future__ import annotations

import contextlib
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
    help="Run a Postgres of your own for checkpoints.",
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
    from storage.embedded_postgres import EmbeddedPostgres, PostgresFailed, PostgresMissing

    try:
        yield EmbeddedPostgres(data)
    except PostgresMissing as error:
        raise CommandFailed(str(error), code="not_installed") from None
    except PostgresFailed as error:
        raise CommandFailed(str(error), code="postgres_failed") from None
