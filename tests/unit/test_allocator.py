"""What was freed leaves the process: asked of processes of their own, for the C library is one."""

import subprocess
import sys

import pytest

from storage import allocator

pytestmark = pytest.mark.skipif(
    allocator._glibc() is None, reason="only glibc is set up, and asked to give memory back"
)

RESIDENT = """
from storage import allocator

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20
"""


def printed(code):
    """Run code in a process; return the words that it prints."""
    command = [sys.executable, "-c", RESIDENT + code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_all_is_set_that_the_environment_leaves_open():
    """Who tunes glibc by the environment has it so."""
    arenas, tunables = {"MALLOC_ARENA_MAX": "8"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=8"}

    words = printed(f"print(*allocator.prepare({{}}), '|', *allocator.prepare({arenas!r}), '|')")
    none = printed(f"print(len(allocator.prepare({tunables!r})))")

    assert words == [
        *("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "|"),
        *("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "|"),
    ]
    assert none == ["0"]


def test_large_blocks_go_back_when_they_are_freed():
    """Of what a growing graph lets go nothing stays behind, although smaller blocks lie above."""
    code = """
allocator.prepare({})
kept, blocks = [], [bytearray(9 << 20)]
del blocks[0]  # from here on glibc by itself would keep such blocks
before = resident()
for _ in range(12):
    blocks.append(bytearray(b"x") * (9 << 20))
    kept.append(bytes(1_000_000))
held = resident()
del blocks
print(held - before, resident() - before)
"""
    held, left = map(float, printed(code))

    assert held > 105
    assert left < 15


def test_free_pieces_between_others_are_given_back():
    """What a load leaves in the arenas is no longer the process's when it is given back."""
    code = """
allocator.prepare({})
pieces = [bytes([1]) * 60_000 for _ in range(1_000)]
pieces = pieces[::20]
before = resident()
print(allocator.give_back(), before - resident())
"""
    given, freed = printed(code)

    assert given == "True"
    assert float(freed) > 40
