"""The `recollect` command. Entry point `main`; each command is a module of `cluster.commands`.

This is the only place that turns a failure into an exit code: 0 done, 1 the work failed, 2 the
command line was wrong, 130 interrupted. A person reads one sentence and a hint, never a
traceback. Nothing heavy is imported before a command runs, so that help is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from cluster.commands.checkpoint import checkpoint
from cluster.commands.config import config
from cluster.commands.demo import demo
from cluster.commands.graph import graph
from cluster.commands.nodes import nodes
from cluster.commands.outbox import outbox
from cluster.commands.output import show_failure
from cluster.commands.postgres import postgres
from cluster.commands.restore import restore
from cluster.commands.search import search
from cluster.commands.serve import serve
from cluster.commands.shards import shards
from cluster.commands.status import status
from cluster.commands.store import store
from cluster.commands.up import up
from cluster.commands.verify import verify
from cluster.commands.version import product_version, version
from cluster.errors import CommandFailed

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
TRACEBACK_VARIABLE: Final = "RECOLLECT_TRACEBACK"

# The base of all complaints about a command line. typer carries it under different public names
# from version to version; the ancestry of BadParameter is what stays.
_COMPLAINT: Final = typer.BadParameter.__mro__[2]

_EPILOG: Final = "Start here: `recollect demo`, or `recollect up` and `recollect store TEXT`."

app = typer.Typer(
    name="recollect",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    epilog=_EPILOG,
)

for _panel, _commands in {
    "Run": (up, serve, demo),
    "Use": (store, search),
    "Keep": (checkpoint, restore, verify),
    "Look": (status, nodes, shards, config, version),
}.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
app.add_typer(graph, rich_help_panel="Use")
app.add_typer(postgres, rich_help_panel="Keep")
app.add_typer(outbox, rich_help_panel="Use")


def _print_version(asked: bool | None) -> None:  # noqa: FBT001 - typer calls it so
    if asked:
        typer.echo(f"recollect {product_version()}")
        raise typer.Exit


@app.callback()
def recollect(
    _version: Annotated[
        bool | None,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = None,
) -> None:
    """A distributed memory store for AI agents: what it acknowledged, it keeps and finds."""


def main() -> None:
    """Run the command line of this process and exit."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:
        _discard_stdout()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    as_json = "--json" in arguments
    try:
        code = app(args=list(arguments), prog_name="recollect", standalone_mode=False)
    except CommandFailed as failure:
        show_failure(failure, as_json=as_json)
        return EXIT_FAILURE
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return EXIT_FAILURE
    except Exception as error:
        if isinstance(error, _COMPLAINT):
            return _usage(error, as_json=as_json)
        if TRACEBACK_VARIABLE in os.environ:
            raise
        show_failure(_unexpected(error), as_json=as_json)
        return EXIT_FAILURE
    return code if isinstance(code, int) else 0


def _unexpected(error: Exception) -> CommandFailed:
    if isinstance(error, OSError):
        return CommandFailed(str(error), hint="check the file, its folder and the disk")
    return CommandFailed(
        f"this should not have happened ({type(error).__name__}: {error})",
        hint=f"{TRACEBACK_VARIABLE}=1 shows where; please report it",
        code="internal",
    )


def _usage(error: Exception, *, as_json: bool) -> int:
    format_message = getattr(error, "format_message", lambda: str(error))
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "recollect"
    sentence = str(format_message())
    if not sentence or type(error).__name__ == "NoArgsIsHelpError":
        return EXIT_USAGE if sentence else 0
    hint = f"`{command} --help` shows what it takes"
    show_failure(CommandFailed(sentence, hint=hint, code="usage"), as_json=as_json)
    return EXIT_USAGE


def _discard_stdout() -> None:
    """Let nothing be written to a reader that has gone, at exit either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    main()
