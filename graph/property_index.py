"""Indexes on declared properties of nodes, such as "Event.type".

Base and delta: for a label and a property there is a sorted base, built from the newest state when
it is first asked for, and the slots that have changed since. A question to a newer state is
answered by the hits in the base and all those slots, as candidates: the caller looks at each in the
state that it reads. So an index is never wrong, only sometimes slower, and states need not be
indexed one by one. When the changes become many, the base is built anew.

A state that is older than the base cannot be answered; the caller scans. Of a fork the state counts
that it was made from; what was changed in it the caller adds. Readers ask in many threads, one
writer tells of changes: a lock guards the table, another makes builds take turns, so that the
writer never waits for one. While a base is being built, changes are kept as if it was there.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

from graph.state import GraphState

_DELTA_MIN: Final = 1000
_DELTA_SHARE: Final = 8

Kind = type[bool] | type[float] | type[str]
_ABSENT: Final[Any] = object()


class _Base:
    """Values by kind, sorted, each with its node's slot; lists and maps are kept aside."""

    def __init__(self, label: str, key: str, state: GraphState) -> None:
        self.serial = state.serial
        pairs: dict[Kind, list[tuple[Any, int]]] = {bool: [], float: [], str: []}
        self.others: list[int] = []
        self.count = 0
        for node in state.nodes():
            if label not in node.labels:
                continue
            value = node.properties.get(key)
            kind = _kind(value)
            if kind is not None:
                pairs[kind].append((value, node.slot))
            elif value is not None:
                self.others.append(node.slot)
            self.count += 1
        self._values: dict[Kind, list[Any]] = {}
        self._slots: dict[Kind, list[int]] = {}
        for kind, found in pairs.items():
            found.sort()
            self._values[kind] = [value for value, _ in found]
            self._slots[kind] = [slot for _, slot in found]

    def between(self, low: Any, high: Any) -> list[int]:
        """Return slots of nodes with low <= value <= high; either may be absent."""
        kind = _kind(high if low is _ABSENT else low)
        if kind is None or (low is not _ABSENT and high is not _ABSENT and _kind(high) != kind):
            return self.others
        values = self._values[kind]
        first = 0 if low is _ABSENT else bisect_left(values, low)
        last = len(values) if high is _ABSENT else bisect_right(values, high)
        return self._slots[kind][first:last]


class PropertyIndexes:
    """See the module. `declared` are "Label.property" pairs; `state` is the newest one, and every
    later one will be told of."""

    def __init__(self, declared: Sequence[str], state: GraphState) -> None:
        self._lock = threading.Lock()
        self._building = threading.Lock()
        self._bases: dict[tuple[str, str], _Base | None] = {}
        for pair in declared:
            label, dot, key = pair.partition(".")
            assert all((label, dot, key)), "a declaration is Label.property"
            self._bases[label, key] = None
        self._changed: dict[int, int] = {}
        """Slot -> serial of the state that changed it last, in that order."""
        self._newest = state
        self._pending: dict[tuple[str, str], int] = {}
        """Serials of the states from which bases are being built."""

    def __contains__(self, pair: tuple[str, str]) -> bool:
        return pair in self._bases

    def changed(self, slots: Sequence[int], state: GraphState) -> None:
        """Take note of nodes that differ in `state`, before readers can get hold of it."""
        with self._lock:
            assert state.serial > self._newest.serial, "states are told of in their order"
            self._newest = state
            if not self._pending and all(base is None for base in self._bases.values()):
                self._changed.clear()
                return
            for slot in slots:
                self._changed.pop(slot, None)
                self._changed[slot] = state.serial

    def candidates(
        self,
        label: str,
        key: str,
        state: GraphState,
        *,
        equal: Any = _ABSENT,
        low: Any = _ABSENT,
        high: Any = _ABSENT,
    ) -> list[int] | None:
        """Return slots among which are all nodes of the label whose property is equal to a value
        or lies between two, both included; None when the caller has to look at all nodes.

        A slot may lie beyond the state, or be there without a node.
        """
        assert (equal is _ABSENT) != (low is _ABSENT and high is _ABSENT), "one kind of question"
        if (label, key) not in self._bases:
            return None
        base, delta = self._found(label, key, state)
        if base is None:
            with self._building:
                base, delta = self._found(label, key, state)
                if base is None:
                    self._build(label, key)
                    base, delta = self._found(label, key, state)
        if base is None or state.shared < base.serial:
            return None
        hits = base.between(equal, equal) if equal is not _ABSENT else base.between(low, high)
        return list(dict.fromkeys([*hits, *delta])) if delta else hits

    def _found(self, label: str, key: str, state: GraphState) -> tuple[_Base | None, list[int]]:
        """Return the base, None when one has to be built, and the slots changed since."""
        with self._lock:
            base = self._bases[label, key]
            if base is None or state.shared <= base.serial:
                return base, []
            limit = max(_DELTA_MIN, base.count // _DELTA_SHARE)
            delta = list(islice(self._since(base.serial), limit + 1))
            return (base, delta) if len(delta) <= limit else (None, [])

    def _build(self, label: str, key: str) -> None:
        """Build a base from the newest state."""
        pair = label, key
        with self._lock:
            state = self._newest
            self._pending[pair] = state.serial
        try:
            built = _Base(label, key, state)
        except BaseException:
            with self._lock:
                del self._pending[pair]
            raise
        with self._lock:
            del self._pending[pair]
            self._bases[pair] = built
            self._prune()

    def _since(self, serial: int) -> Iterator[int]:
        """Yield the slots that changed after a state, the last ones first."""
        for slot in reversed(self._changed):
            if self._changed[slot] <= serial:
                return
            yield slot

    def _prune(self) -> None:
        """Drop the changes that all bases have seen."""
        kept = [base.serial for base in self._bases.values() if base is not None]
        oldest = min([*kept, *self._pending.values()])
        self._changed = {slot: serial for slot, serial in self._changed.items() if serial > oldest}


def _kind(value: Any) -> Kind | None:
    if isinstance(value, bool):
        return bool
    if isinstance(value, int | float):
        return float if value == value else None
    return str if isinstance(value, str) else None
