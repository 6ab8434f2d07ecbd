"""Several calls at once, each with an outcome of its own.

A TaskGroup gives up all its tasks when one fails; here the failure of one node or shard is an
answer like the others. Only errors of the product's tree are answers: anything else is a bug,
ends the group and is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from cluster.errors import RecollectError

ValueType = TypeVar("ValueType")


async def fan_out(
    calls: Sequence[Coroutine[Any, Any, ValueType]],
) -> list[ValueType | RecollectError]:
    """Return each call's value or error, in order. A single call needs no task."""
    if len(calls) == 1:
        return [await _outcome(calls[0])]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_outcome(call)) for call in calls]
    return [task.result() for task in tasks]


async def _outcome(call: Coroutine[Any, Any, ValueType]) -> ValueType | RecollectError:
    try:
        return await call
    except RecollectError as error:
        return error
