"""Is what clients saw of one key explained by one order of their operations?

Wing and Gong's search: an operation may come next when no other operation returned before it was
invoked; take one, go on, step back when nothing fits. Lowe's memo: a set of operations already
placed together with the state they led to is never tried twice. The operations that wait form a
linked list of calls and returns, so taking and giving back cost O(1).

An operation of unknown outcome may come at any time after its call, or never. Four things keep
the search short, none of which changes the answer:

- what only looks (a read, a refused compare-and-set) is placed as soon as it fits: it changes
  nothing for the others, so no order is lost;
- a value that one operation wrote does not come back: it is not left while somebody has yet to
  see it;
- an unknown write whose value somebody saw, and nobody else wrote, did happen, before that
  somebody's answer: it is no longer unknown;
- unknown operations of one effect are interchangeable: the earliest is tried for all.

The search takes time exponential in what is concurrent, hence the budget. Keep keys short: about
a hundred operations, then a fresh key.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, Literal

Kind = Literal["write", "read", "delete", "cas"]

BUDGET: Final = 1_000_000
ABSENT: Final = 0
UNSEEN: Final = 1  # every value that nobody saw and no condition names
ANY: Final = -1


class Verdict(enum.Enum):
    """What the search found. Only LINEARIZABLE is a pass."""

    LINEARIZABLE = "linearizable"
    VIOLATION = "violation"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Operation:
    """One client's call on one key. Times are seconds of one monotonic clock.

    `argument` is the value of a write and (expected, value) of a cas, where expected None means
    that the key must be absent. `result` is what a read saw (None: absent), and whether a cas took
    effect. `returned` is None when the outcome is unknown. Values are hashable.
    """

    process: int
    kind: Kind
    argument: Any
    result: Any
    invoked: float
    returned: float | None


def linearizable(history: Sequence[Operation], budget: int = BUDGET) -> Verdict:
    """Check the history of one key that is absent at first; `budget` is placements to try."""
    return _Search(_settled(history)).run(budget)


def _settled(history: Sequence[Operation]) -> list[Operation]:
    """Leave out unknown reads; give unknown writes that were seen the moment they were seen by."""
    useful = [op for op in history if op.returned is not None or op.kind != "read"]
    writers = Counter(_written(op) for op in useful if op.kind in {"write", "cas"})
    seen_s: dict[Hashable, float] = {}
    for op in useful:
        if op.returned is not None and (value := _seen(op)) is not None:
            seen_s[value] = min(op.returned, seen_s.get(value, math.inf))
    return [_settle(op, seen_s) if writers[_written(op)] == 1 else op for op in useful]


def _settle(op: Operation, seen_s: dict[Hashable, float]) -> Operation:
    value = _written(op)
    if op.returned is not None or value not in seen_s:
        return op
    # A value seen before it was sent has no explanation; the search shall say so.
    returned = max(op.invoked, seen_s[value])
    return replace(op, returned=returned, result=True if op.kind == "cas" else None)


def _written(op: Operation) -> Any:
    """Return the value that an operation leaves if it takes effect; None: none."""
    if op.kind == "write":
        return op.argument
    return op.argument[1] if op.kind == "cas" else None


def _seen(op: Operation) -> Any:
    """Return the value that a finished operation proves to have been there; None: none."""
    if op.kind == "read":
        return op.result
    return op.argument[0] if op.kind == "cas" and op.result else None


@dataclass(frozen=True)
class _Step:
    """An operation as a move: from which states (ANY, or one, or all but one), and to which."""

    needs: int
    refuses: int
    becomes: int  # ANY: as it was

    def after(self, state: int) -> int | None:
        """Return the state it leads to; None: it cannot come here."""
        if state == self.refuses or self.needs not in {ANY, state}:
            return None
        return state if self.becomes == ANY else self.becomes


def _steps(operations: Sequence[Operation]) -> list[_Step]:
    told = {_seen(op) for op in operations if op.returned is not None}
    told |= {op.argument[0] for op in operations if op.kind == "cas"}
    codes: dict[Hashable, int] = {None: ABSENT}
    for value in sorted(told - {None}, key=repr):
        codes[value] = len(codes) + 1

    def step(op: Operation) -> _Step:
        match op.kind:
            case "read":
                return _Step(codes[op.result], ANY, ANY)
            case "write":
                return _Step(ANY, ANY, codes.get(op.argument, UNSEEN))
            case "delete":
                return _Step(ANY, ANY, ABSENT)
            case "cas":
                expected, value = op.argument
                if op.returned is not None and not op.result:
                    return _Step(ANY, codes[expected], ANY)
                # Of unknown outcome: either it fits and takes effect, or it is left out.
                return _Step(codes[expected], ANY, codes.get(value, UNSEEN))

    return [step(op) for op in operations]


class _Search:
    """Places operations one after another. Even events are calls, odd ones their returns."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = operations
        self._steps = _steps(operations)
        known = [number for number, op in enumerate(operations) if op.returned is not None]
        events = [2 * number for number in known] + [2 * number + 1 for number in known]
        # At one instant calls come first: what touches in time counts as concurrent.
        events.sort(key=lambda event: (self._time_s(event), event & 1, event))
        self._head = 2 * len(operations)
        ring = [self._head, *events, self._head]
        self._next = dict(pairwise(ring))
        self._previous = {after: before for before, after in pairwise(ring)}
        self._unknown = self._by_effect()
        written = Counter(step.becomes for step in self._steps)
        self._once = {code for code, times in written.items() if code > UNSEEN and times == 1}
        self._awaited = Counter(self._steps[number].needs for number in known)

    def run(self, budget: int) -> Verdict:
        """Try placements until all known operations are placed, nothing is left, or too many."""
        placed, state = 0, ABSENT
        tried = {(placed, state)}
        path: list[tuple[int, int, int, Iterator[tuple[int, int]]]] = []
        moves = self._moves(placed, state)
        while self._next[self._head] != self._head:
            for number, becomes in moves:
                key = (placed | 1 << number, becomes)
                if key not in tried:
                    tried.add(key)
                    path.append((number, placed, state, moves))
                    self._take(number)
                    placed, state = key
                    moves = self._moves(placed, state)
                    break
            else:
                if not path:
                    return Verdict.VIOLATION
                number, placed, state, moves = path.pop()
                self._give_back(number)
            if len(tried) > budget:
                return Verdict.UNDECIDED
        return Verdict.LINEARIZABLE

    def _moves(self, placed: int, state: int) -> Iterator[tuple[int, int]]:
        """Yield what may come next and the state it leads to; a mere look stands for all."""
        changes, event = [], self._next[self._head]
        while not event & 1:
            number = event >> 1
            becomes = self._after(number, state)
            if becomes is not None:
                if self._steps[number].becomes == ANY:
                    yield number, becomes
                    return
                changes.append((number, becomes))
            event = self._next[event]
        yield from changes
        for alike in self._unknown:
            number = next((one for one in alike if not placed >> one & 1), ANY)
            if number != ANY and self._operations[number].invoked <= self._time_s(event):
                becomes = self._after(number, state)
                if becomes is not None and becomes != state:
                    yield number, becomes

    def _after(self, number: int, state: int) -> int | None:
        """Return the state that an operation leads to; None: it cannot come now."""
        becomes = self._steps[number].after(state)
        if becomes is None or becomes == state or state not in self._once:
            return becomes
        known = self._operations[number].returned is not None
        itself = known and self._steps[number].needs == state
        return becomes if self._awaited[state] == itself else None

    def _by_effect(self) -> list[list[int]]:
        groups: dict[_Step, list[int]] = {}
        for number, op in enumerate(self._operations):
            if op.returned is None:
                groups.setdefault(self._steps[number], []).append(number)
        for alike in groups.values():
            alike.sort(key=lambda number: self._operations[number].invoked)
        return list(groups.values())

    def _time_s(self, event: int) -> float:
        op = self._operations[event >> 1]
        if event & 1:
            assert op.returned is not None, "only what returned has a return"
            return op.returned
        return op.invoked

    def _take(self, number: int) -> None:
        if self._operations[number].returned is not None:
            self._awaited[self._steps[number].needs] -= 1
            for event in (2 * number, 2 * number + 1):
                before, after = self._previous[event], self._next[event]
                self._next[before], self._previous[after] = after, before

    def _give_back(self, number: int) -> None:
        if self._operations[number].returned is not None:
            self._awaited[self._steps[number].needs] += 1
            for event in (2 * number + 1, 2 * number):
                before, after = self._previous[event], self._next[event]
                self._next[before], self._previous[after] = event, event
