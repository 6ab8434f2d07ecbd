"""What must be true at the end: judged from the history, and from nodes that are whole again.

Session reads and default reads are not part of the linearizable history. A session read must show
at least what its session wrote; a default read may be old, but shows what somebody wrote.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.chaos.arena import Arena
from tests.chaos.history import Event, History, vector_of
from tests.chaos.load import COLLECTION, read_record
from tests.linearizability import Verdict, linearizable

SWEEP_IDS: Final = 200
SEARCHES: Final = 200
HASHES_S: Final = 60.0
WRITES: Final = frozenset({"upsert", "delete", "cas"})


@dataclass
class Findings:
    """Keys by what is wrong with them, and what else is wrong."""

    lost: set[int] = field(default_factory=set)
    not_linearizable: set[int] = field(default_factory=set)
    undecided: set[int] = field(default_factory=set)
    stale: int = 0
    unseen_own_writes: list[Event] = field(default_factory=list)
    backwards: list[Event] = field(default_factory=list)
    invented: list[Event] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    searches: list[str] = field(default_factory=list)
    check_s: float = 0.0

    @property
    def keys(self) -> set[int]:
        events = self.unseen_own_writes + self.backwards + self.invented
        return self.lost | self.not_linearizable | self.undecided | {e.key for e in events}


async def examine(arena: Arena) -> Findings:
    """Compare the replicas, read and search every node, and judge all histories."""
    findings = Findings(hashes=await unequal_replicas(arena))
    for number, node in enumerate(arena.nodes):
        await _sweep(arena, node, -1 - number)
    for node in arena.nodes:
        findings.searches += await _search(arena, node)
    began_s = time.monotonic()
    judge(arena.history, findings)
    findings.check_s = time.monotonic() - began_s
    return findings


def judge(history: History, findings: Findings) -> None:
    """Judge every key of a history."""
    for key, events in history.keys.items():
        events.sort(key=lambda event: event.invoked_s)
        verdict = linearizable(history.operations(key))
        if verdict is Verdict.VIOLATION:
            findings.not_linearizable.add(key)
        elif verdict is Verdict.UNDECIDED:
            findings.undecided.add(key)
        if is_lost(events):
            findings.lost.add(key)
        findings.stale += sum(_is_stale(event, events) for event in events)
        findings.unseen_own_writes += [
            event
            for event in events
            if event.kind == "session get" and _misses(event, event.floor, events)
        ]
        findings.backwards += went_back(events)
        written = {event.value for event in events if event.kind in WRITES}
        findings.invented += [e for e in events if e.seen is not None and e.seen not in written]


def is_lost(events: list[Event]) -> bool:
    """Whether the final state is older than what was acknowledged, or nobody's last word."""
    final = [event for event in events if event.kind == "sweep"]
    newest = max((_effect(event) for event in events if event.kind in WRITES), default=0)
    return any(_misses(event, newest, events) for event in final) or any(
        event.seen is not None and event.version <= _last_delete(events) for event in final
    )


def _effect(event: Event) -> int:
    """Return the version that an acknowledged write made, 0 when it changed nothing."""
    return event.version if event.returned_s is not None and event.took_effect else 0


def _last_delete(events: list[Event]) -> int:
    return max((_effect(event) for event in events if _deletes(event)), default=0)


def _deletes(event: Event) -> bool:
    return event.kind == "delete" or (
        event.kind == "cas" and event.value is None and event.took_effect
    )


def _misses(read: Event, floor: int, events: list[Event]) -> bool:
    """Whether a read shows less than `floor`: an older record, or none without a later delete."""
    if read.returned_s is None or not floor:
        return False
    if read.seen is not None:
        return read.version < floor
    ended_s = read.returned_s
    return not any(
        _deletes(event)
        and event.invoked_s < ended_s
        and (event.returned_s is None or event.version >= floor)
        for event in events
    )


def _is_stale(read: Event, events: list[Event]) -> bool:
    """Whether a strong read shows less than what was acknowledged before it began."""
    if read.kind != "strong get":
        return False
    before = [e for e in events if e.kind in WRITES and (e.returned_s or 1e300) < read.invoked_s]
    return _misses(read, max(map(_effect, before), default=0), events)


def went_back(events: list[Event]) -> list[Event]:
    """Return a session's reads that show less than an earlier read of the same session."""
    floors: Counter[int] = Counter()
    found = []
    for event in events:
        if event.kind == "session get":
            if _misses(event, floors[event.client], events):
                found.append(event)
            floors[event.client] = max(floors[event.client], event.version)
    return found


async def _sweep(arena: Arena, node: str, client: int) -> None:
    """Read every key through one node, strongly."""
    keys = sorted(arena.history.keys)
    path = f"{COLLECTION}/points?consistency=strong"
    for start in range(0, len(keys), SWEEP_IDS):
        wanted = keys[start : start + SWEEP_IDS]
        began_s = time.monotonic()
        body = {"ids": wanted, "with_vector": True, "with_payload": True}
        answer = await arena.ask(node, "POST", path, body)
        if answer is None or answer.status != 200:
            arena.violations.append(f"{node} cannot be read at the end: {answer}")
            continue
        found: dict[int, list[Any]] = {record["id"]: [record] for record in answer.body["result"]}
        for key in wanted:
            event = Event(client, node, "sweep", key, began_s, returned_s=time.monotonic())
            event.seen, event.version = read_record(key, found.get(key, []), arena.history)
            arena.history.add(event)


async def _search(arena: Arena, node: str) -> list[str]:
    """Count and search through one node; return what disagrees with what it was found to hold."""
    found = []
    final: dict[int, int | None] = {}
    for event in (each for events in arena.history.keys.values() for each in events):
        if event.kind == "sweep" and event.node == node:
            final[event.key] = event.seen
    answer = await arena.ask(node, "POST", f"{COLLECTION}/points/count", {"exact": True})
    held = sum(value is not None for value in final.values())
    if answer is None or answer.status != 200 or answer.body["result"]["count"] != held:
        found.append(f"{node} counts not {held}: {answer}")
    for key in sorted(final)[:: 1 + len(final) // SEARCHES]:
        written = [e.value for e in arena.history.keys[key] if e.value is not None]
        value = final[key] if final[key] is not None else max(written, default=0)
        body = {"query": vector_of(key, value or 0), "limit": 1, "with_payload": True}
        answer = await arena.ask(node, "POST", f"{COLLECTION}/points/query", body)
        hits = answer.body["result"]["points"] if answer and answer.status == 200 else None
        shown = [hit["payload"]["value"] for hit in hits or () if hit["id"] == key]
        if hits is None or shown != [value for value in [final[key]] if value is not None]:
            found.append(f"{node} finds {hits} where {key} has {final[key]}")
    return found


async def unequal_replicas(arena: Arena) -> list[str]:
    """Wait until all replicas stand at one index; return those whose hashes differ there."""
    deadline_s = time.monotonic() + HASHES_S
    while True:
        found = await arena.cluster()
        shards = found["shards"] if found else []
        if shards and all(_comparable(shard) for shard in shards):
            return [
                f"shard {shard['shard']}: {shard['replicas']}"
                for shard in shards
                if len({replica["state_hash"] for replica in shard["replicas"]}) != 1
            ]
        if time.monotonic() > deadline_s:
            return [f"the replicas do not come to one index: {shards}"]
        await asyncio.sleep(0.2)


def _comparable(shard: dict[str, Any]) -> bool:
    replicas = shard["replicas"]
    return all(replica["state_hash"] for replica in replicas) and (
        len({replica["applied_index"] for replica in replicas}) == 1
    )


def write_histories(history: History, findings: Findings, folder: Path) -> list[Path]:
    """Write the histories of the keys that something is wrong with."""
    return [history.write_key(key, folder) for key in sorted(findings.keys)[:20]]
