"""The tables in Postgres that a shard's rows go to, and the files of a cut that fill them.

A file of rows goes with one of what they replace. REPLACED names records and tombstones, by
(collection, id); REPLACED_ELEMENTS nodes, hyperedges and whole graphs, by (graph, kind, id).
"""

from __future__ import annotations

from typing import Final

from storage.graph_rows import Kind

REPLACED: Final = "replaced"
REPLACED_ELEMENTS: Final = "replaced_elements"
WHOLE_GRAPH: Final = 0
"""The kind of a replaced element that stands for its graph's row of counts."""

COLUMNS: Final = {
    "records": (
        "cluster", "shard", "from_checkpoint", "to_checkpoint", "collection", "version",
        "created_ms", "updated_ms", "row_number", "id", "id_text", "shard_key", "payload",
        "vector",
    ),
    "tombstones": (
        "cluster", "shard", "from_checkpoint", "to_checkpoint", "collection", "version", "id",
        "id_text",
    ),
    "nodes": (
        "cluster", "shard", "from_checkpoint", "to_checkpoint", "graph", "version", "created_ms",
        "updated_ms", "row_number", "id", "labels", "properties", "content",
    ),
    "hyperedges": (
        "cluster", "shard", "from_checkpoint", "to_checkpoint", "graph", "version", "created_ms",
        "updated_ms", "row_number", "expired_ms", "valid_at_ms", "invalid_at_ms", "confidence",
        "id", "label", "members", "member_rows", "properties", "content",
    ),
    "graph_counts": (
        "cluster", "shard", "from_checkpoint", "to_checkpoint", "graph", "version", "nodes",
        "edges",
    ),
}  # fmt: skip
"""The tables that a cut fills, and the order of their fields in its files."""

VERSIONED: Final = {
    "records": "collection",
    "tombstones": "collection",
    "nodes": "graph",
    "hyperedges": "graph",
    "graph_counts": "graph",
}
"""The tables whose rows have a first and a last checkpoint, and whose they are."""

_BY_ID: Final = "t.collection = r.collection AND t.id = r.id"
_BY_ELEMENT: Final = "t.graph = r.graph AND t.id = r.id"
CLOSINGS: Final = (
    ("records", REPLACED, "TRUE", _BY_ID),
    ("tombstones", REPLACED, "TRUE", _BY_ID),
    ("nodes", REPLACED_ELEMENTS, f"r.kind = {int(Kind.NODE)}", _BY_ELEMENT),
    ("hyperedges", REPLACED_ELEMENTS, f"r.kind = {int(Kind.EDGE)}", _BY_ELEMENT),
    ("graph_counts", REPLACED_ELEMENTS, f"r.kind = {WHOLE_GRAPH}", "t.graph = r.graph"),
)
"""Which rows of a table `t` some rows of a file `r` take the place of: at most one each."""
KEYS: Final = {
    REPLACED: {"collection": "bigint", "id": "bytea"},
    REPLACED_ELEMENTS: {"graph": "bigint", "kind": "integer", "id": "text"},
}
"""The fields of what is replaced, and their types."""
