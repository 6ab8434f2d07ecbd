"""Which TCP ports of this machine are taken. Asked before a process is started that needs them.

A port is tried with SO_REUSEADDR, as servers open theirs: a connection that lingers from a
cluster which just ended does not count, a listener does.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterable
from typing import Final

PEER_OFFSET: Final = 1000
_TRIES: Final = 200
# Below the ports that Linux and BSD give to outgoing connections.
_LOWEST_BASE: Final = 10_000
_HIGHEST_BASE: Final = 30_000


def cluster_ports(base: int, nodes: int) -> list[int]:
    """Return every port of a local cluster: HTTP on base+k and peers on base+1000+k."""
    numbers = range(1, nodes + 1)
    return [base + k for k in numbers] + [base + PEER_OFFSET + k for k in numbers]


def taken(ports: Iterable[int], host: str = "127.0.0.1") -> list[int]:
    """Return those of `ports` that something listens on already, in order."""
    return [port for port in ports if not _free(port, host)]


def free_base(nodes: int, rng: random.Random) -> int:
    """Return a base whose ports are all free now.

    Raises:
        OSError: no such base was found.
    """
    for _ in range(_TRIES):
        base = rng.randrange(_LOWEST_BASE, _HIGHEST_BASE, 10)
        if not taken(cluster_ports(base, nodes)):
            return base
    raise OSError(errno.EADDRINUSE, f"no {2 * nodes} free ports found")


def _free(port: int, host: str) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True
