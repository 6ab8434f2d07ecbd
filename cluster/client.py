"""A small HTTP client for one node, used by the command line and the demo.

It is the standard library's, because a command has to start quickly and needs one connection,
not a pool. A `Client` belongs to one thread. It never repeats a request by itself: whether a
request may be sent twice is known by its caller alone: a refusal tells what the node says about
that. The API key travels in a header and is part of no message.
"""

from __future__ import annotations

import http.client
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote, urlsplit

import orjson

from cluster.errors import CommandFailed

DEFAULT_URL: Final = "http://127.0.0.1:5001"
DEFAULT_TIMEOUT_S: Final = 10.0
HINTS: Final = {
    "unauthorized": "set RECOLLECT_API_KEY, or pass --api-key",
    "collection_not_found": "`recollect status` lists the collections",
    "graph_not_found": "`recollect graph list` lists the graphs",
    "not_ready": "wait a moment; `recollect nodes` says which nodes are up",
    "shards_unavailable": "`recollect nodes` says which nodes are down",
    "embedding_space_mismatch": "search it with vectors of its own embedding",
}


class Refused(CommandFailed):
    """A node refused the request, with this status; `field` is what it found fault with.

    `retry_after_s`: when the request may be repeated.
    """

    status = 0
    field = ""
    retry_after_s: float | None = None


class Client:
    """One keep-alive connection to one node."""

    def __init__(
        self, url: str = DEFAULT_URL, *, api_key: str = "", timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise CommandFailed(f"'{url}' is not a URL of a node", hint=f"such as {DEFAULT_URL}")
        try:
            port = parts.port
        except ValueError:
            raise CommandFailed(
                f"'{url}' has no valid port", hint=f"such as {DEFAULT_URL}"
            ) from None
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._prefix = parts.path.rstrip("/")
        self._connection = kind(parts.hostname, port, timeout=timeout_s)
        self._headers = {"api-key": api_key} if api_key else {}

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        self._connection.close()

    def get(self, path: str) -> Any:
        """Return the `result` of a GET. Raises CommandFailed, as all requests do."""
        return self.request("GET", path)

    def put(self, path: str, body: Any) -> Any:
        """Return the `result` of a PUT."""
        return self.request("PUT", path, body)

    def post(self, path: str, body: Any) -> Any:
        """Return the `result` of a POST."""
        return self.request("POST", path, body)

    def delete(self, path: str) -> Any:
        """Return the `result` of a DELETE."""
        return self.request("DELETE", path)

    def request(
        self, method: str, path: str, body: Any = None, *, idempotency_key: str = ""
    ) -> Any:
        """Send one request and return the `result` of its envelope.

        Raises:
            CommandFailed: nobody answers (`no_answer`, retryable); Refused when the node refused.
        """
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        status, retry_after, raw = self._exchange(method, path, body, headers)
        try:
            envelope = orjson.loads(raw)
        except orjson.JSONDecodeError:
            envelope = None
        if not isinstance(envelope, dict):
            raise CommandFailed(
                f"{self.url} answered {status} with something that is not ours",
                hint="check --url",
                code="foreign_answer",
            )
        if status >= 400:
            raise _refusal(status, retry_after, envelope)
        return envelope.get("result")

    def _exchange(
        self, method: str, path: str, body: Any, more: dict[str, str]
    ) -> tuple[int, str | None, bytes]:
        headers = {**self._headers, **more}
        content = None
        if body is not None:
            content = orjson.dumps(body)
            headers["Content-Type"] = "application/json"
        try:
            self._connection.request(method, self._prefix + path, content, headers)
            answer = self._connection.getresponse()
            return answer.status, answer.headers.get("Retry-After"), answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise CommandFailed(
                f"no answer from {self.url} ({_cause(error)})",
                hint="start a cluster with `recollect up`, or say where it is with --url",
                code="no_answer",
                retryable=True,
            ) from None


def segment(name: str) -> str:
    """Return a user's name as one segment of a URL's path."""
    return quote(name, safe="")


def _cause(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__


def _refusal(status: int, retry_after: str | None, envelope: dict[str, Any]) -> Refused:
    detail = envelope.get("error")
    known = detail if isinstance(detail, dict) else {}
    outer = envelope.get("status")
    sentence = outer.get("error") if isinstance(outer, dict) else None
    code = str(known.get("code", f"http_{status}"))
    field = known.get("field")
    message = str(sentence or f"the node answered {status}")
    if field and str(field) not in message:
        message = f"{field}: {message}"
    refused = Refused(
        message,
        hint=HINTS.get(code, ""),
        code=code,
        retryable=bool(known.get("retryable", False)),
    )
    refused.status, refused.field = status, str(field or "")
    refused.retry_after_s = _seconds(retry_after)
    return refused


def _seconds(text: str | None) -> float | None:
    """Return the seconds of a Retry-After; a date, which no node sends, counts as nothing."""
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None
