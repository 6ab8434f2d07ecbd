"""What one execution of a query knows and counts.

Sources of rows (MATCH, UNWIND) spend from the caller's budget, which raises when it is used up.
Everything behind them spends here: then nothing is raised, `cut` says what happened, the sources
dry up at their next row, and what came through is still sorted, grouped and answered. Such late
work has an allowance of its own, behind which even that ends. A query that writes is never
answered in part: it is refused whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, NoReturn

from graph.budget import Budget, Cut, Exhausted
from graph.cypher.written import Written
from graph.errors import BadQuery, WriteCutShort
from graph.model import Arc, Edge, Node
from graph.property_index import PropertyIndexes
from graph.state import EdgeEntry, GraphState

HELD_MAX: Final = 100_000
"""Rows, and items of collected lists, that a query keeps in memory."""
_GRACE: Final = 100_000
_DECODED_MAX: Final = 64
"""More would keep the collector of garbage busy in a scan."""


class RunContext(NamedTuple):
    """What a query is run with. `unsliced`: the final SKIP is not applied, and LIMIT is as large
    as both, so that a caller can merge the answers of several graphs and slice once.
    `changes_bytes_max`: how much a query may write at once, roughly as the log will hold it."""

    parameters: Mapping[str, Any]
    budget: Budget
    rows_max: int
    now_ms: int
    new_id: Callable[[], str]
    as_of: int | None = None
    known_at: int | None = None
    indexes: PropertyIndexes | None = None
    unsliced: bool = False
    changes_bytes_max: int = 1 << 20


class Overrun(Exception):
    """The allowance for work behind a cut is used up as well."""


class Runtime:
    """See the module. `state` is what reading sees now, `base` what the query began with."""

    def __init__(self, state: GraphState, context: RunContext, *, writes: bool) -> None:
        self.base = self.state = state
        self.context = context
        self.writes = writes
        self.cut: Cut | None = None
        self.written = Written()
        """Nodes that the query has written."""
        self._grace = _GRACE
        self.refusals = 0
        """How often something was not kept in memory."""
        self._held = 0
        self._decoded: dict[Node | Edge, dict[str, Any]] = {}

    def stop(self, by: Cut) -> None:
        """Remember that the answer is incomplete."""
        if self.writes:
            raise WriteCutShort(f"a limit ({by}) ended the query; nothing was written")
        self.cut = self.cut or by

    def spend(self, units: int) -> None:
        """Count work that is not that of a source; see the module."""
        assert units >= 0, "work is not given back"
        if self.cut is None:
            try:
                self.context.budget.spend(units)
            except Exhausted as error:
                self.stop(error.by)
        else:
            self._grace -= units
            if self._grace < 0:
                raise Overrun

    def hold(self, units: int = 1) -> bool:
        """Count what is kept in memory; False: it may not be. Behind a cut as much again may."""
        if self._held + units > HELD_MAX * (1 if self.cut is None else 2):
            self.refusals += 1
            self.stop("rows")
            return False
        self._held += units
        return True

    def properties(self, element: Node | Edge) -> dict[str, Any]:
        """Return the decoded properties; not to be changed."""
        found = self._decoded.get(element)
        if found is None:
            if len(self._decoded) >= _DECODED_MAX:
                self._decoded.clear()
            found = self._decoded[element] = element.properties
        return found

    def current(self, value: Any) -> Any:
        """Return a node or relationship as the query's own writes have left it."""
        if self.state is self.base:
            return value
        if isinstance(value, Node):
            return self.state.vertex(value.slot).node or _deleted(value.id)
        if isinstance(value, Arc):
            return self._entry(value.edge.id).arcs[value.position]
        return self._entry(value.edge.id) if isinstance(value, EdgeEntry) else value

    def _entry(self, edge_id: str) -> EdgeEntry:
        return self.state.find_edge(edge_id) or _deleted(edge_id)


def held(rows: Iterable[list[Any]], run: Runtime) -> list[list[Any]]:
    """Return all rows: a clause that writes begins when everything before it has been read."""
    waiting = []
    for row in rows:
        run.hold()
        waiting.append(row)
    return waiting


def _deleted(element_id: str) -> NoReturn:
    raise BadQuery(f"{element_id} was deleted by this query and cannot be read any more")
