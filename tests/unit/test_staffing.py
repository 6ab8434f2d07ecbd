"""When there are workers: searches come often, and nothing but rows changes."""

import pytest

from cluster.workers.staffing import (
    BUSY_PER_S,
    POUR_PER_S,
    QUIET_MAX_S,
    QUIET_S,
    SEARCHES_PER_ROW,
    SHORT_LIFE_S,
    UNUSED_S,
    Calm,
    Demand,
)


def looked(quick, at_s):
    """Return whether demand is high after so many searches, with a look at each time."""
    demand = Demand()
    demand.quick = quick
    for each in at_s:
        demand.look(each, lent=0, rows=0)
    return demand.is_high


def test_demand_is_counted_by_the_second():
    """Fewer searches than are worth it, and just as many."""
    assert not looked(BUSY_PER_S - 1, [1.0])
    assert looked(BUSY_PER_S, [1.0])
    assert not looked(BUSY_PER_S, [0.5]), "not counted yet"
    assert looked(2 * BUSY_PER_S, [0.5, 2.0])
    assert not looked(BUSY_PER_S, [1.0, 2.0]), "none came since"


def test_workers_without_connections_are_let_go_after_a_while():
    """Not while there is a connection, nor while searches come."""
    demand = Demand()
    demand.look(1.0, lent=3, rows=0)
    assert not demand.is_gone(UNUSED_S)
    assert demand.is_gone(1.0 + UNUSED_S)
    demand.is_high = True
    assert not demand.is_gone(1.0 + UNUSED_S)


@pytest.mark.parametrize(
    ("searches", "rows", "is_gone"),
    [
        (BUSY_PER_S, 2 * POUR_PER_S, True),
        (BUSY_PER_S + int(SEARCHES_PER_ROW * POUR_PER_S), POUR_PER_S, False),
        (0, POUR_PER_S - 1, False),
    ],
)
def test_beside_rows_that_pour_in_there_have_to_be_more_searches(searches, rows, is_gone):
    """Else workers end at once: a node alone answers sooner. A few rows are no matter."""
    demand = Demand()
    demand.quick = searches
    demand.look(1.0, lent=3, rows=rows)

    assert demand.is_gone(1.0) == is_gone


def test_calm_begins_anew_with_each_change():
    """A ticket is another one after anything but rows has changed."""
    calm = Calm()
    assert not calm.lasts(QUIET_S / 2)
    assert calm.lasts(QUIET_S)
    calm.look(1, QUIET_S)
    assert not calm.lasts(1.5 * QUIET_S)
    calm.look(1, 1.5 * QUIET_S)
    assert calm.lasts(2 * QUIET_S)


def test_copies_that_were_soon_of_no_use_make_it_wait_longer():
    """Twice as long each time, within bounds; one that lasted makes up for all."""
    calm, now_s = Calm(), 0.0
    waits = []
    for _ in range(8):
        calm.ended(now_s, SHORT_LIFE_S - 1)
        waits.append(calm.needed_s)
        now_s += 100
    assert waits[:3] == [2 * QUIET_S, 4 * QUIET_S, 8 * QUIET_S]
    assert waits[-1] == QUIET_MAX_S
    assert not calm.lasts(now_s - 100 + QUIET_MAX_S / 2)

    calm.ended(now_s, SHORT_LIFE_S)
    assert calm.needed_s == QUIET_S
    assert not calm.lasts(now_s + QUIET_S / 2), "one ended just now"
