"""Which variable stands where in a row.

A row is a list; a clause appends to it what it binds. Names that the query does not give
(anonymous nodes, intermediate results) begin with a character that no query can contain.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from graph.errors import BadQuery

HIDDEN: Final = "\0"


class Scope:
    """Names and their positions; `width` is that of a row."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = {name: position for position, name in enumerate(names)}
        self.width = len(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def extended(self, names: Iterable[str]) -> Scope:
        """Return a scope with more names at the end; a name that is there already is hidden by
        the new one."""
        scope = Scope()
        scope.names = dict(self.names)
        scope.width = self.width
        for name in names:
            scope.names[name] = scope.width
            scope.width += 1
        assert all(0 <= at < scope.width for at in scope.names.values()), "names have places"
        return scope

    def position(self, name: str) -> int:
        """Return where a variable stands."""
        if name not in self.names:
            raise BadQuery(f"the variable {name} is not defined here")
        return self.names[name]

    def visible(self) -> list[str]:
        """Return the names that `*` stands for."""
        return [name for name in self.names if not name.startswith(HIDDEN)]
