"""What replicas of a group say to each other.

Fields are checked for type and range when a frame is decoded, so the code behind never meets a
string where an index belongs. Every message carries the sender's term: an acknowledgement
without one is how a stale ack of an older term gets counted (D12).

`round` numbers the leader's broadcasts within its term; a follower echoes the round it answers,
which is the proof of leadership that ReadIndex needs (Raft thesis, section 6.4).
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

Natural = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Entry = tuple[bytes, Natural, Natural]
"""(command with its type byte, index, term): the shape of pysyncobj's own log entries."""


class Manifest(msgspec.Struct, frozen=True):
    """A snapshot on offer: the state after `index`, as `size` bytes of digest `sha256`."""

    index: Natural
    term: Natural
    size: Natural
    sha256: bytes


class Append(msgspec.Struct, tag="append", frozen=True):
    """Leader to follower: entries after (prev_index, prev_term), and how far is committed."""

    term: Natural
    commit_index: Natural
    prev_index: Natural
    prev_term: Natural
    entries: list[Entry]
    round: Natural


class Offer(msgspec.Struct, tag="offer", frozen=True):
    """Leader to a follower whose next entry is no longer in the log. A heartbeat as well;
    `manifest` is None while the snapshot is being made."""

    term: Natural
    round: Natural
    manifest: Manifest | None


class Ack(msgspec.Struct, tag="ack", frozen=True):
    """Follower to leader. `matched`: all up to it is durable here and equal to the leader's log
    (0: nothing was proved); `rejected`: the previous index that was asked for and is not here
    (0: none), `hint` is where to go on from. `full`: entries were dropped for want of room."""

    term: Natural
    round: Natural
    matched: Natural = 0
    rejected: Natural = 0
    hint: Natural = 0
    full: bool = False


class RequestVote(msgspec.Struct, tag="vote", frozen=True):
    """Candidate to all."""

    term: Natural
    last_index: Natural
    last_term: Natural


class Vote(msgspec.Struct, tag="voted", frozen=True):
    """A granted vote."""

    term: Natural


class RequestPreVote(msgspec.Struct, tag="prevote", frozen=True):
    """Would you vote for me in `term`? Changes nobody's state (Raft thesis, section 9.6)."""

    term: Natural
    last_index: Natural
    last_term: Natural


class PreVote(msgspec.Struct, tag="prevoted", frozen=True):
    """Answer to a pre-vote for `asked_term`; `term` is the voter's own."""

    term: Natural
    asked_term: Natural
    granted: bool


class TimeoutNow(msgspec.Struct, tag="timeout_now", frozen=True):
    """Leader to its chosen successor: stand for election at once (thesis, section 3.10)."""

    term: Natural


class Pull(msgspec.Struct, tag="pull", frozen=True):
    """Follower to leader: the snapshot's bytes from `offset` on, please."""

    sha256: bytes
    offset: Natural


class Chunk(msgspec.Struct, tag="chunk", frozen=True):
    """A piece of a snapshot."""

    sha256: bytes
    offset: Natural
    data: bytes


Message = (
    Append | Offer | Ack | RequestVote | Vote | RequestPreVote | PreVote | TimeoutNow | Pull | Chunk
)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def to_wire(message: Message) -> bytes:
    """Return the message as msgpack."""
    return _encoder.encode(message)


def from_wire(raw: Any) -> Message:
    """Check and rebuild a message.

    Raises:
        msgspec.MsgspecError: `raw` is not one of our messages.
    """
    if not isinstance(raw, bytes):
        raise msgspec.ValidationError("a message is bytes")
    message: Message = _decoder.decode(raw)
    return message
