"""`recollect up`: a cluster on this machine, in the foreground, until it is told to stop.

What it prints on stdout is read by scripts: a table of the nodes, then the line `Ready`. A node
that dies is reported on stderr and left dead, unless --restart. A reader that goes away does
not end the cluster.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cluster.commands.options import Json
from cluster.errors import CommandFailed

if TYPE_CHECKING:
    from types import FrameType

    from cluster.postgres_child import PostgresChild
    from cluster.supervisor import Death, Supervisor

Shards = Annotated[
    int | None,
    typer.Option(
        "--shards",
        min=1,
        max=1024,
        envvar="RECOLLECT_SHARDS",
        help="Number of shards of a new cluster; fixed for its life.",
        show_default="12",
    ),
]
Restore = Annotated[
    str,
    typer.Option(
        "--restore",
        envvar="RECOLLECT_RESTORE",
        help="Checkpoint that a new cluster begins with: its id, or latest. "
        "RECOLLECT_CHECKPOINT_URL says where it is.",
        show_default=False,
    ),
]
SLOW_START_S: Final = 60.0
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequests:
    """How often somebody asked this process to end. A handler may do no more than count."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Count one more request; called by the interpreter."""
        self.count += 1


@contextlib.contextmanager
def counted_signals() -> Iterator[StopRequests]:
    """Count SIGINT, SIGTERM and SIGHUP instead of dying of them, while the block runs."""
    requests = StopRequests()
    before = {number: signal.signal(number, requests) for number in STOP_SIGNALS}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def up(
    nodes: Annotated[
        int | None,
        typer.Option(
            min=1, max=100, help="Number of nodes.", show_default="3, or as the folder has it"
        ),
    ] = None,
    data: Annotated[
        Path, typer.Option(help="Folder of the cluster; resumed if it has one.")
    ] = Path("recollect-data"),
    port: Annotated[
        int,
        typer.Option(min=1, max=64_435, help="Node k serves HTTP on port+k, peers on port+1000+k."),
    ] = 5000,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start a node again when it dies.")
    ] = False,
    shards: Shards = None,
    no_postgres: Annotated[
        bool, typer.Option("--no-postgres", help="Do not run a Postgres for checkpoints.")
    ] = False,
    restore: Restore = "",
    as_json: Json = False,
) -> None:
    """Run a cluster on this machine until Ctrl-C.

    DIR/nodeK holds a node's files, its `pid` and its `log`. Settings in the environment
    (RECOLLECT_API_KEY and the rest; see `recollect config`) go to all nodes. Checkpoints go to
    RECOLLECT_CHECKPOINT_URL, else to a Postgres in DIR/postgres that runs as long as the nodes do.
    --restore counts when the cluster is new; one that DIR has already is resumed as it is.

    Examples:

        recollect up

        recollect up --nodes 1 --data ./memories --port 7000

        recollect up --nodes 5 --data ./new --restore latest
    """
    from cluster.supervisor import Shape, supervised

    environment = {**os.environ, "RECOLLECT_RESTORE": restore}
    try:
        with (
            counted_signals() as stop,
            supervised(
                data, Shape(nodes, shards), port=port, environment=environment, restart=restart
            ) as supervisor,
            _postgres(supervisor, wanted=not no_postgres, as_json=as_json) as postgres,
        ):
            _run(supervisor, stop, postgres, as_json=as_json)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@contextlib.contextmanager
def _postgres(
    supervisor: Supervisor, *, wanted: bool, as_json: bool
) -> Iterator[PostgresChild | None]:
    """Run the cluster's own Postgres while the block runs, where it is wanted and possible."""
    from cluster.postgres_child import URL_VARIABLE, postgres_of, running_postgres

    if not wanted or os.environ.get(URL_VARIABLE):
        yield None
        return
    try:
        server = postgres_of(supervisor)
    except CommandFailed as failure:
        told = f"{failure.message} ({failure.hint})"
        _event("no_checkpoints", {"reason": told}, f"No checkpoints: {told}", as_json=as_json)
        yield None
        return
    with running_postgres(server) as child:
        yield child


def _run(
    supervisor: Supervisor,
    stop: StopRequests,
    postgres: PostgresChild | None = None,
    *,
    as_json: bool,
) -> None:
    if not as_json:
        count, folder = supervisor.cluster.nodes, supervisor.cluster.folder
        beside = ", and a Postgres for their checkpoints" if postgres else ""
        _say(f"Starting {count} node{'s' if count > 1 else ''} in {folder}{beside}")
    supervisor.start_all()
    _wait_ready(supervisor, stop, postgres, as_json=as_json)
    if not stop.count:
        _announce(supervisor, postgres, as_json=as_json)
    while not stop.count:
        _watch(supervisor, postgres, as_json=as_json)
    stubborn = supervisor.stop(hurry=lambda: stop.count > 1)
    _event("stopped", {"killed": stubborn}, _stopped(stubborn), as_json=as_json)


def _wait_ready(
    supervisor: Supervisor, stop: StopRequests, postgres: PostgresChild | None, *, as_json: bool
) -> None:
    slow_at_s = time.monotonic() + SLOW_START_S
    warned = False
    while not stop.count:
        _watch(supervisor, postgres, as_json=as_json, starting=True)
        unready = supervisor.unready()
        if supervisor.pids and not unready:
            return
        if not warned and time.monotonic() > slow_at_s:
            warned = True
            reasons = "; ".join(f"{name}: {reason}" for name, reason in unready.items())
            _event("slow", unready, f"Still waiting: {reasons}", as_json=as_json)


def _give_up(supervisor: Supervisor, death: Death) -> None:
    """Refuse to go on without a node that gave up by itself, or without any node."""
    if supervisor.restarts or (death.by_signal and supervisor.pids):
        return
    said = supervisor.last_words(death.name)
    raise CommandFailed(
        f"{death.describe()} before the cluster was ready" + (f": {said}" if said else ""),
        hint=f"read {supervisor.cluster.log_file(death.name)}",
        code="node_failed",
    )


def _watch(
    supervisor: Supervisor,
    postgres: PostgresChild | None,
    *,
    as_json: bool,
    starting: bool = False,
) -> None:
    """Let a moment pass, and report what happened to the nodes and to Postgres."""
    from cluster.supervisor import POLL_S

    time.sleep(POLL_S)
    for death in supervisor.reap():
        if starting:
            _give_up(supervisor, death)
        after = "it will be started again" if supervisor.restarts else "it is left dead"
        facts = {"node": death.name, "pid": death.pid, "returncode": death.returncode}
        _event("died", facts, f"{death.describe()}; {after}", as_json=as_json)
    for name in supervisor.restart_due():
        pid = supervisor.pids[name]
        _event("restarted", {"node": name, "pid": pid}, f"{name} restarted", as_json=as_json)
    if postgres and (told := postgres.watch()):
        _event("postgres", {"problem": told}, told, as_json=as_json)


def _announce(supervisor: Supervisor, postgres: PostgresChild | None, *, as_json: bool) -> None:
    cluster = supervisor.cluster
    if as_json:
        nodes = [
            {"name": name, "url": cluster.url(name), "pid": pid}
            for name, pid in supervisor.pids.items()
        ]
        checkpoints = {"checkpoint_url": postgres.server.url} if postgres else {}
        _event("ready", {"nodes": nodes, **checkpoints}, "", as_json=True)
        return
    from cluster.commands.output import table

    rows = [
        (name, cluster.url(name), str(cluster.peer_port(name)), str(pid), cluster.node_folder(name))
        for name, pid in supervisor.pids.items()
    ]
    _say(table(("Node", "HTTP", "Peers", "Process", "Files"), rows), "Ready")


def _stopped(stubborn: list[str]) -> str:
    return f"Stopped; had to kill {', '.join(stubborn)}" if stubborn else "Stopped"


def _event(kind: str, facts: Mapping[str, Any], sentence: str, *, as_json: bool) -> None:
    """Report one thing: a line of JSON on stdout, or a sentence on stderr."""
    from cluster.commands.output import notice

    with contextlib.suppress(OSError):
        if not as_json:
            notice(sentence)
            return
        import orjson

        sys.stdout.write(orjson.dumps({"event": kind, **facts}).decode() + "\n")
        sys.stdout.flush()


def _say(*parts: object) -> None:
    from cluster.commands.output import show

    with contextlib.suppress(OSError):
        show(*parts)
