"""What a node learns from its workers' reports."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from cluster.api.known_filters import KnownFilters
from cluster.search_workers import NodeSurface
from cluster.surroundings import REAL
from cluster.workers.channel import Report
from storage.beam_width import ROWS_MIN, SAMPLES, BeamWidth
from storage.index_set import IndexSet
from tests.unit.filled_index import COUNT, DIMENSION, Filled

UID = 7
TEXT = b'{"must":[{"key":"n","range":{"lt":60}}]}'


@pytest.fixture
def filled():
    return Filled()


@pytest.fixture
def surface(filled):
    """The surface of a node that has this index."""
    indexes = IndexSet(None)
    indexes._indexes[UID] = filled.index
    local = SimpleNamespace(stays_fresh_ms=lambda most_ms: most_ms)
    router = SimpleNamespace(local=local)
    node = SimpleNamespace(indexes=indexes, surroundings=REAL, router=router)
    route = SimpleNamespace(observed_elsewhere=lambda *_: None, filter_of=KnownFilters().read)
    runner = SimpleNamespace(served=0)
    return NodeSurface(cast("Any", node), cast("Any", runner), cast("Any", route))


def test_filters_that_copies_ask_for_are_gathered_and_get_graphs(surface, filled):
    """By their texts; an index that is gone meanwhile is passed over."""
    before = filled.index.improved
    surface.learn(Report(served={}, to_gather=[(UID, TEXT), (UID + 1, TEXT)]))
    assert filled.index.has_work
    filled.build()
    assert filled.index._state.kept.bytes == filled.below * DIMENSION * 4

    surface.learn(Report(served={}, to_make=[(UID, TEXT), (UID + 1, TEXT)]))
    filled.build()
    assert filled.index.improved > before
    assert not filled.index.has_work


def test_an_index_that_copies_search_is_searched(surface, filled):
    """So rows that pour in are built for them."""
    filled.index.flood.searched = False
    surface.learn(Report(served={}, searched=[UID, UID + 1]))

    assert filled.index.flood.searched


def test_queries_that_copies_kept_are_measured(surface, filled, monkeypatch):
    """As if the node had kept them."""
    monkeypatch.setattr("storage.beam_width.ROWS_MIN", COUNT)
    vector = np.ones(DIMENSION, "<f4").tobytes()
    surface.learn(Report(served={}, samples=[(UID, vector)] * SAMPLES + [(UID + 1, vector)]))

    assert filled.index.tune() is not None


def test_no_more_queries_are_kept_than_a_round_has():
    """Whatever comes; none of a graph that is too small to be measured."""
    beam, query = BeamWidth(), np.ones(4, np.float32)
    assert not beam.add_samples([query], ROWS_MIN - 1)
    assert not beam.add_samples([query] * (SAMPLES - 1), ROWS_MIN)
    assert beam.add_samples([query] * SAMPLES, ROWS_MIN)
    assert len(beam.take_samples()) == SAMPLES
    assert beam.take_samples() == []


def test_connections_are_lent_while_all_could_come_back(surface, monkeypatch):
    """Else those would find no descriptor; where there is none even to count, none is lent."""
    monkeypatch.setattr("cluster.search_workers.resource.getrlimit", lambda _: (4096, 4096))
    assert surface.has_descriptors(1000)
    assert not surface.has_descriptors(4096)

    def fail(_):
        raise OSError(24, "no descriptor")

    monkeypatch.setattr("cluster.search_workers.Path.iterdir", fail)
    surface._counted_s = -np.inf
    assert not surface.has_descriptors(0)
