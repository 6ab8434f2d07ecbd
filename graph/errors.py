"""How a question to a graph, or a change of one, can fail. `code` is stable; `field` may name the
culprit in the request."""

from __future__ import annotations

from typing import ClassVar


class GraphError(Exception):
    """Base of what a graph refuses."""

    code: ClassVar[str] = "bad_graph_request"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class BadQuery(GraphError):
    """A query or an argument that can never be answered; `message` names the clause."""

    code = "bad_query"


class UnsupportedClause(BadQuery):
    """Valid openCypher that is not served; `message` names the clause."""

    code = "unsupported_clause"


class NodeMissing(GraphError):
    """A node that was named does not exist."""

    code = "node_missing"


class EdgeMissing(GraphError):
    """A hyperedge that was named does not exist."""

    code = "edge_missing"


class NodeInUse(GraphError):
    """A node cannot be deleted, because edges join it."""

    code = "node_in_use"


class TooLarge(GraphError):
    """The answer, or the graph for an algorithm, is larger than its limit."""

    code = "too_large"


class WriteCutShort(GraphError):
    """A query that writes reached a limit of time or work; nothing was written."""

    code = "write_cut_short"
