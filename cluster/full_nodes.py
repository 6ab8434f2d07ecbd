"""Which nodes must not grow: this one by its own account, others by their notices. Pure.

A follower cannot refuse what its leader commits. So a node that is full says so to its peers, and
whoever takes a request refuses it when any replica of a shard that it writes to is on a full node.
A notice counts for `NOTICE_S`: a node that vanished holds nobody up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cluster.errors import StorageFull

NOTICE_S: Final = 5.0


class FullNodes:
    """`what` says, in messages, of what there is too little."""

    def __init__(self, me: str, what: str) -> None:
        self._me, self._what = me, what
        self.full = False
        """Whether this node must not grow."""
        self._notices: dict[str, float] = {}

    def hear(self, node: str, now_s: float) -> None:
        """Take note that a node is full."""
        self._notices[node] = now_s + NOTICE_S

    def admit_growth(self, nodes: Iterable[str], now_s: float) -> None:
        """Admit a write to shards that these nodes have replicas of.

        Raises:
            StorageFull: one of them is full.
        """
        if not self.full and not self._notices:
            return
        for node in nodes:
            if (node == self._me and self.full) or self._notices.get(node, now_s) > now_s:
                raise StorageFull(f"the {self._what} of {node} is full; reads and deletes go on")
