"""What a request cost more than it had to: the field `usage` of an answer's envelope.

Qdrant's envelope has a field of this name, too, with other members; clients read what they know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cluster.api.route import Call
from cluster.model import Collection
from storage.filters import Filter

SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "filter": {
            "type": "object",
            "properties": {"unindexed": {"type": "array", "items": {"type": "string"}}},
        }
    },
}


def usage_of(call: Call, collection: Collection, *filters: Filter | None) -> dict[str, Any]:
    """Return what joins the result in the envelope: the fields that filters test without index."""
    paths = dict.fromkeys(
        path
        for where in filters
        if where is not None
        for path in call.api.router.unindexed(collection, where)
    )
    return {"usage": {"filter": {"unindexed": list(paths)}}} if paths else {}
