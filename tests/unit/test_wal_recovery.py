"""What the write-ahead log gives back: segments, batches, votes and entries, after any end."""

from __future__ import annotations

import random

import pytest

from cluster.raft.wal_format import CorruptLog
from tests.raft_logs import (
    leader_of,
    opened,
    sync,
)
from tests.simulation.faulty_disk import FaultyDisk


def test_batches_are_written_one_at_a_time() -> None:
    """Batch n + 1 names n as synced: a torn tail is one batch, never two."""
    net = leader_of()
    node = net.nodes["A"]
    node.group().propose(b"k=1")
    node.host.touch(1)
    first = node.host.ready().persist
    assert first is not None
    node.group().propose(b"k=2")
    node.host.touch(1)
    assert node.host.ready().persist is None
    node.wal.write(first)
    node.host.synced(first.sequence)
    second = node.host.ready().persist
    assert second is not None
    assert second.sequence == first.sequence + 1


def test_what_a_killed_process_left_unsynced_is_durable_before_it_is_believed() -> None:
    """It stands in the page cache: read and acted upon, then lost with the power."""
    disk = FaultyDisk()
    wal, log = opened(disk)
    log.setCurrentTerm(3, "B")
    batch = wal.take()
    assert batch is not None
    disk.write(batch.segment, batch.offset, batch.data)
    assert opened(disk)[1].getVotedForNodeId() == "B"
    for file in disk.files.values():
        file.pending.clear()
        file.cached[:] = file.durable
    assert opened(disk)[1].getVotedForNodeId() == "B"


def in_three_segments() -> tuple[FaultyDisk, list[str]]:
    """A disk whose first segment holds an entry in one batch, and the others votes alone."""
    disk = FaultyDisk()
    wal, log = opened(disk)
    log.add(b"c" * 1960, 2, 1)
    sync(wal, log)
    term = 1
    while len(wal.segments) < 3:
        term += 1
        log.setCurrentTerm(term, "B" * 50)
        sync(wal, log)
    return disk, [segment.name for segment in wal.segments]


def test_a_segment_of_votes_alone_is_missed() -> None:
    """D20: no gap between entries would betray it."""
    disk, names = in_three_segments()
    disk.remove(names[1])
    with pytest.raises(CorruptLog):
        opened(disk)


def test_the_first_segment_cannot_be_taken_for_an_unused_one() -> None:
    """D20: a crash leaves a segment without a good batch at the end of the log, nowhere else."""
    disk, names = in_three_segments()
    first = disk.files[names[0]]
    for image in (first.cached, first.durable):
        image[100] ^= 1
    with pytest.raises(CorruptLog):
        opened(disk)


def test_a_torn_tail_leaves_nothing_behind() -> None:
    """D20: a shorter batch in its place must not end before something that looks like one."""
    disk = FaultyDisk()
    wal, log = opened(disk)
    log.add(b"c" * 10, 2, 1)
    sync(wal, log)
    for index, size in ((3, 10), (4, 200)):
        log.add(b"t" * size, index, 1)
    torn = wal.take()
    assert torn is not None
    disk.write(torn.segment, torn.offset + 100, torn.data[100:])
    opened(disk)
    for image in (disk.files[torn.segment].cached, disk.files[torn.segment].durable):
        assert not any(image[torn.offset :])


def test_entries_above_the_base_keep_their_segments() -> None:
    """Whatever their number."""
    disk = FaultyDisk()
    wal, log = opened(disk)
    for index in range(2, 60):
        log.add(b"c" * 200, index, 1)
        sync(wal, log)
        log.compact(min(10, log.durable_index))
    assert opened(disk)[1][:] == log[:]


def test_indexes_beyond_32_bits_are_kept() -> None:
    """D13: no number in the log runs over."""
    disk = FaultyDisk()
    wal, log = opened(disk)
    log.reset(2**40, 2**33)
    log.setCurrentTerm(2**33, None)
    log.add(b"\x00k=1", 2**40 + 1, 2**33)
    sync(wal, log)
    again = opened(disk)[1]
    assert (again.base_index, again.last_index, again.last_term) == (2**40, 2**40 + 1, 2**33)


def test_old_segments_go_after_what_restates_them_is_durable() -> None:
    """D7: until then they are all there is."""
    disk = FaultyDisk()
    wal, log = opened(disk)
    log.setCurrentTerm(3, "B")
    batch = wal.take()
    while batch is None or not batch.obsolete:
        if batch is not None:
            wal.write(batch)
            wal.refill()
            log.synced(batch.sequence)
        log.compact(log.durable_index)
        log.add(b"c" * 300, log.last_index + 1, 3)
        batch = wal.take()
    disk.fail_sync = True
    with pytest.raises(OSError, match="Input/output"):
        wal.write(batch)
    assert set(batch.obsolete) <= set(disk.names())
    disk.fail_sync = False
    disk.lose_power(random.Random(1))
    again = opened(disk)[1]
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (3, "B")
    assert again.last_index >= log.last_index - 1
