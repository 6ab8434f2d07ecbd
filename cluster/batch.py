"""A request's commands: its items grouped by shard, and split below the command limit. Pure.

The share of one shard is one command unless it exceeds `command_bytes_max`; the commands of a
shard are proposed in order, each all or nothing.

What comes out depends on the request alone, and so do the request ids derived from it: a retry,
also one through another node, repeats the same commands under the same ids, and each is applied
once. Commands whose ids were found by a filter are different: a retry finds other ids, so a
number would name something else the second time. Their request ids carry a digest of the content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple, TypeVar

from cluster.command import DIGEST_MARK, Body, encode_body
from cluster.ring import shards_of

FRAMING_BYTES: Final = 24
"""Upper bound of msgpack's own bytes around one item of a command."""
_ENVELOPE_BYTES: Final = 256
"""Upper bound of what surrounds the items: tags, uid, time, list header, end of the part id."""

ItemType = TypeVar("ItemType")


class Share(NamedTuple):
    """What a request does in one shard: (request id, encoded body) of each command, in order."""

    shard: int
    parts: list[tuple[str, bytes]]


class Splitting(NamedTuple):
    """How a request becomes commands. `by_content`: part ids carry a digest, not a number.

    `request_digest` says what the request asks for, "" when its id is used for nothing else.
    """

    shards: int
    command_bytes_max: int
    request_id: str
    by_content: bool = False
    request_digest: str = ""

    def budget(self, fixed_bytes: int = 0) -> int:
        """Return the bytes that the items of one command may have beside `fixed_bytes`."""
        surrounding = _ENVELOPE_BYTES + len(self.request_id.encode()) + len(self.request_digest)
        return self.command_bytes_max - surrounding - fixed_bytes

    def part_id(self, shard: int, number: int, encoded: bytes) -> str:
        """Return the request id of one command."""
        part = blake2b(encoded, digest_size=16).hexdigest() if self.by_content else str(number)
        name = f"{self.request_id}:{shard}:{part}"
        return f"{name}{DIGEST_MARK}{self.request_digest}" if self.request_digest else name


def split(
    items: Sequence[ItemType],
    ids: Sequence[bytes],
    sizes: Sequence[int],
    body: Callable[[list[ItemType]], Body],
    splitting: Splitting,
    *,
    fixed_bytes: int = 0,
) -> list[Share]:
    """Return each shard's commands, by ascending shard.

    `ids` and `sizes` are the items' canonical ids and their upper bounds in bytes; `body` makes
    a command of some items, `fixed_bytes` of it whatever the items are.
    """
    assert len(items) == len(ids) == len(sizes), "an id and a size for each item"
    groups: dict[int, list[int]] = {}
    for at, shard in enumerate(shards_of(ids, splitting.shards).tolist()):
        groups.setdefault(shard, []).append(at)
    budget = splitting.budget(fixed_bytes)
    shares = []
    for shard in sorted(groups):
        chunks = _chunks(groups[shard], sizes, budget)
        bodies = [encode_body(body([items[at] for at in chunk])) for chunk in chunks]
        parts = [
            (splitting.part_id(shard, number, encoded), encoded)
            for number, encoded in enumerate(bodies)
        ]
        shares.append(Share(shard, parts))
    return shares


def _chunks(places: Sequence[int], sizes: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield runs of places whose sizes add up to at most `budget`."""
    chunk: list[int] = []
    filled = 0
    for at in places:
        assert sizes[at] <= budget, "what exceeds a command was refused before"
        if filled + sizes[at] > budget:
            yield chunk
            chunk, filled = [], 0
        chunk.append(at)
        filled += sizes[at]
    if chunk:
        yield chunk
