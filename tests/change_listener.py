"""Who follows changes from outside, as a program of a user would: with a socket and lines."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

SILENCE_S = 20.0
"""Longer than a stream is ever silent."""


class Event(NamedTuple):
    """One event as it came."""

    kind: str
    id: str
    data: Any


class Connection:
    """One stream, until it ends or is closed; `position` is the last id."""

    def __init__(
        self, url: str, path: str, last_id: str = "", silence_s: float = SILENCE_S
    ) -> None:
        self.position = last_id
        self.comments = 0
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=silence_s)
        headers = {"Last-Event-ID": last_id} if last_id else {}
        self._connection.request("GET", path, headers=headers)
        self.response = self._connection.getresponse()

    def events(self) -> Iterator[Event]:
        """Yield events until the stream ends; raises OSError when it breaks."""
        fields: dict[str, str] = {}
        while line := self.response.readline():
            text = line.decode().rstrip("\n")
            if text.startswith(":"):
                self.comments += 1
            elif text:
                name, _, value = text.partition(": ")
                fields[name] = value
            else:
                self.position = fields.get("id", self.position)
                if "data" in fields:
                    yield Event(fields["event"], self.position, json.loads(fields["data"]))
                fields = {}

    def close(self) -> None:
        """Go away."""
        self.response.close()
        self._connection.close()


class Listener:
    """Follows changes on a thread, from node to node: when a stream ends, or after `leave_after`
    events, it goes on at the next node with the last id it has. `taken` are all events."""

    def __init__(self, urls: Sequence[str], path: str, leave_after: int = 1 << 30) -> None:
        self.taken: list[Event] = []
        self.streams = 0
        self._urls, self._path, self._leave_after = urls, path, leave_after
        self._stop = threading.Event()
        self._begun = threading.Event()
        self._position = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._begun.wait(SILENCE_S), "a stream begins"

    def stop(self) -> None:
        """End; takes until the next event or comment comes."""
        self._stop.set()
        self._thread.join(SILENCE_S)

    def _run(self) -> None:
        node = 0
        while not self._stop.is_set():
            try:
                self._follow(self._urls[node % len(self._urls)])
            except (OSError, http.client.HTTPException):
                self._stop.wait(0.05)
            node += 1

    def _follow(self, url: str) -> None:
        connection = Connection(url, self._path, self._position)
        try:
            if connection.response.status == 200:
                self.streams += 1
                self._take(connection)
        finally:
            self._position = connection.position
            connection.close()

    def _take(self, connection: Connection) -> None:
        leave_at = len(self.taken) + self._leave_after
        # The first line comes at once, and has the position that the stream begins behind.
        connection.response.peek(1)
        self._begun.set()
        for event in connection.events():
            self.taken.append(event)
            if self._stop.is_set() or len(self.taken) >= leave_at:
                return


def order_is_kept(events: Sequence[Event]) -> bool:
    """Say whether each shard's changes came by version."""
    last: dict[int, int] = {}
    for event in events:
        shard, version = event.data["shard"], event.data["version"]
        if version < last.get(shard, 0):
            return False
        last[shard] = version
    return True
