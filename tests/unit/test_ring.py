"""The ring that says which shard an id belongs to: for ever the same."""

import bisect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ring import POINTS_PER_SHARD, hash_ring, position_of, shard_of, shards_of
from storage.ids import KEYED_TAG, encode_id

ROOT = Path(__file__).parents[2]

GOLDEN = {
    # id: its shard among 1, 3, 12 and 64
    0: [0, 1, 1, 1],
    1: [0, 0, 6, 6],
    2: [0, 0, 10, 55],
    42: [0, 0, 4, 50],
    10**6: [0, 2, 2, 55],
    2**32: [0, 2, 2, 36],
    2**63: [0, 0, 0, 44],
    2**64 - 1: [0, 1, 4, 4],
    "6ba7b810-9dad-11d1-80b4-00c04fd430c8": [0, 1, 8, 53],
    "00000000-0000-0000-0000-000000000000": [0, 1, 1, 1],
    "ffffffff-ffff-ffff-ffff-ffffffffffff": [0, 2, 4, 4],
}


@pytest.mark.parametrize(("point_id", "expected"), GOLDEN.items(), ids=str)
def test_shards_are_golden(point_id, expected):
    """What was stored under a shard is looked for there by every later version."""
    found = [shard_of(encode_id(point_id), shards) for shards in (1, 3, 12, 64)]

    assert found == expected


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_shards_do_not_depend_on_the_process(seed):
    """Python's string hash differs between processes; the ring does not use it."""
    program = (
        "from cluster.ring import shards_of\n"
        "from storage.ids import encode_id\n"
        "print(shards_of([encode_id(n) for n in range(200)], 12).tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": seed},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == str(shards_of([encode_id(n) for n in range(200)], 12).tolist())


KEYS = st.binary(min_size=1, max_size=20).filter(lambda key: key[0] != KEYED_TAG)
"""Bytes of which the whole decides: no shard key is looked for in them."""


@given(st.lists(KEYS, max_size=50), st.sampled_from([1, 2, 5, 12]))
def test_lookup_is_that_of_the_ring_itself(keys, shards):
    """The fast lookup finds what uhashring finds, which walks to the next point."""
    ring = hash_ring([str(shard) for shard in range(shards)], POINTS_PER_SHARD)
    points = ring.get_points()
    places = [place for place, _ in points]
    slow = [int(points[bisect.bisect(places, position_of(key)) % len(points)][1]) for key in keys]

    assert shards_of(keys, shards).tolist() == slow


def test_the_last_point_is_followed_by_the_first():
    """A key behind the last point belongs to the first: it is a ring."""
    points = hash_ring(["0", "1", "2"], POINTS_PER_SHARD).get_points()
    behind = next(
        key
        for key in (str(n).encode() for n in range(100_000))
        if position_of(key) >= points[-1][0]
    )

    assert shard_of(behind, 3) == int(points[0][1])


@pytest.mark.parametrize("shards", [2, 12, 64])
def test_shards_are_of_similar_size(shards):
    """150 points a shard keep the largest shard within a quarter of the average."""
    counts = np.bincount(shards_of([encode_id(n) for n in range(50_000)], shards), minlength=shards)

    assert counts.max() <= 1.25 * counts.mean()
    assert counts.min() >= 0.75 * counts.mean()


def test_no_ids_have_no_shards():
    """An empty batch is answered with an empty array."""
    assert shards_of([], 12).tolist() == []
