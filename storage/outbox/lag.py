"""How far a collection is behind its table. Pure.

The lag is the age of the oldest change that waits, not the time that applying takes: a backlog that
nobody works on grows older by itself. It is 0 when nothing waits.

A gap is what waiting does not close: a dead letter, or changes that no trigger saw.
"""

from __future__ import annotations

from typing import Final

from storage.outbox.model import Status

INCOHERENT_MS: Final = 5000.0
"""So far behind, a collection says nothing about the truth."""


def coherency_with_truth(lag_ms: float, *, gap: bool) -> float:
    """Return how well a collection reflects its table: 1 when it does, 0 when it may not."""
    assert lag_ms >= 0, "a lag is not negative"
    return 0.0 if gap else max(0.0, 1.0 - lag_ms / INCOHERENT_MS)


def has_gap(status: Status) -> bool:
    """Return whether changes are missing that are not on their way."""
    return status.source.dead > 0 or not status.attached


def state_of(status: Status, dead_letters_max: int) -> str:
    """Return in one word how a source fares; the first of these that holds."""
    if not status.attached:
        return "detached"
    if status.source.paused:
        return "paused"
    if status.source.dead >= dead_letters_max:
        return "full"
    if not status.attended:
        return "unattended"
    return "failing" if status.problem else "running"
