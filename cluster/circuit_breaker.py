"""A circuit breaker: what keeps failing is left alone for a while, then tried with one probe. Pure.

    closed --- 5 failures, one after the other ---> open
    open --- 30 s and some jitter later, the next who asks ---> half open, with one probe under way
    half open --- the probe succeeds ---> closed;  it fails ---> open

Time and chance are arguments. The jitter only ever lengthens the rest, so that many who met the
same failure do not return at the same moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

State = Literal["closed", "open", "half_open"]
FAILURES_MAX: Final = 5
REST_S: Final = 30.0
JITTER: Final = 0.1
"""The rest is longer by at most this part of it."""


@dataclass(slots=True)
class CircuitBreaker:
    """See the module. Who is let through reports `succeeded` or `failed`."""

    failures_max: int = FAILURES_MAX
    rest_s: float = REST_S
    state: State = "closed"
    failures: int = 0
    """Failures since the last success."""
    _open_until_s: float = 0.0

    def lets_through(self, now_s: float) -> bool:
        """Return whether to try now; in half open this is the probe, and nobody else may."""
        if self.state == "closed":
            return True
        if self.state == "open" and now_s >= self._open_until_s:
            self.state = "half_open"
            return True
        return False

    def succeeded(self) -> None:
        """Take note of a success."""
        self.state, self.failures = "closed", 0

    def failed(self, now_s: float, chance: float) -> None:
        """Take note of a failure; `chance` in 0..1 says how much longer than usual to rest."""
        assert 0 <= chance <= 1, "a chance is a part of one"
        self.failures += 1
        if self.state == "half_open" or self.failures >= self.failures_max:
            self.state = "open"
            self._open_until_s = now_s + self.rest_s * (1 + JITTER * chance)

    def retry_in_s(self, now_s: float) -> float:
        """Return how long until somebody is let through, 0 when at once."""
        return max(0.0, self._open_until_s - now_s) if self.state == "open" else 0.0
