"""Checkpoints of the cluster: make one now, list those that are there."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cluster.api.envelope import Answer
from cluster.api.route import Call, Route
from cluster.checkpoints import described, required


async def make_checkpoint(call: Call) -> Answer:
    """Make a checkpoint; when time is up it goes on, and the answer says `running`."""
    state = await required(call.api.router.checkpoints).make(call.options)
    found = msgspec.to_builtins(state)
    shards = [msgspec.structs.asdict(each) for each in sorted(state.shards, key=_shard)]
    shown = {name: found[name] for name in ("id", "state", "seconds")}
    return Answer(shown | {"shards": shards})


async def list_checkpoints(call: Call) -> Answer:
    """Return the finished checkpoints, newest first, and what is wrong with them if anything."""
    found = required(call.api.router.checkpoints)
    listed = [described(each) for each in await found.listed()]
    return Answer({"checkpoints": listed, "problem": found.problem or None})


def _shard(written: Any) -> int:
    return int(written.shard)


ROUTES: Final = (
    Route(
        "POST",
        "/cluster/checkpoint",
        make_checkpoint,
        "Make a checkpoint in Postgres",
        answer=dict[str, Any],
    ),
    Route(
        "GET",
        "/cluster/checkpoints",
        list_checkpoints,
        "List the checkpoints in Postgres",
        answer=dict[str, Any],
    ),
)
