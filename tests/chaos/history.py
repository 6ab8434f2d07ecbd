"""What the clients did and saw, and when, by the one monotonic clock of this process.

Values are never used twice, so that a value tells which operation wrote it. The vector that goes
with a value is computed from key and value: a record that mixes two writes shows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import orjson

from tests.linearizability import Operation

DIMENSION: Final = 4

Kind = Literal["upsert", "delete", "cas", "strong get", "session get", "default get", "sweep"]


@dataclass(slots=True)
class Event:
    """One client's operation on one key.

    `expected` and `value` are what a cas compares and sets; value None: it deletes. `seen` is what
    a get found (None: absent). `version` is the record's version as the answer told it, `floor`
    the least version that the session had to see. `took_effect` is False for a refused cas.
    """

    client: int
    node: str
    kind: Kind
    key: int
    invoked_s: float
    value: int | None = None
    expected: int | None = None
    returned_s: float | None = None
    seen: int | None = None
    version: int = 0
    floor: int = 0
    took_effect: bool = True
    failure: str = ""


def vector_of(key: int, value: int) -> list[float]:
    """Return the vector that belongs to a value of a key; exact in float32."""
    return [float(key % 4093), float(value % 4093), float((key ^ value) % 4093), 1.0]


class History:
    """All events of a run, by key."""

    def __init__(self) -> None:
        self.keys: dict[int, list[Event]] = defaultdict(list)
        self.times: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.conflicts = 0
        self.refusals: Counter[str] = Counter()
        self.surprises: list[str] = []
        self.acks: dict[int, list[float]] = defaultdict(list)
        self._values = 0

    def fresh_value(self) -> int:
        """Return a value that no operation had."""
        self._values += 1
        return self._values

    def add(self, event: Event) -> None:
        """Take an event that is over."""
        self.keys[event.key].append(event)
        self.times[event.kind] += 1
        if event.returned_s is None:
            self.unknown[event.kind] += 1
        self.conflicts += not event.took_effect

    def operations(self, key: int) -> list[Operation]:
        """Return what must be linearizable: all writes, and the strong reads."""
        found = (_operation(event) for event in self.keys[key])
        return [operation for operation in found if operation is not None]

    def write_key(self, key: int, folder: Path) -> Path:
        """Write a key's events, in the order of their calls, one JSON object a line."""
        file = folder / f"key-{key}.jsonl"
        events = sorted(self.keys[key], key=lambda event: event.invoked_s)
        file.write_bytes(b"".join(orjson.dumps(asdict(event)) + b"\n" for event in events))
        return file


def _operation(event: Event) -> Operation | None:
    times = (event.invoked_s, event.returned_s)
    match event.kind:
        case "upsert":
            return Operation(event.client, "write", event.value, None, *times)
        case "delete":
            return Operation(event.client, "delete", None, None, *times)
        case "cas":
            wanted = (event.expected, event.value)
            return Operation(event.client, "cas", wanted, event.took_effect, *times)
        case "strong get" | "sweep":
            return Operation(event.client, "read", None, event.seen, *times)
        case "session get" | "default get":
            return None
