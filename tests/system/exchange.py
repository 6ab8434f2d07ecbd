"""Requests to a node as a stranger's client would send them, byte by byte where that matters."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from tests.helpers import Response

TIMEOUT_S: Final = 10.0
"""What is refused must be refused within this; also how long any answer is waited for."""

SESSION: Final = "x-recollect-session"


def send(
    url: str,
    method: str,
    path: str,
    body: Any = None,
    *,
    raw: bytes | str | None = None,
    headers: Mapping[str, str | None] | None = None,
) -> Response:
    """Send JSON, or `raw` as it stands; a header that is None is left out."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
    content = raw if raw is not None or body is None else json.dumps(body)
    wanted = {"Content-Type": "application/json", **(headers or {})}
    sent = {name: value for name, value in wanted.items() if value is not None}
    try:
        connection.request(method, path, content, sent)
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    value = json.loads(text) if text else None
    return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, value)


def refusal(response: Response) -> tuple[int, str, str | None]:
    """Return status, code and field of an error; fail when its envelope is not the promised one."""
    body = response.body

    assert response.headers["content-type"] == "application/json"
    assert set(body) == {"status", "error", "time"}
    assert set(body["status"]) == {"error"}
    assert isinstance(body["status"]["error"], str)
    assert body["status"]["error"]
    assert {"code", "field", "retryable"} <= set(body["error"])
    assert body["error"]["retryable"] is (response.status in {408, 429, 503, 507})
    assert isinstance(body["time"], float)
    return response.status, body["error"]["code"], body["error"]["field"]


@dataclass(frozen=True)
class Points:
    """A collection, seen through one node."""

    url: str
    name: str

    @property
    def path(self) -> str:
        return f"/collections/{self.name}"

    def put(self, *points: Mapping[str, Any], **options: Any) -> Response:
        """Upsert; fail unless it is acknowledged."""
        path = f"{self.path}/points?wait=true"
        response = send(self.url, "PUT", path, {"points": list(points)}, **options)
        assert response.result["status"] == "completed"
        return response

    def post(self, what: str, body: Any, parameters: str = "", **options: Any) -> Any:
        """Return the result of `POST .../points{what}`; fail unless it succeeds."""
        path = f"{self.path}/points{what}{parameters}"
        return send(self.url, "POST", path, body, **options).result

    def by_id(self, *ids: int | str, parameters: str = "", **body: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.post("", {"ids": list(ids), **body}, parameters)
        return found

    def count(self, where: Any = None, parameters: str = "", **options: Any) -> int:
        body = {"exact": True} if where is None else {"exact": True, "filter": where}
        found: int = self.post("/count", body, parameters, **options)["count"]
        return found

    def query(self, target: Any, **body: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.post("/query", {"query": target, **body})["points"]
        return found

    def scroll(self, **body: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.post("/scroll", {"limit": 10_000, **body})["points"]
        return found


def make(url: str, name: str, size: int, distance: str = "Cosine", **more: Any) -> Points:
    """Create a collection."""
    body = {"vectors": {"size": size, "distance": distance}, **more}
    assert send(url, "PUT", f"/collections/{name}", body).result is True
    return Points(url, name)


def plain(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return points without their versions, which each must have."""
    assert all(each["version"] > 1 for each in found)
    return [{name: value for name, value in each.items() if name != "version"} for each in found]


def ids(found: list[dict[str, Any]]) -> list[int | str]:
    return [each["id"] for each in found]


def exchange(url: str, *pieces: bytes, end: bool = False) -> list[tuple[int, Any]]:
    """Send bytes on one connection; return status and JSON of every answer until it closes.

    A connection that stays open is read until the promised time is over. `end` closes our side.
    """
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=TIMEOUT_S) as line:
        for piece in pieces:
            line.sendall(piece)
        if end:
            line.shutdown(socket.SHUT_WR)
        return list(_answers(line))


def _answers(line: socket.socket) -> Any:
    with line.makefile("rb") as stream:
        while status := stream.readline():
            headers = http.client.parse_headers(stream)
            code = int(status.split()[1])
            length = headers["Content-Length"]
            yield code, json.loads(stream.read(int(length))) if length else None
            if headers["Connection"] == "close" or status.startswith(b"HTTP/1.0"):
                return
