"""The write-ahead log: what it recovers after every kind of end."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.raft import wal_format
from cluster.raft.disk import FolderDisk
from cluster.raft.log import GroupLog, GroupState
from cluster.raft.wal import Wal
from cluster.raft.wal_format import CorruptLog
from tests.simulation.faulty_disk import FaultyDisk

SEGMENT = 2048


class Store:
    """A log of two groups on a disk, and what of it was synced."""

    def __init__(self, disk: FaultyDisk) -> None:
        self.disk = disk
        self.wal = Wal(disk, SEGMENT, lambda: 0xC0FFEE)
        states = self.wal.open()
        self.logs = {
            group: GroupLog(states.get(group, GroupState()), self.wal.records(group))
            for group in (1, 2)
        }
        self.wal.attach(lambda: {group: log.snapshot_of() for group, log in self.logs.items()})

    def sync(self) -> None:
        batch = self.wal.take()
        if batch is not None:
            self.wal.write(batch)
            for log in self.logs.values():
                log.synced(batch.sequence)
                log.validate()

    def picture(self) -> dict[int, tuple]:
        return {group: (log.snapshot_of(), log[1:]) for group, log in self.logs.items()}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "truncate", "compact", "reset", "meta", "sync"]),
        st.integers(1, 2),
        st.integers(0, 300),
    ),
    max_size=60,
)


def act(store: Store, step: tuple[str, int, int]) -> None:
    kind, group, number = step
    log = store.logs[group]
    term = log.getCurrentTerm()
    if kind == "add":
        log.add(b"c" * (1 + number), log.last_index + 1, max(term, log.last_term))
    elif kind == "truncate" and log.last_index > log.base_index:
        log.delete_from(log.base_index + 1 + number % (log.last_index - log.base_index))
    elif kind == "compact":
        log.compact(min(log.durable_index, log.base_index + number % 7))
    elif kind == "reset":
        log.reset(log.last_index + 1 + number % 5, max(term, log.last_term))
    elif kind == "meta":
        log.setCurrentTerm(max(term, log.last_term) + 1, "abc"[number % 3])
    elif kind == "sync":
        store.sync()


@given(STEPS)
def test_a_restart_gives_back_what_was_synced(steps: list[tuple[str, int, int]]) -> None:
    """Twin: the log in memory; after a sync and a restart they are equal."""
    store = Store(FaultyDisk())
    for step in steps:
        act(store, step)
    store.sync()
    assert Store(store.disk).picture() == store.picture()


@given(STEPS, st.integers(0, 10**6))
def test_a_power_cut_gives_back_a_synced_state_or_the_one_being_written(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    """A torn batch is whole or gone; everything synced is there."""
    store = Store(FaultyDisk())
    before = store.picture()
    for step in steps:
        act(store, step)
        if step[0] == "sync":
            before = store.picture()
    batch = store.wal.take()
    if batch is not None:
        if batch.create:
            store.disk.create(batch.segment, batch.create)
        store.disk.write(batch.segment, batch.offset, batch.data)
    after = store.picture()
    store.disk.lose_power(random.Random(seed))
    assert Store(store.disk).picture() in (before, after)


def filled() -> Store:
    store = Store(FaultyDisk())
    for number in range(30):
        act(store, ("add", 1 + number % 2, number * 7))
        store.sync()
    return store


def test_damage_before_good_batches_is_corruption_not_a_torn_tail() -> None:
    """D20: cutting there would forget acknowledged entries, so the log refuses."""
    refused = 0
    for seed in range(60):
        store, rng = filled(), random.Random(seed)
        name = rng.choice(store.disk.names())
        file = store.disk.files[name]
        used = len(bytes(file.cached).rstrip(b"\0"))
        file.cached[rng.randrange(used)] ^= 0x10
        twin = filled()
        try:
            found = Store(store.disk).picture()
        except CorruptLog:
            refused += 1
        else:
            last = twin.disk.names()[-1]
            assert name == last, "only the newest batch may be taken for a torn tail"
            for group, (_, entries) in found.items():
                assert len(entries) >= len(twin.logs[group]) - 2
    assert refused > 40


def test_a_missing_segment_is_corruption() -> None:
    """The batches in it were synced."""
    store = filled()
    names = store.disk.names()
    assert len(names) > 2
    store.disk.remove(names[1])
    with pytest.raises(CorruptLog):
        Store(store.disk)


def test_segments_below_every_base_are_dropped() -> None:
    """Compaction frees space; the state restated in newer segments suffices."""
    store = filled()
    oldest = store.disk.names()[0]
    for log in store.logs.values():
        log.compact(log.durable_index)
    for number in range(40):
        act(store, ("add", 1, number))
        store.sync()
        store.logs[1].compact(store.logs[1].durable_index)
    assert oldest not in store.disk.names()
    assert len(store.disk.names()) <= 3
    store.sync()
    assert Store(store.disk).picture() == store.picture()


def test_an_error_of_the_disk_is_final() -> None:
    """A second fsync might confirm pages that the first one dropped, so there is none."""
    store = filled()
    store.disk.fail_sync = True
    act(store, ("add", 1, 5))
    with pytest.raises(OSError, match="Input/output"):
        store.sync()
    store.disk.fail_sync = False
    act(store, ("add", 1, 5))
    with pytest.raises(OSError, match="Input/output"):
        store.sync()


def test_durable_index_follows_syncs_and_truncations() -> None:
    """An entry counts as durable when its batch is synced and it was not replaced since."""
    store = Store(FaultyDisk())
    log = store.logs[1]
    log.setCurrentTerm(1, None)
    for index in range(2, 6):
        log.add(b"a", index, 1)
    batch = store.wal.take()
    assert batch is not None
    log.delete_from(4)
    log.add(b"b", 4, 1)
    store.wal.write(batch)
    log.synced(batch.sequence)
    assert log.durable_index == 3
    store.sync()
    assert log.durable_index == 4


def test_a_real_folder_keeps_what_was_synced(tmp_path: Path) -> None:
    """The same on real files: preallocated, reopened, cut at a torn tail."""
    disk = FolderDisk(tmp_path / "log")
    store = Store(disk)  # type: ignore[arg-type]
    for number in range(20):
        act(store, ("add", 1, number * 10))
        store.sync()
    picture = store.picture()
    disk.close()
    last = max((tmp_path / "log").iterdir())
    with last.open("r+b") as file:
        file.seek(store.wal._offset)
        file.write(os.urandom(300))
    again = Store(FolderDisk(tmp_path / "log"))  # type: ignore[arg-type]
    assert again.picture() == picture
    act(again, ("add", 1, 3))
    again.sync()
    assert Store(FolderDisk(tmp_path / "log")).picture() == again.picture()  # type: ignore[arg-type]


def test_a_segment_made_anew_is_not_written_into_the_removed_one(tmp_path: Path) -> None:
    """A crash between creating a segment and its first batch: the next boot makes it again."""
    folder = tmp_path / "log"
    first = Store(FolderDisk(folder))  # type: ignore[arg-type]
    act(first, ("meta", 1, 0))
    batch = first.wal.take()
    assert batch is not None
    first.disk.create(batch.segment, batch.create)
    second = Store(FolderDisk(folder))  # type: ignore[arg-type]
    act(second, ("meta", 1, 1))
    act(second, ("add", 1, 30))
    second.sync()
    assert Store(FolderDisk(folder)).picture() == second.picture()  # type: ignore[arg-type]


def test_bytes_that_a_client_stored_are_not_taken_for_a_batch() -> None:
    """A torn tail whose body holds what looks like a batch is still a torn tail."""
    store = Store(FaultyDisk())
    act(store, ("add", 1, 10))
    store.sync()
    before = store.picture()
    log = store.logs[1]
    planted = wal_format.batch(2**40, [b""], salt=0)
    log.add(b"x" * 200 + planted, log.last_index + 1, log.last_term)
    batch = store.wal.take()
    assert batch is not None
    file = store.disk.files[batch.segment]
    file.cached[batch.offset + 64 : batch.offset + len(batch.data)] = batch.data[64:]
    assert Store(store.disk).picture() == before


def test_a_hold_ends_for_good_when_what_was_lost_is_committed_again() -> None:
    """A later truncation of an uncommitted tail must not silence the replica again."""
    log = GroupLog(GroupState(term=1, base=(5, 1)), Wal(FaultyDisk(), SEGMENT, int).records(1))
    log.hold_until(10)
    for index in range(6, 15):
        log.add(b"a", index, 1)
    log.release_hold(9)
    log.delete_from(8)
    assert log.hold_index == 10
    for index in range(8, 12):
        log.add(b"b", index, 2)
    log.release_hold(10)
    log.delete_from(11)
    assert log.hold_index == 0
    log.delete_from(9)
    assert log.hold_index == 0
