"""`recollect version`."""

from __future__ import annotations

import platform
from importlib import metadata

from cluster.commands.options import Json
from cluster.commands.output import show, show_json


def product_version() -> str:
    """Return the installed version of recollect."""
    return metadata.version("recollect")


def version(as_json: Json = False) -> None:
    """Print the version of recollect and of Python.

    Example:

        recollect version
    """
    found = {"recollect": product_version(), "python": platform.python_version()}
    if as_json:
        show_json(found)
    else:
        show(f"recollect {found['recollect']} (Python {found['python']})")
