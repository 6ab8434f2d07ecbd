"""The end of the demo: the memory of three nodes outlives them, in Postgres, and moves into two.

What the second cluster holds is compared with what the first one held: each shard's state hash, the
number of memories, and the answers of exact searches. Nothing is written in between.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from cluster.client import Client
from cluster.commands.checkpoint_options import checkpoint_failures
from cluster.config import Config
from cluster.data_folder import open_folder
from cluster.demo_load import POINTS_PATH, patiently
from cluster.demo_search import QUESTIONS, ask
from cluster.demo_stage import (
    CONVERGED_S,
    READY_S,
    REQUEST_TIMEOUT_S,
    Comparison,
    Voice,
    until,
)
from cluster.ports import free_base
from cluster.restoration import Restoration
from cluster.supervisor import Shape, Supervisor, supervised
from storage.checkpoint.database import Database
from storage.checkpoint.reading import checkpoint

FOLDER: Final = "restored"
NODES: Final = 2
SHOWN_DIGITS: Final = 16
ANYWHERE: Final = {"node_id": "node1", "cluster_nodes": "node1=127.0.0.1:1"}

Until = Callable[[Callable[[], bool], str], object]
"""(condition, what it is called): returns when the condition holds, or raises CommandFailed."""


@dataclass(frozen=True, slots=True)
class Made:
    """A finished checkpoint: its number, the rows that it wrote, and how long that took."""

    number: int
    rows: int
    seconds: float


@dataclass(frozen=True)
class Contents:
    """What a cluster holds: a hash for each shard, how many memories, and what it answers."""

    hashes: Sequence[str]
    memories: int
    answers: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Moved:
    """What was measured; `different` counts what the second cluster has otherwise."""

    checkpoint_rows: int
    checkpoint_s: float
    restore_s: float
    different: int


@dataclass(frozen=True)
class Move:
    """From the nodes of a supervisor into fewer; `questions` are embedded texts."""

    supervisor: Supervisor
    voice: Voice
    questions: Sequence[list[float]]
    environment: Mapping[str, str]

    def carry_out(self, url: str) -> Moved:
        """Do it by way of the Postgres of a URL; the first nodes are gone afterwards.

        Raises:
            CommandFailed: a step did not end as promised. Differences are only counted.
        """
        before, made = self._contents(self.supervisor), self._checkpoint()
        self.supervisor.stop()
        folder = self.supervisor.cluster.folder / FOLDER
        began_s = time.monotonic()
        with self.voice.progress("Restoring", made.rows) as advance:
            restore(url, made.number, folder, self.environment, advance)
        restore_s = time.monotonic() - began_s
        found = compared(before, self._started(folder))
        self.voice.say(
            f"The three nodes are gone. Checkpoint {made.number}, restored in {restore_s:.1f} s, "
            f"is a cluster of {NODES} nodes now"
        )
        self.voice.comparisons(found)
        different = sum(not each.equal for each in found)
        return Moved(made.rows, made.seconds, restore_s, different)

    def _checkpoint(self) -> Made:
        with self._client(self.supervisor) as client:
            made = make_checkpoint(
                client, lambda done, what: until(self.supervisor, done, READY_S, what)
            )
        self.voice.say(
            f"Checkpoint {made.number}: {made.rows:,} rows in Postgres after {made.seconds:.1f} s"
        )
        return made

    def _started(self, folder: Path) -> Contents:
        """Run the second cluster for as long as it takes to see what it holds."""
        base = free_base(NODES, random.Random())
        with supervised(folder, Shape(NODES), port=base, environment=self.environment) as fewer:
            fewer.start_all()
            until(fewer, lambda: not fewer.unready(), READY_S, "the start of the new nodes")
            return self._contents(fewer)

    def _contents(self, supervisor: Supervisor) -> Contents:
        """Ask a node what its cluster holds, once all replicas are known to agree."""
        with self._client(supervisor) as client:

            def hashes() -> list[str]:
                return shard_hashes(patiently(lambda: client.get("/cluster")))

            until(supervisor, lambda: all(hashes()), CONVERGED_S, "agreement of the replicas")
            return Contents(hashes(), count_memories(client), self._answers(client))

    def _answers(self, client: Client) -> list[list[str]]:
        return [
            [hit.name for hit in patiently(partial(ask, client, vector, wanted, exact=True))]
            for question, vector in zip(QUESTIONS, self.questions, strict=True)
            for wanted in (None, question.filter)
        ]

    @staticmethod
    def _client(supervisor: Supervisor) -> Client:
        return supervisor.client(next(iter(supervisor.pids)), timeout_s=REQUEST_TIMEOUT_S)


def make_checkpoint(client: Client, wait: Until) -> Made:
    """Make a checkpoint through a node and wait until it is whole; nobody else makes any."""

    def listed() -> list[dict[str, Any]]:
        found = patiently(lambda: client.get("/cluster/checkpoints"))
        return list(found["checkpoints"])

    before, began_s = len(listed()), time.monotonic()
    patiently(lambda: client.post("/cluster/checkpoint", {}))
    wait(lambda: len(listed()) > before, "a checkpoint")
    newest = listed()[0]
    return Made(newest["id"], newest["rows_written"], time.monotonic() - began_s)


def restore(
    url: str,
    number: int,
    folder: Path,
    environment: Mapping[str, str],
    advance: Callable[[int], None],
) -> None:
    """Make the folder of the second cluster from a checkpoint.

    Raises:
        CommandFailed: the folder is not empty, or the checkpoint is not what was written.
    """

    async def work() -> None:
        async with Database.opened(url) as database:
            restoration = Restoration(
                database=database,
                checkpoint=await checkpoint(database, number),
                nodes=NODES,
                cluster_id=uuid.uuid4().hex,
                config=Config.from_env(environment, **ANYWHERE),
            )
            with open_folder(folder) as opened:
                await restoration.carry_out(opened, advance)

    with checkpoint_failures():
        asyncio.run(work())


def shard_hashes(cluster: Mapping[str, Any]) -> list[str]:
    """Return the state hash of each shard; empty where the replicas differ or do not answer."""
    found = []
    for shard in cluster["shards"]:
        known = {replica["state_hash"] or "" for replica in shard["replicas"]}
        found.append(known.pop() if len(known) == 1 else "")
    return found


def count_memories(client: Client) -> int:
    """Return how many memories a cluster has, counted one by one."""
    found = patiently(lambda: client.post(f"{POINTS_PATH}/count", {"exact": True}))
    count: int = found["count"]
    return count


def compared(before: Contents, after: Contents) -> list[Comparison]:
    """Return what is compared, one after another."""
    shards = [
        Comparison(
            f"state hash of shard {number}", _short(old), _short(new), bool(old) and old == new
        )
        for number, (old, new) in enumerate(zip(before.hashes, after.hashes, strict=True))
    ]
    counts = f"{before.memories:,}", f"{after.memories:,}"
    memories = Comparison("memories", *counts, before.memories == after.memories)
    same = sum(old == new for old, new in zip(before.answers, after.answers, strict=True))
    total = len(before.answers)
    answers = Comparison("answers to searches", str(total), f"{same} the same", same == total)
    return [*shards, memories, answers]


def _short(state_hash: str) -> str:
    return state_hash[:SHOWN_DIGITS] or "unknown"
