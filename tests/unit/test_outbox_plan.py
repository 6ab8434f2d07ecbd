"""The order of changes and the measure of lag: nothing is passed over, nothing overtakes."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.outbox.lag import coherency_with_truth, has_gap, state_of
from storage.outbox.model import Event, Source, Status
from storage.outbox.plan import last_of_each_key, request_id

SOURCE = Source(source=1, uid="u", table="t", collection="c", id_column="id", text_column="text")


def event(seq, key, image="{}"):
    return Event(seq, "delete" if image is None else "upsert", key, image)


def status(**changes):
    source: dict[str, Any] = {
        "dead": changes.pop("dead", 0),
        "paused": changes.pop("paused", False),
    }
    values: dict[str, Any] = {
        "lag_ms": 0.0, "pending": 0, "committed_seq": 0, "applied_seq": 0, "applied": 0,
        "repeated": 0, "attended": True, "attached": True, "circuit": "closed", "problem": None,
    }  # fmt: skip
    described = Source(
        source=1, uid="u", table="t", collection="c", id_column="id", text_column="x", **source
    )
    return Status(source=described, **(values | changes))


def test_the_last_change_of_a_key_counts():
    """Of a key its last change is applied, in the order of sequences; rows without key all are."""
    events = [event(1, "a"), event(2, "b"), event(5, "a", None), event(7, None), event(9, None)]

    assert [each.seq for each in last_of_each_key(events)] == [2, 5, 7, 9]


def test_a_batch_has_a_name_that_a_repeat_has():
    """Source, operation and changes make the name, and whatever differs makes another."""
    events = [event(1, "a"), event(2, "b")]
    names = {
        request_id("u", events, "upsert"),
        request_id("u", events, "delete"),
        request_id("v", events, "upsert"),
        request_id("u", events[:1], "upsert"),
        request_id("u", [event(1, "a"), event(3, "b")], "upsert"),
        request_id("u", [event(1, "a"), event(2, "b", '{"n": 1}')], "upsert"),
    }

    assert len(names) == 6
    assert request_id("u", [event(1, "a"), event(2, "b")], "upsert") in names
    assert all(len(name) < 256 for name in names)


@given(lag_ms=st.floats(0, 1e9), more_ms=st.floats(0, 1e9))
def test_coherency_falls_with_the_lag(lag_ms, more_ms):
    """It is 1 without lag, 0 from five seconds on and at any gap, and never rises with the lag."""
    assert coherency_with_truth(0.0, gap=False) == 1.0
    assert coherency_with_truth(lag_ms, gap=True) == 0.0
    assert coherency_with_truth(lag_ms + 5000, gap=False) == 0.0
    here, later = (coherency_with_truth(each, gap=False) for each in (lag_ms, lag_ms + more_ms))

    assert 0 <= later <= here <= 1
    assert coherency_with_truth(45.0, gap=False) == pytest.approx(0.991)


def test_what_is_missing_for_good_is_a_gap():
    """Dead letters and changes that nobody saw are gaps, a backlog is none."""
    assert not has_gap(status(pending=5, lag_ms=1e6, attended=False))
    assert has_gap(status(dead=1))
    assert has_gap(status(attached=False))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "running"),
        ({"problem": "no quorum"}, "failing"),
        ({"attended": False, "problem": "no quorum"}, "unattended"),
        ({"dead": 10, "attended": False}, "full"),
        ({"paused": True, "dead": 10}, "paused"),
        ({"attached": False, "paused": True}, "detached"),
    ],
)
def test_the_state_in_a_word(changes, word):
    """Of what holds, the word names what a person has to look at first."""
    assert state_of(status(**changes), 10) == word


@dataclass
class Postgres:
    """A table with row locks, an outbox that shows what is committed, and sequences out of order.

    A transaction that wants a row which another one has changed has to wait for its end.
    """

    table: dict[str, int] = field(default_factory=dict)
    outbox: dict[int, tuple[str, int | None]] = field(default_factory=dict)
    open: dict[int, list[tuple[int, str, int | None]]] = field(default_factory=dict)
    next_seq: int = 1

    def write(self, transaction, key, value):
        for other, writes in self.open.items():
            if other != transaction and any(each[1] == key for each in writes):
                return
        self.open.setdefault(transaction, []).append((self.next_seq, key, value))
        self.next_seq += 1

    def end(self, transaction, commits):
        for seq, key, value in self.open.pop(transaction, []):
            if commits:
                self.outbox[seq] = (key, value)
                if value is None:
                    self.table.pop(key, None)
                else:
                    self.table[key] = value


@dataclass
class Consumer:
    """Takes, applies, removes; a crash comes between any two of these."""

    postgres: Postgres
    collection: dict[str, int] = field(default_factory=dict)
    in_flight: list[int] = field(default_factory=list)

    def go(self, rows, steps):
        for step in (lambda: self.take(rows), self.apply, self.acknowledge)[:steps]:
            step()

    def take(self, rows):
        if not self.in_flight:
            self.in_flight = sorted(self.postgres.outbox)[:rows]

    def apply(self):
        found = [(seq, *self.postgres.outbox[seq]) for seq in self.in_flight]
        for last in last_of_each_key([Event(seq, "upsert", key, str(v)) for seq, key, v in found]):
            value = self.postgres.outbox[last.seq][1]
            if value is None:
                self.collection.pop(last.key or "", None)
            else:
                self.collection[last.key or ""] = value

    def acknowledge(self):
        for seq in self.in_flight:
            del self.postgres.outbox[seq]
        self.in_flight = []


ACTIONS = st.one_of(
    st.tuples(
        st.just("write"), st.integers(0, 3), st.sampled_from("abc"), st.none() | st.integers(0, 99)
    ),
    st.tuples(st.just("end"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("consume"), st.integers(1, 4), st.integers(0, 3)),
)


@given(actions=st.lists(ACTIONS, max_size=80))
def test_the_collection_becomes_the_table(actions):
    """Whoever commits late, rolls back or crashes: at the end the collection is the table."""
    postgres = Postgres()
    consumer = Consumer(postgres)
    for name, *values in actions:
        if name == "write":
            postgres.write(*values)
        elif name == "end":
            postgres.end(*values)
        else:
            rows, steps = values
            consumer.go(rows, steps)
    for transaction in list(postgres.open):
        postgres.end(transaction, commits=True)
    while postgres.outbox:
        consumer.go(3, 3)

    assert consumer.collection == postgres.table
