"""The write-ahead log: what it recovers after every kind of end."""

from __future__ import annotations

import copy
import math
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

    def sync(self) -> None:
        while (batch := self.wal.take()) is not None:
            self.wal.write(batch)
            self.wal.refill()
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
    rng = random.Random(seed)
    for _ in range(3):
        before = store.picture()
        for step in rng.sample(steps, len(steps)):
            act(store, step)
            if store.wal.waiting_bytes > SEGMENT // 4:
                store.sync()
            if store.wal.waiting_bytes == 0:
                before = store.picture()
        batch = store.wal.take()
        if batch is not None:
            store.disk.write(batch.segment, batch.offset, batch.data)
        after = store.picture()
        store.disk.lose_power(rng)
        store = Store(store.disk)
        assert store.picture() in (before, after)


@given(STEPS, st.integers(0, 10**6))
def test_of_several_batches_a_power_cut_leaves_those_that_were_synced(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    """Each batch is a state by itself: what was recovered is the log as one of them left it."""
    store, rng = Store(FaultyDisk()), random.Random(seed)
    left = {store.wal.gate: store.picture()}
    for step in steps:
        if step[0] != "sync":
            act(store, step)
        elif rng.random() < 0.3:
            store.sync()
        left[store.wal.gate] = store.picture()
    for _ in range(rng.randrange(5)):
        batch = store.wal.take()
        if batch is not None:
            store.wal.write(batch)
            store.wal.refill()
    batch = store.wal.take()
    if batch is not None:
        store.disk.write(batch.segment, batch.offset, batch.data)
    synced = store.wal.synced_sequence
    store.disk.lose_power(rng)
    again = Store(store.disk)
    assert again.picture() in (left[synced], left.get(synced + 1))
    act(again, ("add", 1, 5))
    again.sync()
    assert Store(again.disk).picture() == again.picture()


@given(STEPS, st.integers(0, 10**6))
def test_a_full_disk_forgets_nothing_over_boots_and_power_cuts(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    """What was admitted can be written; no boot needs space; space lets it go on."""
    store, rng = Store(FaultyDisk()), random.Random(seed)
    store.sync()
    store.disk.free_bytes = rng.choice([0, 0, SEGMENT - 1, SEGMENT])
    for _ in range(3):
        for step in steps:
            if store.wal.admits(1, step[2] + 1) if step[0] == "add" else store.wal.admits(0, 0):
                act(store, step)
            if store.wal.waiting_bytes > SEGMENT // 4:
                store.sync()
        store.sync()
        assert store.wal.waiting_bytes == 0
        before = store.picture()
        store.logs[1].setCurrentTerm(store.logs[1].getCurrentTerm() + 99, "x")
        batch = store.wal.take()
        after = store.picture() if batch is not None else before
        if batch is not None:
            store.disk.write(batch.segment, batch.offset, batch.data)
        store.disk.lose_power(rng)
        store = Store(store.disk)
        assert store.picture() in (before, after)
    store.disk.free_bytes = math.inf
    store.wal.refill()
    assert not store.wal.full
    assert store.wal.admits(1, SEGMENT // 2)


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
        name = rng.choice([segment.name for segment in store.wal.segments])
        file = store.disk.files[name]
        used = len(bytes(file.cached).rstrip(b"\0"))
        file.cached[rng.randrange(used)] ^= 0x10
        twin = filled()
        try:
            found = Store(store.disk).picture()
        except CorruptLog:
            refused += 1
        else:
            last = twin.wal.segments[-1].name
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
    """A crash between making a segment and its first batch: the next boot uses or remakes it."""
    folder = tmp_path / "log"
    first = Store(FolderDisk(folder))  # type: ignore[arg-type]
    act(first, ("meta", 1, 0))
    assert first.wal.take() is not None
    (spare,) = folder.iterdir()
    with spare.open("r+b") as file:
        file.truncate(SEGMENT // 2)
    second = Store(FolderDisk(folder))  # type: ignore[arg-type]
    assert [path.stat().st_size for path in folder.iterdir()] == [SEGMENT]
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


def split_by(first: bytes, kind: str) -> Store:
    """A log whose next batch opens a segment, and tells of a change that a later one makes."""
    store = Store(FaultyDisk())
    log = store.logs[1]
    for index in range(2, 12):
        log.add(b"e", index, 1)
    store.sync()
    while store.wal._left() > 500:
        store.logs[2].add(first, store.logs[2].last_index + 1, 0)
        store.sync()
    store.logs[2].add(bytes(800), store.logs[2].last_index + 1, 0)
    store.logs[2].add(bytes(800), store.logs[2].last_index + 1, 0)
    if kind == "back":
        log.hold_until(11)
        log.reset(5, 1)
    elif kind == "other term":
        log.reset(8, 3)
    elif kind == "beyond":
        log.reset(40, 3)
    elif kind == "compacted":
        log.compact(9)
        log.delete_from(11)
    return store


@pytest.mark.parametrize("kind", ["back", "other term", "beyond", "compacted"])
def test_a_segment_that_restates_what_a_later_batch_changes_can_be_read(kind: str) -> None:
    """The later batch may be lost: what is restated is how all before it left things."""
    store = split_by(b"f" * 100, "nothing")
    before = store.picture()[1]
    store = split_by(b"f" * 100, kind)
    segments = len(store.wal.segments)
    batch = store.wal.take()
    assert batch is not None
    assert len(store.wal.segments) == segments + 1
    assert store.wal.waiting_bytes > 0
    store.wal.write(batch)
    crashed = copy.deepcopy(store.disk)
    crashed.lose_power(random.Random(3))
    again = Store(crashed)
    assert again.picture()[1] == before
    for log in again.logs.values():
        log.validate()
    store.wal.refill()
    store.sync()
    assert Store(store.disk).picture() == store.picture()


@pytest.mark.parametrize("behind", [False, True])
def test_a_log_cut_twice_before_a_new_segment_keeps_all_that_follows(behind: bool) -> None:
    """The older cut is told behind the newer one's segment head, perhaps in another batch."""
    store = Store(FaultyDisk())
    first, second = store.logs[1], store.logs[2]
    for index in range(2, 12):
        first.add(b"e", index, 1)
    store.sync()
    while store.wal._left() > 500:
        second.add(b"f" * 100, second.last_index + 1, 0)
        store.sync()
    first.compact(4)
    second.add(bytes(800), second.last_index + 1, 0)
    if behind:
        second.add(bytes(800), second.last_index + 1, 0)
    first.compact(8)
    batch = store.wal.take()
    assert batch is not None
    assert batch.offset == 0
    store.wal.write(batch)
    store.disk.lose_power(random.Random(3))
    found = Store(copy.deepcopy(store.disk)).logs[1]
    assert found.last_index == 11
    assert found.base_index == (4 if behind else 8)
    store.wal.refill()
    store.sync()
    assert Store(store.disk).picture() == store.picture()


def test_a_spare_is_made_ahead_and_only_the_making_may_lack_space() -> None:
    """Terms and votes go on in the reserve; entries are admitted while they are sure of a place."""
    store = Store(FaultyDisk())
    act(store, ("meta", 1, 0))
    store.sync()
    assert len(store.disk.names()) == 2
    store.disk.free_bytes = 0
    while store.wal.admits(1, 100):
        act(store, ("add", 1, 99))
        store.sync()
    assert store.wal.full
    assert len(store.disk.names()) == 2
    for term in range(4):
        act(store, ("meta", 1, term))
        store.sync()
    assert store.wal.waiting_bytes == 0
    assert Store(store.disk).picture() == store.picture()


def test_entries_are_admitted_only_if_what_is_left_takes_them() -> None:
    """In the active segment or the spare, behind what gathers, in one piece."""
    store = Store(FaultyDisk())
    assert store.wal.admits(1, SEGMENT - 256 - 100)
    assert not store.wal.admits(1, SEGMENT)
    act(store, ("add", 1, 999))
    assert store.wal.admits(1, 600)
    assert not store.wal.admits(1, 1100)
    store.sync()
    assert store.wal.admits(1, 1500)
    store.disk.free_bytes = 0
    act(store, ("add", 1, 1200))
    store.sync()
    assert store.wal.full
    assert not store.wal.admits(1, 600)
    assert store.wal.admits(1, 200)


def test_without_any_room_batches_wait_and_go_on_when_there_is_space() -> None:
    """Nothing is refused for good, nothing is written half."""
    store = Store(FaultyDisk())
    act(store, ("meta", 1, 0))
    store.sync()
    before = store.picture()
    store.disk.free_bytes = 0
    for _ in range(16):
        act(store, ("add", 1, 299))
    store.sync()
    assert store.wal.waiting_bytes > 0
    assert store.logs[1].durable_index < store.logs[1].last_index
    found = Store(store.disk).picture()
    assert found[1][1] == store.picture()[1][1][: len(found[1][1])]
    assert found != before
    store.disk.free_bytes = math.inf
    while store.wal.waiting_bytes:
        store.wal.refill()
        store.sync()
    assert Store(store.disk).picture() == store.picture()


def test_a_full_disk_is_no_reason_not_to_boot() -> None:
    """Each boot goes on in the segment of the last one."""
    store = filled()
    store.disk.free_bytes = 0
    names = store.disk.names()
    for boot in range(20):
        store = Store(store.disk)
        act(store, ("meta", 1 + boot % 2, boot))
        store.sync()
        assert store.wal.waiting_bytes == 0
    assert set(store.disk.names()) <= set(names)
    assert Store(store.disk).picture() == store.picture()


def test_a_first_segment_cannot_be_made_on_a_full_disk() -> None:
    """A new node says so; there is nothing yet that it could lose."""
    disk = FaultyDisk()
    disk.free_bytes = 0
    with pytest.raises(OSError, match="no space"):
        Store(disk)


def test_a_record_larger_than_a_segment_gets_a_larger_one() -> None:
    """The spare that is too small goes; what waits is written into the new one."""
    store = Store(FaultyDisk())
    act(store, ("add", 1, 5))
    store.sync()
    act(store, ("add", 1, 3 * SEGMENT))
    store.sync()
    assert store.wal.waiting_bytes > 0
    store.wal.refill()
    store.sync()
    act(store, ("add", 1, 3))
    store.sync()
    assert store.wal.waiting_bytes == 0
    assert Store(store.disk).picture() == store.picture()


def test_a_segment_without_batches_before_one_with_batches_is_corruption() -> None:
    """Segments are used in order: its first batch was synced, and rotted."""
    store = filled()
    name = store.disk.names()[0]
    store.disk.files[name].cached[:] = bytes(SEGMENT)
    with pytest.raises(CorruptLog, match="first batch"):
        Store(store.disk)


def test_a_torn_tail_is_wiped_before_the_log_goes_on_there() -> None:
    """Nothing of it can ever be read, whatever is written over it."""
    store = Store(FaultyDisk())
    act(store, ("add", 1, 10))
    store.sync()
    picture = store.picture()
    act(store, ("add", 1, 250))
    torn = store.wal.take()
    assert torn is not None
    store.disk.write(torn.segment, torn.offset + 40, torn.data[40:])
    again = Store(store.disk)
    assert again.picture() == picture
    assert not any(store.disk.read(torn.segment)[torn.offset :])
    act(again, ("add", 2, 3))
    again.sync()
    assert [segment.name for segment in again.wal.segments] == [torn.segment]
    assert Store(store.disk).picture() == again.picture()


def test_a_torn_first_batch_leaves_a_clean_spare() -> None:
    """The remains of a batch that nobody was told of are wiped before the segment is used."""
    store = Store(FaultyDisk())
    act(store, ("add", 1, 10))
    store.sync()
    picture = store.picture()
    name = store.disk.names()[-1]
    store.disk.write(name, 40, b"\xff" * 160)
    again = Store(store.disk)
    assert again.picture() == picture
    assert store.disk.read(name) == bytes(SEGMENT)
    store.disk.lose_power(random.Random(1))
    assert store.disk.read(name) == bytes(SEGMENT)


def test_segments_are_dropped_only_when_every_base_that_allows_it_is_durable() -> None:
    """A base that is buffered behind the batch being written does not count yet."""
    store = filled()
    for number in range(8):
        act(store, ("add", 1, 250 + number))
    for log in store.logs.values():
        log.compact(log.durable_index)
    batch = store.wal.take()
    assert batch is not None
    assert store.wal.waiting_bytes > 0
    assert batch.obsolete == ()
    store.wal.write(batch)
    store.disk.lose_power(random.Random(1))
    Store(store.disk)


def test_a_real_folder_says_when_there_is_no_space(tmp_path: Path) -> None:
    """Space is looked for before it is taken, and nothing stays behind."""
    disk = FolderDisk(tmp_path)
    space = os.statvfs(tmp_path)
    with pytest.raises(OSError, match="No space"):
        disk.create("0-0.wal", (space.f_bavail + 1) * space.f_frsize)
    assert disk.names() == []


def test_what_a_failed_sync_left_in_the_page_cache_is_written_again() -> None:
    """Its pages count as clean: no later sync writes them, and a power cut would take them back."""
    disk = FaultyDisk()
    store = Store(disk)
    store.logs[1].add(b"one", 2, 1)
    store.sync()
    disk.fail_once.add("sync")
    store.logs[1].add(b"two", 3, 1)
    with pytest.raises(OSError, match="Input/output error"):
        store.sync()
    restarted = Store(disk)
    believed = restarted.logs[1].last_index
    restarted.logs[1].add(b"next", believed + 1, 1)
    restarted.sync()
    disk.lose_power(random.Random(1))
    assert Store(disk).picture() == restarted.picture()
