"""Which nodes to ask so that every shard is answered by exactly one of them, and by few.

Smallest set cover is NP-hard; greedy choice is within ln(n) of it (Chvatal, 1979), and a last
pass drops a node that later choices made superfluous. This node comes first whatever it holds:
what it answers costs no message. Nodes that cover equally many shards are tried from the
caller's own place in the name order onwards, so that the callers of a cluster do not all pick
the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Assignment = dict[str, list[int]]
"""node -> the shards it is to answer, ascending."""


def cover(candidates: Mapping[int, Sequence[str]], me: str) -> tuple[Assignment, list[int]]:
    """Return which node answers which shards, and the shards that have no candidate.

    `candidates` are the nodes that may answer each shard.
    """
    holdings: dict[str, set[int]] = {}
    for shard, nodes in candidates.items():
        for node in nodes:
            holdings.setdefault(node, set()).add(shard)
    assignment: Assignment = {}
    left = {shard for shard, nodes in candidates.items() if nodes}
    for node in _necessary(_greedy(holdings, left, me), holdings, me):
        assignment[node] = sorted(holdings[node] & left)
        left -= holdings[node]
    uncovered = sorted(shard for shard, nodes in candidates.items() if not nodes)
    assert not left, "every shard with a candidate is covered"
    assert all(assignment.values()), "no node is asked for nothing"
    return assignment, uncovered


def _greedy(holdings: Mapping[str, set[int]], shards: set[int], me: str) -> list[str]:
    order = sorted(holdings, key=lambda node: (node != me, node < me, node))
    chosen = [node for node in order[:1] if node == me]
    left = shards - holdings.get(me, set())
    while left:
        gains = [len(holdings[node] & left) for node in order]
        best = order[gains.index(max(gains))]
        chosen.append(best)
        left = left - holdings[best]
    return chosen


def _necessary(chosen: Sequence[str], holdings: Mapping[str, set[int]], me: str) -> list[str]:
    """Drop, latest first, each node whose shards the others that stay cover."""
    kept = list(chosen)
    for node in reversed(chosen):
        others = set().union(*(holdings[other] for other in kept if other != node))
        if node != me and holdings[node] <= others:
            kept.remove(node)
    return kept
