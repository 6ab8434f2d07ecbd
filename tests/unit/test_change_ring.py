"""Changes on their way to workers: whole, in order, each once, or there is no room for them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.workers.change_ring import ChangeRing
from cluster.workers.shared_state import SharedState

SIZE = 256


def ring_of(*readers, size=SIZE):
    ring = ChangeRing(SharedState(), size)
    for reader in readers:
        ring.admit(reader)
    return ring


def test_without_readers_nothing_is_kept():
    """What nobody reads takes no room."""
    ring = ring_of()

    assert not ring.is_read
    assert all(ring.append(b"x" * 200) for _ in range(10))
    ring.admit(3)
    assert list(ring.read(3)) == []


def test_a_reader_finds_what_came_after_it_was_admitted():
    """Each record once, in order."""
    ring = ring_of(0)
    ring.append(b"first")
    ring.admit(1)
    ring.append(b"second")

    assert list(ring.read(0)) == [b"first", b"second"]
    assert list(ring.read(1)) == [b"second"]
    assert list(ring.read(0)) == []


def test_one_that_is_behind_leaves_no_room_until_it_goes():
    """The writer is told, and never waits; what is unread stays as it was."""
    ring = ring_of(0, 1)
    written = 0
    while ring.append(b"%04d" % written):
        written += 1
        assert written * 4 < SIZE
    assert len(list(ring.read(1))) == written

    assert not ring.append(b"more")
    assert list(ring.read(0)) == [b"%04d" % each for each in range(written)]
    assert ring.append(b"more")
    ring.dismiss(0)
    for _ in range(100):
        assert ring.append(b"y" * 50)
        assert list(ring.read(1))[-1] == b"y" * 50


def test_a_record_that_is_not_whole_is_not_read_yet():
    """Where a processor shows the length before the rest, the rest is waited for."""
    ring = ring_of(0)
    ring.append(b"whole")
    kept = bytes(ring._memory[8:13])
    ring._memory[8:13] = b"xxxxx"

    assert list(ring.read(0)) == []
    ring._memory[8:13] = kept
    assert list(ring.read(0)) == [b"whole"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 90), st.integers(0, 1)), max_size=200))
def test_any_order_of_writing_and_reading(steps):
    """Two readers get just what was accepted, wherever records wrap around."""
    ring = ring_of(0, 1)
    expected: dict[int, list[bytes]] = {0: [], 1: []}
    found: dict[int, list[bytes]] = {0: [], 1: []}
    for number, (reads, length, reader) in enumerate(steps):
        if reads:
            found[reader] += ring.read(reader)
        else:
            record = bytes([number % 251]) * length
            if ring.append(record):
                for each in expected.values():
                    each.append(record)
    for reader in found:
        found[reader] += ring.read(reader)

    assert found == expected
