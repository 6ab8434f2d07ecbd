"""`recollect search`: the memories that mean what a text means.

Patterns are searched through /patterns/search, which knows rewards; any other collection through
/vectors/search. The node embeds the text, so that the command and the cluster cannot disagree.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import orjson
import typer

from cluster.commands.options import URL_DEFAULT, ApiKey, Json, Url, connect
from cluster.commands.output import show, show_json, table

PATTERNS: Final = "patterns"
LINE_LENGTH_MAX: Final = 100


def search(
    text: Annotated[str, typer.Argument(help="What to look for, in your own words.")],
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many to find.")] = 5,
    filter_json: Annotated[
        str | None, typer.Option("--filter", help="Condition on the payload, as JSON.")
    ] = None,
    collection: Annotated[str, typer.Option(help="Where to look.")] = PATTERNS,
    threshold: Annotated[float | None, typer.Option(help="Worst score to show.")] = None,
    url: Url = URL_DEFAULT,
    api_key: ApiKey = "",
    as_json: Json = False,
) -> None:
    """Find what resembles a text, best first.

    Examples:

        recollect search "how to upload big files"

        recollect search "uploads" -k 3 --filter '{"must": [{"key": "success", "match": {"value": true}}]}'
    """  # noqa: E501 - an example is one line
    body: dict[str, Any] = {"k": k}
    if filter_json is not None:
        body["filter"] = _parsed(filter_json)
    if threshold is not None:
        body["threshold"] = threshold
    with connect(url, api_key) as client:
        if collection == PATTERNS:
            found = client.post("/patterns/search", {"task": text, **body})
        else:
            found = client.post(
                "/vectors/search", {"query": text, "collection": collection, **body}
            )
    if as_json:
        show_json(found)
    elif not found:
        show("Nothing was found")
    else:
        rows = [(hit["score"], hit["id"], _line(hit)) for hit in found]
        show(table(("Score", "Id", "Text"), rows, unbroken=("Id",)))


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"--filter is not JSON ({error.msg})") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("--filter is not a JSON object")
    return value


def _line(hit: dict[str, Any]) -> str:
    """Return the text of a hit: a pattern's own, or what its payload has instead."""
    payload = hit.get("payload") or hit
    text = next((payload[key] for key in ("task", "text", "name") if payload.get(key)), payload)
    return str(text).partition("\n")[0][:LINE_LENGTH_MAX]
