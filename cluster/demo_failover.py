"""Clients that keep writing while a node is killed, and what they saw.

Each sends a point about every 20 ms, one after another, to one node at a time. When a write fails
or takes too long it sends the same point again, to the next node, until it is acknowledged. The
longest time that any of them spent between two acknowledgements is what a user would have noticed
of the failure; there are several of them so that some write surely meets a shard whose leader died.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from cluster.client import Client
from cluster.demo_load import POINTS_PATH, Payload
from cluster.errors import CommandFailed

FIRST_ID: Final = 1_000_000_000
IDS_OF_A_WRITER: Final = 1_000_000
PERIOD_S: Final = 0.02
RETRY_S: Final = 0.02


class SteadyWriter:
    """Writes in its own thread between `start` and `stop`, with clients of its own."""

    def __init__(
        self, number: int, clients: Sequence[Client], vectors: Sequence[list[float]]
    ) -> None:
        self._first_id = FIRST_ID + number * IDS_OF_A_WRITER
        # Each begins with another node.
        start = number % len(clients)
        self._clients = [*clients[start:], *clients[:start]]
        self._vectors = itertools.cycle(vectors)
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"steady-writer-{number}", daemon=True
        )
        self._failure: CommandFailed | None = None
        self.acknowledged: dict[int, Payload] = {}
        self.ack_times_s: list[float] = []

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """End after the present write. Raises what made the writer give up, if anything did."""
        self._ended.set()
        self._thread.join()
        for client in self._clients:
            client.close()
        if self._failure:
            raise self._failure

    def acks_since(self, moment_s: float) -> int:
        """Return how many writes were acknowledged after a moment; raises as `stop` does."""
        if self._failure:
            raise self._failure
        return sum(1 for at_s in tuple(self.ack_times_s) if at_s > moment_s)

    def _run(self) -> None:
        serial = itertools.count()
        while not self._ended.wait(PERIOD_S):
            number = next(serial)
            payload = {"task": f"note {number}", "kind": "note", "serial": number}
            point = {
                "id": self._first_id + number,
                "vector": next(self._vectors),
                "payload": payload,
            }
            try:
                acknowledged = self._write(point)
            except CommandFailed as failure:
                self._failure = failure
                return
            if acknowledged:
                self.acknowledged[self._first_id + number] = payload
                self.ack_times_s.append(time.monotonic())

    def _write(self, point: dict[str, Any]) -> bool:
        """Send one point until it is acknowledged; False: told to end before that."""
        while True:
            try:
                self._clients[0].put(f"{POINTS_PATH}?wait=true", {"points": [point]})
                return True
            except CommandFailed as failure:
                if not failure.retryable:
                    raise
            self._clients.append(self._clients.pop(0))
            if self._ended.wait(RETRY_S):
                return False


def longest_pause_s(ack_times_s: Sequence[float], since_s: float) -> float:
    """Return the longest time between two neighbouring acknowledgements that ends after `since_s`.

    Raises:
        ValueError: there is no acknowledgement before or none after that moment.
    """
    pauses = [
        later - earlier for earlier, later in itertools.pairwise(ack_times_s) if later > since_s
    ]
    if not pauses:
        raise ValueError("no write was acknowledged on both sides of the failure")
    return max(pauses)
