"""`recollect config`: every setting, its variable, its present value. Secrets are not shown.

The same table, without present values, is in docs/OPERATIONS.md (`--markdown` prints it).
"""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Annotated, Any, Final

import typer

from cluster.commands.options import Json
from cluster.commands.output import show, show_json, table
from cluster.config import Config

SECRETS: Final = frozenset(item.name for item in fields(Config) if item.metadata.get("secret"))


def config(
    as_json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the defaults as a Markdown table.")
    ] = False,
) -> None:
    """Print every setting of a node and the value it has in this environment.

    Examples:

        recollect config

        RECOLLECT_SHARDS=24 recollect config --json
    """
    if markdown:
        show(markdown_table())
        return
    try:
        present = Config.from_env(os.environ)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    rows = settings(present)
    if as_json:
        show_json(rows)
        return
    cells = [(row["variable"], _compared(row), row["help"]) for row in rows]
    show(table(("Variable", "Value", "Meaning"), cells, unbroken=("Variable",)))


def settings(present: Config) -> list[dict[str, Any]]:
    """Return name, variable, value, default and meaning of each setting; secrets masked."""
    rows = []
    for item in fields(Config):
        value = getattr(present, item.name)
        rows.append(
            {
                "name": item.name,
                "variable": f"RECOLLECT_{item.name.upper()}",
                "value": _shown(item.name, value),
                "default": _shown(item.name, item.default),
                "help": item.metadata["help"],
            }
        )
    return rows


def markdown_table() -> str:
    """Return the settings as docs/OPERATIONS.md has them."""
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for row in settings(Config()):
        default = "" if row["default"] in ("", None) else f"`{row['default']}`"
        lines.append(f"| `{row['variable']}` | {default} | {row['help']} |")
    return "\n".join(lines)


def _compared(row: dict[str, Any]) -> str:
    """Return a value, and the default where that is another."""
    value, default = row["value"], row["default"]
    secret = row["name"] in SECRETS
    if secret or value == default:
        return str(value)
    return f"{value} (default: {default or 'empty'})"


def _shown(name: str, value: Any) -> Any:
    if name in SECRETS:
        return "(set)" if value else ""
    return value if isinstance(value, bool | int) else str(value)
