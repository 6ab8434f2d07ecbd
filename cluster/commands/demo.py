"""`recollect demo`: how it is started, how it speaks, and the table at its end."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.options import Json
from cluster.commands.output import notice, progress, show, show_json, table
from cluster.errors import CommandFailed

if TYPE_CHECKING:
    from cluster.demo import Summary, Voice
    from cluster.demo_search import Found


def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="A new folder for the data, kept.", show_default="temporary"),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=64_435, help="As in `recollect up`.", show_default="free ports"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the product on this machine: store, search, kill a node, lose nothing.

    Takes the docstrings of Python's standard library as memories, runs three nodes, kills one
    with -9 while it writes, and checks at the end that every acknowledged write is on every node.

    Examples:

        recollect demo

        recollect demo --data ./recollect-demo
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = data or Path(tempfile.mkdtemp(prefix="recollect-demo-"))
    try:
        summary = _run(folder, port, as_json=as_json)
    except CommandFailed as failure:
        kept = f"the nodes' logs are in {folder}"
        failure.hint = f"{failure.hint}; {kept}" if failure.hint else kept
        raise
    except KeyboardInterrupt:
        _forget(folder, asked_for=data)
        raise
    _forget(folder, asked_for=data)
    if as_json:
        show_json(summary.as_dict())
    else:
        show(_as_table(summary))
    if summary.lost:
        raise CommandFailed(f"{summary.lost} acknowledged writes were lost", code="writes_lost")


def _run(folder: Path, port: int | None, *, as_json: bool) -> Summary:
    from cluster.demo import Demo, prepared

    try:
        with prepared(folder, port, os.environ) as supervisor:
            return Demo(supervisor, _voice(as_json=as_json)).run()
    except ValueError as error:
        raise CommandFailed(str(error)) from None


def _voice(*, as_json: bool) -> Voice:
    from cluster.demo import Voice

    def hits(question: str, found: Sequence[Found]) -> None:
        rows = [(hit.score, hit.name, hit.line) for hit in found]
        show(table(("Score", "Name", "Text"), rows, title=question))

    if as_json:
        return Voice(say=notice, hits=lambda _question, _found: None, progress=progress)
    return Voice(say=show, hits=hits, progress=progress)


def _as_table(summary: Summary) -> object:
    rows = [
        ("Texts stored", f"{summary.texts:,}"),
        ("Acknowledged writes", f"{summary.writes_per_s:,.0f} /s"),
        ("Search, median", f"{summary.search_p50_ms:.1f} ms"),
        ("Time without writes after kill -9", f"{summary.pause_s:.2f} s"),
        ("Acknowledged writes checked on each node", f"{summary.acknowledged:,}"),
        ("Acknowledged writes lost", str(summary.lost)),
        ("Whole demo", f"{summary.seconds:.0f} s"),
    ]
    return table(("Measured in this run", ""), rows)


def _forget(folder: Path, *, asked_for: Path | None) -> None:
    if asked_for is None:
        shutil.rmtree(folder, ignore_errors=True)
