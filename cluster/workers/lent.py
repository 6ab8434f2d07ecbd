"""The connections that a worker was lent: read from, written to, given back.

A connection is read from as long as nothing is unanswered on it, so what a client sends ahead waits
in the kernel. A client that takes an answer slowly is written to when it takes more.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from typing import Final

from cluster.api.protocol import PATIENCE

PATIENCE_MAX: Final = 4096
RARE: Final = 16
"""So many times as many answers as it was watched for make up for one refusal."""
READ_BYTES: Final = 128 * 1024
"""More than a request that a worker answers has, and less than a packet of the channel."""


class Connection:
    """A connection that was lent."""

    __slots__ = ("answers", "events", "patience", "since_s", "socket", "unread", "unsent")

    def __init__(self, lent: socket.socket, unread: bytes, patience: int, now_s: float) -> None:
        self.socket = lent
        self.unread = unread
        """What came and is not answered."""
        self.unsent = b""
        self.patience = patience
        """For how many quick searches the node has watched it."""
        self.answers = 0
        self.since_s = now_s
        """When it was lent, or answered last: how slowly a request comes is the node's affair."""
        self.events = 0
        """What the selector watches it for."""

    def was_refused(self) -> None:
        """A request came that is not for workers: it is watched for longer, if that is not rare."""
        if self.answers >= RARE * self.patience:
            self.patience = PATIENCE
        else:
            self.patience = min(2 * self.patience, PATIENCE_MAX)


class Connections:
    """All of them, by descriptor, with the selector that watches them."""

    def __init__(self, poll: select.epoll) -> None:
        self._poll = poll
        self._lent: dict[int, Connection] = {}
        self.closed = 0
        """How many were closed since somebody counted."""

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._lent.values()))

    def find(self, descriptor: int) -> Connection | None:
        """Return the connection of a descriptor, if there is one still."""
        return self._lent.get(descriptor)

    def add(self, connection: Connection) -> None:
        """Take a connection; nothing is read from it before `watch`."""
        connection.socket.settimeout(0.0)
        self._lent[connection.socket.fileno()] = connection

    def watch(self, connection: Connection, events: int = select.EPOLLIN) -> None:
        """Be told when there is something to read, or room to write; 0: be told nothing."""
        if events == connection.events:
            return
        descriptor = connection.socket.fileno()
        if not connection.events:
            self._poll.register(descriptor, events)
        elif events:
            self._poll.modify(descriptor, events)
        else:
            self._poll.unregister(descriptor)
        connection.events = events

    def read(self, connection: Connection) -> bool:
        """Read what is there; False: there is nothing new."""
        try:
            piece = connection.socket.recv(READ_BYTES - len(connection.unread))
        except BlockingIOError:
            return False
        except OSError:
            piece = b""
        if not piece:
            self.close(connection)
            return False
        connection.unread += piece
        return True

    def answer(self, connection: Connection, response: bytes, now_s: float) -> None:
        """Send an answer, as far as its client takes it now."""
        connection.since_s = now_s
        connection.unread = b""
        connection.answers += 1
        connection.unsent = response
        self.send(connection, now_s)

    def send(self, connection: Connection, now_s: float) -> None:
        """Send more of an answer."""
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close(connection)
            return
        if sent:
            connection.since_s = now_s
        connection.unsent = connection.unsent[sent:]
        self.watch(connection, select.EPOLLOUT if connection.unsent else select.EPOLLIN)

    def flush(self, connection: Connection, patience_s: float = 0.0) -> bool:
        """Send the rest of an answer; False: its client does not take it, and it is closed."""
        if not connection.unsent:
            return True
        connection.socket.settimeout(patience_s)
        try:
            connection.socket.sendall(connection.unsent)
        except OSError:
            self.close(connection)
            return False
        connection.unsent = b""
        return True

    def close(self, connection: Connection) -> None:
        """Its client has gone."""
        self.forget(connection)
        self.closed += 1

    def forget(self, connection: Connection) -> None:
        """Let go of the descriptor; where the node has it again, the connection goes on."""
        self.watch(connection, 0)
        del self._lent[connection.socket.fileno()]
        connection.socket.close()
