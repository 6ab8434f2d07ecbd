"""How much work a question may be: a number of expansions, and a time by which it ends.

Whoever walks a graph spends one unit for each arc that it looks at, or for each row that it makes.
When the budget is used up `Exhausted` is raised, and the walker answers what it has, saying that
it was cut short.

A long walk in one thread keeps the interpreter from all others, for five milliseconds at a time.
So every `STRIDE` units the budget looks at the clock and calls `pause`, which lets them in; a walk
of less than that is not worth a pause.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

STRIDE: Final = 128

Cut = Literal["expansions", "time", "rows"]
"""Which limit ended a walk early."""


class Exhausted(Exception):
    """The budget is used up; `by` says which part of it."""

    def __init__(self, by: Cut) -> None:
        super().__init__(by)
        self.by = by


class Budget:
    """See the module. `deadline_s` is on `clock`, in seconds."""

    __slots__ = ("_clock", "_deadline_s", "_look_at", "_pause", "expansions_max", "spent")

    def __init__(
        self,
        expansions_max: int,
        *,
        deadline_s: float = float("inf"),
        clock: Callable[[], float] = lambda: 0.0,
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        assert expansions_max > 0, "some work is allowed"
        self.expansions_max = expansions_max
        self.spent = 0
        self._deadline_s, self._clock, self._pause = deadline_s, clock, pause
        self._look_at = min(STRIDE, expansions_max)

    def spend(self, units: int = 1) -> None:
        """Count work that is about to be done; raises Exhausted when there is no room for it."""
        self.spent += units
        if self.spent > self._look_at:
            self._look()

    def _look(self) -> None:
        if self.spent > self.expansions_max:
            raise Exhausted("expansions")
        if self._clock() >= self._deadline_s:
            raise Exhausted("time")
        self._look_at = min(self.spent + STRIDE, self.expansions_max)
        self._pause()
