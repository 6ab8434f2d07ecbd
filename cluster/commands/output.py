"""How commands speak: results on stdout, everything else on stderr.

Tables and colours are for people and need a terminal; `--json` is for programs and prints one
document, for a failure too. A progress bar shows only on a terminal.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from cluster.errors import CommandFailed

# Tables that go to a file or a pipe are not folded at the usual 80 columns.
PLAIN_WIDTH: Final = 160


def console(*, stderr: bool = False) -> Console:
    """Return a console on the present stdout or stderr."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, width=width, highlight=False)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    unbroken: Sequence[str] = (),
) -> Table:
    """Return a table; cells are shown as text, never read as markup.

    A narrow terminal folds other columns than the `unbroken` ones, which people copy from.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for position, column in enumerate(columns):
        numbers = rows and all(isinstance(row[position], int | float) for row in rows)
        made.add_column(
            column,
            justify="right" if numbers else "left",
            overflow="fold",
            no_wrap=column in unbroken,
        )
    for row in rows:
        made.add_row(*(Text(_cell(value)) for value in row))
    return made


def show(*parts: object) -> None:
    """Print tables, or sentences as they are, to stdout."""
    target = console()
    with target.capture() as rendered:
        for part in parts:
            if isinstance(part, str):
                target.out(part, highlight=False)
            else:
                target.print(part)
    sys.stdout.write(rendered.get())
    sys.stdout.flush()


def show_json(value: Any) -> None:
    """Print one JSON document to stdout."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
    sys.stdout.flush()


def notice(sentence: str) -> None:
    """Tell the person something that is not the result."""
    sys.stderr.write(plain(sentence) + "\n")
    sys.stderr.flush()


def show_failure(failure: CommandFailed, *, as_json: bool) -> None:
    """Print a failure: one sentence and a hint, or its JSON form on stdout."""
    if as_json:
        error = {
            "code": failure.code,
            "message": failure.message,
            "hint": failure.hint or None,
            "retryable": failure.retryable,
        }
        show_json({"error": error})
        return
    notice(f"Error: {failure.message}")
    if failure.hint:
        notice(f"Hint: {failure.hint}")


@contextlib.contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield `advance(count)`, which moves a bar on stderr; without a terminal it shows nothing."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


def plain(text: str) -> str:
    """Return text on one line and without what would steer a terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else plain(str(value))
