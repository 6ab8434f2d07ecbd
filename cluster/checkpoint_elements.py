"""What people see of a graph's nodes and hyperedges in a checkpoint's tables.

The contents are those of `cluster.graph_rows`, and read as they are written there.
"""

from __future__ import annotations

from cluster.graph_rows import decode_edge, decode_node
from storage.checkpoint.model import EdgeFacts, NodeFacts


class GraphElements:
    """Implements `storage.checkpoint.model.ElementReader`."""

    def node(self, content: bytes) -> NodeFacts:
        """Return what a node's content says."""
        node = decode_node(content)
        return NodeFacts(node.labels, node.properties)

    def edge(self, content: bytes) -> EdgeFacts:
        """Return what a hyperedge's content says."""
        edge = decode_edge(content)
        return EdgeFacts(
            edge.label,
            edge.members,
            edge.confidence,
            edge.properties,
            edge.valid_at,
            edge.invalid_at,
        )
