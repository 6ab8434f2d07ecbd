"""`recollect checkpoint`: the cluster's memory into Postgres, now; or what is there already."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cluster.commands.options import URL_DEFAULT, ApiKey, Json, Url, connect
from cluster.commands.output import show, show_json, table


def checkpoint(
    list_them: Annotated[
        bool, typer.Option("--list", help="List the checkpoints that are there.")
    ] = False,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Make a checkpoint of the cluster in Postgres, or list them.

    The nodes know where Postgres is: that of RECOLLECT_CHECKPOINT_URL, or the one that
    `recollect up` runs. What takes longer than a request goes on by itself.

    Examples:

        recollect checkpoint

        recollect checkpoint --list
    """
    with connect(url, api_key) as client:
        if list_them:
            _show_list(client.get("/cluster/checkpoints"), as_json=as_json)
        else:
            _show_made(client.post("/cluster/checkpoint", {}), as_json=as_json)


def _show_list(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    columns = ("Checkpoint", "Finished", "Records", "Nodes", "Hyperedges", "Rows written")
    rows = [
        (
            str(each["id"]),
            each["finished_at"],
            each["records"],
            each["nodes"],
            each["hyperedges"],
            each["rows_written"],
        )
        for each in found["checkpoints"]
    ]
    show(table(columns, rows) if rows else "No checkpoint yet")
    if found["problem"]:
        show(f"Problem: {found['problem']}")


def _show_made(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    if found["state"] == "running":
        show(
            f"Checkpoint {found['id'] or 'of now'} is under way: {len(found['shards'])} shards are "
            "written; `recollect checkpoint --list` shows it when it is whole"
        )
        return
    columns = ("Shard", "Written by", "Index", "Records", "Nodes", "Hyperedges", "Rows written")
    rows = [
        (
            str(each["shard"]),
            each["node"],
            each["applied_index"],
            each["records"],
            each["nodes"],
            each["hyperedges"],
            each["rows_written"],
        )
        for each in found["shards"]
    ]
    show(table(columns, rows), f"Checkpoint {found['id']} is whole ({found['seconds']:.2f} s)")
