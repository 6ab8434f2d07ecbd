"""The exact pysyncobj that the overrides were written against, and the clock it reads.

We override private names of pysyncobj, so any other text of its core is another protocol:
the sha256 of its three core files is compared at import and a mismatch refuses to start.

pysyncobj reads time from a function in its own module namespace. `install_clock` puts a seam
there, so that a simulation owns every group's time; in production it is the monotonic clock
already in place.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import pysyncobj
from pysyncobj import syncobj as core
from pysyncobj.node import Node

CORE_SHA256: Final = {
    "syncobj.py": "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4",
    "journal.py": "9cf1eaf6acc704581a4cf7d3de330a404403913107adc91c929778b7e3f35edf",
    "serializer.py": "4d39fde2f15000ad8f507ec229ebd4f6a86371b6f84d4dc1439a9cccd52857ee",
}


class ForeignCore(RuntimeError):
    """The installed pysyncobj is not the one that was audited."""


def verify_core(folder: Path) -> None:
    """Compare the core files in `folder` with the audited ones; raises ForeignCore."""
    for name, expected in CORE_SHA256.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != expected:
            raise ForeignCore(
                f"pysyncobj's {name} has sha256 {found[:12]}..., this program was written against "
                f"{expected[:12]}... (0.3.17); install pysyncobj==0.3.17"
            )


verify_core(Path(pysyncobj.__file__).parent)


def install_clock(clock: Callable[[], float]) -> None:
    """Make every group of this process read `clock` (seconds, monotonic)."""
    core.monotonicTime = clock


class Peer(Node):  # type: ignore[misc]  # pysyncobj is untyped
    """A member of a group. Closes D21: sets of members iterate in an order that does not
    depend on the process's string hashing, so that a seed replays the same run."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._hash = zlib.crc32(name.encode())

    def __hash__(self) -> int:  # type: ignore[explicit-override]
        return self._hash

    def __eq__(self, other: object) -> bool:  # type: ignore[explicit-override]
        return isinstance(other, Node) and bool(self.id == other.id)


@cache
def peer(name: str) -> Peer:
    """Return the one object for a member: the core looks it up in dictionaries all the time."""
    return Peer(name)


class NoPoller:
    """Stands where pysyncobj keeps its socket poller; the node's loop does the waiting."""

    def subscribe(self, *_: Any) -> None:
        """Ignore: sockets are not pysyncobj's business here."""

    def unsubscribe(self, *_: Any) -> None:
        """Ignore, as above."""

    def poll(self, _timeout_s: float) -> None:
        """Return at once."""
