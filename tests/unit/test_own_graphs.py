"""Graphs of filters' own: made when they pay, and never a reason for another answer."""

import gc

import numpy as np
import pytest

from storage import own_graphs
from storage.filter_parse import parse_filter
from storage.filters import Filter
from storage.ids import encode_id
from storage.own_graphs import OwnGraphs
from storage.payload_index.columns import PayloadColumns
from storage.payload_index.selection import ByPayload
from tests.unit.filled_index import COUNT, DIMENSION, VECTORS, Filled

PASSING = 400
EF = 100
"""As wide as a search of that many rows in a graph of their own may be."""


@pytest.fixture(autouse=True)
def for_few_rows(monkeypatch):
    """Have graphs for few rows, and nothing kept beside them."""
    monkeypatch.setattr(own_graphs, "ROWS_MIN", 50)
    monkeypatch.setattr(own_graphs, "_PART", 1)
    monkeypatch.setattr("storage.kept_rows._KEPT_BYTES_MAX", 0)


def own_of(filled):
    """Return the graph that its filter has, if it has one."""
    return filled.index._state.own._graphs._held.get(filled.plan)


def has_work(filled):
    return filled.index.has_work


def asked_often(distance="Cosine", below=PASSING):
    """Return an index whose filter has its graph."""
    filled = Filled(distance, below)
    filled.check(4, EF)
    assert own_of(filled) is None
    assert not has_work(filled)
    for _ in range(below // 4):
        filled.ask(VECTORS[:1])
    assert has_work(filled)
    filled.build()
    assert not has_work(filled)
    assert own_of(filled) is not None
    return filled


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid"])
def test_a_filter_that_comes_often_gets_a_graph(distance):
    """Which finds what comparing does, and goes on doing so beside writes of all kinds."""
    filled = asked_often(distance)
    own = own_of(filled)
    assert own.graph.count == PASSING
    filled.check(8, EF)
    for change in (
        lambda: filled.put([5, 6, 1700]),
        lambda: filled.remove([7, 8, 100]),
        lambda: filled.put([7, *range(2000, 2040)]),
        lambda: filled.put(range(30)),
    ):
        change()
        filled.check(8, EF)
        filled.build()
        filled.check(8, EF)
    assert own_of(filled) is own, "none of this was too much for it"


def test_rows_that_came_later_are_found_once():
    """Also one that was written again, and has the vector of one that the graph has."""
    filled = asked_often()
    for version, seq in enumerate((3, PASSING - 1, 3), 10):
        twin = filled.rows[50]
        filled.index.defer(
            0, [(seq, version, encode_id(seq), twin.tobytes())], (), [b'{"n":%d}' % seq]
        )
        filled.rows[seq] = twin
        for _ in range(2):
            (found,) = filled.ask(twin.reshape(1, -1), 5, EF)
            same = {at for at, row in filled.rows.items() if at < PASSING and (row == twin).all()}
            assert same <= set(found)
            assert len(set(found)) == 5
            filled.build()
    assert own_of(filled) is not None


def test_equal_vectors_share_a_row_and_are_all_found():
    """hnswlib cannot reach many equal rows; each of them counts all the same."""
    filled = Filled(below=PASSING)
    twin = filled.rows[50]
    rows = [(seq, 9, encode_id(seq), twin.tobytes()) for seq in range(100, 200)]
    filled.index.defer(0, rows, (), [b'{"n":%d}' % seq for seq in range(100, 200)])
    filled.build()
    for _ in range((PASSING + 100) // 4):  # dead rows are expected to pass until a rebuild
        filled.ask(VECTORS[:1])
    filled.build()
    assert own_of(filled).graph.count == PASSING - 100
    (found,) = filled.ask(twin.reshape(1, -1), 37, 75)
    assert len(set(found)) == 37
    assert set(found) <= {50, *range(100, 200)}


def test_a_graph_of_which_most_died_is_let_go():
    """It would find too little with the usual width."""
    filled = asked_often()
    filled.remove(range(100, 350))
    filled.check(4, EF)
    assert own_of(filled) is None


def test_a_few_dead_rows_do_not_end_a_graph():
    """Not even of a search that looks no wider than at what it asks for."""
    filled = asked_often()
    own = own_of(filled)
    for limit in (1, 10):
        filled.put(filled.nearest(VECTORS[:1], 2)[0])
        filled.build()
        (found,) = filled.ask(VECTORS[:1], limit, limit)
        assert len(found) == limit
        assert own_of(filled) is own


def test_a_graph_that_is_far_behind_is_let_go(monkeypatch):
    """To look at all that came later takes too long."""
    monkeypatch.setattr("storage.own_search._BEHIND_MAX", 9)
    filled = asked_often()
    filled.put(range(2000, 2010))
    filled.check(2, EF)
    assert own_of(filled) is not None, "they wait for the large graph, and are compared"
    filled.build()
    filled.check(2, EF)
    assert own_of(filled) is None


def test_a_rebuild_ends_a_graph_and_one_in_the_making():
    """Slots have other numbers after it."""
    filled = asked_often()
    filled.remove(range(500, 900))
    filled.build()
    filled.check(4, EF)
    assert own_of(filled) is None

    for _ in range(PASSING // 4):
        filled.ask(VECTORS[:1])
    assert filled.index.filtered.own.build(1) > 0
    assert has_work(filled)
    filled.remove([*range(400, 500), *range(900, COUNT)])
    filled.build()
    assert filled.index.garbage == 0.0
    assert not has_work(filled)
    filled.check(4, EF)


def test_one_graph_is_made_at_a_time_and_once():
    """However often it is asked for meanwhile, and whatever else."""
    filled = Filled(below=PASSING)
    own, making = filled.index._state.own, filled.index.filtered.own
    for _ in range(PASSING // 4):
        filled.ask(VECTORS[:1])
    built = making.build(1)
    assert 0 < built < PASSING
    for _ in range(PASSING):
        filled.ask(VECTORS[:1])
        assert not own.note(ByPayload(PayloadColumns(), Filter(), None), 50.0, filled.graph)
    while moved := making.build(64):
        built += moved
    assert built == PASSING
    assert own_of(filled) is not None
    assert not has_work(filled)


def test_one_of_more_rows_than_there_is_room_for_is_not_made(monkeypatch):
    """Of conditions that go together more rows pass than are expected."""
    filled = Filled()
    monkeypatch.setattr(own_graphs, "_BYTES_MAX", 200 * filled.graph.row_bytes)
    half = {"key": "n", "range": {"lt": COUNT // 2}}
    plan = filled.index.payloads.plan(b"thrice", parse_filter({"must": [half] * 3}))
    assert plan is not None
    assert plan.expected(filled.index._state.table) == COUNT / 8
    for _ in range(COUNT // 8):
        filled.index.filtered.many(VECTORS[:1], 7, plan)
    assert has_work(filled)
    filled.build()
    assert not has_work(filled)
    assert not filled.index._state.own.bytes


def test_a_search_for_many_goes_to_the_large_graph():
    """And leaves the filter's own as it is."""
    filled = asked_often()
    own = own_of(filled)
    assert filled.ask(VECTORS[:1], 300) == filled.nearest(VECTORS[:1], 300)
    assert own_of(filled) is own


def test_columns_that_go_end_the_making():
    """Then nobody can say which rows pass."""
    filled = Filled(below=PASSING)
    plan = filled.plan
    for _ in range(PASSING // 4 + 1):
        filled.index.filtered.many(VECTORS[:1], 7, plan)
    assert has_work(filled)
    filled.index.payloads.set_fields([], lambda *_: ())
    filled.build()
    assert not has_work(filled)
    assert not filled.index._state.own.bytes


def test_a_graph_goes_with_its_filter():
    """Nobody can ask for it any more when the filter's text is forgotten."""
    filled = asked_often()
    assert filled.index._state.own.bytes == PASSING * own_of(filled).graph.row_bytes
    filled.index.payloads._plans.clear()
    gc.collect()
    assert not filled.index._state.own.bytes


def test_few_rows_and_filters_of_one_search_get_no_graph(monkeypatch):
    """The ones are compared sooner, the others do not come again."""
    filled = Filled(below=PASSING)
    rows = filled.index.payloads.restriction(filled.where, None)
    for _ in range(PASSING):
        filled.index.filtered.many(VECTORS[:1], 7, rows)
    assert not has_work(filled)
    monkeypatch.setattr(own_graphs, "ROWS_MIN", PASSING + 1)
    for _ in range(PASSING):
        filled.ask(VECTORS[:1])
    assert not has_work(filled)


def test_what_is_in_use_makes_no_room(monkeypatch):
    """Two that take turns would build more than they search; one that is not used gives way."""
    monkeypatch.setattr(own_graphs, "_UNUSED_AFTER", 1000)
    filled = asked_often()
    large = filled.index._state.graph
    monkeypatch.setattr(own_graphs, "_BYTES_MAX", 500 * large.row_bytes)
    own, table = filled.index._state.own, filled.index._state.table
    newcomer = ByPayload(PayloadColumns(), Filter(), None)

    def asks(times):
        due = False
        for _ in range(times):
            assert own.find(newcomer, table) is None
            due = own.note(newcomer, 200.0, large) or due
        return due

    assert not asks(50)
    assert own_of(filled) is not None
    filled.ask(VECTORS[:1])
    assert not asks(1000)
    assert own_of(filled) is not None
    assert asks(50)
    assert own_of(filled) is None
    assert own.due is newcomer
    assert not OwnGraphs().bytes


def test_random_changes_and_searches_agree_with_comparing():
    """Whatever order they come in."""
    chance = np.random.default_rng(5)
    filled = asked_often("Euclid")
    for _ in range(60):
        match chance.integers(0, 4):
            case 0:
                filled.put(chance.choice(PASSING * 2, 5, replace=False).tolist())
            case 1:
                filled.remove(chance.choice(sorted(filled.rows), 3, replace=False).tolist())
            case 2:
                filled.build()
            case _:
                for _ in range(20):
                    filled.ask(VECTORS[:1])
        query = chance.standard_normal((2, DIMENSION)).astype("<f4")
        for found, expected in zip(filled.ask(query, ef=EF), filled.nearest(query), strict=True):
            assert len(set(found)) == len(found)
            assert vectors_of(filled, found) == vectors_of(filled, expected)
    filled.index.validate()


def vectors_of(filled, seqs):
    """Return vectors, of which several rows may have the same."""
    return [filled.rows[seq].tolist() for seq in seqs]
