"""How much memory the logs of a node may take, all groups together. Pure.

Entries stay in memory until the log is cut below them, and it is cut below what SQLite has made
durable. Three lines keep the total below `bytes_max`:

    1/4    the largest logs are cut, as far as connected followers have them (`cuts`)
    3/8    a follower that lacks more than half a group's share gets a snapshot instead
    1/2    entries are admitted only to groups that hold less than their share of the other half

A leader has no more than a share under way that is not applied yet; what is applied can be cut. So
a log that is not admitted to can always be cut until it is, and no group waits for another one:
the bound costs no liveness. A share is never less than one command, so with more groups than
commands fit into the half, it is their number that bounds the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

ENTRY_BYTES: Final = 160
"""What an entry takes beside its command: a tuple, two integers, the head of a bytes object."""
LOG_BYTES_MAX: Final = 64 << 20
COMMAND_BYTES_MAX: Final = 2 << 20


@dataclass
class LogMemory:
    """What is held by the logs of a node. `share_min` must hold a command."""

    bytes_max: int = LOG_BYTES_MAX
    share_min: int = COMMAND_BYTES_MAX + ENTRY_BYTES
    used: int = 0
    peak: int = 0
    """The most that was held at any time."""
    groups: int = 0

    def add(self, size: int) -> None:
        """A log grew by so many bytes, or shrank."""
        self.used += size
        self.peak = max(self.peak, self.used)

    @property
    def share(self) -> int:
        """Bytes that each group may hold however much the others do."""
        return max(self.share_min, self.bytes_max // (2 * max(1, self.groups)))

    @property
    def offer_max(self) -> int:
        """How large a log may be that is kept for a snapshot on its way: a quarter of all, or, when
        memory is short, half a share, so that the group is still admitted to."""
        return self.share // 2 if self.pressed else self.bytes_max // 4

    @property
    def pressed(self) -> bool:
        """Whether followers that lack much are to be left to snapshots."""
        return 8 * self.used > 3 * self.bytes_max

    def admits(self, held: int, more: int) -> bool:
        """Whether a group that holds `held` bytes may take in `more`."""
        return 2 * (self.used + more) <= self.bytes_max or held + more <= self.share


def cuts(held: Mapping[int, int], after_cut: Mapping[int, int], memory: LogMemory) -> list[int]:
    """Return the groups to cut now for the sake of the total, the largest first.

    `held` and `after_cut` are bytes by group, now and after the last cut: a log that has hardly
    grown since is left alone, for the same entries would have to stay.
    """
    surplus = memory.used - memory.bytes_max // 4
    chosen: list[int] = []
    for group, size in sorted(held.items(), key=lambda item: (-item[1], item[0])):
        if surplus <= 0:
            break
        grown = size - after_cut.get(group, 0)
        if memory.pressed or 4 * grown >= size:
            chosen.append(group)
            surplus -= size
    return chosen
