"""The history checker is right about small histories of every shape, and about famous lies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest

from tests.linearizability import Kind, Operation, Verdict, linearizable

VALUES = ("a", "b", "c")


def op(
    kind: Kind,
    invoked: float,
    returned: float | None,
    argument: Any = None,
    result: Any = None,
    process: int = 0,
) -> Operation:
    return Operation(process, kind, argument, result, invoked, returned)


def step(state: str | None, op: Operation) -> tuple[bool, str | None]:
    """Whether the operation explains itself in this state, and the state after it."""
    match op.kind:
        case "read":
            return op.result == state, state
        case "write":
            return True, op.argument
        case "delete":
            return True, None
        case "cas":
            expected, value = op.argument
            if op.returned is None:
                return True, value if state == expected else state
            return op.result == (state == expected), value if op.result else state


def explained(left: frozenset[Operation], state: str | None) -> bool:
    """Try every order that respects real time."""
    if not left:
        return True
    for first in left:
        others = left - {first}
        if any(o.returned is not None and o.returned < first.invoked for o in others):
            continue
        fits, after = step(state, first)
        if fits and explained(others, after):
            return True
    return False


def brute_force(history: Sequence[Operation]) -> bool:
    """Leave out any choice of unknown operations, and try every order of the rest."""
    known = {op for op in history if op.returned is not None}
    unknown = [op for op in history if op.returned is None and op.kind != "read"]
    return any(
        explained(frozenset(known | set(kept)), None)
        for count in range(len(unknown) + 1)
        for kept in combinations(unknown, count)
    )


def random_history(rng: random.Random, values: Sequence[str]) -> list[Operation]:
    """Up to seven operations whose results are half honest, half invented."""
    state: str | None = None
    history = []
    for process in range(rng.randint(1, 7)):
        invoked = float(rng.randint(0, 8))
        kind: Kind = rng.choice(("write", "read", "delete", "cas", "cas"))
        argument: Any = None
        result: Any = None
        honest = rng.random() < 0.7
        if kind == "write":
            argument = state = rng.choice(values)
        elif kind == "delete":
            state = None
        elif kind == "read":
            result = state if honest else rng.choice((None, *values))
        else:
            argument = (rng.choice((None, *values, state)), rng.choice(values))
            result = (argument[0] == state) if honest else rng.random() < 0.5
            state = argument[1] if result else state
        returned = None if rng.random() < 0.3 else invoked + rng.randint(0, 4)
        history.append(op(kind, invoked, returned, argument, result, process))
    return history


@pytest.mark.parametrize("values", [VALUES, tuple("abcdefghijkl")])
def test_it_agrees_with_brute_force(values: Sequence[str]) -> None:
    """Three values repeat, so that writes are confused; twelve are mostly unique."""
    rng = random.Random(20)
    seen = dict.fromkeys(Verdict, 0)
    for number in range(2000):
        history = random_history(rng, values)
        found = linearizable(history)
        seen[found] += 1

        expected = Verdict.LINEARIZABLE if brute_force(history) else Verdict.VIOLATION
        assert expected == found, (number, history)

    assert min(seen[Verdict.LINEARIZABLE], seen[Verdict.VIOLATION]) > 300


def test_a_stale_read_is_found() -> None:
    """A read that began after a write was answered sees what was there before it."""
    history = [
        op("write", 0, 1, "old"),
        op("write", 2, 3, "new"),
        op("read", 4, 5, result="old"),
    ]

    assert linearizable(history) is Verdict.VIOLATION
    assert linearizable([*history[:2], op("read", 3, 5, result="old")]) is Verdict.LINEARIZABLE


def test_a_lost_write_is_found() -> None:
    """An answered write that nobody finds."""
    assert linearizable([op("write", 0, 1, "v"), op("read", 2, 3)]) is Verdict.VIOLATION
    assert linearizable([op("write", 0, None, "v"), op("read", 2, 3)]) is Verdict.LINEARIZABLE


def test_a_deleted_record_that_comes_back_is_found() -> None:
    """Absent once, it cannot be the old value again."""
    history = [
        op("write", 0, 1, "v"),
        op("delete", 2, 3),
        op("read", 4, 5),
        op("read", 6, 7, result="v"),
    ]

    assert linearizable(history) is Verdict.VIOLATION


def test_a_compare_and_set_that_succeeds_twice_is_found() -> None:
    """Two clients both made the record that was absent."""
    history = [
        op("cas", 0, 5, (None, "mine"), result=True, process=1),
        op("cas", 0, 5, (None, "yours"), result=True, process=2),
    ]

    assert linearizable(history) is Verdict.VIOLATION
    refused = op("cas", 0, 5, (None, "yours"), result=False, process=2)
    assert linearizable([history[0], refused]) is Verdict.LINEARIZABLE


def test_a_refused_compare_and_set_needs_a_reason() -> None:
    """A condition that held all the time cannot be refused."""
    history = [op("write", 0, 1, "v"), op("cas", 2, 3, ("v", "w"), result=False)]

    assert linearizable(history) is Verdict.VIOLATION
    other = op("write", 1, None, "unknown")
    assert linearizable([other, *history]) is Verdict.LINEARIZABLE


def test_an_unknown_write_may_come_late_but_only_once() -> None:
    """It explains one appearance, not a second one after another value."""
    late = [
        op("write", 0, None, "late"),
        op("write", 1, 2, "v"),
        op("read", 3, 4, result="v"),
        op("read", 5, 6, result="late"),
    ]

    assert linearizable(late) is Verdict.LINEARIZABLE
    again = [*late, op("write", 7, 8, "w"), op("read", 9, 10, result="late")]
    assert linearizable(again) is Verdict.VIOLATION


def test_a_long_history_with_many_unknown_outcomes_is_decided() -> None:
    """Eighty operations, half of them unknown: what chaos makes of a key in a bad minute."""
    rng = random.Random(3)
    history, state = [], None
    for number in range(80):
        at = number + rng.random() / 2
        value = f"v{number}"
        if number % 2:
            history.append(op("write", at, None, value))
            state = value if rng.random() < 0.5 else state
        elif number % 4:
            history.append(op("delete", at, None))
            state = None if rng.random() < 0.5 else state
        else:
            history.append(op("read", at, at + 3, result=state))

    assert linearizable(history) is not Verdict.UNDECIDED
    lie = [*history, op("read", 90, 91, result="never written")]
    assert linearizable(lie) is Verdict.VIOLATION


def test_a_spent_budget_is_no_verdict() -> None:
    """It says that it does not know, which counts as not passed."""
    writes = [op("write", 0, 10, f"v{number}") for number in range(12)]
    history = [*writes, op("read", 11, 12, result="nobody wrote it")]

    assert linearizable(history, budget=100) is Verdict.UNDECIDED
