"""What people see of a graph's nodes and hyperedges in a checkpoint's tables.

Only the leading fields of what `cluster.graph_rows` keeps are read here; more may follow them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from storage.checkpoint.model import EdgeFacts, NodeFacts


class _Node(msgspec.Struct, array_like=True, frozen=True):
    labels: tuple[str, ...]
    properties: bytes


class _Edge(msgspec.Struct, array_like=True, frozen=True):
    label: str
    members: tuple[str, ...]
    roles: Any
    properties: bytes
    confidence: float
    arc_confidences: Any
    valid_at: int | None
    invalid_at: int | None


class GraphElements:
    """Implements `storage.checkpoint.model.ElementReader`."""

    def __init__(self) -> None:
        self._nodes = msgspec.msgpack.Decoder(_Node)
        self._edges = msgspec.msgpack.Decoder(_Edge)

    def node(self, content: bytes) -> NodeFacts:
        """Return what a node's content says."""
        node = self._nodes.decode(content)
        return NodeFacts(node.labels, node.properties)

    def edge(self, content: bytes) -> EdgeFacts:
        """Return what a hyperedge's content says."""
        edge = self._edges.decode(content)
        return EdgeFacts(
            edge.label,
            edge.members,
            edge.confidence,
            edge.properties,
            edge.valid_at,
            edge.invalid_at,
        )
