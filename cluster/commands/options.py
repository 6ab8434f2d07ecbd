"""The options that every command which talks to a node shares, and how they become a client."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.client import DEFAULT_URL, Client

Url = Annotated[
    str, typer.Option("--url", envvar="RECOLLECT_URL", help="HTTP address of any node.")
]
ApiKey = Annotated[
    str,
    typer.Option(
        "--api-key",
        envvar="RECOLLECT_API_KEY",
        help="Key of the cluster; better given by the variable, which no process list shows.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, errors too.")]
URL_DEFAULT = DEFAULT_URL

# A command's request may wait for an election behind the node's own deadline.
COMMAND_TIMEOUT_S = 15.0


def connect(url: str, api_key: str) -> Client:
    """Return a client for one command."""
    return Client(url, api_key=api_key, timeout_s=COMMAND_TIMEOUT_S)
