"""`recollect outbox`: let the rows of a table in your own Postgres flow into a collection.

These commands talk to that Postgres alone: the cluster need not run.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Final

import typer

from cluster.commands.options import Json
from cluster.commands.outbox_options import Collection, From, with_outbox
from cluster.commands.output import show, show_json, table

LISTED: Final = 100

outbox = typer.Typer(
    name="outbox",
    help="Let rows of a table flow into a collection.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@outbox.command()
def install(
    table: Annotated[str, typer.Option(help="The table, such as public.notes.")],
    collection: Collection,
    id_column: Annotated[
        str, typer.Option("--id", help="Its key: integers or UUIDs, unique and NOT NULL.")
    ],
    text: Annotated[str, typer.Option(help="Column whose text is embedded.")] = "",
    vector: Annotated[str, typer.Option(help="Column that holds the vector.")] = "",
    payload: Annotated[
        str, typer.Option(help="Columns of the payload, or 'all'.", show_default="the text column")
    ] = "",
    existing: Annotated[
        bool, typer.Option(help="Send the rows that are there already, too.")
    ] = True,
    database_url: From = "",
    as_json: Json = False,
) -> None:
    """Put an outbox behind a table: a trigger notes each change, and the cluster applies it.

    Everything is made in the schema recollect_outbox of that database. Safe to run twice.

    Example:

        recollect outbox install --table public.notes --collection notes --id id --text body
    """
    from storage.outbox.installing import Wanted, install

    if bool(text) == bool(vector):
        raise typer.BadParameter("give either --text or --vector")
    wanted = Wanted(
        table=table,
        collection=_checked_name(collection),
        id_column=id_column,
        text_column=text or None,
        vector_column=vector or None,
        payload=_columns(payload, text),
    )
    queued = with_outbox(database_url, lambda found: install(found, wanted, existing=existing))
    if as_json:
        show_json({"installed": queued is not None, "queued": queued or 0})
    elif queued is None:
        show(f"{table} flows into '{collection}' already")
    else:
        show(f"{table} flows into '{collection}' from now on; {queued:,} rows are queued")


@outbox.command()
def remove(collection: Collection, database_url: From = "", as_json: Json = False) -> None:
    """Take an outbox away, with what waits in it; the points stay in the collection."""
    from storage.outbox.installing import remove

    waited = with_outbox(database_url, lambda found: remove(found, collection))
    if as_json:
        show_json({"discarded": waited})
    else:
        show(f"Nothing fills '{collection}' any more; {waited:,} changes that waited are gone")


@outbox.command()
def status(database_url: From = "", as_json: Json = False) -> None:
    """Say how far each collection is behind its table."""
    from cluster.config import Config
    from cluster.outbox import described
    from storage.outbox.status import statuses

    try:
        limit = Config.from_env(os.environ).outbox_dead_letters_max
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    sources = [described(each, limit) for each in with_outbox(database_url, statuses)]
    if as_json:
        show_json({"sources": sources})
        return
    if not sources:
        show("No outbox is installed")
        return
    show(_status_table(sources))
    for each in sources:
        if each["problem"]:
            show(f"{each['collection']}: {each['problem']}")


@outbox.command()
def pause(collection: Collection, database_url: From = "", as_json: Json = False) -> None:
    """Let changes wait; the table is used on as usual."""
    from storage.outbox.installing import pause

    with_outbox(database_url, lambda found: pause(found, collection))
    _show_state(collection, "paused", as_json=as_json)


@outbox.command()
def resume(
    collection: Collection,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over", help="Into another cluster than before: send it all rows, too."
        ),
    ] = False,
    database_url: From = "",
    as_json: Json = False,
) -> None:
    """Let changes flow again."""
    from storage.outbox.installing import resume

    with_outbox(database_url, lambda found: resume(found, collection, take_over=take_over))
    _show_state(collection, "resumed", as_json=as_json)


@outbox.command()
def dead(
    collection: Collection,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="So many at most.")] = LISTED,
    database_url: From = "",
    as_json: Json = False,
) -> None:
    """List the changes that could not be applied, the oldest first."""
    from storage.outbox.dead_letters import listed

    letters = with_outbox(database_url, lambda found: listed(found, collection, limit))
    if as_json:
        show_json({"dead_letters": [each._asdict() for each in letters]})
    elif letters:
        columns = ("Id", "Change", "Key", "Reason", "Detail")
        rows = [(str(each.id), each.op, each.key, each.reason, each.detail) for each in letters]
        show(table(columns, rows))
    else:
        show("No dead letters")


@outbox.command()
def replay(
    collection: Collection,
    letter: Annotated[
        int | None, typer.Option("--id", min=1, help="One dead letter, and others of its key.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    database_url: From = "",
    as_json: Json = False,
) -> None:
    """Send rows of dead letters again, as they are in the table now."""
    from storage.outbox.dead_letters import replay

    if every == (letter is not None):
        raise typer.BadParameter("give either --id or --all")
    count = with_outbox(database_url, lambda found: replay(found, collection, letter))
    if as_json:
        show_json({"replayed": count})
    else:
        show(f"{count:,} dead letters are settled; their rows are queued")


@outbox.command()
def nack(
    collection: Collection,
    key: Annotated[str, typer.Option(help="Key of the row.")],
    database_url: From = "",
    as_json: Json = False,
) -> None:
    """Put the waiting changes of a row among the dead letters, by hand."""
    from storage.outbox.dead_letters import put_aside

    count = with_outbox(database_url, lambda found: put_aside(found, collection, key))
    if as_json:
        show_json({"put_aside": count})
    else:
        show(f"{count:,} changes are dead letters now")


def _checked_name(collection: str) -> str:
    from cluster.api.identity import collection_name
    from cluster.errors import BadRequest

    try:
        return collection_name(collection)
    except BadRequest as error:
        raise typer.BadParameter(error.message) from None


def _columns(payload: str, text: str) -> tuple[str, ...] | None:
    """Return the columns of the payload, None for all."""
    if payload == "all":
        return None
    named = payload or text
    return tuple(dict.fromkeys(name.strip() for name in named.split(","))) if named else ()


def _show_state(collection: str, state: str, *, as_json: bool) -> None:
    if as_json:
        show_json({"collection": collection, "state": state})
    else:
        show(f"'{collection}' is {state}")


def _status_table(sources: list[dict[str, Any]]) -> object:
    columns = ("Collection", "Table", "State", "Lag s", "Coherency", "Pending", "Applied", "Dead",
               "Circuit")  # fmt: skip
    rows = [
        (
            each["collection"],
            each["table"],
            each["state"],
            each["lag_ms"] / 1000,
            each["coherency_with_truth"],
            each["pending"],
            each["applied"],
            each["dead_letters"],
            each["circuit"],
        )
        for each in sources
    ]
    return table(columns, rows)
