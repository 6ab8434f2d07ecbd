"""`recollect serve`: one node, as a container or `recollect up` runs it; or patterns in Postgres.

It refuses what would be dangerous later: an address that others can reach without a key and a
secret, and an interpreter that skips assertions, because they guard the data.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.errors import CommandFailed, RecollectError
from storage.allocator import prepare

if TYPE_CHECKING:
    from cluster.config import Config


def serve(
    node_id: Annotated[
        str | None, typer.Option(help="This node's name.", show_default="NODE_ID, or node1")
    ] = None,
    cluster_nodes: Annotated[
        str | None,
        typer.Option(
            help="name=host:port of every node's peer port.", show_default="CLUSTER_NODES"
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of this node.", show_default="RECOLLECT_DATA_DIR")
    ] = None,
    http_host: Annotated[
        str | None, typer.Option(help="Address of the HTTP API.", show_default="127.0.0.1")
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Port of the HTTP API.", show_default="5001")
    ] = None,
    peer_host: Annotated[
        str | None, typer.Option(help="Address of the peer port.", show_default="127.0.0.1")
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Allow any address without a key and a peer secret."),
    ] = False,
    parent_pid: Annotated[int | None, typer.Option(hidden=True)] = None,
    parent_pipe: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run one node until SIGTERM or Ctrl-C.

    Every setting can come from the environment: `recollect config` lists them. On an address
    that is not loopback, RECOLLECT_API_KEY and RECOLLECT_PEER_SECRET are required.
    With RECOLLECT_BACKEND=postgres this is no node: it serves patterns, which live in the Postgres
    of RECOLLECT_CHECKPOINT_URL.

    Examples:

        recollect serve

        NODE_ID=node2 CLUSTER_NODES=node1=10.0.0.1:6001,node2=10.0.0.2:6001
        RECOLLECT_API_KEY=... RECOLLECT_PEER_SECRET=...
        recollect serve --http-host 0.0.0.0 --peer-host 0.0.0.0

        RECOLLECT_BACKEND=postgres RECOLLECT_CHECKPOINT_URL=postgresql://... recollect serve
    """
    _tie(parent_pid, parent_pipe)
    config = _settings(
        node_id=node_id,
        cluster_nodes=cluster_nodes,
        data_dir=data,
        http_host=http_host,
        http_port=http_port,
        peer_host=peer_host,
        insecure=insecure or None,
    )
    refuse_optimized(sys.flags.optimize)
    refuse_exposed(config)
    _log_to_stderr()
    _run(config)


def refuse_optimized(level: int) -> None:
    """Refuse to serve when the interpreter skips assertions (`python -O`, PYTHONOPTIMIZE)."""
    if level:
        raise CommandFailed(
            "a node does not run under python -O, which skips the checks that guard its data",
            hint="start it without -O and without PYTHONOPTIMIZE",
            code="optimized_interpreter",
        )


def exposure(config: Config) -> str:
    """Return what is dangerous about a node's addresses: a clause, empty when nothing is.

    An address that others can reach needs a key and a peer secret, unless it was asked for. What
    is no node has no peers.
    """
    hosts = {"http_host": config.http_host}
    secrets = {"RECOLLECT_API_KEY": config.api_key}
    if config.backend == "cluster":
        hosts["peer_host"] = config.peer_host
        secrets["RECOLLECT_PEER_SECRET"] = config.peer_secret
    exposed = [f"{name} {host!r}" for name, host in hosts.items() if not _is_loopback(host)]
    missing = [variable for variable, value in secrets.items() if not value]
    if config.insecure or not exposed or not missing:
        return ""
    verb = "are" if len(missing) > 1 else "is"
    return (
        f"{' and '.join(exposed)} can be reached by others, but "
        f"{' and '.join(missing)} {verb} not set"
    )


def refuse_exposed(config: Config) -> None:
    """Refuse to serve when `exposure` has something to say."""
    danger = exposure(config)
    if danger:
        raise CommandFailed(
            danger, hint="set them, use 127.0.0.1, or pass --insecure", code="insecure_address"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _settings(**overrides: object) -> Config:
    from cluster.config import Config

    try:
        return Config.from_env(os.environ, **overrides)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _tie(parent_pid: int | None, parent_pipe: int | None) -> None:
    if parent_pid is not None:
        from cluster.parent_death import end_with

        end_with(parent_pid, parent_pipe)


def _log_to_stderr() -> None:
    line = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s")
    line.converter = time.gmtime
    line.datefmt = "%Y-%m-%dT%H:%M:%S"
    handler = logging.StreamHandler()
    handler.setFormatter(line)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _run(config: Config) -> None:
    import uvloop

    prepare(os.environ)
    try:
        uvloop.run(_serving(config))
    except (RecollectError, OSError) as error:
        raise CommandFailed(f"the node cannot run: {error}", code="node_failed") from None
    except Exception as error:
        logging.getLogger("recollect.node").exception("the node failed")
        raise CommandFailed(f"the node failed: {_cause(error)}", code="node_failed") from None


def _serving(config: Config) -> Coroutine[Any, Any, None]:
    if config.backend == "postgres":
        from cluster.pattern_server import run_pattern_server

        return run_pattern_server(config)
    from cluster.node import run_node

    return run_node(config)


def _cause(error: BaseException) -> BaseException:
    """Return what a group of one says nothing about: the error in it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
