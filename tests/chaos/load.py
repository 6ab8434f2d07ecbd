"""The clients: coroutines that write, read and compare-and-set a few keys at a time.

Most clients stay with one node, so that a node that stands still holds up only its own; the
others roam, and take their session from node to node. A key is retired after `KEY_OPERATIONS`
operations, which keeps its history short enough to be decided. Some keys live for a second of
crowded use, others for many seconds, through whole faults.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cluster.ring import shard_of
from storage.ids import encode_id
from tests.chaos.history import Event, History, Kind, vector_of
from tests.chaos.http_client import Answer, Connection, NoAnswer, NotSent

COLLECTION: Final = "/collections/chaos"
SESSION: Final = "X-Recollect-Session"
KEY_OPERATIONS: Final = 80
CROWDED_KEYS: Final = 6
QUIET_KEYS: Final = 24
QUIET_SHARE: Final = 0.3
MIX: Final[dict[Kind, int]] = {
    "upsert": 30,
    "strong get": 28,
    "cas": 16,
    "session get": 10,
    "default get": 8,
    "delete": 8,
}
READS: Final = frozenset({"strong get", "session get", "default get", "sweep"})


class Keys:
    """The keys in use; each operation takes one."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._last = 0
        self._crowded = [self._fresh() for _ in range(CROWDED_KEYS)]
        self._quiet = [self._fresh() for _ in range(QUIET_KEYS)]

    def take(self) -> int:
        """Return a key, and retire it with its last operation."""
        live = self._quiet if self._rng.random() < QUIET_SHARE else self._crowded
        at = self._rng.randrange(len(live))
        key, left = live[at]
        live[at] = (key, left - 1) if left > 1 else self._fresh()
        return key

    def _fresh(self) -> tuple[int, int]:
        self._last += 1
        return self._last, KEY_OPERATIONS


@dataclass
class Target:
    """Where the nodes listen, and what every request carries."""

    addresses: dict[str, tuple[str, int]]
    headers: dict[str, str]
    shards: int

    def connection(self, node: str) -> Connection:
        """Return a new connection to a node."""
        return Connection(*self.addresses[node], self.headers)


@dataclass
class Client:
    """One client. Its session is what its own writes were answered with."""

    number: int
    home: str | None
    target: Target
    history: History
    keys: Keys
    rng: random.Random
    pause_s: float
    session: str = ""
    floors: dict[int, int] = field(default_factory=dict)
    known: dict[int, tuple[int | None, int]] = field(default_factory=dict)

    async def run(self, until: asyncio.Event) -> None:
        """Work until the event is set."""
        connections = {node: self.target.connection(node) for node in self.target.addresses}
        nodes = list(connections)
        kinds, weights = list(MIX), list(MIX.values())
        while not until.is_set():
            node = self.home or self.rng.choice(nodes)
            kind = self.rng.choices(kinds, weights)[0]
            await self.operate(connections[node], node, kind, self.keys.take())
            await asyncio.sleep(self.rng.random() * 2 * self.pause_s)
        for connection in connections.values():
            connection.close()

    async def operate(self, connection: Connection, node: str, kind: Kind, key: int) -> None:
        """Do one operation and record what it showed."""
        event = Event(self.number, node, kind, key, time.monotonic())
        method, path, body, headers = self._request(event)
        event.invoked_s = time.monotonic()
        try:
            answer = await connection.call(method, path, body, headers)
        except NotSent:
            self.history.refusals["no connection"] += 1
            await asyncio.sleep(0.1)
            return
        except NoAnswer as error:
            event.failure = str(error)
            self.history.refusals["no answer"] += 1
        else:
            self._note(event, answer, time.monotonic())
        if event.returned_s is not None or kind not in READS:
            self.history.add(event)

    def _request(self, event: Event) -> tuple[str, str, Any, Mapping[str, str]]:
        key, kind = event.key, event.kind
        session = {SESSION: self.session} if self.session else {}
        if kind == "delete":
            return "POST", f"{COLLECTION}/points/delete", {"points": [key]}, session
        if kind == "upsert":
            event.value = self.history.fresh_value()
            return "PUT", f"{COLLECTION}/points", {"points": [_point(event)]}, session
        if kind == "cas":
            return self._conditional(event, session)
        body = {"ids": [key], "with_vector": True, "with_payload": True}
        path = f"{COLLECTION}/points"
        if kind == "session get":
            event.floor = self.floors.get(key, 0)
            return "POST", path, body, session
        return "POST", path + ("?consistency=strong" if kind == "strong get" else ""), body, {}

    def _conditional(
        self, event: Event, session: Mapping[str, str]
    ) -> tuple[str, str, Any, Mapping[str, str]]:
        """Compare with what this client saw last of the key; now and then the change deletes."""
        event.expected, version = self.known.get(event.key, (None, 0))
        if version and self.rng.random() < 0.15:
            body = {"points": [event.key], "if_version": version}
            return "POST", f"{COLLECTION}/points/delete", body, session
        event.value = self.history.fresh_value()
        condition = {"if_version": version} if version else {"if_absent": True}
        return "PUT", f"{COLLECTION}/points", {"points": [_point(event) | condition]}, session

    def _note(self, event: Event, answer: Answer, now_s: float) -> None:
        if answer.status == 200:
            event.returned_s = now_s
            if event.kind not in {"strong get", "default get"}:
                self.session = answer.headers.get(SESSION.lower(), self.session)
            if event.kind in READS:
                self._note_read(event, answer)
            else:
                self._note_write(event, answer, now_s)
        elif answer.status == 409 and answer.code == "version_conflict" and event.kind == "cas":
            event.returned_s, event.took_effect = now_s, False
            self.known.pop(event.key, None)
        else:
            event.failure = answer.code
            self.history.refusals[f"{answer.status} {answer.code}"] += 1
            if not acceptable(answer):
                self.history.surprises.append(f"{event}: {answer.status} {answer.body}")

    def _note_read(self, event: Event, answer: Answer) -> None:
        event.seen, event.version = read_record(event.key, answer.body["result"], self.history)
        self.known[event.key] = (event.seen, event.version)

    def _note_write(self, event: Event, answer: Answer, now_s: float) -> None:
        event.version = answer.body["result"].get("version", 0)
        self.floors[event.key] = max(event.version, self.floors.get(event.key, 0))
        self.known[event.key] = (event.value, event.version if event.value is not None else 0)
        shard = shard_of(encode_id(event.key), self.target.shards)
        self.history.acks[shard].append(now_s)


def read_record(key: int, records: list[Any], history: History) -> tuple[int | None, int]:
    """Return value and version of the only record; a record that is not whole is a surprise."""
    if not records:
        return None, 0
    (record,) = records
    value = record["payload"]["value"]
    if record["id"] != key or record["vector"] != vector_of(key, value):
        history.surprises.append(f"a record of two writes: {record}")
    return value, record["version"]


def acceptable(answer: Answer) -> bool:
    """Whether a node may refuse so: for now, and saying so."""
    if answer.status not in {503, 507} or not isinstance(answer.body, dict):
        return False
    return answer.body["error"]["retryable"] is True and "retry-after" in answer.headers


def _point(event: Event) -> dict[str, Any]:
    assert event.value is not None, "a point has a value"
    vector = vector_of(event.key, event.value)
    return {"id": event.key, "vector": vector, "payload": {"value": event.value}}
