"""What the cluster looks like from here: every node is asked, nobody is waited for long.

A node that does not answer in time is named as not alive, and its replicas are listed without an
index; an answer is never put off for it. Replicas' state hashes are comparable at equal applied
index only, so each is read together with its index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cluster.config import Config
from cluster.errors import RecollectError
from cluster.fan_out import fan_out
from cluster.metadata import ClusterView
from cluster.peer_methods import DESCRIBE_NODE, DescribeNode, NodeState, ReplicaState
from cluster.routing import METADATA_GROUP, Routing, ShardReplica

STATUS_WAIT_S: Final = 1.0
_READINGS_MAX: Final = 50
_READING_PAUSE_S: Final = 0.005


@dataclass(frozen=True)
class ClusterStatus:
    """Describes nodes and replicas."""

    routing: Routing

    async def describe(self) -> dict[str, Any]:
        """Return nodes and shards as JSON-able data. Raises NotReady before there is a cluster."""
        view = self.routing.view()
        states = await self._states(view)
        return {
            "cluster_id": view.cluster_id,
            "epoch": view.epoch,
            "replication": view.replication,
            "nodes": [_node(name, view, states, self.routing.config) for name in view.nodes],
            "metadata": _group(METADATA_GROUP, self.routing.metadata_members, states),
            "shards": [
                {"shard": shard, **_group(shard, members, states)}
                for shard, members in enumerate(view.shard_map)
            ],
        }

    def register(self) -> None:
        """Answer other nodes."""
        self.routing.peers.serve(DESCRIBE_NODE, self._serve)

    async def _serve(self, request: DescribeNode) -> NodeState:
        del request
        return await self.own_state()

    async def own_state(self) -> NodeState:
        """Return this node's replicas."""
        replicas = {
            shard: await self._replica_state(replica)
            for shard, replica in sorted(self.routing.replicas.items())
        }
        metadata = self.routing.metadata
        if metadata is not None:
            state = ReplicaState(metadata.leader, metadata.term, metadata.applied_index, None)
            replicas[METADATA_GROUP] = state
        return NodeState(replicas)

    async def _states(self, view: ClusterView) -> dict[str, NodeState]:
        until_s = self.routing.clock() + STATUS_WAIT_S
        answers = await fan_out([self._state(node, until_s) for node in view.nodes])
        return {
            node: answer
            for node, answer in zip(view.nodes, answers, strict=True)
            if not isinstance(answer, RecollectError)
        }

    async def _state(self, node: str, until_s: float) -> NodeState:
        if node == self.routing.me:
            return await self.own_state()
        return await self.routing.peers.call(node, DESCRIBE_NODE, DescribeNode(), until_s)

    async def _replica_state(self, replica: ShardReplica) -> ReplicaState:
        """Read index and hash as they belong together.

        `applied_index` moves after the machine has published the hash of that index, and the
        machine's position before: equal values around the reading mean that nothing moved.
        """
        for _ in range(_READINGS_MAX):
            index = replica.applied_index
            state_hash = replica.machine.state_hash()
            if replica.machine.position()[0] == index:
                return ReplicaState(replica.leader, replica.term, index, state_hash.hex())
            await self.routing.sleep(_READING_PAUSE_S)
        return ReplicaState(replica.leader, replica.term, replica.applied_index, None)


def _node(
    name: str, view: ClusterView, states: Mapping[str, NodeState], config: Config
) -> dict[str, Any]:
    leaders = [_leader(shard, view.shard_map[shard], states)[0] for shard in range(view.shards)]
    return {
        "name": name,
        "alive": name in states,
        "http": _address(config.http_peers(), name),
        "peer": _address(config.peers(), name),
        "leads": leaders.count(name),
        "replicas": sum(name in members for members in view.shard_map),
    }


def _address(addresses: Mapping[str, tuple[str, int]], name: str) -> str | None:
    if name not in addresses:
        return None
    host, port = addresses[name]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _group(group: int, members: Any, states: Mapping[str, NodeState]) -> dict[str, Any]:
    leader, term = _leader(group, members, states)
    return {
        "leader": leader,
        "term": term,
        "replicas": [_replica(node, group, states) for node in members],
    }


def _leader(group: int, members: Any, states: Mapping[str, NodeState]) -> tuple[str | None, int]:
    """Return the leader in the newest term that any replica knows, if that node answers."""
    known = [
        states[node].replicas[group]
        for node in members
        if node in states and group in states[node].replicas
    ]
    term = max((state.term for state in known), default=0)
    named = [state.leader for state in known if state.term == term and state.leader in states]
    return (named[0] if named else None), term


def _replica(node: str, group: int, states: Mapping[str, NodeState]) -> dict[str, Any]:
    state = states[node].replicas.get(group) if node in states else None
    if state is None:
        return {"node": node, "applied_index": None, "state_hash": None}
    return {
        "node": node,
        "applied_index": state.applied_index,
        "state_hash": state.state_hash,
    }
