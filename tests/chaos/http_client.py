"""A keep-alive HTTP connection for a load that must not cost more than what it measures.

One request at a time, answers with a Content-Length, JSON bodies: what the nodes speak. Two
failures are told apart because the history needs it: `NotSent`, nothing reached the node, and
`NoAnswer`, anything may have happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson


class NotSent(Exception):
    """No connection could be made: the request certainly had no effect."""


class NoAnswer(Exception):
    """The request was sent, wholly or in part, and no whole answer came."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; names of headers are lower case, `body` is the decoded JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def code(self) -> str:
        """Return an error's stable code; empty for a success."""
        if self.status < 400:
            return ""
        return str(self.body["error"]["code"]) if isinstance(self.body, dict) else "not JSON"


class Connection:
    """To one address; opened when it is needed, dropped after any failure."""

    def __init__(self, host: str, port: int, headers: Mapping[str, str]) -> None:
        self._address = (host, port)
        self._fixed = "".join(
            f"{name}: {value}\r\n"
            for name, value in ({"Host": f"{host}:{port}"} | dict(headers)).items()
        )
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 8.0,
    ) -> Answer:
        """Send a request and return its answer; raises NotSent or NoAnswer."""
        try:
            async with asyncio.timeout(timeout_s):
                if self._streams is None:
                    self._streams = await asyncio.open_connection(*self._address)
        except (OSError, TimeoutError) as error:
            raise NotSent(str(error)) from None
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(*self._streams, method, path, body, headers or {})
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
            self.close()
            raise NoAnswer(repr(error)) from None
        except asyncio.CancelledError:
            self.close()
            raise

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        path: str,
        body: Any,
        headers: Mapping[str, str],
    ) -> Answer:
        content = b"" if body is None else orjson.dumps(body)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        kind = "Content-Type: application/json\r\n" if content else ""
        head = f"{method} {path} HTTP/1.1\r\n{self._fixed}{lines}{kind}"
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        found = dict(line.split(": ", 1) for line in raw[1:] if line)
        named = {name.lower(): value for name, value in found.items()}
        answered = await reader.readexactly(int(named.get("content-length", "0")))
        if named.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(raw[0].split(" ")[1]), named, orjson.loads(answered or b"null"))

    def close(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None
