"""Which shard an id, or the key it was written under, belongs to: a consistent-hash ring.

The points of the ring are uhashring's; both they and the keys are hashed with blake2b to 64
bits, so that placement is the same in every process and for every PYTHONHASHSEED. A key belongs
to the first point *after* its own position, the last point being followed by the first, as in
uhashring's own `get_node`; here the lookup is a binary search in arrays that are made once per
number of shards, because a batch brings ten thousand ids at a time.

Of an identity that has a key the key alone is hashed: all that was written under one key lies in
one shard, that of the key's own canonical bytes.

The number of shards is fixed when a cluster is formed. Everything stored depends on this
function: changing it, the number of points or the names of the shards loses data.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import numpy as np
from uhashring import HashRing

from storage.ids import routing_bytes

POINTS_PER_SHARD: Final = 150

Positions = np.ndarray[tuple[int], np.dtype[np.uint64]]
Shards = np.ndarray[tuple[int], np.dtype[np.int64]]


def position_of(key: bytes) -> int:
    """Return the place of a key on the ring, 0..2^64-1: its blake2b hash of 8 bytes."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def hash_ring(names: Sequence[str], points: int) -> HashRing:
    """Return the uhashring ring of `names`, each at `points` places."""
    return HashRing(
        nodes=list(names), vnodes=points, hash_fn=lambda key: position_of(str(key).encode())
    )


def shard_of(canonical_id: bytes, shards: int) -> int:
    """Return the shard, 0..shards-1, that an id or a key in canonical bytes belongs to."""
    return int(shards_of([canonical_id], shards)[0])


def shards_of(canonical_ids: Sequence[bytes], shards: int) -> Shards:
    """Return the shard of each id, as int64[n]."""
    positions, owners = _points(shards)
    digests = b"".join(
        blake2b(routing_bytes(each), digest_size=8).digest() for each in canonical_ids
    )
    keys = np.frombuffer(digests, dtype=">u8").astype(np.uint64)
    found = np.searchsorted(positions, keys, side="right")
    found[found == len(positions)] = 0
    return owners[found]


@lru_cache(maxsize=16)
def _points(shards: int) -> tuple[Positions, Shards]:
    assert shards > 0, "a cluster has at least one shard"
    ring = hash_ring([str(shard) for shard in range(shards)], POINTS_PER_SHARD)
    points = ring.get_points()
    positions = np.array([position for position, _ in points], dtype=np.uint64)
    owners = np.array([int(name) for _, name in points], dtype=np.int64)
    assert len(points) == shards * POINTS_PER_SHARD, "no two points share a place"
    assert bool(np.all(positions[1:] > positions[:-1])), "points are in order"
    return positions, owners
