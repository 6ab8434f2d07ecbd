"""One answer out of several graphs': each has answered for itself, and says where it stands.

Answers come as JSON. Large ones are taken apart and put together on a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from cluster.api.body_decoder import LARGE_BODY_BYTES
from graph.cypher import Query, final_slice, merge_key

Found = dict[str, Any]


async def read_answer(answer: bytes) -> Any:
    """Return the value of an answer."""
    if len(answer) < LARGE_BODY_BYTES:
        return orjson.loads(answer)
    return await asyncio.to_thread(orjson.loads, answer)


async def merged_answers(
    answers: Sequence[bytes], merge: Callable[[Sequence[Found]], Found]
) -> bytes:
    """Return what is made of several answers, as an answer."""

    def made() -> bytes:
        return orjson.dumps(merge([orjson.loads(answer) for answer in answers]))

    if sum(map(len, answers)) < LARGE_BODY_BYTES:
        return made()
    return await asyncio.to_thread(made)


def merged_rows(
    query: Query,
    parameters: Mapping[str, Any],
    names: Sequence[str],
    found: Sequence[Found],
    rows_max: int,
) -> Found:
    """Return the rows of all graphs, each behind its graph's name, in the query's order.

    Each graph brought as many rows as might be wanted of it alone. Aggregates, DISTINCT and the
    like are each graph's own; order, SKIP and LIMIT are of the whole.
    """
    plans = [
        {**step, "graph": name}
        for name, each in zip(names, found, strict=True)
        for step in each.get("plan", ())
    ]
    rows = [
        (merge_key(key), [name, *row])
        for name, each in zip(names, found, strict=True)
        for key, row in zip(
            each.get("order_keys") or [()] * len(each["rows"]), each["rows"], strict=True
        )
    ]
    rows.sort(key=lambda item: item[0])
    skip, limit = (0, None) if query.explain else final_slice(query, parameters)
    wanted = rows[skip:] if limit is None else rows[skip : skip + limit]
    cut = next((each["truncated_by"] for each in found if each["truncated"]), None)
    if len(wanted) > rows_max:
        cut = cut or "rows"
    merged: Found = {
        "columns": ["graph", *found[0]["columns"]],
        "rows": [row for _, row in wanted[:rows_max]],
        "truncated": cut is not None,
        "truncated_by": cut,
    }
    return {**merged, "plan": plans} if plans else merged


def merged_recall(names: Sequence[str], found: Sequence[Found], limit: int) -> Found:
    """Return the most useful of what several graphs recalled, each with its graph's name."""
    results = [
        {**result, "graph": name}
        for name, each in zip(names, found, strict=True)
        for result in each["results"]
    ]
    results.sort(key=lambda result: (-result["utility"], result["graph"], result["node"]["id"]))
    matches = [match for each in found for match in each["matches"]]
    matches.sort(key=lambda match: -match["score"])
    return {
        "results": results[:limit],
        "matches": matches,
        "truncated": any(each["truncated"] for each in found),
    }
