"""Rows of a filter that comes again: kept side by side, never seen after they changed."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
import pytest

from storage import filtered_search
from storage.filters import Filter
from storage.ids import encode_id
from storage.index_search import Ask, first_beam
from storage.kept_rows import Kept, KeptRows, room_for
from storage.metric import Metric, smallest
from storage.payload_index.columns import PayloadColumns
from storage.payload_index.selection import ByPayload
from storage.slots import RECORD, SlotTable, make_batch
from tests.unit.filled_index import COUNT, DIMENSION, VECTORS, Filled


def kept_bytes(filled):
    return filled.index._state.kept.bytes


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid"])
def test_a_filter_that_comes_again_is_kept(distance):
    """And finds what it found before, for one query or several, whatever is written meanwhile."""
    filled = Filled(distance)
    filled.check(1)
    assert not kept_bytes(filled), "one search does not pay for gathering"
    filled.check()
    assert kept_bytes(filled) == 60 * DIMENSION * 4

    for change in (
        lambda: filled.put([5, 1700]),
        lambda: filled.remove([7, 8, 100]),
        lambda: filled.put(range(2000, 2040)),
        lambda: filled.index.drop_shard(5),
    ):
        change()
        filled.check()
        filled.build()
        filled.check()
        assert kept_bytes(filled)


def test_what_is_kept_does_not_outlive_a_rebuild():
    """Slots have other numbers after it."""
    filled = Filled()
    filled.check()
    filled.remove(range(100, 420))
    assert filled.index.garbage > 0.3
    filled.build()
    assert filled.index.garbage == 0.0
    filled.check()
    assert kept_bytes(filled) == 60 * DIMENSION * 4


def test_rows_that_wait_for_the_graph_are_not_gathered():
    """They are compared where they are; a distance without a graph has no others."""
    filled = Filled()
    filled.put([3])
    filled.check()
    assert not kept_bytes(filled)
    without = Filled("Manhattan")
    without.check()
    assert not kept_bytes(without)


def test_a_filter_of_one_search_is_not_counted():
    """Nobody can ask again for what has no name; nor is a place taken from others."""
    filled = Filled()
    rows = filled.index.payloads.restriction(filled.where, None)
    for _ in range(10):
        found = filled.index.filtered.many(VECTORS[:1], 7, rows)
        assert [[hit.seq for hit in hits] for hits in found] == filled.nearest(VECTORS[:1])
    assert not kept_bytes(filled)


def test_many_rows_are_not_gathered_where_the_graph_finds_them_sooner(monkeypatch):
    """What to do is a matter of what comparing and walking cost."""
    monkeypatch.setattr(filtered_search, "_KEPT_COST", 1000.0)
    filled = Filled()
    beam = first_beam(filled.index._state, Ask(7, filled.plan))
    assert beam.width == beam.all, "60 rows are compared anyway"
    filled.check()
    assert kept_bytes(filled)
    monkeypatch.setattr("storage.hnsw._SCAN_COST", 1000.0)
    dear = Filled()
    for _ in range(4):
        assert all(seq < 60 for seq in dear.ask(VECTORS[:1])[0])
    assert not kept_bytes(dear)


def test_what_does_not_fit_is_not_gathered(monkeypatch):
    """It would have to go at once."""
    monkeypatch.setattr("storage.kept_rows._KEPT_BYTES_MAX", 60 * DIMENSION * 4 - 1)
    filled = Filled()
    filled.check()
    assert not kept_bytes(filled)


def test_at_once_means_a_look_at_few_rows_and_no_waiting(monkeypatch):
    """Rows that are kept cost less, so they may be more."""
    filled = Filled()
    query, plan, filtered = VECTORS[:1], filled.plan, filled.index.filtered
    unit = query / np.linalg.norm(query)

    def at_once(rows_max, limit=7):
        hits = filtered.at_once(unit, limit, plan, rows_max, ef=None)
        return None if hits is None else [hit.seq for hit in hits]

    assert at_once(59) is None
    assert at_once(60) == filled.nearest(query)[0]
    assert at_once(60) == filled.nearest(query)[0]
    assert kept_bytes(filled)

    assert at_once(0) == filled.nearest(query)[0]
    with filled.index._state.mutex:
        assert at_once(60) is None
    with pytest.raises(ValueError, match="limit"):
        at_once(60, limit=0)
    monkeypatch.setattr(filtered_search, "_AT_ONCE_BYTES", kept_bytes(filled) - 1)
    assert at_once(0) is None


def test_at_once_means_few_bytes_too(monkeypatch):
    """Of 65,536 dimensions some dozens of rows are many."""
    filled = Filled()
    row = VECTORS[:1] / np.linalg.norm(VECTORS[:1])
    monkeypatch.setattr(filtered_search, "_AT_ONCE_BYTES", 60 * DIMENSION * 4 - 1)
    assert filled.index.filtered.at_once(row, 7, filled.plan, 60, ef=None) is None
    monkeypatch.setattr(filtered_search, "_AT_ONCE_BYTES", 60 * DIMENSION * 4)
    assert filled.index.filtered.at_once(row, 7, filled.plan, 60, ef=None) is not None


class Held:
    """Rows that are taken in when the test says so."""

    def __init__(self, rows):
        self.rows = rows
        self.begun, self.go = Event(), Event()

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        self.begun.set()
        assert self.go.wait(10)
        return iter(self.rows)


def test_an_index_is_not_quiet_while_rows_enter():
    """What is kept knows nothing of them, and they were acknowledged."""
    filled = Filled()
    filled.check()
    assert kept_bytes(filled)
    unit = (VECTORS[0] / np.linalg.norm(VECTORS[0])).astype("<f4")
    rows: Any = Held([(5, 9, encode_id(5), unit.tobytes())])
    filled.index.defer(0, rows, (), [b'{"n":5}'])
    with ThreadPoolExecutor(1) as thread:
        taken = thread.submit(lambda: filled.index.size)
        assert rows.begun.wait(10)
        quiet = filled.index.is_quiet
        rows.go.set()
        assert taken.result(10) == COUNT
    assert not quiet
    filled.build()
    assert filled.ask(unit, 1) == [[5]]


def keepable(rows):
    return Kept(np.zeros((rows, 4), np.float32), np.arange(rows), np.zeros(0, RECORD))


def plans(count):
    return [ByPayload(PayloadColumns(), Filter(), None) for _ in range(count)]


def test_what_is_in_use_does_not_make_room(monkeypatch):
    """What is out of use does, until there is enough; a filter has one place."""
    monkeypatch.setattr("storage.kept_rows._UNUSED_AFTER", 10)
    kept, table = KeptRows(), SlotTable()
    instant = kept.look(table)
    first, second, third = plans(3)

    def found():
        return [rows in kept._kept._held for rows in (first, second, third)]

    for plan in (first, second, second):
        kept.keep(plan, keepable(10), instant, 320)
    assert kept.bytes == 320
    for _ in range(10):
        assert kept.find(second, table) is not None
    assert not kept.make_room(16, 320)
    kept.keep(third, keepable(10), instant, 320)
    assert found() == [True, True, False]
    assert kept.find(second, table) is not None
    assert not kept.make_room(321, 320)
    assert found() == [False, True, False]
    kept.keep(third, keepable(10), instant, 320)
    assert found() == [False, True, True]


def test_what_was_gathered_before_a_change_is_not_kept():
    """Gathering needs no lock, so that rows may come and go meanwhile."""
    kept, table = KeptRows(), SlotTable()
    (plan,) = plans(1)
    before = kept.look(table)
    batch, _ = make_batch(0, [(1, 1, encode_id(1), b"")])
    table.append(batch)
    now = kept.look(table)
    kept.keep(plan, keepable(10), before, 1000)
    assert kept.find(plan, table) is None
    kept.keep(plan, keepable(10), now, 1000)
    assert kept.find(plan, table) is not None

    assert kept.find(plan, SlotTable()) is None, "another table is another instant"
    assert not kept.bytes


def test_room_grows_with_the_rows():
    """An eighth of what the vectors take, and 256 MiB at most."""
    assert room_for(800, 100) == 10_000
    assert room_for(1 << 30, 4096) == 256 << 20


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid", "Manhattan"])
@pytest.mark.parametrize("count", [0, 1, 340, 341, 342, 1100])
@pytest.mark.parametrize("queries", [1, 3])
def test_keys_of_many_are_those_of_each(distance, count, queries):
    """Whether rows make whole pieces or not."""
    metric, chance = Metric(distance, 384), np.random.default_rng(count)
    rows = chance.standard_normal((count, 384)).astype(np.float32)
    asked = chance.standard_normal((queries, 384)).astype(np.float32)
    found = np.full((queries, count), np.nan, dtype=np.float32)
    metric.keys_many(rows, asked, found)
    wide, many = rows.astype(np.float64), asked.astype(np.float64)
    for query, keys in zip(many, found, strict=True):
        if distance in ("Cosine", "Dot"):
            expected = -(wide @ query)
        elif distance == "Euclid":
            expected = ((wide - query) ** 2).sum(axis=1)
        else:
            expected = np.abs(wide - query).sum(axis=1)
        np.testing.assert_allclose(keys, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("count", [0, 3, 256, 1000])
def test_the_smallest_keep_their_order(count):
    """Equals stay as they came, whether few are sorted or many are looked through."""
    keys = np.random.default_rng(count).integers(0, 9, count).astype(np.float32)
    assert smallest(keys, 10).tolist() == np.argsort(keys, kind="stable")[:10].tolist()
