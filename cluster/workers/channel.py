"""Between a node and one search worker: connections with what was read of them, in both ways.

One message is one packet of a socket pair (SOCK_SEQPACKET), so it comes whole or not at all; the
descriptor of the connection that it is about comes with it. The node ends a worker's work by
closing its sending side, which the worker sees when it has read all that was lent before. So no
connection is lost between the two while both live and have descriptors for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Final

import msgspec

MESSAGE_BYTES_MAX: Final = 160 * 1024
"""A kernel takes 208 KiB at a time unless it is told otherwise."""


class Lent(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """To a worker, with a connection: the bytes that were read of its next request."""

    unread: bytes
    patience: int
    """How many quick searches it was watched for before it was lent."""


class Ready(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """To the node: connections may be lent."""


class Back(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """To the node, with a connection: the bytes that were read and not answered."""

    unread: bytes
    patience: int
    is_moving: bool
    """Whether another worker may have it: this one ends. Else it is the node's: its request is not
    for workers, or replicas are not fresh, or it has been idle for long."""


class Report(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """To the node: what came up since the last report."""

    served: dict[str, list[float]]
    """By route, how long each answer took, in seconds."""
    closed: int = 0
    """Connections whose clients have gone."""
    samples: list[tuple[int, bytes]] = []
    """Queries by which the width of searches is measured: index, float32 vector."""
    to_gather: list[tuple[int, bytes]] = []
    """Filters whose rows are worth gathering: index, JSON text."""
    to_make: list[tuple[int, bytes]] = []
    """Filters that are worth a graph of their own: index, JSON text."""
    searched: list[int] = []
    """Indexes that were searched: their rows are built, so that searches compare few."""


class Needed(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """To the node: the points of an index whose payloads an answer shows, with their shards."""

    number: int
    uid: int
    points: list[tuple[bytes, int]]


class Payloads(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """To a worker: what it needed, as (id, version, JSON); None: it does not fit into a message.

    A point that is missing is not there any more.
    """

    number: int
    rows: list[tuple[bytes, int, bytes]] | None
    shown: dict[int, int]
    """Up to which log index of each shard they may be."""


class Leaving(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """To the node: the copy is of no use any more; what is still lent comes back."""


Message = Lent | Ready | Back | Report | Needed | Payloads | Leaving

_BUFFER_BYTES: Final = 1 << 20
"""As much of it as the kernel allows."""
_DESCRIPTORS_MAX: Final = 1 << 20
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Message)


class MessageTooLarge(OSError):
    """A message does not fit into a packet."""


class Channel:
    """One side of a pair."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return the two sides."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (ours, theirs):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        return cls(ours), cls(theirs)

    @property
    def descriptor(self) -> int:
        """What a selector watches."""
        return self._socket.fileno()

    def set_blocking(self, *, blocking: bool) -> None:
        """Let `send` and `receive` wait, or raise BlockingIOError where they would."""
        self._socket.setblocking(blocking)

    def send(self, message: Message, descriptor: int | None = None) -> None:
        """Send a message, with a connection.

        Raises:
            MessageTooLarge: it does not fit into a packet.
            OSError: it cannot be sent, or not now.
        """
        raw = _encoder.encode(message)
        if len(raw) > MESSAGE_BYTES_MAX:
            raise MessageTooLarge(errno.EMSGSIZE, f"{len(raw)} bytes")
        if descriptor is None:
            self._socket.send(raw)
        else:
            socket.send_fds(self._socket, [raw], [descriptor])

    def receive(self) -> tuple[Message, socket.socket | None] | None:
        """Return the next message and its connection; None: the other side has ended.

        A connection is lost when this process has no descriptor for it. Raises BlockingIOError when
        there is no message now.
        """
        try:
            raw, descriptors, _, _ = socket.recv_fds(self._socket, MESSAGE_BYTES_MAX, 1)
        except ConnectionError:
            # That the other side has died is said once, before what it had sent.
            raw, descriptors, _, _ = socket.recv_fds(self._socket, MESSAGE_BYTES_MAX, 1)
        if not raw:
            return None
        connection = socket.socket(fileno=descriptors[0]) if descriptors else None
        return _decoder.decode(raw), connection

    def end(self) -> None:
        """Send nothing more; what the other side sends is still read."""
        with contextlib.suppress(OSError):  # it may have gone already
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End both ways."""
        self._socket.close()

    def alone(self) -> None:
        """Close every other descriptor of this process; in a forked one, which shares them all."""
        kept = self.descriptor
        os.closerange(3, kept)
        os.closerange(kept + 1, _DESCRIPTORS_MAX)
