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
    from cluster.demo import Summary
    from cluster.demo_search import Found
    from cluster.demo_stage import Comparison, Voice


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
    """Show the product on this machine: store, search, kill a node, lose nothing, restore.

    Takes the docstrings of Python's standard library as memories, runs three nodes, kills one
    with -9 while it writes, and checks that every acknowledged write is on every node. At the end a
    checkpoint goes into Postgres, and two new nodes are made from it and compared.

    Examples:

        recollect demo

        recollect demo --data ./recollect-demo
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = data or _new_folder()
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
    if summary.moved and summary.moved.different:
        raise CommandFailed("the restored cluster is not the old one", code="restored_differently")


def _new_folder() -> Path:
    from cluster.data_folder import FOLDER_MODE

    folder = Path(tempfile.mkdtemp(prefix="recollect-demo-"))
    folder.chmod(FOLDER_MODE)
    return folder


def _run(folder: Path, port: int | None, *, as_json: bool) -> Summary:
    from cluster.demo import prepared

    try:
        with prepared(folder, port, os.environ, _voice(as_json=as_json)) as prepared_demo:
            return prepared_demo.run()
    except ValueError as error:
        raise CommandFailed(str(error)) from None


def _voice(*, as_json: bool) -> Voice:
    from cluster.demo_stage import Voice

    def hits(question: str, found: Sequence[Found]) -> None:
        rows = [(hit.score, hit.name, hit.line) for hit in found]
        show(table(("Score", "Name", "Text"), rows, title=question))

    def comparisons(found: Sequence[Comparison]) -> None:
        rows = [
            (each.what, each.before, each.after, "equal" if each.equal else "DIFFERENT")
            for each in found
        ]
        show(table(("Compared", "In three nodes", "Restored into two", ""), rows))

    if as_json:
        return Voice(
            say=notice,
            hits=lambda _question, _found: None,
            comparisons=lambda _found: None,
            progress=progress,
        )
    return Voice(say=show, hits=hits, comparisons=comparisons, progress=progress)


def _as_table(summary: Summary) -> object:
    rows = [
        ("Texts stored", f"{summary.texts:,}"),
        ("Acknowledged writes", f"{summary.writes_per_s:,.0f} /s"),
        ("Search, median", f"{summary.search_p50_ms:.1f} ms"),
        ("Time without writes after kill -9", f"{summary.pause_s:.2f} s"),
        ("Acknowledged writes checked on each node", f"{summary.acknowledged:,}"),
        ("Acknowledged writes lost", str(summary.lost)),
        *_restored(summary),
        ("Whole demo", f"{summary.seconds:.0f} s"),
    ]
    return table(("Measured in this run", ""), rows)


def _restored(summary: Summary) -> list[tuple[str, str]]:
    moved = summary.moved
    if moved is None:
        return [("Checkpoint and restoration", "skipped")]
    return [
        ("Checkpoint into Postgres", f"{moved.checkpoint_s:.1f} s"),
        ("Restoration into two nodes", f"{moved.restore_s:.1f} s"),
        ("Differences after it", str(moved.different)),
    ]


def _forget(folder: Path, *, asked_for: Path | None) -> None:
    if asked_for is None:
        shutil.rmtree(folder, ignore_errors=True)
