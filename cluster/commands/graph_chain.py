"""`recollect graph chain`: events of which each led to the next, from the command line."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cluster.commands.graph_cells import ARROW
from cluster.commands.graph_options import Name, graph_path, without_nothing
from cluster.commands.options import URL_DEFAULT, ApiKey, Json, Url, connect
from cluster.commands.output import show, show_json


def chain(
    name: Name,
    events: Annotated[
        list[str],
        typer.Argument(
            metavar="ID:TYPE...", help="The events, the first cause first.", show_default=False
        ),
    ],
    confidence: Annotated[
        list[float] | None,
        typer.Option(
            min=0, max=1, help="How sure each step is, in order; once for each.", show_default="1"
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Label of the edge.", show_default="CAUSED_BY")
    ] = None,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Store events of which each led to the next.

    Example:

        recollect graph chain incidents leak:root_cause full:error down:outage --confidence 0.9 --confidence 0.8
    """  # noqa: E501 - an example is one line
    if len(events) < 2:
        raise typer.BadParameter("a chain has two events or more")
    if confidence and len(confidence) != len(events) - 1:
        raise typer.BadParameter(
            f"{len(events)} events have {len(events) - 1} steps, and {len(confidence)} confidences"
        )
    body = without_nothing(
        events=[_event(text) for text in events], confidences=confidence, label=label
    )
    with connect(url, api_key) as client:
        added = client.post(graph_path(name, "chain"), body)
    if as_json:
        show_json(added)
    else:
        show(f"{ARROW.join(added['events'])}  (confidence {added['chain_confidence']:.3g})")


def _event(text: str) -> dict[str, Any]:
    """Read `id:type`; an id with a colon of its own needs a type behind it."""
    name, sign, kind = text.rpartition(":")
    if not sign:
        return {"id": text}
    if not name or not kind:
        raise typer.BadParameter(f"'{text}' is not ID:TYPE")
    return {"id": name, "type": kind}
