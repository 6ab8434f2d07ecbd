"""Which nodes hold which shard, and which of them is preferred as its leader.

Nodes stand on a consistent-hash ring; a shard takes the first nodes that follow it, as long as
they have room ("Consistent Hashing with Bounded Loads", Mirrokni, Thorup, Zadimoghaddam, 2018).
Room is exact: shards x replication replicas are dealt so that two nodes never differ by more
than one; which nodes carry the odd ones is the ring's choice too.

A greedy deal can strand its last shards, the free room being on too few nodes. It cannot when
every step keeps, for the s shards that remain, sum(min(room, s)) >= s * replication: that many
replicas then fit on distinct nodes. A node with room for all s shards costs nothing to take;
taking any other uses up one unit of the slack, and no more than the slack is taken.

Leaders are a maximum matching of shards to their own nodes (augmenting paths), first with
floor(shards / nodes) leaders a node, then with the ceiling; by Hall's condition both succeed
when the replicas are dealt evenly, so leaders differ by at most one as well.

Given the present map, a shard asks its present nodes first: only what must move does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.ring import hash_ring, position_of

ShardMap = list[list[str]]
"""shard -> its nodes; the first is the preferred leader."""


def plan(
    nodes: Sequence[str],
    shards: int,
    replication: int,
    virtual_nodes: int,
    current: Sequence[Sequence[str]] = (),
) -> ShardMap:
    """Return the shard map for `nodes`; with `current`, the one nearest to it.

    `replication` beyond the number of nodes means all of them. The order of `nodes` is
    irrelevant.
    """
    assert nodes, "a cluster has at least one node"
    assert len(set(nodes)) == len(nodes), "node names are unique"
    assert not current or len(current) == shards, "the number of shards is fixed"
    replicas = min(replication, len(nodes))
    orders = _preferences(sorted(nodes), shards, virtual_nodes, current)
    room = _room(sorted(nodes), shards * replicas, current)
    members = _deal_settled_first(orders, room, replicas, current)
    leaders = _leaders(members, sorted(nodes))
    return [
        [leader, *(node for node in chosen if node != leader)]
        for leader, chosen in zip(leaders, members, strict=True)
    ]


def _preferences(
    nodes: Sequence[str], shards: int, virtual_nodes: int, current: Sequence[Sequence[str]]
) -> list[list[str]]:
    """Return, per shard, all nodes: those that hold it already, then in ring order."""
    ring = hash_ring(nodes, virtual_nodes)
    orders = []
    for shard in range(shards):
        walk = [str(node["nodename"]) for node in ring.range(f"shard-{shard}")]
        holding = [node for node in current[shard] if node in nodes] if current else []
        orders.append(holding + [node for node in walk if node not in holding])
    return orders


def _room(nodes: Sequence[str], replicas: int, current: Sequence[Sequence[str]]) -> dict[str, int]:
    """Return how many replicas each node takes: the average, rounded down or up."""
    share, odd = divmod(replicas, len(nodes))
    held = dict.fromkeys(nodes, 0)
    for node in (node for members in current for node in members if node in held):
        held[node] += 1
    by_load = sorted(nodes, key=lambda node: (-held[node], position_of(node.encode()), node))
    return {node: share + (rank < odd) for rank, node in enumerate(by_load)}


def _deal_settled_first(
    orders: Sequence[Sequence[str]],
    room: dict[str, int],
    replicas: int,
    current: Sequence[Sequence[str]],
) -> ShardMap:
    """Deal shards that need nothing new before those that lost a node: an orphan that came first
    would take the room of a shard that could stay, and that one the next one's."""
    kept = [sum(node in room for node in members) for members in current]
    turns = sorted(range(len(orders)), key=lambda shard: -kept[shard] if kept else 0)
    dealt = _deal([orders[shard] for shard in turns], room, replicas)
    by_shard = dict(zip(turns, dealt, strict=True))
    return [by_shard[shard] for shard in range(len(orders))]


def _deal(orders: Sequence[Sequence[str]], room: dict[str, int], replicas: int) -> ShardMap:
    members = []
    for shard, order in enumerate(orders):
        after = len(orders) - shard - 1
        slack = sum(min(free, after) for free in room.values()) - after * replicas
        chosen: list[str] = []
        for node in order:
            if len(chosen) == replicas:
                break
            costs = room[node] <= after
            if room[node] == 0 or (costs and slack == 0):
                continue
            slack -= costs
            chosen.append(node)
        assert len(chosen) == replicas, "the slack rule leaves no shard stranded"
        for node in chosen:
            room[node] -= 1
        members.append(chosen)
    assert not any(room.values()), "all room is used"
    return members


def _leaders(members: Sequence[Sequence[str]], nodes: Sequence[str]) -> list[str]:
    """Return one of each shard's nodes, so that no node leads two more than another."""
    leaders: dict[int, str] = {}
    led: dict[str, list[int]] = {node: [] for node in nodes}
    for most in (len(members) // len(nodes), -(-len(members) // len(nodes))):
        for shard, (first, *_) in enumerate(members):
            if shard not in leaders and len(led[first]) < most:
                leaders[shard] = first
                led[first].append(shard)
        for shard in range(len(members)):
            if shard not in leaders:
                _augment(shard, members, leaders, led, most)
    counts = [len(shards) for shards in led.values()]
    assert len(leaders) == len(members), "every shard has a leader"
    assert max(counts) - min(counts) <= 1, "leaders are balanced"
    return [leaders[shard] for shard in range(len(members))]


def _augment(
    shard: int,
    members: Sequence[Sequence[str]],
    leaders: dict[int, str],
    led: Mapping[str, list[int]],
    most: int,
) -> None:
    """Give `shard` a leader, moving others along the shortest path to a node with room."""
    reached_from: dict[str, int] = {}
    frontier = [shard]
    for candidate in frontier:
        for node in members[candidate]:
            if node in reached_from:
                continue
            reached_from[node] = candidate
            if len(led[node]) < most:
                _shift(node, reached_from, leaders, led)
                return
            frontier.extend(led[node])


def _shift(
    node: str,
    reached_from: Mapping[str, int],
    leaders: dict[int, str],
    led: Mapping[str, list[int]],
) -> None:
    while True:
        shard = reached_from[node]
        previous = leaders.get(shard)
        leaders[shard] = node
        led[node].append(shard)
        if previous is None:
            return
        led[previous].remove(shard)
        node = previous
