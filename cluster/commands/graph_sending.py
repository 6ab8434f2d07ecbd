"""Sends many nodes or edges to a graph, as batches over several connections.

A batch is one log entry of the graph's shard, and an entry has a limit. What JSON takes is more
than what the log takes, so batches are measured by it; should one be refused as too large
nevertheless, it is halved. Each batch has an idempotency key, so that a repeated one is written
once. Batches overtake each other: what depends on something else is sent when that is there.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, Literal

import orjson

from cluster.client import Client, Refused
from cluster.commands.graph_options import graph_path
from cluster.errors import CommandFailed

CONNECTIONS: Final = 4
BYTES_MAX: Final = 900_000
ELEMENTS_MAX: Final = 5_000
RETRY_S: Final = 0.2
GIVE_UP_S: Final = 60.0

Kind = Literal["nodes", "edges"]
Element = dict[str, Any]
Batch = list[bytes]

_PLACE: Final = re.compile(r"(?:nodes|edges)\[(\d+)\]")


def send(
    name: str,
    kind: Kind,
    elements: Iterable[Element],
    new_client: Callable[[], Client],
    advance: Callable[[int], None],
) -> int:
    """Write elements to a graph and return how many there were.

    Raises:
        CommandFailed: one was refused; says which, and how many were written.
    """
    sender = _Sender(graph_path(name, kind), kind, batches(elements), advance)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        lanes = [pool.submit(sender.run, new_client) for _ in range(CONNECTIONS)]
        failures = [lane.exception() for lane in lanes]
    for failure in failures:
        if isinstance(failure, CommandFailed):
            failure.message += f" ({sender.done:,} {kind} were written)"
        if failure:
            raise failure
    return sender.done


def batches(elements: Iterable[Element]) -> Iterator[Batch]:
    """Yield elements as JSON, as many at a time as one request may carry."""
    batch: Batch = []
    size = 0
    for element in elements:
        raw = orjson.dumps(element)
        if batch and (size + len(raw) > BYTES_MAX or len(batch) == ELEMENTS_MAX):
            yield batch
            batch, size = [], 0
        batch.append(raw)
        size += len(raw) + 1
    if batch:
        yield batch


class _Sender:
    """What the connections share. `done` counts the elements that are written."""

    def __init__(
        self, path: str, kind: Kind, waiting: Iterator[Batch], advance: Callable[[int], None]
    ) -> None:
        self.done = 0
        self._path, self._kind, self._waiting = path, kind, waiting
        self._advance = advance
        self._lock = threading.Lock()
        self._failed = False

    def run(self, new_client: Callable[[], Client]) -> None:
        """Send batch after batch until there are no more, or one has failed."""
        with new_client() as client:
            while batch := self._next():
                try:
                    self._write(client, batch)
                except BaseException:
                    self._failed = True
                    raise

    def _next(self) -> Batch | None:
        with self._lock:
            if self._failed:
                return None
            try:
                return next(self._waiting, None)
            except BaseException:
                self._failed = True
                raise

    def _write(self, client: Client, batch: Batch) -> None:
        try:
            self._repeat(client, batch)
        except Refused as refused:
            if refused.status != 413 or len(batch) == 1:
                _name_culprit(refused, batch)
                raise
            middle = len(batch) // 2
            self._write(client, batch[:middle])
            self._write(client, batch[middle:])
            return
        with self._lock:
            self.done += len(batch)
            self._advance(len(batch))

    def _repeat(self, client: Client, batch: Batch) -> None:
        body = {self._kind: [orjson.Fragment(raw) for raw in batch]}
        key = str(uuid.uuid4())
        deadline_s = time.monotonic() + GIVE_UP_S
        while True:
            try:
                client.request("POST", self._path, body, idempotency_key=key)
                return
            except CommandFailed as failure:
                if not failure.retryable or time.monotonic() >= deadline_s:
                    raise
                wait_s = failure.retry_after_s if isinstance(failure, Refused) else None
            time.sleep(RETRY_S if wait_s is None else wait_s)


def _name_culprit(refused: Refused, batch: Sequence[bytes]) -> None:
    """Say which element a refusal is about: its place in a batch tells nobody anything."""
    place = _PLACE.match(refused.field)
    if place:
        with suppress(IndexError, KeyError):
            refused.message += f" [id {orjson.loads(batch[int(place[1])])['id']}]"
