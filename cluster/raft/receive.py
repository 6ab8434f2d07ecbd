"""The receive filter: what of a message may reach pysyncobj's core, and in what form. Pure.

`admit_append` and its siblings map (message, what this replica holds) to a verdict. Stock
pysyncobj truncates a follower's log on every append, not only on a conflict (D3), lets a
message move the commit index over entries that nobody compared (D2), counts acks of older terms
(D12) and votes twice (D16); here each message is rewritten into one for which the stock code is
right, or refused.

The rules are those of the Raft paper, figure 2, "AppendEntries RPC": delete only what
conflicts, append only what is missing, commit at most what this message has proved equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from cluster.raft.log import NO_OP
from cluster.raft.messages import Ack, Append


class LogView(Protocol):
    """What the filter may know of the log."""

    @property
    def base_index(self) -> int:
        """Index of the last entry that is not in the log any more."""

    @property
    def last_index(self) -> int:
        """Index of the last entry."""

    @property
    def last_term(self) -> int:
        """Term of the last entry."""

    def term_at(self, index: int) -> int | None:
        """Return the term of an entry, or None when it is not here."""


class LogMatchingViolated(Exception):
    """A leader contradicts an entry that is committed here: this replica must stop."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Not for the core."""

    reason: str


@dataclass(frozen=True, slots=True)
class Nack:
    """Tell the leader that `rejected` is not here; the core only hears a heartbeat."""

    rejected: int
    hint: int


@dataclass(frozen=True, slots=True)
class Accept:
    """Give `message` to the core; it proves the log equal up to `matched`."""

    message: Append
    matched: int


def admit_append(message: Append, log: LogView, commit_index: int) -> Refuse | Nack | Accept:
    """Decide on entries from a leader of a term not below ours.

    Raises:
        LogMatchingViolated: the message conflicts with a committed entry.
    """
    problem = malformed(message)
    if problem:
        return Refuse(problem)
    if message.prev_index > log.last_index:
        return Nack(message.prev_index, log.last_index + 1)
    asked_index = message.prev_index
    message = _above_base(message, log)
    if log.term_at(message.prev_index) != message.prev_term:
        if message.prev_index <= commit_index:
            raise LogMatchingViolated(f"entry {message.prev_index} has another term at the leader")
        return Nack(asked_index, _skip_back(message.prev_index, log, commit_index))
    return _without_known(message, log, commit_index)


class Room(LogView, Protocol):
    """A log that can say whether it takes more."""

    def admits(self, commands: Sequence[bytes]) -> bool:
        """Whether there is room for entries with these commands."""


def fitting(message: Append, log: Room) -> Append:
    """Return the message without those entries at its end that there is no room for.

    An entry that begins a term of office needs none: nothing could be committed without it.
    """
    carrying = (entry for entry in message.entries if entry[0] != NO_OP)
    new = [entry for entry in carrying if log.term_at(entry[1]) != entry[2]]
    count = len(new)
    while count and not log.admits([entry[0] for entry in new[:count]]):
        count //= 2
    if count == len(new):
        return message
    kept = [entry for entry in message.entries if entry[1] < new[count][1]]
    return replace(message, entries=kept)


def malformed(message: Append) -> str:
    """Say what is wrong with an append in itself; empty when nothing is."""
    index, term = message.prev_index, message.prev_term
    for command, entry_index, entry_term in message.entries:
        if entry_index != index + 1 or entry_term < term or not command:
            return f"entry {entry_index} does not follow {index}"
        index, term = entry_index, entry_term
    if term > message.term:
        return f"an entry of term {term} from a leader of term {message.term}"
    return ""


def _above_base(message: Append, log: LogView) -> Append:
    """Drop what lies at or below the base: it is committed, hence equal already."""
    if message.prev_index >= log.base_index:
        return message
    base_term = log.term_at(log.base_index)
    assert base_term is not None, "the base is in the log"
    kept = [entry for entry in message.entries if entry[1] > log.base_index]
    return replace(message, prev_index=log.base_index, prev_term=base_term, entries=kept)


def _skip_back(index: int, log: LogView, commit_index: int) -> int:
    """Go back over the whole conflicting term at once, never below what is committed."""
    term = log.term_at(index)
    while index - 1 > log.base_index and log.term_at(index - 1) == term:
        index -= 1
    return max(index, commit_index + 1)


def _without_known(message: Append, log: LogView, commit_index: int) -> Accept:
    """Strip entries that are here already; keep from the first new or conflicting one on.

    When nothing is left the core gets a heartbeat that names our own last entry as previous, so
    that it truncates nothing; the commit index it may take is clamped to what was proved.
    """
    matched = message.prev_index + len(message.entries)
    commit = min(message.commit_index, matched)
    known = 0
    for _, index, term in message.entries:
        if log.term_at(index) != term:
            break
        known += 1
    fresh = message.entries[known:]
    if not fresh:
        message = replace(
            message,
            prev_index=log.last_index,
            prev_term=log.last_term,
            entries=[],
            commit_index=commit,
        )
        return Accept(message, matched)
    if fresh[0][1] <= commit_index:
        raise LogMatchingViolated(f"entry {fresh[0][1]} is committed here with another term")
    if known:
        _, prev_index, prev_term = message.entries[known - 1]
        message = replace(message, prev_index=prev_index, prev_term=prev_term)
    return Accept(replace(message, entries=fresh, commit_index=commit), matched)


def admit_ack(ack: Ack, *, term: int, last_index: int) -> str:
    """Say why a follower's answer must not count for a leader of `term`; empty when it may."""
    if ack.term != term:
        return f"ack of term {ack.term} in term {term}"  # D12
    if ack.matched > last_index:
        return f"ack up to {ack.matched} of a log that ends at {last_index}"  # D5
    return ""
