"""The nodes that a query has written, found by the value of a property.

An index knows the state that a query began with. What the query has written since could be looked
at node by node, but a MERGE for each row of a long list would then look at all nodes of the rows
before. So there is a table for each property that is asked for. It reads the log of written slots
on from where it stood: a node is looked at once for each time that it was written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from graph.cypher.values import Spend, group_key
from graph.state import GraphState


class Written:
    """See the module."""

    def __init__(self) -> None:
        self._log: list[int] = []
        self._tables: dict[tuple[str, str], _Table] = {}

    def note(self, slot: int) -> None:
        """Take note that a node was written."""
        self._log.append(slot)

    def slots(self) -> Iterable[int]:
        """Return the slots of all nodes that were written, also of those that are gone."""
        return dict.fromkeys(self._log)

    def equal(
        self, label: str, key: str, value: Any, state: GraphState, spend: Spend
    ) -> Iterable[int]:
        """Return slots among which are all written nodes of the label, as `state` has them, whose
        property is equal to the value."""
        if not self._log:
            return ()
        table = self._tables.setdefault((label, key), _Table(label, key))
        table.read(self._log, state, spend)
        return table.slots(group_key(value, spend))


class _Table:
    def __init__(self, label: str, key: str) -> None:
        self._label, self._key = label, key
        self._slots: dict[Any, dict[int, None]] = {}
        self._place: dict[int, Any] = {}
        """Where a slot stands in the table."""
        self._seen = 0

    def read(self, log: list[int], state: GraphState, spend: Spend) -> None:
        """Learn what was written since."""
        for slot in dict.fromkeys(log[self._seen :]):
            spend(1)
            if slot in self._place:
                del self._slots[self._place.pop(slot)][slot]
            node = state.vertex(slot).node
            if node is None or self._label not in node.labels:
                continue
            place = group_key(node.properties.get(self._key), spend)
            self._place[slot] = place
            self._slots.setdefault(place, {})[slot] = None
        self._seen = len(log)

    def slots(self, place: Any) -> Iterable[int]:
        """Return what stands at a place."""
        return self._slots.get(place, ())
