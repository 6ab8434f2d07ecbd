"""Whether a node can serve: the next request, a new collection included, works at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cluster.node import Node
    from cluster.replica import Replica

LOOP_LAG_MAX_S: Final = 1.0


class Readiness:
    """Looks at a node's parts; an empty list means ready."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def reasons(self) -> list[str]:
        """Return why the node is not ready, as sentences."""
        node = self._node
        if not node.formation.opened:
            return [node.formation.problem]
        reasons = [
            f"shard {shard}: {problem}"
            for shard, replica in sorted(node.shards.items())
            if (problem := self._problem(replica))
        ]
        if node.metadata is not None and (problem := self._problem(node.metadata)):
            reasons.append(f"metadata: {problem}")
        if node.disk.full:
            reasons.append("the disk is full: writes are refused")
        if node.driver.loop_lag_s > LOOP_LAG_MAX_S:
            reasons.append("the event loop is overloaded")
        return reasons

    def _problem(self, replica: Replica) -> str:
        if replica.raft.failed:
            return f"stopped: {replica.raft.failed}"
        if replica.storage_full:
            return "the disk is full"
        if replica.leader is None:
            return "no leader is known"
        if replica.is_leader:
            office = replica.raft.office_index
            return "" if office and replica.applied_index >= office else "is taking office"
        if not self._node.port.connected(replica.leader):
            return f"no connection to its leader {replica.leader}"
        if not replica.fresh(self._node.config.max_staleness_ms):
            return "is catching up with its leader"
        return ""
