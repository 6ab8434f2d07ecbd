"""Leadership goes to each shard's preferred node, and away from a node that stops.

The shard map's first node of each shard is its preferred leader, and the map spreads those
evenly; after failures leaders pile up on the survivors until this moves them back. A transfer
asks one caught-up follower to stand at once (Raft thesis, section 3.10); it is best effort.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cluster.node import Node
    from cluster.replica import Replica

BALANCE_S: Final = 1.0
SETTLED_S: Final = 3.0
HAND_OVER_S: Final = 2.0


async def keep_balanced(node: Node) -> None:
    """Hand over shards whose preferred leader is another node, one at a time, until cancelled."""
    connected_since: dict[str, float] = {}
    while True:
        await asyncio.sleep(BALANCE_S)
        now = node.surroundings.clock()
        for peer in node.config.peers():
            if node.port.connected(peer):
                connected_since.setdefault(peer, now)
            else:
                connected_since.pop(peer, None)
        settled = {peer for peer, since in connected_since.items() if now - since > SETTLED_S}
        for replica in node.shards.values():
            preferred = replica.raft.members[0]
            if replica.is_leader and preferred in settled and replica.raft.caught_up(preferred):
                replica.raft.transfer_to(preferred)
                node.driver.touch(replica.group)
                break


async def hand_over(node: Node) -> None:
    """Before stopping: pass on what this node leads, for at most `HAND_OVER_S`."""
    deadline_s = node.surroundings.clock() + HAND_OVER_S
    replicas = [*node.shards.values(), *([node.metadata] if node.metadata else [])]
    asked: set[int] = set()
    while node.surroundings.clock() < deadline_s:
        leading = [replica for replica in replicas if replica.is_leader and _heir(node, replica)]
        if not leading:
            return
        for replica in leading:
            heir = _heir(node, replica)
            if heir is not None and replica.group not in asked and replica.raft.caught_up(heir):
                asked.add(replica.group)
                replica.raft.transfer_to(heir)
                node.driver.touch(replica.group)
        await asyncio.sleep(0.05)


def _heir(node: Node, replica: Replica) -> str | None:
    """Return a connected member that could lead, caught up ones first."""
    connected = [
        peer
        for peer in replica.raft.members
        if peer != node.config.node_id and node.port.connected(peer)
    ]
    return next((peer for peer in connected if replica.raft.caught_up(peer)), None) or next(
        iter(connected), None
    )
