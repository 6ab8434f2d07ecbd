"""The filter language: which points a search, a page, a count or a deletion is about.

It is Qdrant's: `must`, `should`, `must_not` and `min_should` hold conditions, each a filter again,
a test of the payload under a key, or a list of ids. A request is parsed once, at the border, into
a tree (`filter_nodes`); the tree is sent to other nodes, turned into SQL for a shard
(`filter_sql`), or asked about one point (`matches`). SQL and `matches` agree on every point.

Where Qdrant's answer depends on a payload index, this is its answer without one: `match.text`
looks for a part of the text.
"""

from __future__ import annotations

from storage.filter_match import matches
from storage.filter_nodes import Filter
from storage.filter_parse import FilterError, parse_filter, parse_key

__all__ = ["Filter", "FilterError", "matches", "parse_filter", "parse_key"]
