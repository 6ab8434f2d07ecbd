"""What the parts of the demo share: how they speak, and how they wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from cluster.demo_search import Found
from cluster.errors import CommandFailed
from cluster.supervisor import Supervisor

REQUEST_TIMEOUT_S: Final = 15.0
READY_S: Final = 60.0
CONVERGED_S: Final = 60.0
POLL_S: Final = 0.1

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One thing as both clusters have it, in words."""

    what: str
    before: str
    after: str
    equal: bool


@dataclass(frozen=True)
class Voice:
    """How the demo speaks: sentences, hits of a question, comparisons, progress of long work."""

    say: Callable[[str], None]
    hits: Callable[[str, Sequence[Found]], None]
    comparisons: Callable[[Sequence[Comparison]], None]
    progress: Progress


def until(
    supervisor: Supervisor, condition: Callable[[], bool], timeout_s: float, what: str
) -> None:
    """Wait for a condition; raises CommandFailed when a node dies or the time is over."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        for death in supervisor.reap():
            said = supervisor.last_words(death.name)
            raise CommandFailed(f"{death.describe()}: {said}", code="node_failed")
        if time.monotonic() > deadline_s:
            raise CommandFailed(f"{what} took longer than {timeout_s:.0f} s", code="too_slow")
        time.sleep(POLL_S)
