"""The judge of the chaos runs finds what it is there for, and accuses nobody else."""

from __future__ import annotations

from typing import Any

from tests.chaos.checks import Findings, judge
from tests.chaos.history import Event, History, Kind
from tests.linearizability import Verdict, linearizable

KEY = 7


def event(kind: Kind, at_s: float, client: int = 0, **rest: Any) -> Event:
    """An operation that takes half a second; `returned_s=None` makes its outcome unknown."""
    return Event(client, "node1", kind, KEY, at_s, **{"returned_s": at_s + 0.5, **rest})


def write(at_s: float, value: int, version: int, **rest: Any) -> Event:
    return event("upsert", at_s, value=value, version=version, **rest)


def swept(value: int | None, version: int) -> Event:
    return event("sweep", 100, client=-1, seen=value, version=version)


def judged(*events: Event) -> Findings:
    history, findings = History(), Findings()
    for each in events:
        history.add(each)
    judge(history, findings)
    return findings


def test_an_honest_history_is_clean() -> None:
    """Writes, a delete, conditions that hold or not, unknown outcomes that happened or not."""
    found = judged(
        write(0, 1, 5),
        event("strong get", 1, seen=1, version=5),
        event("cas", 2, expected=1, value=2, version=6),
        event("cas", 3, expected=1, value=3, took_effect=False),
        event("session get", 4, seen=2, version=6, floor=6),
        event("delete", 5, version=8),
        event("session get", 6, floor=8),
        write(7, 4, 0, returned_s=None),
        event("default get", 8, seen=2, version=6),
        write(9, 5, 0, returned_s=None),
        swept(4, 9),
    )

    assert found.keys == set()
    assert found.stale == 0


def test_a_lost_write_is_found() -> None:
    """An older record, or none at all, where a newer one was acknowledged."""
    assert judged(write(0, 1, 5), write(1, 2, 6), swept(1, 5)).lost == {KEY}
    assert judged(write(0, 1, 5), swept(None, 0)).lost == {KEY}
    assert judged(write(0, 1, 5), event("delete", 1, returned_s=None), swept(None, 0)).lost == set()


def test_a_deleted_record_that_is_back_is_found() -> None:
    """Also when the delete was a conditional one."""
    assert judged(write(0, 1, 5), event("delete", 1, version=6), swept(1, 5)).lost == {KEY}
    gone = event("cas", 1, expected=1, value=None, version=6)
    assert judged(write(0, 1, 5), gone, swept(1, 5)).lost == {KEY}


def test_a_stale_strong_read_is_found() -> None:
    """It is counted, and the key's history has no explanation."""
    found = judged(
        write(0, 1, 5), write(1, 2, 6), event("strong get", 2, seen=1, version=5), swept(2, 6)
    )

    assert found.stale == 1
    assert found.not_linearizable == {KEY}


def test_a_session_that_misses_its_own_write_is_found() -> None:
    """A session read must show what the session wrote, or something newer."""
    found = judged(
        write(0, 1, 5), write(1, 2, 6), event("session get", 2, seen=1, version=5, floor=6)
    )

    assert len(found.unseen_own_writes) == 1
    assert found.not_linearizable == set()


def test_a_session_that_goes_back_is_found() -> None:
    """What a session once saw it does not stop seeing; another session may be behind."""
    events = (
        write(0, 1, 5),
        write(1, 2, 6),
        event("session get", 2, client=1, seen=2, version=6),
        event("session get", 3, client=2, seen=1, version=5),
    )

    assert judged(*events).backwards == []
    assert len(judged(*events, event("session get", 4, 1, seen=1, version=5)).backwards) == 1


def test_a_value_that_nobody_wrote_is_found() -> None:
    """Whatever kind of read shows it."""
    assert len(judged(write(0, 1, 5), event("default get", 1, seen=9, version=5)).invented) == 1


def test_a_conditional_delete_is_a_compare_and_set_of_nothing() -> None:
    """Where it took effect the record is absent; where it was refused the version was another."""
    history = History()
    for each in (
        write(0, 1, 5),
        event("cas", 1, expected=1, value=None, version=6),
        event("cas", 2, expected=1, value=None, took_effect=False),
        event("strong get", 3),
    ):
        history.add(each)

    assert linearizable(history.operations(KEY)) is Verdict.LINEARIZABLE
